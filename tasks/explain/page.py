"""A decision as one HTML file: the verdict, every finding with its picture, and what led to it. Pure: told in, page out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from tasks.domain.creep import FEWEST, levels
from tasks.explain.candidate import arrows, candidate_parts
from tasks.explain.plots import (
    curves_plot,
    front_plot,
    history_plot,
    legend,
    reliability_plot,
)
from tasks.explain.text import QUALITY, change_lines, change_title, data_lines, lost_lines
from tasks.page import bullets, document, mark, table

STYLE = """<style>
.lead{font-size:1.15rem;margin:.3rem 0}
h3{font-size:1rem;margin:1rem 0 .3rem}
.finding{border-top:1px solid #8886;padding:.5rem 0;break-inside:avoid}
@media(min-width:44rem){.finding{display:grid;grid-template-columns:1fr 21rem;column-gap:1rem}
.finding div:nth-child(2){grid-area:1/2/3/3}}
.finding p{margin:.2rem 0;font-size:.92rem}
.finding svg,.plot svg{max-width:25rem}
.quiet{color:color-mix(in srgb,currentColor 70%,transparent)}
.plots{display:flex;flex-wrap:wrap;gap:1rem}
.plot{flex:1 1 20rem;min-width:0;break-inside:avoid}
.legend span{margin-right:1rem;white-space:nowrap}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:50%;print-color-adjust:exact}
.finding svg text,.plot svg text{font-size:12px}
@media(max-width:600px){td,th{padding:.2rem .25rem}}
code{font-size:.85em}
summary{cursor:pointer;padding:.4rem 0}
@media print{details::details-content{content-visibility:visible;block-size:auto}}
</style>"""
RIVALS = (
    ("own_frequency", "what the user bought most"),
    ("global_frequency", "what sells most"),
    ("gp_topfreq", "counting both"),
    ("lightgbm", "LightGBM"),
    ("transformer_zeroed", "transformers zeroed"),
    ("previous_champion", "the champion before"),
)
Bin = tuple[float, float, float]
LONG = 280  # characters of a reason: beyond this it is folded
LEGEND = (
    "Dot: the estimate. Line: between its one-sided 95 % bounds. Heavy stroke: the bound that decides. "
    "Red: where it may not be. Black stroke: no difference."
)


def html(told: dict[str, Any]) -> str:
    """The page of one run. Needs no network and no script; what the run did not make is left out."""
    shipped = told["shipped"]
    parts = [
        f"<h1>{escape(told['partition'])} {mark(_outcome(told), f'ships {shipped}'.replace('none', 'nothing'))}</h1>",
        f"<p class='lead'>{escape(told['headline'])}</p>",
        _reason(arrows(told["reason"])),
        *_changes(told.get("changes", ())),
    ]
    if told["candidates"]:
        parts.append(f"<p class='quiet'>{LEGEND}</p>")
    for candidate in told["candidates"]:
        kind = candidate["kind"]
        slices = told.get("evaluation", {}).get(kind, {}).get("slices", {})
        parts += candidate_parts(candidate, told.get("bounds", {}).get(kind, {}), told.get("changes", ()), slices)
    parts += _evaluation(told.get("evaluation", {}))
    parts += _latency(told.get("latency"))
    parts += _history(told.get("history"))
    parts += _front(told.get("front"))
    parts += _data(told.get("data"))
    parts += _lineage(told)
    return document(f"{told['partition']}: ships {shipped}", parts, STYLE)


def _outcome(told: dict[str, Any]) -> str:
    """The colour of the page."""
    if told["shipped"] != "none":
        return "pass"
    outcomes = {str(candidate["verdict"]) for candidate in told["candidates"]}
    return "fail" if "fail" in outcomes else "inconclusive"


def _reason(reason: str) -> str:
    """In full; a long one is folded, because each of its parts comes again with its picture."""
    if len(reason) <= LONG:
        return f"<p>{escape(reason)}</p>"
    return f"<details><summary>The reason in numbers</summary><p>{escape(reason)}</p></details>"


def _changes(changes: Sequence[dict[str, Any]]) -> list[str]:
    parts = ["<h2>What would change the verdict</h2>"] if changes else []
    for one in changes:
        parts += [f"<p>{escape(change_title(one))}:</p>", bullets(map(arrows, change_lines(one)))]
    return parts


def _evaluation(evaluation: dict[str, Any]) -> list[str]:
    """Every metric of both systems, judged or not, and how far predictions are from what happened."""
    parts = []
    for kind, facts in evaluation.items():
        ours, theirs = facts.get("candidate", {}), facts.get("champion", {})
        names = sorted({*ours, *theirs}, key=lambda name: (not name.endswith("[all]"), name))
        rows = [
            (name, _number(theirs.get(name)), _number(ours.get(name)), _gap(ours.get(name), theirs.get(name)))
            for name in names
        ]
        for rival, title in RIVALS:
            now, best = facts.get(rival, {}).get(QUALITY), ours.get(QUALITY)
            if now is not None:
                rows.append((f"{QUALITY}, {title}", _number(now), _number(best), _gap(best, now)))
        if rows:
            days = f"{facts.get('first_day')} to {facts.get('last_day')}, {facts.get('slates', 0):,} slates"
            parts += [f"<h2>Every metric: {escape(kind)}</h2><p>{escape(days)}</p>"]
            parts.append(table(("metric", "champion", "candidate", "diff"), rows))
        parts += _counterfactual(kind, facts.get("counterfactual"))
        parts += _calibration(kind, facts.get("report") or {})
    return parts


def _counterfactual(kind: str, told: dict[str, Any] | None) -> list[str]:
    """What the lists that were really shown say of the candidate, where the log has the chances of showing them."""
    if not told:
        return []
    ways = [f"SNIPS: {told['sentence']}"]
    ways += [f"doubly robust: {told['doubly_robust']['sentence']}"] if "doubly_robust" in told else []
    about = "Share of shown places that would have been answered, had the candidate chosen what stands there."
    return [f"<h2>From lists that were shown: {escape(kind)}</h2><p>{about}</p>", bullets(ways)]


def _calibration(kind: str, report: dict[str, Any]) -> list[str]:
    """What many lists say together: numbers of both systems, and predictions against what happened."""
    numbers: dict[str, dict[str, float]] = {}
    bins: dict[str, list[Bin]] = {}
    for system, answers in report.items():
        for name, value in answers.items():
            if isinstance(value, list):
                bins[system] = [(one["predicted"], one["observed"], one["count"]) for one in value if one["count"]]
            elif isinstance(value, int | float):
                numbers.setdefault(name, {})[system] = value
    rows = [(name, *(_number(of.get(system)) for system in report)) for name, of in sorted(numbers.items())]
    parts = [f"<h2>Of all lists together: {escape(kind)}</h2>", table(("", *report), rows)] if rows else []
    if any(bins.values()):
        parts += [
            f"<h2>Calibration: {escape(kind)}</h2><p>Predictions from small to large, a dot for as many as any other; on the "
            "dashed line what is predicted happens as often as it says. Both axes are stretched near zero.</p>",
            legend(bins),
            f"<div class='plot'>{reliability_plot(bins)}</div>",
        ]
    return parts


def _latency(measured: dict[str, Any] | None) -> list[str]:
    if not measured or not measured["systems"]:
        return []
    systems = measured["systems"]
    rows = [(name, *(f"{one[tail]:.2f}" for tail in ("p50", "p95", "p99"))) for name, one in systems.items()]
    note = (
        f"The same requests to each, in turns, {measured['requests']:,} at most: a candidate that is clear needs no more. "
        "Upwards: the share of requests answered within so many milliseconds."
    )
    return [
        f"<h2>Latency</h2><p>{note}</p>",
        legend(systems),
        f"<div class='plot'>{curves_plot(systems, measured['requests'])}</div>",
        table(("system", "p50 ms", "p95 ms", "p99 ms"), rows),
    ]


FRONT_COLUMNS = (
    "variant", "NDCG@10", "bound against fp32", "kB", "CPU ms", "p50 / p95 / p99 ms", "MB at its peak", "ms to load", "why"
)  # fmt: skip


def _history(past: dict[str, Any] | None) -> list[str]:
    """The champion's latency in earlier benches, where there are enough to look for creep."""
    if not past or len(past["days"]) < FEWEST:
        return []
    about = (
        f"The champion in {len(past['days'])} benches of this machine, each divided by the time of one fixed computation. Steps: "
        "levels between change points. A rise since the lowest level is a warning."
    )
    plots = [
        f"<div class='plot'>{history_plot(name, past['days'], values, levels(values))}</div>"
        for name, values in past["relative"].items()
    ]
    return [f"<h2>Latency over time</h2><p>{about}</p><div class='plots'>", *plots, "</div>"]


def _front(front: dict[str, Any] | None) -> list[str]:
    if not front or not front.get("variants"):
        return []
    variants, chosen = front["variants"], front["chosen"]
    rows = [
        (
            f"{v['name']}{' (chosen)' if v['name'] == chosen else ''}",
            f"{v['quality'][QUALITY]:.4f}",
            f"{v['bound']:+.4f}",
            f"{v['cost']['bytes'] / 1e3:,.0f}",
            f"{v['cost']['cpu_ms_1000']:.2f}",
            " / ".join(f"{v['cost'][name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms") if name in v["cost"]),
            f"{v['cost'].get('peak_bytes', 0) / 1e6:,.0f}",
            f"{v['cost']['load_ms']:,.0f}",
            v["reason"] or "can serve",
        )
        for v in variants
    ]
    rows += [(name, *["-"] * 7, reason) for name, reason in front.get("dropped", {}).items()]
    return [
        "<h2>Compression</h2><p>Quality on the validation days against cost: filled is the variant that went forward, "
        "red may not serve.</p><div class='plots'>",
        f"<div class='plot'>{front_plot(variants, chosen, QUALITY, 'bytes', 'kB of weights', 1e3)}</div>",
        f"<div class='plot'>{front_plot(variants, chosen, QUALITY, 'cpu_ms_1000', 'CPU ms, 1,000 candidates', 1.0)}</div>",
        "</div>",
        bullets(lost_lines(front)),
        table(FRONT_COLUMNS, rows),
    ]


def _data(data: dict[str, Any] | None) -> list[str]:
    if not data:
        return []
    where = f"<p>The whole report: <code>{escape(data['report'])}</code></p>" if data.get("report") else ""
    sizes = [(name.replace("_", " "), _short(value)) for name, value in data["dataset"].items() if value != ""]
    return ["<h2>Data</h2>", bullets(data_lines(data)), where, table(("training set", ""), sizes) if sizes else ""]


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)[:32]


def _lineage(told: dict[str, Any]) -> list[str]:
    if not told.get("lineage"):
        return []
    rows = [
        (
            f"{row['step']} {row['partition']}",
            f"{row['at'][:16].replace('T', ' ')}, {row['seconds']:.0f} s",
            ", ".join(row["inputs"]) or "the source",
            ", ".join(f"{name} {value}" for name, value in row["params"].items() if value is not None),
            f"{row['code']}, {row['lock'][:12]}, {row['seed']}",
        )
        for row in told["lineage"]
    ]
    end = f"<p>Release: <code>{escape(told['release'])}</code></p>" if told.get("release") else "<p>No release.</p>"
    return [
        "<h2>From partitions to release</h2>",
        table(("step", "when", "read", "told", "code, lock, seed"), rows),
        end,
        f"<p>This record: <code>{escape(told['run'])}</code>. The same in a terminal: <code>freshrank explain "
        f"{escape(told['run'])}</code></p>",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _gap(ours: float | None, theirs: float | None) -> str:
    return "" if ours is None or theirs is None else f"{ours - theirs:+.4f}"
