"""The findings of one candidate as HTML: each with its picture, its numbers, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from tasks.domain.findings import AGAINST
from tasks.explain.plots import Axis, axis_of, bound_plot, value_plot
from tasks.page import mark, table

_LIMITS = (("bound", "bound"), ("margin", "allowed"))
GROUPS = ("Totals", "Against simpler models", "Slices", "Latency and cost", "Checks")
MANY = 8  # findings of one kind that passed: more are folded


def candidate_parts(
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
        f"<p>Next: {escape(arrows(next_step(finding, changes)))}</p></div></div>"
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


def arrows(text: str) -> str:
    return text.replace(" -> ", " → ")
