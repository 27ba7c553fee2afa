"""What validate_data found, for a person with a minute: Markdown for the terminal, one HTML file for everything else.

The page needs no network and no script, and reads on a phone. User pseudonyms are cut to eight digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from expectations.verdicts import MARKS, RULES, JudgedDay
from tasks.page import COLOURS, bullets, chart, document, mark, table

ADVICE = {
    "released": "A person let it pass, by name and with a reason; training and state may use it.",
    "pass": "The day is accepted; training and state may use it.",
    "empty": "Nothing happened on that day: nothing to do, the champion stays.",
    "hold": "The day is unusual. It is not used until a person has looked; the champion stays. "
    "To use it after all: freshrank data release DAY --rule RULE --reason TEXT.",
    "refuse": "The day is broken and is not used; the champion stays. Fix the source and land the next day.",
}
SAMPLE_ROWS = 20
SHOWN = ("event_id", "event_time", "user_id", "item_id", "event_type", "value", "quantity", RULES, MARKS)


def write_report(summary: dict[str, Any], judged: Sequence[JudgedDay], pages: dict[str, str], out: Path) -> None:
    """Write report.md, report.html and data_docs/*.html under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(markdown(summary, judged))
    (out / "report.html").write_text(html(summary, judged, sorted(pages)))
    if pages:
        (out / "data_docs").mkdir(exist_ok=True)
        for name, page in pages.items():
            (out / "data_docs" / f"{name}.html").write_text(page)


def markdown(summary: dict[str, Any], judged: Sequence[JudgedDay]) -> str:
    lines = [f"# {summary['partition']}: {summary['verdict']}", "", ADVICE[summary["verdict"]], "", *_numbers(summary)]
    caught = summary["quarantined_by_rule"]
    if caught:
        lines += ["", "| quarantined by | rows |", "|---|---:|", *(f"| {rule} | {n} |" for rule, n in caught.items())]
    for day in _worth_a_look(judged):
        lines += ["", f"## {day.day}: {day.verdict}", "", *(f"- {reason}" for reason in day.reasons)]
    return "\n".join(lines) + "\n"


def html(summary: dict[str, Any], judged: Sequence[JudgedDay], pages: Sequence[str]) -> str:
    verdict = summary["verdict"]
    parts = [
        f"<h1>{summary['partition']} {mark(verdict)}</h1>",
        f"<p>{escape(ADVICE[verdict])}</p>",
        bullets(_numbers(summary)),
    ]
    if judged:
        parts += ["<h2>Rows by day</h2><p>Grey: what days like this one usually bring.</p>", _days_chart(judged)]
        parts += _newest(judged[-1])
    for title, counts in (
        ("Quarantined", summary["quarantined_by_rule"]),
        ("Marked and kept", summary["marked_by_rule"]),
    ):
        if counts:
            parts += [f"<h2>{title}, by rule</h2>", _bars(counts)]
    for day in _worth_a_look(judged):
        parts += [f"<h2>{day.day}: {day.verdict}</h2>", bullets(day.reasons)]
    if judged:
        parts += [f"<h2>Every check of {judged[-1].day}</h2>", _checks(judged[-1])]
    parts.append(_samples(judged))
    if pages:
        links = " · ".join(f"<a href='data_docs/{name}.html'>{name}</a>" for name in pages)
        parts.append(f"<h2>Great Expectations Data Docs</h2><p>{links}</p>")
    return document(f"{summary['partition']} {verdict}", parts)


def _numbers(summary: dict[str, Any]) -> list[str]:
    return [
        f"- {len(summary['days'])} days judged, {summary['already_accepted']} were accepted before",
        f"- {summary['rows']:,} rows landed, {summary['accepted']:,} sound, {summary['quarantined']:,} quarantined",
        f"- not accepted: {', '.join(summary['not_accepted']) or 'none'}",
        f"- {summary['seconds']} s",
    ]


def _worth_a_look(judged: Sequence[JudgedDay]) -> list[JudgedDay]:
    """Days that were not let through, and the last one."""
    stopped = [day for day in judged if day.verdict in ("hold", "refuse")]
    return stopped + [day for day in judged[-1:] if day not in stopped and day.reasons]


def _days_chart(judged: Sequence[JudgedDay]) -> str:
    """One bar a day in the verdict's colour, before it the usual band."""
    width, height = 720, 180
    top = max([day.rows for day in judged] + [day.usual[1] for day in judged if day.usual] + [1])
    step = width / len(judged)
    shapes = []
    for at, day in enumerate(judged):
        x, tall = at * step, day.rows / top * height
        if day.usual:
            low, high = (bound / top * height for bound in day.usual)
            band = f"x='{x:.1f}' y='{height - high:.1f}' width='{step:.1f}' height='{high - low:.1f}'"
            shapes.append(f"<rect {band} fill='#8884'/>")
        bar = f"x='{x + step * 0.2:.1f}' y='{height - tall:.1f}' width='{step * 0.6:.1f}' height='{tall:.1f}'"
        shapes.append(f"<rect {bar} fill='{COLOURS[day.verdict]}'><title>{day.day}: {day.rows} rows</title></rect>")
    text = f"<text x='0' y='{height + 16}'>{judged[0].day}</text>"
    text += f"<text x='{width}' y='{height + 16}' text-anchor='end'>{judged[-1].day}, top {top:,.0f} rows</text>"
    return chart(width, height + 20, "rows by day", [*shapes, text])


def _newest(day: JudgedDay) -> list[str]:
    """Two pictures of the last day beside its past."""
    parts = []
    if any(day.usual_visits):
        note = f"Bars: visits of {day.day} by hour (UTC). Line: what the days before let expect."
        parts += [f"<h2>The day by hour</h2><p>{note}</p>", _hours_chart(day)]
    if day.drift_limits:
        note = (
            "Jensen-Shannon divergence from the 28 days before, as a share of what is allowed; the line is the limit."
        )
        parts += [f"<h2>Distance from the days before</h2><p>{note}</p>", _drift_chart(day)]
    return parts


def _hours_chart(day: JudgedDay) -> str:
    width, height, step = 720, 150, 30
    visits = [day.counts.visits.get(str(hour), 0) for hour in range(24)]
    top = max([*visits, *day.usual_visits, 1])
    bars, labels, line = [], [], []
    for hour, (now, usual) in enumerate(zip(visits, day.usual_visits, strict=True)):
        tall = now / top * height
        told = f"<title>{hour:02d}h: {now} visits, usually {usual:.0f}</title>"
        bars.append(
            f"<rect x='{hour * step + 5}' y='{height - tall:.1f}' width='20' height='{tall:.1f}' fill='#1565c0'>{told}</rect>"
        )
        line.append(f"{hour * step + 15},{height - usual / top * height:.1f}")
        if hour % 3 == 0:
            labels.append(f"<text x='{hour * step + 15}' y='{height + 16}' text-anchor='middle'>{hour:02d}</text>")
    usual_line = f"<polyline points='{' '.join(line)}' fill='none' stroke='#b26a00' stroke-width='3'/>"
    return chart(width, height + 20, "visits by hour", [*bars, usual_line, *labels])


def _drift_chart(day: JudgedDay) -> str:
    limit_at, rows = 480, []
    for at, (name, limit) in enumerate(sorted(day.drift_limits.items())):
        now = day.counts.distances[name]
        share, y = now.js / limit, at * 24
        colour = COLOURS["hold"] if share > 1 else "#2e7d32"
        long = max(min(share, 1.35) * (limit_at - 130), 1)
        rows.append(f"<text x='0' y='{y + 16}'>{escape(name)}</text>")
        rows.append(f"<rect x='130' y='{y + 3}' width='{long:.1f}' height='16' fill='{colour}'/>")
        rows.append(f"<text x='{limit_at + 140}' y='{y + 16}'>{now.js:.4f} of {limit:.4f}</text>")
    tall = len(day.drift_limits) * 24
    rows.append(
        f"<line x1='{limit_at}' x2='{limit_at}' y1='0' y2='{tall}' stroke='currentColor' stroke-dasharray='4'/>"
    )
    return chart(760, tall, "drift by dimension", rows)


def _bars(counts: dict[str, int]) -> str:
    top = max(counts.values())
    rows = []
    for at, (name, count) in enumerate(sorted(counts.items(), key=lambda pair: -pair[1])):
        y = at * 24
        rows.append(f"<text x='0' y='{y + 16}'>{escape(name)}</text>")
        rows.append(f"<rect x='220' y='{y + 3}' width='{max(count / top * 400, 1):.1f}' height='16' fill='#b26a00'/>")
        rows.append(f"<text x='{228 + count / top * 400:.1f}' y='{y + 16}'>{count:,}</text>")
    return chart(720, len(counts) * 24, "rows by rule", rows)


def _checks(day: JudgedDay) -> str:
    return table(("check", "outcome"), ((finding.sentence, finding.outcome) for finding in day.findings))


def _samples(judged: Sequence[JudgedDay]) -> str:
    rows: list[dict[str, Any]] = []
    for day in reversed(judged):
        rows += day.caught.head(SAMPLE_ROWS - len(rows)).select(SHOWN).to_dicts()
        if len(rows) >= SAMPLE_ROWS:
            break
    if not rows:
        return ""
    note = f"<p>The newest {len(rows)}; all of them are in quarantine.parquet.</p>"
    return f"<h2>Caught rows</h2>{note}{table(SHOWN, ([_cell(name, row[name]) for name in SHOWN] for row in rows))}"


def _cell(name: str, value: Any) -> str:
    text = "" if value is None else str(value)
    return text[:8] if name == "user_id" else text[:40]
