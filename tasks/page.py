"""The look of every page that people read: one HTML file, pictures as inline SVG, no network, no script.

Pages read on a phone, on paper, in the light and in the dark. What they say is for tasks/data_report.py and tasks/explain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

COLOURS = {
    "pass": "#2e7d32",
    "released": "#1565c0",
    "empty": "#607d8b",
    "hold": "#b26a00",
    "refuse": "#b3261e",
    "inconclusive": "#b26a00",
    "fail": "#b3261e",
}
GOOD, BAD, UNSURE, CHAMPION = COLOURS["pass"], COLOURS["fail"], COLOURS["inconclusive"], "#1565c0"
QUIET = "#78909c"

STYLE = """<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:0 auto;padding:1rem;overflow-wrap:break-word}
h1 b,.mark{color:#fff;border-radius:.4em;padding:0 .5em;white-space:nowrap}
h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
svg{width:100%;height:auto;display:block}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;width:100%}
td,th{border-bottom:1px solid #8886;padding:.25rem .5rem;text-align:left;vertical-align:top}
td:nth-child(2){white-space:nowrap}
@media(max-width:600px){svg text{font-size:18px}}
@media print{body{max-width:none}h1 b,.mark,svg{print-color-adjust:exact}h2{break-after:avoid}tr,svg{break-inside:avoid}}
</style>"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page; `style` is what this kind of page adds to the common look."""
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    return (
        f"<!doctype html><html lang='en'><head>{head}<title>{escape(title)}</title>{STYLE}{style}</head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def mark(outcome: str, word: str | None = None) -> str:
    """An outcome, or another word in its colour."""
    return f"<b class='mark' style='background:{COLOURS[outcome]}'>{escape(word or outcome)}</b>"


def bullets(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line.removeprefix('- '))}</li>" for line in lines) + "</ul>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are plain text. A table wider than the screen is scrolled by itself."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{titles}</tr>{body}</table></div>"


def chart(width: float, height: float, label: str, shapes: Iterable[str]) -> str:
    """A picture of `width` x `height` units that fills the column; `label` is what a screen reader says."""
    return (
        f"<svg viewBox='0 0 {width:g} {height:g}' role='img' aria-label='{escape(label, quote=True)}' font-size='13' "
        f"fill='currentColor'>{''.join(shapes)}</svg>"
    )
