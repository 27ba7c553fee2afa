"""What would change a verdict: the gate is asked again about evidence and policies that differ in one number. Pure.

Nothing here knows the gate's rules: each number is found by bisection with `decide` as the oracle, so it holds for the
rules as they are. A larger sample is taken to show the same difference, with bounds that shrink with its square root.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Literal

from tasks.domain.errors import InputRejected
from tasks.domain.gate import (
    Check,
    Comparison,
    Evidence,
    Finding,
    GatePolicy,
    LatencyRatio,
    Outcome,
    QualityPolicy,
    Resource,
    Verdict,
    allowance,
    choose,
    decide,
)
from tasks.domain.manifest import Record

MOST_TIMES = 100.0  # more than this many times the sample is no advice
MOST_GAIN = 1.0  # no metric of the gate can win or lose more
HALVINGS = 24  # to 6e-8 of the span that is searched
MOST_SEARCHED = 12  # findings: each search asks the gate two dozen times, and a policy may have hundreds
Z95 = NormalDist().inv_cdf(0.95)  # bounds are one-sided 95 %


Row = Comparison | LatencyRatio | Resource | Check


class Change(Record):
    """One number that would change the outcome of one finding, everything else as it was."""

    finding: str
    what: Literal["sample", "better", "limit", "value", "headroom", "measure"]
    amount: float | None = None
    share: float = 0.0  # of headroom: how far from the limit, as a share of what is allowed
    sentence: str


def what_would_change(evidence: Evidence, policy: GatePolicy) -> tuple[Change, ...]:
    """What each finding that did not pass lacks; for a verdict that passed, how much each finding has to spare."""
    verdict = decide(evidence, policy)
    lacking = [finding for finding in verdict.findings if finding.outcome is not Outcome.PASS]
    changes: list[Change] = []
    for finding in lacking:  # totals come first, as the gate orders them
        found = _lacks(evidence, policy, finding) if len({one.finding for one in changes}) < MOST_SEARCHED else []
        changes += found or [Change(finding=named(finding), what="measure", sentence=finding.next_step)]
    if not lacking:
        for finding in sorted(verdict.findings, key=_room)[:MOST_SEARCHED]:
            changes += _spares(evidence, policy, finding)
    return tuple(changes)


def would_ship(kind: str, verdicts: tuple[Verdict, ...], policy: GatePolicy, asked: str) -> str:
    """What would ship if the verdict on `kind` were a pass and the others what they are."""
    passed = tuple(v.model_copy(update={"outcome": Outcome.PASS}) if v.kind == kind else v for v in verdicts)
    return choose(passed, policy, asked).shipped


def named(finding: Finding | Comparison) -> str:
    return f"{finding.name}[{finding.slice}]"


def _lacks(evidence: Evidence, policy: GatePolicy, finding: Finding) -> list[Change]:
    row, _ = _behind(evidence, finding)
    if isinstance(row, Comparison):
        return _quality(evidence, policy, row)
    if isinstance(row, LatencyRatio | Resource):
        return _cost(evidence, policy, row)
    return [_check(row)] if isinstance(row, Check) else []


def _behind(evidence: Evidence, finding: Finding) -> tuple[Row | None, str]:
    """What a finding was made of, and the part of the evidence that it stands in."""
    for row in evidence.comparisons:
        if named(row) == named(finding):
            return row, "comparisons"
    for part in ("latencies", "resources", "checks"):
        for row in getattr(evidence, part):
            if row.name == finding.name:
                return row, part
    return None, ""


def _quality(evidence: Evidence, policy: GatePolicy, row: Comparison) -> list[Change]:
    name, section = named(row), policy.section(evidence)
    quality: QualityPolicy = getattr(policy, section)
    allowed, margin, changes = allowance(quality, row.slice, row.name), quality.metrics[row.name].margin, []

    def passes(changed: Comparison, under: GatePolicy = policy) -> bool:
        return _passes(_with(evidence, "comparisons", row, changed), under, name)

    def wider(to: float) -> bool:
        own: dict[str, Any] = {"margin": to}
        if row.name != quality.metric:
            own = {"others": {**quality.others, row.name: quality.others[row.name].model_copy(update=own)}}
        under = policy.model_copy(update={section: quality.model_copy(update=own)})
        return passes(_with_p(row, allowed * to / margin), under)

    times = _least(lambda k: passes(_larger(row, k, allowed)), 1.0, MOST_TIMES)
    if times:
        more = math.ceil(row.slates * times) - row.slates
        told = f"{more:,} more slates ({row.slates + more:,} in all) that show the same difference"
        changes.append(Change(finding=name, what="sample", amount=more, sentence=told))
    better = _least(lambda gain: passes(_better(row, gain, allowed)), 0.0, MOST_GAIN)
    if better:
        told = f"a candidate that is {_told(better)} {row.name} better on the same slates"
        changes.append(Change(finding=name, what="better", amount=better, sentence=told))
    to = _least(wider, margin, max(MOST_GAIN, margin))
    if to and to > margin:
        told = f"a margin of {to:.4g} instead of {margin:g}: a change of policy, by its own rules"
        changes.append(Change(finding=name, what="limit", amount=to, sentence=told))
    return changes


def _cost(evidence: Evidence, policy: GatePolicy, row: LatencyRatio | Resource) -> list[Change]:
    """Of time, size or memory. More of the same measurements are an answer for time only."""
    finding, timed = f"{row.name}[all]", isinstance(row, LatencyRatio)
    part, field = ("latencies", "latency_ratio") if timed else ("resources", "resource_ratio")
    limits: dict[str, float] = getattr(policy, field)
    now, unit, changes = *_size(row), []

    def passes(changed: LatencyRatio | Resource, under: GatePolicy = policy) -> bool:
        return _passes(_with(evidence, part, row, changed), under, finding)

    def raised(to: float) -> bool:
        return passes(row, policy.model_copy(update={field: {**limits, row.name: to}}))

    if isinstance(row, LatencyRatio):
        pairs = row
        times = _least(lambda k: passes(_more_pairs(pairs, k)), 1.0, MOST_TIMES)
        if times:
            more = math.ceil(row.pairs * times) - row.pairs
            told = f"{more:,} more pairs of requests ({row.pairs + more:,} in all) that show the same ratio"
            changes.append(Change(finding=finding, what="sample", amount=more, sentence=told))
    less = _least(lambda share: passes(_scaled(row, 1 - share)), 0.0, 0.99)
    if less:
        told = f"{row.name} less by {now * less:.2f} {unit} ({now:.2f} -> {now * (1 - less):.2f} {unit})"
        changes.append(Change(finding=finding, what="better", amount=now * less, sentence=told))
    to = _least(raised, limits[row.name], 10 * limits[row.name])
    if to and to > limits[row.name]:
        told = f"a limit of {to:.3f} instead of {limits[row.name]:g} times the champion: a change of policy"
        changes.append(Change(finding=finding, what="limit", amount=to, sentence=told))
    return changes


def _check(check: Check) -> Change:
    told = f"{check.name} within its limit of {check.limit:g}; it is {check.value:g}"
    return Change(finding=f"{check.name}[all]", what="value", amount=check.limit - check.value, sentence=told)


def _room(finding: Finding) -> float:
    """About how far a finding is from its limit, as a share of it: enough to know which are near."""
    if finding.lower is None or finding.upper is None or not finding.margin:
        return math.inf
    if finding.unit == "slates":
        return ((finding.bound or 0.0) + finding.margin) / finding.margin
    return (finding.margin - finding.upper) / finding.margin


def _spares(evidence: Evidence, policy: GatePolicy, finding: Finding) -> list[Change]:
    """How much worse this finding may be before it does not pass; nothing where no loss could change it."""
    name, (row, part) = named(finding), _behind(evidence, finding)

    def breaks(worse: Row) -> bool:
        return not _passes(_with(evidence, part, row, worse), policy, name)

    if isinstance(row, Comparison):
        quality, compared = getattr(policy, policy.section(evidence)), row
        allowed = allowance(quality, row.slice, row.name)
        loss = _least(lambda by: breaks(_better(compared, -by, allowed)), 0.0, MOST_GAIN)
        told = f"{_told(loss)} {row.name} to spare on the same slates" if loss else ""
        return [Change(finding=name, what="headroom", amount=loss, share=loss / allowed, sentence=told)] if loss else []
    if isinstance(row, LatencyRatio | Resource):
        costly, (now, unit) = row, _size(row)
        share = _least(lambda by: breaks(_scaled(costly, 1 + by)), 0.0, 10.0)
        if share:
            told = f"{now * share:.2f} {unit} to spare: {now:.2f} now, {now * (1 + share):.2f} at the limit"
            return [Change(finding=name, what="headroom", amount=now * share, share=share, sentence=told)]
    return []


def _told(amount: float) -> str:
    """Four decimals, or as many as it takes to be told from nothing."""
    return f"{amount:.4f}" if amount >= 0.001 else f"{amount:.1g}"


def _larger(row: Comparison, times: float, allowed: float) -> Comparison:
    if times == 1.0:
        return row
    root = math.sqrt(times)
    changed = row.model_copy(
        update={
            "slates": math.ceil(row.slates * times),
            "lower": row.difference - (row.difference - row.lower) / root,
            "upper": row.difference + (row.upper - row.difference) / root,
            "smallest_detectable": row.smallest_detectable / root,
        }
    )
    return _with_p(changed, allowed)


def _better(row: Comparison, gain: float, allowed: float) -> Comparison:
    if gain == 0.0:
        return row
    moved = {name: getattr(row, name) + gain for name in ("candidate", "difference", "lower", "upper")}
    return _with_p(row.model_copy(update=moved), allowed)


def _with_p(row: Comparison, allowed: float) -> Comparison:
    """The harm's p-value that belongs to changed bounds, by the normal approximation of the bootstrap."""
    error = (row.upper - row.lower) / (2 * Z95)
    if error <= 0:
        return row.model_copy(update={"p_harm_beyond": float(row.difference >= -allowed)})
    return row.model_copy(update={"p_harm_beyond": NormalDist().cdf((row.difference + allowed) / error)})


def _more_pairs(row: LatencyRatio, times: float) -> LatencyRatio:
    root = math.sqrt(times)
    return row.model_copy(
        update={
            "pairs": math.ceil(row.pairs * times),
            "lower": row.ratio - (row.ratio - row.lower) / root,
            "upper": row.ratio + (row.upper - row.ratio) / root,
        }
    )


def _scaled(row: LatencyRatio | Resource, times: float) -> LatencyRatio | Resource:
    size = "candidate_ms" if isinstance(row, LatencyRatio) else "candidate_mib"
    return row.model_copy(update={name: getattr(row, name) * times for name in (size, "ratio", "lower", "upper")})


def _size(row: LatencyRatio | Resource) -> tuple[float, str]:
    return (row.candidate_ms, "ms") if isinstance(row, LatencyRatio) else (row.candidate_mib, "MiB")


def _with(evidence: Evidence, part: str, old: Row | None, new: Row) -> Evidence:
    rows = tuple(new if row is old else row for row in getattr(evidence, part))
    return evidence.model_copy(update={part: rows})


def _passes(evidence: Evidence, policy: GatePolicy, finding: str) -> bool:
    try:
        found = decide(evidence, policy).findings
    except InputRejected:
        return False
    return any(named(one) == finding and one.outcome is Outcome.PASS for one in found)


def _least(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """The smallest number between `low` and `high` for which `holds`, which must not turn false again above it."""
    if not holds(high):
        return None
    if holds(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
