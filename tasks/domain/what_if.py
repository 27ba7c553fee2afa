"""What would change a verdict: the gate is asked again about evidence and policies that differ in one number. Pure.

Nothing here knows the gate's rules: each number is found by bisection with `decide` as the oracle, so it holds for the
rules as they are. A larger sample is taken to show the same difference, with bounds that shrink with its square root.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

from tasks.domain.errors import InputRejected
from tasks.domain.gate import (
    Check,
    Comparison,
    Evidence,
    Finding,
    GatePolicy,
    LatencyRatio,
    Outcome,
    Verdict,
    allowance,
    choose,
    decide,
)
from tasks.domain.manifest import Record

MOST_TIMES = 100.0  # more than this many times the sample is no advice
HALVINGS = 40
Z95 = NormalDist().inv_cdf(0.95)  # bounds are one-sided 95 %


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
    changes = []
    for finding in lacking:
        found = _lacks(evidence, policy, finding)
        changes += found or [Change(finding=named(finding), what="measure", sentence=_otherwise(evidence, finding))]
    if not lacking:
        for finding in verdict.findings:
            changes += _spares(evidence, policy, finding)
    return tuple(changes)


def would_ship(kind: str, verdicts: tuple[Verdict, ...], policy: GatePolicy, asked: str) -> str:
    """What would ship if the verdict on `kind` were a pass and the others what they are."""
    passed = tuple(v.model_copy(update={"outcome": Outcome.PASS}) if v.kind == kind else v for v in verdicts)
    return choose(passed, policy, asked).shipped


def named(finding: Finding | Comparison) -> str:
    return f"{finding.name}[{finding.slice}]"


def _lacks(evidence: Evidence, policy: GatePolicy, finding: Finding) -> list[Change]:
    comparison = next((row for row in evidence.comparisons if named(row) == named(finding)), None)
    if comparison:
        return _quality(evidence, policy, comparison)
    latency = next((row for row in evidence.latencies if row.name == finding.name), None)
    if latency:
        return _latency(evidence, policy, latency)
    check = next((row for row in evidence.checks if row.name == finding.name), None)
    return [_check(check)] if check else []


def _quality(evidence: Evidence, policy: GatePolicy, row: Comparison) -> list[Change]:
    name, quality = named(row), getattr(policy, evidence.kind)
    allowed, changes = allowance(quality, row.slice), []

    def passes(changed: Comparison, under: GatePolicy = policy) -> bool:
        return _passes(_with(evidence, "comparisons", row, changed), under, name)

    def wider(margin: float) -> bool:
        under = policy.model_copy(update={evidence.kind: quality.model_copy(update={"margin": margin})})
        looser = _with_p(row, allowance(getattr(under, evidence.kind), row.slice))
        return passes(looser, under)

    times = _least(lambda k: passes(_larger(row, k, allowed)), 1.0, MOST_TIMES)
    if times:
        more = math.ceil(row.slates * times) - row.slates
        told = f"{more:,} more slates ({row.slates + more:,} in all) that show the same difference"
        changes.append(Change(finding=name, what="sample", amount=more, sentence=told))
    better = _least(lambda gain: passes(_better(row, gain, allowed)), 0.0, 1.0)
    if better:
        told = f"a candidate that is {_told(better)} {row.name} better on the same slates"
        changes.append(Change(finding=name, what="better", amount=better, sentence=told))
    margin = _least(wider, quality.margin, max(1.0, quality.margin))
    if margin and margin > quality.margin:
        told = f"a margin of {margin:.4g} instead of {quality.margin:g}: a change of policy, by its own rules"
        changes.append(Change(finding=name, what="limit", amount=margin, sentence=told))
    return changes


def _latency(evidence: Evidence, policy: GatePolicy, row: LatencyRatio) -> list[Change]:
    finding = f"{row.name}[all]"
    limit, changes = policy.latency_ratio[row.name], []

    def passes(changed: LatencyRatio, under: GatePolicy = policy) -> bool:
        return _passes(_with(evidence, "latencies", row, changed), under, finding)

    def raised(to: float) -> bool:
        return passes(row, policy.model_copy(update={"latency_ratio": {**policy.latency_ratio, row.name: to}}))

    times = _least(lambda k: passes(_more_pairs(row, k)), 1.0, MOST_TIMES)
    if times:
        more = math.ceil(row.pairs * times) - row.pairs
        told = f"{more:,} more pairs of requests ({row.pairs + more:,} in all) that show the same ratio"
        changes.append(Change(finding=finding, what="sample", amount=more, sentence=told))
    faster = _least(lambda share: passes(_faster(row, 1 - share)), 0.0, 0.99)
    if faster:
        saved = row.candidate_ms * faster
        told = f"{row.name} faster by {saved:.2f} ms ({row.candidate_ms:.2f} -> {row.candidate_ms - saved:.2f} ms)"
        changes.append(Change(finding=finding, what="better", amount=saved, sentence=told))
    to = _least(raised, limit, 10 * limit)
    if to and to > limit:
        told = f"a limit of {to:.3f} instead of {limit:.2f} times the champion: a change of policy"
        changes.append(Change(finding=finding, what="limit", amount=to, sentence=told))
    return changes


def _check(check: Check) -> Change:
    told = f"{check.name} within its limit of {check.limit:g}; it is {check.value:g}"
    return Change(finding=f"{check.name}[all]", what="value", amount=check.limit - check.value, sentence=told)


def _otherwise(evidence: Evidence, finding: Finding) -> str:
    if finding.name == "champion_saw_holdout":
        return (
            f"a champion trained through a day before {evidence.holdout_first_day}, or a holdout that begins after "
            f"{evidence.champion_train_end}"
        )
    if finding.bound is None:
        return f"a measurement of {finding.name}: run the step that makes it again"
    return f"{finding.name} within what is allowed, {finding.margin}; it is {finding.bound:g}"


def _spares(evidence: Evidence, policy: GatePolicy, finding: Finding) -> list[Change]:
    """How much worse this finding may be before it does not pass; nothing where no loss could change it."""
    name = named(finding)
    row = next((one for one in evidence.comparisons if named(one) == name), None)
    if row:
        allowed = allowance(getattr(policy, evidence.kind), row.slice)

        def breaks(loss: float) -> bool:
            return not _passes(_with(evidence, "comparisons", row, _better(row, -loss, allowed)), policy, name)

        loss = _least(breaks, 0.0, 1.0)
        told = f"{_told(loss)} {row.name} to spare on the same slates" if loss else ""
        return [Change(finding=name, what="headroom", amount=loss, share=loss / allowed, sentence=told)] if loss else []
    timed = next((one for one in evidence.latencies if one.name == finding.name), None)
    if timed:

        def slow(share: float) -> bool:
            return not _passes(_with(evidence, "latencies", timed, _faster(timed, 1 + share)), policy, name)

        share = _least(slow, 0.0, 10.0)
        slower = timed.candidate_ms * share if share else 0.0
        told = f"{slower:.2f} ms to spare: {timed.candidate_ms:.2f} now, {timed.candidate_ms + slower:.2f} at the limit"
        return [Change(finding=name, what="headroom", amount=slower, share=share, sentence=told)] if share else []
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


def _faster(row: LatencyRatio, times: float) -> LatencyRatio:
    return row.model_copy(
        update={name: getattr(row, name) * times for name in ("candidate_ms", "ratio", "lower", "upper")}
    )


def _with(evidence: Evidence, part: str, old: Comparison | LatencyRatio, new: Comparison | LatencyRatio) -> Evidence:
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
