"""A decision as one HTML file: the verdict, every finding with its picture, and what led to it. Pure: told in, page out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from tasks.domain.creep import FEWEST, levels
from tasks.domain.findings import AGAINST
from tasks.explain.plots import (
    Axis,
    axis_of,
    bound_plot,
    curves_plot,
    front_plot,
    history_plot,
    legend,
    reliability_plot,
    value_plot,
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
_LIMITS = (("bound", "bound"), ("margin", "allowed"))
GROUPS = ("Totals", "Against simpler models", "Slices", "Latency and cost", "Checks")
RIVALS = (
    ("own_frequency", "what the user bought most"),
    ("global_frequency", "what sells most"),
    ("gp_topfreq", "counting both"),
    ("lightgbm", "LightGBM"),
    ("transformer_zeroed", "transformers zeroed"),
    ("previous_champion", "the champion before"),
)
Bin = tuple[float, float, float]
LONG, MANY = 280, 8  # characters of a reason, findings of one kind that passed: beyond this they are folded
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
        _reason(_arrows(told["reason"])),
        *_changes(told.get("changes", ())),
    ]
    if told["candidates"]:
        parts.append(f"<p class='quiet'>{LEGEND}</p>")
    for candidate in told["candidates"]:
        kind = candidate["kind"]
        slices = told.get("evaluation", {}).get(kind, {}).get("slices", {})
        parts += _candidate(candidate, told.get("bounds", {}).get(kind, {}), told.get("changes", ()), slices)
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
        parts += [f"<p>{escape(change_title(one))}:</p>", bullets(map(_arrows, change_lines(one)))]
    return parts


def _candidate(
    candidate: dict[str, Any],
    bounds: dict[str, dict[str, Any]],
    changes: Sequence[dict[str, Any]],
    slices: dict[str, dict[str, Any]],
) -> list[str]:
    kind = candidate["kind"]
    parts = [f"<h2>{escape(kind)} {mark(candidate['verdict'])}</h2>"]
    if candidate.get("release"):
        parts.append(f"<p>release <code>{escape(candidate['release'])}</code></p>")
    if not candidate["findings"]:
        return [*parts, f"<p>{escape(candidate['reason'])}</p>"]
    following: Sequence[dict[str, Any]] = next((one["changes"] for one in changes if one["kind"] == kind), [])
    grouped: dict[str, list[dict[str, Any]]] = {group: [] for group in GROUPS}
    for finding in candidate["findings"]:
        grouped[_group(finding, bounds)].append(finding)
    for group, findings in grouped.items():
        if findings:
            axes = _axes(findings, bounds)
            parts += [
                f"<h3>{group}</h3>",
                *(_reasons(slices) if group == "Slices" else []),
                *_folded(findings, [_finding(one, bounds, axes, following) for one in findings]),
            ]
    return parts


def _reasons(slices: dict[str, dict[str, Any]]) -> list[str]:
    """Why each slice is looked at, and how many slates it has; slices of one reason together."""
    alike: dict[str, list[str]] = {}
    for name, one in slices.items():
        alike.setdefault(one["reason"], []).append(f"{name} ({one['slates']:,})")
    if not alike:
        return []
    rows = [(", ".join(names), reason) for reason, names in alike.items()]
    return ["<details><summary>Why these slices</summary>", table(("slice (slates)", "why"), rows), "</details>"]


def _folded(findings: Sequence[dict[str, Any]], told: Sequence[str]) -> list[str]:
    """What did not pass, or warns, is always open; many that passed are behind one line."""
    silent = [finding["outcome"] == "pass" and not finding.get("warns") for finding in findings]
    passed = [one for quiet, one in zip(silent, told, strict=True) if quiet]
    if len(passed) <= MANY:
        return list(told)
    rest = [one for quiet, one in zip(silent, told, strict=True) if not quiet]
    return [*rest, f"<details><summary>{len(passed)} passed</summary>", *passed, "</details>"]


def _finding(
    finding: dict[str, Any], bounds: dict[str, dict[str, Any]], axes: dict[str, Axis], changes: Iterable[dict[str, Any]]
) -> str:
    """One reason: outcome, picture, numbers with bound, margin and sample, and what to do next."""
    name, plot, about = _named(finding), "", bounds.get(_named(finding), {})
    if _is_interval(finding, bounds):
        plot = bound_plot(finding, about, axes[_unit(finding, bounds)])
    elif finding["candidate"] is not None and finding["margin"] is not None:
        plot = value_plot(finding["candidate"], finding["margin"], finding["outcome"] == "pass", finding["name"])
    why = finding["sentence"].rsplit("): ", 1)[-1].removeprefix(f"{finding['name']}: ")
    return (
        f"<div class='finding'><p>{_mark(finding)} <b>{escape(name)}</b>: {escape(why)}</p><div>{plot}</div>"
        f"<div><p class='quiet'>{escape(facts(finding, about))}</p>"
        f"<p>Next: {escape(_arrows(next_step(finding, changes)))}</p></div></div>"
    )


def _mark(finding: dict[str, Any]) -> str:
    return mark("inconclusive", "warning") if finding.get("warns") else mark(finding["outcome"])


def facts(finding: dict[str, Any], about: dict[str, Any]) -> str:
    """The numbers of one finding: both systems, what was held against what, and the sample."""
    both = [finding[key] for key in ("champion", "candidate") if finding[key] is not None]
    told = []
    if about.get("of") == "ratio":
        told += [f"{' → '.join(f'{one:.2f}' for one in both)} {about['unit']}", f"ratio {about['at']:.3f}"]
        told += [f"{name} {finding[key]:.3f}" for key, name in _LIMITS if finding[key] is not None]
    elif about.get("of") == "difference":
        told += [" → ".join(f"{one:.4f}" for one in both), f"gain {finding['difference']:+.4f}"]
        told += [f"{name} {sign * finding[key] + 0.0:+.4f}" for (key, name), sign in zip(_LIMITS, (1, -1), strict=True)]
    else:
        told += [
            f"{name} {finding[key]:.4g}" for key, name in (("candidate", "value"), *_LIMITS) if finding[key] is not None
        ]
    sample = about.get("sample") or (f"{finding['sample']} {finding['unit']}" if finding.get("sample") else "none")
    return " · ".join((*told, f"sample {sample}"))


def next_step(finding: dict[str, Any], changes: Iterable[dict[str, Any]]) -> str:
    """What a person does about one finding, and how far it is from its limit."""
    mine = [change for change in changes if change["finding"] == _named(finding)]
    step = str(finding.get("next_step") or "nothing to do")
    if finding["outcome"] == "pass":
        return "; ".join([step, *(change["sentence"] for change in mine if change["what"] == "headroom")])
    needs = [change["sentence"] for change in mine if change["sentence"] != step]
    return f"{step}; to pass it needs {', or '.join(needs)}" if needs else step


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


def _arrows(text: str) -> str:
    return text.replace(" -> ", " → ")


def _named(finding: dict[str, Any]) -> str:
    return f"{finding['name']}[{finding['slice']}]"


def _is_interval(finding: dict[str, Any], bounds: dict[str, dict[str, Any]]) -> bool:
    return "low" in bounds.get(_named(finding), {}) and finding["margin"] is not None


def _unit(finding: dict[str, Any], bounds: dict[str, dict[str, Any]]) -> str:
    """What may be compared by eye: one metric on all slices, and all ratios."""
    return "ratio" if bounds[_named(finding)]["of"] == "ratio" else str(finding["name"])


def _axes(findings: Sequence[dict[str, Any]], bounds: dict[str, dict[str, Any]]) -> dict[str, Axis]:
    alike: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for one in findings:
        if _is_interval(one, bounds):
            alike.setdefault(_unit(one, bounds), []).append((one, bounds[_named(one)]))
    return {unit: axis_of(rows) for unit, rows in alike.items()}


def _group(finding: dict[str, Any], bounds: dict[str, dict[str, Any]]) -> str:
    kind = bounds.get(_named(finding), {}).get("of")
    if kind == "ratio":
        return "Latency and cost"
    if finding["name"] == "compression":
        return "Checks"
    if finding["name"].startswith(AGAINST):
        return "Against simpler models"
    if kind == "difference":
        return "Totals" if finding["slice"] == "all" else "Slices"
    return "Checks"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _gap(ours: float | None, theirs: float | None) -> str:
    return "" if ours is None or theirs is None else f"{ours - theirs:+.4f}"
