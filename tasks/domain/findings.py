"""Evidence -> findings about ranking: one sentence each, with numbers, bound, margin, sample and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.domain.errors import InputRejected
from tasks.domain.evidence import Comparison, Evidence, Rival
from tasks.domain.gate_policy import LOWER_IS_BETTER, QualityPolicy, allowance
from tasks.domain.statistics import holm
from tasks.domain.verdict import TOTAL, Finding, Outcome

SIGNIFICANCE = 0.05
NOTHING = "nothing to do"
MORE_SLATES = "wait for more slates (a longer holdout in the recipe), or ask a person with `approval`"
LOOK_AT_TRAINING = "the champion keeps serving; look at the data report and the training curves of this run"
AGAINST = "against_"


def freshness(evidence: Evidence) -> Iterator[Finding]:
    """Weights cannot be compared on days that the champion has learned from; its state can."""
    if evidence.champion_train_end is None or evidence.champion_train_end < evidence.holdout_first_day:
        return
    seen = evidence.kind == "weights"
    yield fact(
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
            told += f"; both know {', '.join(change.shared) or 'no label'}, and the comparison counts "
            told += f"{', '.join(foreign)}, which the champion never learned" if foreign else "nothing else"
        person = quality.needs_person
        outcome = Outcome.INCONCLUSIVE if person else Outcome.PASS
        say = "a person decides: run again with `approval`, for the weights alone" if person else NOTHING
        yield fact(f"changed_{change.what}", outcome, f"{told}{': no number decides this' if person else ''}", say)


def quality_findings(evidence: Evidence, quality: QualityPolicy) -> Iterator[Finding]:
    """Every metric of the policy on every slice. Raises InputRejected where the evidence does not fit the policy.

    Each metric is one family of hypotheses, and on slices only the leading one blocks: the others say nearly the same
    (docs/adr/0021), and all of them in one family would hide harm that one alone shows.
    """
    rows = {(row.name, row.slice): row for row in evidence.comparisons if row.name in quality.metrics}
    _require_complete(evidence, quality, rows)
    for metric in quality.metrics:
        yield _total(rows[metric, TOTAL], quality)
    for metric in quality.metrics:
        mine = {part: row for (name, part), row in sorted(rows.items()) if name == metric and part != TOTAL}
        adjusted = holm({part: row.p_harm_beyond for part, row in mine.items() if _is_large(row, quality)})
        for part, row in mine.items():
            yield _slice(row, quality, adjusted.get(part), len(adjusted))
    measured = {part for _, part in rows}
    for part, slates in sorted(evidence.slices.items()):
        if part not in measured:
            sentence = f"{quality.metric}[{part}]: {slates} slates, no comparison: no verdict on this slice"
            yield fact(quality.metric, Outcome.PASS, sentence, NOTHING, part=part, sample=slates, unit="slates")


def rivals(evidence: Evidence, quality: QualityPolicy) -> Iterator[Finding]:
    """A ranker that is shown to lose to something simpler, or to the champion before: blocks or warns, as the policy says.

    It only warns by default, because the champion may lose to it too, and to keep that one would help nobody.
    """
    made = {row.name for row in evidence.rivals}
    for row in evidence.rivals:
        yield _against(row, blocks=row.name in quality.must_beat)
    for name in quality.must_beat:
        if name not in made:
            sentence = f"{AGAINST}{name}: not compared; no evidence is not a pass"
            yield fact(f"{AGAINST}{name}", Outcome.INCONCLUSIVE, sentence, "run the evaluate step again", margin=0.0)


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
    allowed, leads = allowance(quality, row.slice, row.name), row.name == quality.metric
    if adjusted is None:
        why = f"only {row.slates} slates of {row.users or row.slates} users: no verdict on this slice"
        return _compared(row, allowed, Outcome.PASS, row.lower, why, NOTHING)
    if adjusted >= SIGNIFICANCE:
        why = f"no significant harm, p {adjusted:.3f} after Holm over {tests} tests"
        return _compared(row, allowed, Outcome.PASS, row.upper, why, NOTHING)
    why = f"significant harm, p {adjusted:.3f} after Holm over {tests} tests"
    say = f"{LOOK_AT_TRAINING}, and at what became of `{row.slice}`"
    if leads:
        return _compared(row, allowed, Outcome.FAIL, row.upper, why, say)
    why += f"; on slices {quality.metric} blocks, this warns"
    say = f"look at what became of `{row.slice}` before it is lost in {quality.metric} too"
    return _compared(row, allowed, Outcome.PASS, row.upper, why, say).model_copy(update={"warns": True})


def _compared(row: Comparison, allowed: float, outcome: Outcome, bound: float, why: str, say: str) -> Finding:
    turned = ", lower is better" if row.name in LOWER_IS_BETTER else ""
    side = "at most" if bound == row.upper else "at least"
    return Finding(
        name=row.name,
        slice=row.slice,
        champion=row.champion,
        candidate=row.candidate,
        difference=row.difference,
        bound=bound,
        margin=allowed,
        outcome=outcome,
        sentence=f"{row.name}[{row.slice}]: {row.champion:.4f} -> {row.candidate:.4f} (gain {row.difference:+.4f}, "
        f"{side} {bound:+.4f}, allowed {-allowed:+.4f}, {row.slates} slates, sees drops from "
        f"{row.smallest_detectable:.4f}{turned}): {why}",
        lower=row.lower,
        upper=row.upper,
        sample=row.slates,
        unit="slates",
        smallest_detectable=row.smallest_detectable,
        next_step=say,
    )


def _against(row: Rival, *, blocks: bool) -> Finding:
    worse = row.upper < 0
    if worse:
        why = f"shown to rank worse than {row.name}" + ("" if blocks else "; this warns and does not block")
        say = f"look at the learning curves and features: {row.name} has the same slates, and costs less"
    else:
        why, say = "shown to be better" if row.lower > 0 else "not shown to be worse", NOTHING
    return Finding(
        name=f"{AGAINST}{row.name}",
        slice=TOTAL,
        champion=row.rival,
        candidate=row.candidate,
        difference=row.difference,
        bound=row.upper,
        margin=0.0,
        outcome=Outcome.FAIL if worse and blocks else Outcome.PASS,
        sentence=f"{AGAINST}{row.name}: {row.metric} {row.rival:.4f} -> {row.candidate:.4f} (gain {row.difference:+.4f}, "
        f"between {row.lower:+.4f} and {row.upper:+.4f}, {row.slates} slates): {why}",
        lower=row.lower,
        upper=row.upper,
        sample=row.slates,
        unit="slates",
        next_step=say,
        warns=worse and not blocks,
    )


def fact(
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
