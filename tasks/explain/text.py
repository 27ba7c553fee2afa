"""A decision in words: the sentence that opens every page, and Markdown for the terminal, MLflow and the Airflow log. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tasks.domain.gate import TOTAL, Decision, Outcome

NEAREST = 3
SIGN = {Outcome.PASS: "pass", Outcome.INCONCLUSIVE: "????", Outcome.FAIL: "FAIL"}
QUALITY = "ndcg_at_10[all]"


def headline(decision: Decision, approval: dict[str, Any] | None = None) -> str:
    """The verdict in one sentence, short enough for a phone; `reason` has the numbers.

    Args:
        approval: what a person answered who shipped what the gate did not.
    """
    if approval:
        by, why = approval.get("approved_by") or "a person", approval.get("approved_because")
        said = f": {why}" if why else ""
        return f"The {approval['approved']} ship by the decision of {by}, not of the gate{said}."
    if decision.shipped != "none":
        said = {
            "weights": "The new weights ship: they proved themselves against the champion.",
            "state": "The new state ships with the champion's weights.",
            "bootstrap": "The first champion ships: it proved itself against counting.",
        }[decision.shipped]
        return " ".join([said, *warnings(decision)])
    if not decision.verdicts:
        return "Nothing ships, the champion keeps serving: there was no candidate."
    told = []
    for verdict in decision.verdicts:
        worst = [f"{f.name}[{f.slice}]" for f in verdict.findings if f.outcome is verdict.outcome]
        if verdict.outcome is not Outcome.PASS:
            more = f" and {len(worst) - 2} more" if len(worst) > 2 else ""
            told.append(f"{verdict.kind}: {verdict.outcome} on {', '.join(worst[:2]) or 'no findings'}{more}")
    return f"Nothing ships, the champion keeps serving. {'; '.join(told) or decision.reason}."


def warnings(decision: Decision) -> list[str]:
    """What a person should know although it blocks nothing, a sentence each candidate."""
    told = []
    for verdict in decision.verdicts:
        named = [f"{finding.name}[{finding.slice}]" for finding in verdict.findings if finding.warns]
        if named:
            more = f" and {len(named) - 2} more" if len(named) > 2 else ""
            told.append(f"Warning on the {verdict.kind}: {', '.join(named[:2])}{more}.")
    return told


def as_markdown(told: dict[str, Any]) -> str:
    """Everything but the pictures. The gate itself prints it with the findings alone: the rest is not there yet."""
    lines = [f"# {told['partition']}: shipped {told['shipped']}", ""]
    lines += [told["headline"], ""] if told.get("headline") else []
    lines += [told["reason"], ""]
    for candidate in told["candidates"]:
        lines += [f"## {candidate['kind']}: {candidate['verdict']}", ""]
        lines += [f"- {line}" for line in finding_lines(candidate["findings"])]
        lines.append("")
    lines += [f"- {line}" for line in told.get("report", {}).get("lines", [])]
    for one in told.get("changes", ()):
        lines += _section(
            f"What would change the verdict on {one['kind']}", [f"{change_title(one)}:", *change_lines(one)]
        )
    lines += _section("Latency", latency_lines(told.get("latency")))
    lines += _section("Compression", front_lines(told.get("front")))
    lines += _section("Data", data_lines(told.get("data")))
    lines += _section("From partitions to release", lineage_lines(told))
    return "\n".join(lines)


def finding_lines(findings: Sequence[dict[str, Any]]) -> list[str]:
    """Each finding that did not pass, each about all slates, and what passed on slices in two lines; the page shows every one."""

    def is_told(finding: dict[str, Any]) -> bool:
        return finding["outcome"] != Outcome.PASS or finding["slice"] == TOTAL or bool(finding.get("warns"))

    def sign(finding: dict[str, Any]) -> str:
        return "warn" if finding.get("warns") else SIGN[Outcome(finding["outcome"])]

    lines = [f"{sign(one)}  {one['sentence']}" for one in findings if is_told(one)]
    passed = [one for one in findings if not is_told(one)]
    judged = [one for one in passed if one["difference"] is not None]
    if judged:
        metrics = list(dict.fromkeys(one["name"] for one in judged))
        leading = [one for one in judged if one["name"] == metrics[0]]
        worst = min(leading, key=lambda one: float(one["difference"]))
        lines.append(
            f"{SIGN[Outcome.PASS]}  {', '.join(metrics)} on {len(leading)} slices: no significant harm beyond what is allowed; "
            f"the lowest {worst['name']} difference is {worst['difference']:+.4f} on {worst['slice']}"
        )
    if silent := len(passed) - len(judged):
        lines.append(f"{SIGN[Outcome.PASS]}  {silent} slices without a comparison: no verdict on them")
    return lines


def change_lines(one: dict[str, Any]) -> list[str]:
    """What would change the verdict on one candidate, a line each finding; the alternatives are joined by `or`.

    Of a verdict that passed, only the findings that are nearest to their limits.
    """
    changes = one["changes"]
    if one["outcome"] == Outcome.PASS:
        nearest = sorted(changes, key=lambda change: change["share"])[:NEAREST]
        return [f"{change['finding']}: {change['sentence']}" for change in nearest]
    by_finding: dict[str, list[str]] = {}
    for change in changes:
        by_finding.setdefault(change["finding"], []).append(change["sentence"])
    return [f"{finding}: {', or '.join(sentences)}" for finding, sentences in by_finding.items()]


def change_title(one: dict[str, Any]) -> str:
    """What the lines mean: all of them are needed for a pass, any one used up ends one."""
    if one["outcome"] == Outcome.PASS:
        return f"{one['kind']}: passed. Nearest to their limits"
    then = "ship" if one["then"] == one["kind"] else f"pass (what ships would then be: {one['then']})"
    return f"{one['kind']}: {one['outcome']}. It would {then} with all of these"


def latency_lines(measured: dict[str, Any] | None) -> list[str]:
    if not measured:
        return []
    return [
        f"{name}: p50 {one['p50']:.2f}, p95 {one['p95']:.2f}, p99 {one['p99']:.2f} ms over {measured['requests']:,} requests"
        for name, one in measured["systems"].items()
    ]


SLICE_NAMES = {"new": "products new to the user", "repeat": "products bought before"}


def front_lines(front: dict[str, Any] | None) -> list[str]:
    if not front:
        return []
    reason = [front["reason"]] if front.get("reason") else []
    variants = [
        f"{v['name']}: NDCG@10 {v['quality'][QUALITY]:.4f} on validation, {v['cost']['bytes'] / 1e3:,.0f} kB, "
        f"{v['cost']['cpu_ms_1000']:.2f} CPU ms: {'chosen' if v['name'] == front['chosen'] else v['reason'] or 'could serve'}"
        for v in front["variants"]
    ]
    dropped = [f"{name}: {why}" for name, why in front.get("dropped", {}).items()]
    return [*reason, *variants, *dropped, *lost_lines(front)]


def lost_lines(front: dict[str, Any]) -> list[str]:
    """Where the chosen variant's loss comes from: `int8 changes NDCG@10 by -0.0004; stage 1 alone by ...`."""
    lost = front.get("lost")  # absent in fronts of older runs
    if not lost:
        return []
    whole = {
        name.partition("[")[2][:-1]: value for name, value in lost["all"].items() if name.startswith("ndcg_at_10[")
    }
    stages = [f"{stage} alone {of[QUALITY]:+.4f}" for stage, of in lost.items() if stage != "all" and QUALITY in of]
    slices = [f"{SLICE_NAMES[name]} {value:+.4f}" for name, value in whole.items() if name in SLICE_NAMES]
    return [f"{front['chosen']} changes NDCG@10 on validation by {whole['all']:+.4f}: {', '.join([*stages, *slices])}"]


def data_lines(data: dict[str, Any] | None) -> list[str]:
    if not data:
        return []
    lines = [f"the newest day: {data.get('verdict')}", *data["reasons"]]
    if "rows" in data:
        told = (
            f"{data['rows']:,} rows judged in this run, {data['accepted']:,} sound, {data['quarantined']:,} quarantined"
        )
        lines.append(f"{data['days']:,} days in all; {told}")
    lines += [f"quarantined by {rule}: {count:,}" for rule, count in data.get("quarantined_by_rule", {}).items()]
    lines += [f"not accepted: {', '.join(data['not_accepted'])}"] if data.get("not_accepted") else []
    return lines


def lineage_lines(told: dict[str, Any]) -> list[str]:
    lines = [
        f"{row['step']} {row['partition']}, {row['at']}, {row['seconds']:.0f} s, code {row['code']}: {row['manifest']}"
        for row in told.get("lineage", ())
    ]
    return lines + ([f"release {told['release']}"] if told.get("release") else [])


def _section(title: str, lines: Iterable[str]) -> list[str]:
    listed = [f"- {line}" if not line.endswith(":") else f"{line}\n" for line in lines]
    return ["", f"## {title}", "", *listed] if listed else []
