"""Evidence -> findings: one sentence each, with numbers, bound, margin, sample and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.domain.errors import InputRejected
from tasks.domain.evidence import Check, Comparison, Equivalence, Evidence, LatencyRatio, Resource
from tasks.domain.gate_policy import LOWER_IS_BETTER, GatePolicy, QualityPolicy, allowance
from tasks.domain.statistics import holm
from tasks.domain.verdict import TOTAL, Finding, Outcome

SIGNIFICANCE = 0.05
NOTHING = "nothing to do"
MORE_SLATES = "wait for more slates (a longer holdout in the recipe), or ask a person with `approval`"
LOOK_AT_TRAINING = "the champion keeps serving; look at the data report and the training curves of this run"


def freshness(evidence: Evidence) -> Iterator[Finding]:
    """Weights cannot be compared on days that the champion has learned from; its state can."""
    if evidence.champion_train_end is None or evidence.champion_train_end < evidence.holdout_first_day:
        return
    seen = evidence.kind == "weights"
    yield _fact(
        "champion_saw_holdout",
        Outcome.INCONCLUSIVE if seen else Outcome.PASS,
        f"the champion was trained through {evidence.champion_train_end}, the holdout starts on "
        f"{evidence.holdout_first_day}: weights cannot be compared on days that one of them has seen",
        "refresh a later day, whose holdout begins after the champion's training" if seen else NOTHING,
    )


def changes(evidence: Evidence, quality: QualityPolicy) -> Iterator[Finding]:
    for change in evidence.changes:
        told = f"{change.what} changed from {change.champion} to {change.candidate}"
        if change.what == "labels":
            foreign = sorted(set(change.counted) - set(change.shared))
            told += f"; both know {', '.join(change.shared) or 'no label'}, and the holdout counts "
            told += f"{', '.join(foreign)} too, which the champion never learned" if foreign else "nothing else"
        person = quality.needs_person
        outcome = Outcome.INCONCLUSIVE if person else Outcome.PASS
        say = "a person decides: run again with `approval`, for the weights alone" if person else NOTHING
        yield _fact(f"changed_{change.what}", outcome, f"{told}{': no number decides this' if person else ''}", say)


def quality_findings(evidence: Evidence, quality: QualityPolicy) -> Iterator[Finding]:
    """Every metric of the policy on every slice. Raises InputRejected where the evidence does not fit the policy."""
    rows = {(row.name, row.slice): row for row in evidence.comparisons if row.name in quality.metrics}
    _require_complete(evidence, quality, rows)
    sized = {key: row for key, row in rows.items() if key[1] != TOTAL and _is_large(row, quality)}
    adjusted = holm({f"{name}[{part}]": row.p_harm_beyond for (name, part), row in sorted(sized.items())})
    for metric in quality.metrics:
        yield _total(rows[metric, TOTAL], quality)
    for metric in quality.metrics:
        for (name, part), row in sorted(rows.items()):
            if name == metric and part != TOTAL:
                yield _slice(row, quality, adjusted.get(f"{name}[{part}]"), len(adjusted))
    measured = {part for _, part in rows}
    for part, slates in sorted(evidence.slices.items()):
        if part not in measured:
            sentence = f"{quality.metric}[{part}]: {slates} slates, no comparison: no verdict on this slice"
            yield _fact(quality.metric, Outcome.PASS, sentence, NOTHING, part=part, sample=slates, unit="slates")


def latency(evidence: Evidence, policy: GatePolicy) -> Iterator[Finding]:
    """A missing number is inconclusive, except for the first champion, which has nobody to be slower than."""
    yield from _ratios(evidence, policy, "latency_ratio", {row.name: row for row in evidence.latencies})


def resources(evidence: Evidence, policy: GatePolicy) -> Iterator[Finding]:
    """Only what the policy limits: a policy from before sizes were measured goes on as it was."""
    limited = {row.name: row for row in evidence.resources if row.name in policy.resource_ratio}
    yield from _ratios(evidence, policy, "resource_ratio", limited)


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
        yield _checked(check)
    for name in quality.checks:
        if name not in made:
            sentence = f"{name}: not checked; no evidence is not a pass"
            yield _fact(name, Outcome.INCONCLUSIVE, sentence, "run the evaluate step again with this check")


def _require_complete(evidence: Evidence, quality: QualityPolicy, rows: dict[tuple[str, str], Comparison]) -> None:
    if evidence.slates == 0:
        raise InputRejected(
            f"the holdout of the {evidence.kind} candidate is empty: no slate from {evidence.holdout_first_day} on. Choose "
            f"a partition with purchases of the selected users, and run evaluate again"
        )
    if len(rows) < sum(row.name in quality.metrics for row in evidence.comparisons):
        raise InputRejected(f"the evidence of the {evidence.kind} candidate names a slice of one metric twice")
    absent = [f"{metric} on `{TOTAL}`" for metric in quality.metrics if (metric, TOTAL) not in rows]
    absent += [f"the slice {part}" for part in quality.slices if part not in evidence.slices]
    if absent:
        raise InputRejected(
            f"the evidence of the {evidence.kind} candidate has no {', no '.join(absent)}, which the policy names; run the "
            f"evaluate step again, or take it out of the policy"
        )


def _is_large(row: Comparison, quality: QualityPolicy) -> bool:
    users = row.slates if row.users is None else row.users
    return row.slates >= quality.slice_minimum_slates and users >= quality.slice_minimum_users


def _total(row: Comparison, quality: QualityPolicy) -> Finding:
    policy = quality.metrics[row.name]
    better = ", and shown to be better" if row.lower > 0 else ""
    if row.upper < -policy.margin:
        return _compared(
            row, policy.margin, Outcome.FAIL, row.upper, "shown to be worse than allowed", LOOK_AT_TRAINING
        )
    if row.slates < quality.minimum_slates:
        why = f"too few slates to tell, {quality.minimum_slates} are needed"
        return _compared(row, policy.margin, Outcome.INCONCLUSIVE, row.lower, why, MORE_SLATES)
    if not policy.must_prove:
        return _compared(row, policy.margin, Outcome.PASS, row.upper, f"no significant harm{better}", NOTHING)
    if row.lower >= -policy.margin:
        why = f"shown to be no worse than allowed{better}"
        return _compared(row, policy.margin, Outcome.PASS, row.lower, why, NOTHING)
    why = "not shown to be good enough, and not shown to be bad"
    if row.smallest_detectable > policy.margin:
        why += f"; drops below {row.smallest_detectable:.4f} cannot be seen here, so this margin cannot be proven"
    return _compared(row, policy.margin, Outcome.INCONCLUSIVE, row.lower, why, MORE_SLATES)


def _slice(row: Comparison, quality: QualityPolicy, adjusted: float | None, tests: int) -> Finding:
    allowed = allowance(quality, row.slice, row.name)
    if adjusted is None:
        why = f"only {row.slates} slates of {row.users or row.slates} users: no verdict on this slice"
        return _compared(row, allowed, Outcome.PASS, row.lower, why, NOTHING)
    if adjusted < SIGNIFICANCE:
        why = f"significant harm, p {adjusted:.3f} after Holm over {tests} tests"
        say = f"{LOOK_AT_TRAINING}, and at what became of `{row.slice}`"
        return _compared(row, allowed, Outcome.FAIL, row.upper, why, say)
    why = f"no significant harm, p {adjusted:.3f} after Holm over {tests} tests"
    return _compared(row, allowed, Outcome.PASS, row.upper, why, NOTHING)


def _compared(row: Comparison, allowed: float, outcome: Outcome, bound: float, why: str, say: str) -> Finding:
    turned = ", lower is better" if row.name in LOWER_IS_BETTER else ""
    return Finding(
        name=row.name,
        slice=row.slice,
        champion=row.champion,
        candidate=row.candidate,
        difference=row.difference,
        bound=bound,
        margin=allowed,
        outcome=outcome,
        sentence=f"{row.name}[{row.slice}]: {row.champion:.4f} -> {row.candidate:.4f} (gain {row.difference:+.4f}, bound "
        f"{bound:+.4f}, allowed {-allowed:+.4f}, {row.slates} slates, sees drops from "
        f"{row.smallest_detectable:.4f}{turned}): {why}",
        lower=row.lower,
        upper=row.upper,
        sample=row.slates,
        unit="slates",
        smallest_detectable=row.smallest_detectable,
        next_step=say,
    )


def _ratios(
    evidence: Evidence, policy: GatePolicy, field: str, rows: dict[str, LatencyRatio] | dict[str, Resource]
) -> Iterator[Finding]:
    limits: dict[str, float] = getattr(policy, field)
    if unknown := sorted(set(rows) - set(limits)):
        raise InputRejected(f"policy {policy.name} has no limit for {', '.join(unknown)}; add it under {field}")
    for name, limit in limits.items():
        row = rows.get(name)
        if row is not None:
            yield _ratio(row, limit, policy.minimum_pairs)
        elif evidence.kind != "bootstrap":
            sentence = f"{name}: not measured; no evidence is not a pass"
            yield _fact(name, Outcome.INCONCLUSIVE, sentence, "run the benchmark step", margin=limit)


def _ratio(row: LatencyRatio | Resource, limit: float, minimum_pairs: int) -> Finding:
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
    return Finding(
        name=row.name,
        slice=TOTAL,
        champion=champion,
        candidate=candidate,
        difference=champion - candidate,
        bound=bound,
        margin=limit,
        outcome=outcome,
        sentence=f"{row.name}: {champion:.2f} -> {candidate:.2f} {unit} (ratio {row.ratio:.3f}, bound {bound:.3f}, allowed "
        f"{limit:.2f}, {sample} {word}): {why}",
        lower=row.lower,
        upper=row.upper,
        sample=sample,
        unit=word,
        next_step=say,
    )


def _checked(check: Check) -> Finding:
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


def _fact(
    name: str,
    outcome: Outcome,
    sentence: str,
    next_step: str,
    *,
    part: str = TOTAL,
    margin: float | None = None,
    sample: int | None = None,
    unit: str = "",
) -> Finding:
    """A finding without paired numbers."""
    return Finding(
        name=name,
        slice=part,
        champion=None,
        candidate=None,
        difference=None,
        bound=None,
        margin=margin,
        outcome=outcome,
        sentence=sentence,
        sample=sample,
        unit=unit,
        next_step=next_step,
    )
