"""Decide whether a candidate may replace the champion: evidence and policy in, a verdict with reasons out. Pure.

Three outcomes. `fail`: shown to be worse than allowed. `inconclusive`: not shown to be good enough, or no evidence.
`pass`: shown to be good enough. The worst finding wins, and a verdict without findings is inconclusive.
"""

from __future__ import annotations

from typing import Literal

from tasks.domain import findings as find
from tasks.domain import product_findings as product
from tasks.domain.errors import InputRejected
from tasks.domain.evidence import Change, Check, Comparison, Equivalence, Evidence, LatencyRatio, Resource, Rival
from tasks.domain.findings import SIGNIFICANCE
from tasks.domain.gate_policy import GatePolicy, MetricPolicy, QualityPolicy, allowance
from tasks.domain.verdict import SEVERITY, TOTAL, CandidateKind, Decision, Finding, Outcome, Override, Verdict

__all__ = [
    "SIGNIFICANCE",
    "TOTAL",
    "CandidateKind",
    "Change",
    "Check",
    "Comparison",
    "Decision",
    "Equivalence",
    "Evidence",
    "Finding",
    "GatePolicy",
    "LatencyRatio",
    "MetricPolicy",
    "Outcome",
    "Override",
    "QualityPolicy",
    "Resource",
    "Rival",
    "Verdict",
    "allowance",
    "choose",
    "decide",
]


def decide(evidence: Evidence, policy: GatePolicy) -> Verdict:
    """Judge one candidate. The same evidence and policy give the same verdict, bit for bit.

    Raises:
        InputRejected: the evidence does not fit together (two holdouts, another champion, no slates) or lacks what the
            policy names.
    """
    _require_one_comparison(evidence)
    section = policy.section(evidence)
    quality: QualityPolicy = getattr(policy, section)
    found = list(product.unserved(evidence)) or [
        *find.freshness(evidence),
        *find.changes(evidence, quality),
        *find.quality_findings(evidence, quality),
        *find.rivals(evidence, quality),
        *product.compression(evidence),
        *product.latency(evidence, policy),
        *product.resources(evidence, policy),
        *product.creep(evidence),
        *product.checks(evidence, quality),
    ]
    outcome = max((finding.outcome for finding in found), key=SEVERITY.__getitem__, default=Outcome.INCONCLUSIVE)
    reason = _reason(outcome, found, quality)
    return Verdict(kind=evidence.kind, outcome=outcome, reason=reason, findings=tuple(found), section=section)


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


def _require_one_comparison(evidence: Evidence) -> None:
    if evidence.holdout_digest != evidence.champion_holdout_digest:
        raise InputRejected(
            f"candidate was scored on holdout {evidence.holdout_digest[:12]} but champion on "
            f"{evidence.champion_holdout_digest[:12]}; scores from different holdouts cannot be compared. "
            f"Run the evaluate step again"
        )
    for step, release in evidence.compared_with.items():
        if release != evidence.champion_release:
            pinned = (evidence.champion_release or "none")[:12]
            raise InputRejected(
                f"{step} compared the candidate with release {release[:12]}, and the champion of this run is {pinned}: a "
                f"stale champion proves nothing. Run {step} again"
            )


def _reason(outcome: Outcome, found: list[Finding], quality: QualityPolicy) -> str:
    if not found:
        return "no findings: no evidence is not a pass"
    worst = [finding.sentence for finding in found if finding.outcome is outcome]
    if outcome is Outcome.PASS:
        return next((f.sentence for f in found if (f.name, f.slice) == (quality.metric, TOTAL)), worst[0])
    return "; ".join(worst)
