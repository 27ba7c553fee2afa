"""Decide whether a candidate may replace the champion: evidence and policy in, a verdict with reasons out. Pure.

Three outcomes. `fail`: shown to be worse than allowed. `inconclusive`: not shown to be good enough, or no evidence.
`pass`: shown to be good enough. The worst finding wins, and a verdict without findings is inconclusive.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record
from tasks.domain.statistics import holm

CandidateKind = Literal["weights", "state", "bootstrap"]
SIGNIFICANCE = 0.05
TOTAL = "all"


class Outcome(StrEnum):
    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


_SEVERITY = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAIL: 2}


class Comparison(Record):
    """One metric of one slice, candidate against champion on the same slates, with one-sided 95 % bounds."""

    name: str
    slice: str
    champion: float
    candidate: float
    difference: float
    lower: float
    upper: float
    p_harm_beyond: float = Field(description="bootstrap p-value of 'the loss is within the allowance of this slice'")
    smallest_detectable: float
    slates: int


class LatencyRatio(Record):
    """candidate / champion of one latency number over interleaved pairs, with one-sided 95 % bounds."""

    name: str
    champion_ms: float
    candidate_ms: float
    ratio: float
    lower: float
    upper: float
    pairs: int


class Check(Record):
    """A fact that holds or does not: coverage, size, finiteness, skew, golden requests."""

    name: str
    value: float
    limit: float
    ok: bool
    sentence: str


class Evidence(Record):
    """Everything the gate may know about one candidate."""

    kind: CandidateKind
    holdout_digest: str = Field(description="digest of the slates that the candidate was scored on")
    champion_holdout_digest: str = Field(description="digest of the slates that the champion was scored on")
    holdout_first_day: str
    champion_train_end: str | None = Field(description="last day the champion's weights saw; None: no champion")
    comparisons: tuple[Comparison, ...]
    latencies: tuple[LatencyRatio, ...] = ()
    checks: tuple[Check, ...] = ()


class QualityPolicy(Record):
    """How much may be lost. `all` must prove non-inferiority; another slice blocks only on significant harm."""

    metric: str = "ndcg_at_10"
    margin: float = Field(gt=0, description="largest acceptable loss on `all`")
    must_prove: bool = Field(True, description="False: only significant harm beyond the margin blocks (state)")
    minimum_slates: int = Field(gt=0)
    slice_minimum_slates: int = Field(50, gt=0, description="a smaller slice gives no verdict")


class GatePolicy(Record):
    """What is acceptable. One per kind of candidate: first champion, new weights, new state."""

    name: str
    weights: QualityPolicy
    state: QualityPolicy
    bootstrap: QualityPolicy
    latency_ratio: dict[str, float] = Field(description="name -> largest acceptable candidate / champion")
    minimum_pairs: int = Field(100, gt=0)


class Finding(Record):
    """One reason, passed or not, with its numbers."""

    name: str
    slice: str
    champion: float | None
    candidate: float | None
    difference: float | None
    bound: float | None = Field(description="the one-sided 95 % bound that is held against the margin")
    margin: float | None
    outcome: Outcome
    sentence: str


class Verdict(Record):
    kind: CandidateKind
    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...]


class Decision(Record):
    """What ships. `shipped` is `none` where neither candidate proved itself; that is a successful run."""

    policy: str
    shipped: Literal["weights", "state", "bootstrap", "none"]
    reason: str
    needs_review: bool = Field(description="the weights were inconclusive, and a person may look at them")
    verdicts: tuple[Verdict, ...]


def decide(evidence: Evidence, policy: GatePolicy) -> Verdict:
    """Judge one candidate. The same evidence and policy give the same verdict, bit for bit.

    Raises:
        InputRejected: the evidence does not fit together (two holdouts, no total, a latency the policy does not know).
    """
    if evidence.holdout_digest != evidence.champion_holdout_digest:
        raise InputRejected(
            f"candidate was scored on holdout {evidence.holdout_digest[:12]} but champion on "
            f"{evidence.champion_holdout_digest[:12]}; scores from different holdouts cannot be compared. "
            f"Run the evaluate step again"
        )
    quality: QualityPolicy = getattr(policy, evidence.kind)
    findings = [
        *_freshness(evidence),
        *_quality(evidence, quality),
        *_latency(evidence, policy),
        *(_checked(check) for check in evidence.checks),
    ]
    outcome = max((finding.outcome for finding in findings), key=_SEVERITY.__getitem__, default=Outcome.INCONCLUSIVE)
    return Verdict(kind=evidence.kind, outcome=outcome, reason=_reason(outcome, findings), findings=tuple(findings))


def choose(verdicts: tuple[Verdict, ...], policy: GatePolicy, asked: str = "both") -> Decision:
    """What ships: proven weights (they carry the new state too), else proven state, else nothing.

    A run that was `asked` for weights only still needs sound state beneath them, but does not ship state alone.
    """
    by_kind = {verdict.kind: verdict for verdict in verdicts}
    state, weights = by_kind.get("state"), by_kind.get("weights")
    bootstrap = by_kind.get("bootstrap")

    def decision(shipped: Literal["weights", "state", "bootstrap", "none"], reason: str) -> Decision:
        review = weights is not None and weights.outcome is Outcome.INCONCLUSIVE
        return Decision(policy=policy.name, shipped=shipped, reason=reason, needs_review=review, verdicts=verdicts)

    if bootstrap:
        if bootstrap.outcome is Outcome.PASS:
            return decision("bootstrap", "the first champion proved itself against the counting baseline")
        return decision("none", f"the first champion was refused: {bootstrap.reason}")
    if state and state.outcome is Outcome.FAIL:
        return decision("none", f"the new state was refused, and new weights ship only on sound state: {state.reason}")
    if weights and weights.outcome is Outcome.PASS and (state is None or state.outcome is Outcome.PASS):
        return decision("weights", f"the new weights proved themselves: {weights.reason}")
    if state and state.outcome is Outcome.PASS and asked != "weights":
        why = f"; the new weights do not ship: {weights.reason}" if weights else ""
        return decision("state", f"the new state with the champion's weights is sound{why}")
    return decision("none", "; ".join(verdict.reason for verdict in verdicts) or "there was no candidate")


def allowance(quality: QualityPolicy, slice_name: str) -> float:
    """The loss that one slice may show: the margin on `all`, twice as much elsewhere."""
    return quality.margin if slice_name == TOTAL else 2 * quality.margin


def _freshness(evidence: Evidence) -> list[Finding]:
    if evidence.champion_train_end is None or evidence.champion_train_end < evidence.holdout_first_day:
        return []
    return [
        Finding(
            name="champion_saw_holdout",
            slice=TOTAL,
            champion=None,
            candidate=None,
            difference=None,
            bound=None,
            margin=None,
            outcome=Outcome.INCONCLUSIVE if evidence.kind == "weights" else Outcome.PASS,
            sentence=f"the champion was trained through {evidence.champion_train_end}, the holdout starts on "
            f"{evidence.holdout_first_day}: weights cannot be compared on days that one of them has seen",
        )
    ]


def _quality(evidence: Evidence, quality: QualityPolicy) -> list[Finding]:
    rows = [row for row in evidence.comparisons if row.name == quality.metric]
    if not any(row.slice == TOTAL for row in rows):
        raise InputRejected(f"the evidence of the {evidence.kind} candidate has no {quality.metric} on `{TOTAL}`")
    if len({row.slice for row in rows}) < len(rows):
        raise InputRejected(f"the evidence of the {evidence.kind} candidate names a slice of {quality.metric} twice")
    sized = [row for row in rows if row.slice != TOTAL and row.slates >= quality.slice_minimum_slates]
    adjusted = holm({row.slice: row.p_harm_beyond for row in sized})
    findings = []
    for row in rows:
        allowed = allowance(quality, row.slice)
        if row.slice == TOTAL:
            outcome, bound, why = _total_outcome(row, quality)
        elif row.slice not in adjusted:
            outcome, bound, why = Outcome.PASS, row.lower, f"only {row.slates} slates: no verdict on this slice"
        else:
            harmed = adjusted[row.slice] < SIGNIFICANCE
            outcome, bound = (Outcome.FAIL if harmed else Outcome.PASS), row.upper
            why = f"{'significant' if harmed else 'no significant'} harm, adjusted p {adjusted[row.slice]:.3f}"
        findings.append(
            Finding(
                name=row.name,
                slice=row.slice,
                champion=row.champion,
                candidate=row.candidate,
                difference=row.difference,
                bound=bound,
                margin=allowed,
                outcome=outcome,
                sentence=f"{row.name}[{row.slice}]: {row.champion:.4f} -> {row.candidate:.4f} ({row.difference:+.4f}, bound "
                f"{bound:+.4f}, allowed {-allowed:+.4f}, {row.slates} slates, sees drops from "
                f"{row.smallest_detectable:.4f}): {why}",
            )
        )
    return findings


def _total_outcome(row: Comparison, quality: QualityPolicy) -> tuple[Outcome, float, str]:
    if row.upper < -quality.margin:
        return Outcome.FAIL, row.upper, "shown to be worse than allowed"
    if row.slates < quality.minimum_slates:
        return Outcome.INCONCLUSIVE, row.lower, f"too few slates to tell, {quality.minimum_slates} are needed"
    if not quality.must_prove:
        return Outcome.PASS, row.upper, "no significant harm beyond the margin"
    if row.lower >= -quality.margin:
        return Outcome.PASS, row.lower, "shown to be no worse than allowed"
    return Outcome.INCONCLUSIVE, row.lower, "not shown to be good enough, and not shown to be bad"


def _latency(evidence: Evidence, policy: GatePolicy) -> list[Finding]:
    unknown = sorted({row.name for row in evidence.latencies} - set(policy.latency_ratio))
    if unknown:
        raise InputRejected(f"policy {policy.name} has no limit for {', '.join(unknown)}; add it under latency_ratio")
    findings = []
    for name, limit in policy.latency_ratio.items():
        row = next((row for row in evidence.latencies if row.name == name), None)
        if row is None:
            if evidence.kind == "bootstrap":
                continue  # no champion to compare with: the first champion's own policy
            findings.append(_unmeasured(name, limit))
            continue
        if row.lower > limit:
            outcome, bound, why = Outcome.FAIL, row.lower, "shown to be slower than allowed"
        elif row.pairs < policy.minimum_pairs or row.upper > limit:
            outcome, bound, why = Outcome.INCONCLUSIVE, row.upper, "not shown to be fast enough"
        else:
            outcome, bound, why = Outcome.PASS, row.upper, "shown to be fast enough"
        findings.append(
            Finding(
                name=name,
                slice=TOTAL,
                champion=row.champion_ms,
                candidate=row.candidate_ms,
                difference=row.candidate_ms - row.champion_ms,
                bound=bound,
                margin=limit,
                outcome=outcome,
                sentence=f"{name}: {row.champion_ms:.2f} -> {row.candidate_ms:.2f} ms (ratio {row.ratio:.3f}, bound {bound:.3f}, "
                f"allowed {limit:.2f}, {row.pairs} pairs): {why}",
            )
        )
    return findings


def _unmeasured(name: str, limit: float) -> Finding:
    return Finding(
        name=name,
        slice=TOTAL,
        champion=None,
        candidate=None,
        difference=None,
        bound=None,
        margin=limit,
        outcome=Outcome.INCONCLUSIVE,
        sentence=f"{name}: not measured; no evidence is not a pass. Run the benchmark step",
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
    )


def _reason(outcome: Outcome, findings: list[Finding]) -> str:
    if not findings:
        return "no findings: no evidence is not a pass"
    worst = [finding.sentence for finding in findings if finding.outcome is outcome]
    if outcome is Outcome.PASS:
        return next((f.sentence for f in findings if f.slice == TOTAL and f.difference is not None), worst[0])
    return "; ".join(worst)
