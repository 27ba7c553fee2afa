"""Findings about what would be served: compression, latency, size, memory, facts that must hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.domain.creep import FEWEST, RISE, crept
from tasks.domain.errors import InputRejected
from tasks.domain.evidence import Check, Equivalence, Evidence, LatencyRatio, Resource
from tasks.domain.findings import NOTHING, fact
from tasks.domain.gate_policy import GatePolicy, QualityPolicy
from tasks.domain.latency import allowed_ratio
from tasks.domain.verdict import TOTAL, Finding, Outcome


def latency(evidence: Evidence, policy: GatePolicy) -> Iterator[Finding]:
    """A missing number is inconclusive, except for the first champion, which has nobody to be slower than."""
    for finding in _ratios(evidence, policy, "latency_ratio", {row.name: row for row in evidence.latencies}):
        yield _with_growth(finding, evidence)


def resources(evidence: Evidence, policy: GatePolicy) -> Iterator[Finding]:
    """Only what the policy limits: a policy from before sizes were measured goes on as it was."""
    limited = {row.name: row for row in evidence.resources if row.name in policy.resource_ratio}
    yield from _ratios(evidence, policy, "resource_ratio", limited)


def creep(evidence: Evidence) -> Iterator[Finding]:
    """The champion's own latency over earlier benches: a rise warns, because each step of it passed."""
    past = evidence.history
    if past is None:
        return
    risen = {name: found for name, values in past.relative.items() if (found := crept(values))}
    for name, found in risen.items():
        sentence = (
            f"{name} creeps: {found.rise:+.0%} since {past.days[found.since]}, seen in {len(past.days)} benches of this "
            f"machine; no single comparison had to see it"
        )
        say = f"bench the champion against a release from before {past.days[found.since]}: `freshrank bench`"
        yield fact(
            f"creep_{name}", Outcome.PASS, sentence, say, margin=RISE, sample=len(past.days), unit="benches"
        ).model_copy(update={"difference": -found.rise, "bound": found.rise, "warns": True})
    if not risen:
        why = (
            f"no rise of {RISE:.0%} or more" if len(past.days) >= FEWEST else f"creep is looked for in {FEWEST} or more"
        )
        sentence = f"creep: {len(past.days)} benches of this machine, {why}"
        yield fact("creep", Outcome.PASS, sentence, NOTHING, margin=RISE, sample=len(past.days), unit="benches")


def unserved(evidence: Evidence) -> Iterator[Finding]:
    """New weights of which nothing can serve: nothing more is known of them."""
    if evidence.unserved:
        sentence = f"compression: {evidence.unserved}"
        yield fact("compression", Outcome.INCONCLUSIVE, sentence, "look at front.json of compress")


def compression(evidence: Evidence) -> Iterator[Finding]:
    """Two one-sided tests against the fp32 parent. That it may be better does not block; that it surely is, needs a look."""
    row: Equivalence | None = evidence.compression
    if row is None:
        return
    if row.upper < -row.margin:
        outcome, why = Outcome.FAIL, "shown to be worse than its parent by more than the margin"
        say = "look at front.json of compress; take a variant that changes less, or fp32"
    elif row.lower < -row.margin:
        outcome, why = Outcome.INCONCLUSIVE, "not shown to be as good as its parent"
        say = "give compress more validation days, or a variant that changes less"
    elif row.lower > row.margin:
        outcome, why = (
            Outcome.INCONCLUSIVE,
            "shown to be another model than its parent, and better: something else changed",
        )
        say = "look at front.json of compress, and which parent it was held against"
    elif row.upper > row.margin:
        outcome, why, say = Outcome.PASS, "shown to be no worse than its parent, not shown to be its equal", NOTHING
    else:
        outcome, why, say = Outcome.PASS, "shown to equal its parent within the margin, both ways", NOTHING
    bound = row.lower if abs(row.lower) > abs(row.upper) else row.upper
    yield Finding(
        name="compression",
        slice=TOTAL,
        champion=row.parent,
        candidate=row.compressed,
        difference=row.difference,
        bound=bound,
        margin=row.margin,
        outcome=outcome,
        sentence=f"compression: {row.metric} of {row.variant} against its fp32 parent on validation {row.parent:.4f} -> "
        f"{row.compressed:.4f} (90 % interval {row.lower:+.4f} to {row.upper:+.4f}, allowed {row.margin:.4f} both ways, "
        f"{row.slates} slates): {why}",
        lower=row.lower,
        upper=row.upper,
        sample=row.slates,
        unit="slates",
        next_step=say,
    )


def checks(evidence: Evidence, quality: QualityPolicy) -> Iterator[Finding]:
    made = {check.name for check in evidence.checks}
    for check in evidence.checks:
        yield checked(check)
    for name in quality.checks:
        if name not in made:
            sentence = f"{name}: not checked; no evidence is not a pass"
            yield fact(name, Outcome.INCONCLUSIVE, sentence, "run the evaluate step again with this check")


def _ratios(
    evidence: Evidence, policy: GatePolicy, field: str, rows: dict[str, LatencyRatio] | dict[str, Resource]
) -> Iterator[Finding]:
    limits: dict[str, float] = getattr(policy, field)
    if unknown := sorted(set(rows) - set(limits)):
        raise InputRejected(f"policy {policy.name} has no limit for {', '.join(unknown)}; add it under {field}")
    grown = evidence.growth if field == "latency_ratio" else 1.0
    for name, limit in ((name, allowed_ratio(limit, grown)) for name, limit in limits.items()):
        row = rows.get(name)
        if row is not None:
            yield cost(row, limit, policy.minimum_pairs)
        elif evidence.kind != "bootstrap":
            yield unmeasured(name, limit)


def _with_growth(finding: Finding, evidence: Evidence) -> Finding:
    """Says what the limit grew with, and of a state with the champion's weights that it is no model that costs."""
    told: dict[str, str] = {}
    if evidence.growth > 1:
        told["sentence"] = (
            f"{finding.sentence}; catalogue or histories are {evidence.growth:.3f} times the champion's, and so is the limit"
        )
    if evidence.kind == "state" and finding.outcome is Outcome.FAIL:
        told["next_step"] = (
            "the weights are the champion's own, so it is what the state holds that costs: look at items and histories in "
            "the data report, or raise latency_ratio in the policy with a reason"
        )
    return finding.model_copy(update=told)


def cost(row: LatencyRatio | Resource, limit: float, minimum_pairs: int) -> Finding:
    """One ratio against the largest that the policy allows."""
    if isinstance(row, LatencyRatio):
        champion, candidate, unit, sample, word = row.champion_ms, row.candidate_ms, "ms", row.pairs, "pairs"
        few, more = row.pairs < minimum_pairs, f"run benchmark alone on the machine, with {minimum_pairs} pairs or more"
    else:
        champion, candidate, unit, sample, word = row.champion_mib, row.candidate_mib, "MiB", row.runs, "runs"
        few, more = False, "run benchmark again, with nothing beside it"
    if row.lower > limit:
        outcome, bound, why = Outcome.FAIL, row.lower, "shown to cost more than allowed"
        say = "take a smaller variant in the recipe's compression, or raise the limit with a reason"
    elif few or row.upper > limit:
        outcome, bound, why, say = Outcome.INCONCLUSIVE, row.upper, "not shown to cost no more than allowed", more
    else:
        outcome, bound, why, say = Outcome.PASS, row.upper, "shown to cost no more than allowed", NOTHING
    side = "at most" if bound == row.upper else "at least"
    return Finding(
        name=row.name,
        slice=TOTAL,
        champion=champion,
        candidate=candidate,
        difference=champion - candidate,
        bound=bound,
        margin=limit,
        outcome=outcome,
        sentence=f"{row.name}: {champion:.2f} -> {candidate:.2f} {unit} (ratio {row.ratio:.3f}, {side} {bound:.3f}, "
        f"allowed {limit:.2f}, {sample} {word}): {why}",
        lower=row.lower,
        upper=row.upper,
        sample=sample,
        unit=word,
        next_step=say,
    )


def unmeasured(name: str, limit: float) -> Finding:
    sentence = f"{name}: not measured; no evidence is not a pass"
    return fact(name, Outcome.INCONCLUSIVE, sentence, "run the benchmark step", margin=limit)


def checked(check: Check) -> Finding:
    """One check as a finding."""
    return Finding(
        name=check.name,
        slice=TOTAL,
        champion=None,
        candidate=check.value,
        difference=None,
        bound=check.value,
        margin=check.limit,
        outcome=Outcome.PASS if check.ok else Outcome.FAIL,
        sentence=f"{check.name}: {check.sentence}",
        sample=1,
        unit="check",
        next_step=NOTHING
        if check.ok
        else f"look at what {check.name} counts in evaluation.json; the champion keeps serving",
    )
