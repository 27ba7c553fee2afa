"""How much may be lost: the gate's part of a policy file. A margin that cannot be meant is refused when it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.domain.evidence import Evidence
from tasks.domain.manifest import Record
from tasks.domain.verdict import TOTAL

Section = Literal["weights", "state", "bootstrap", "architecture", "labels"]
# What a policy may hold a candidate to: a number for each slate.
HIGHER_IS_BETTER = frozenset(
    {f"{name}_at_10" for name in ("ndcg", "dcg", "recall", "precision", "f1", "hit_rate", "accuracy", "map")}
    | {f"{name}_at_10" for name in ("value_ndcg", "diversity", "novelty")}
    | {"mrr", "auc"}
)
LOWER_IS_BETTER = frozenset({"logloss", "ece"})
SIMPLER = frozenset({"own_frequency", "global_frequency", "gp_topfreq", "lightgbm"})


class MetricPolicy(Record):
    """One metric's allowance, in the metric's own unit, whichever direction is better."""

    margin: float = Field(gt=0, description="largest acceptable loss on `all`; a slice may lose twice as much")
    must_prove: bool = Field(default=True, description="False: only significant harm beyond the margin blocks")


class QualityPolicy(MetricPolicy):
    """`all` must prove that no metric lost more than its margin; a slice blocks only on significant harm."""

    metric: str = Field(default="ndcg_at_10", description="leads: `margin` and `must_prove` are about this one")
    others: dict[str, MetricPolicy] = Field(default={}, description="further metrics, each with a margin of its own")
    slices: tuple[str, ...] = Field(
        default=(), description="slices that the evaluation must tell apart; others are judged too"
    )
    checks: tuple[str, ...] = Field(default=(), description="checks that must have been made")
    must_beat: tuple[str, ...] = Field(
        default=(), description="simpler models that block where they are shown to rank better; the others only warn"
    )
    minimum_slates: int = Field(gt=0)
    slice_minimum_slates: int = Field(default=50, gt=0, description="a smaller slice gives no verdict")
    slice_minimum_users: int = Field(default=20, gt=0, description="of fewer users no bootstrap can tell")
    needs_person: bool = Field(default=False, description="no evidence is enough without a person")

    @model_validator(mode="after")
    def _metrics_are_known(self) -> QualityPolicy:
        if unknown := sorted(set(self.metrics) - HIGHER_IS_BETTER - LOWER_IS_BETTER):
            known = ", ".join(sorted(HIGHER_IS_BETTER | LOWER_IS_BETTER))
            raise ValueError(f"unknown metric {', '.join(unknown)}; known: {known}")
        if self.metric in self.others:
            raise ValueError(f"{self.metric} leads and is among the others too; name it once")
        if unknown := sorted(set(self.must_beat) - SIMPLER):
            raise ValueError(f"unknown simpler model {', '.join(unknown)}; known: {', '.join(sorted(SIMPLER))}")
        return self

    @property
    def metrics(self) -> dict[str, MetricPolicy]:
        """All of them, the leading one first."""
        return {self.metric: self, **self.others}


def allowance(quality: QualityPolicy, slice_name: str, metric: str | None = None) -> float:
    """The loss that one slice may show: the metric's margin on `all`, twice as much elsewhere."""
    margin = quality.metrics[metric or quality.metric].margin
    return margin if slice_name == TOTAL else 2 * margin


class GatePolicy(Record):
    """What is acceptable. One section for each kind of candidate; none is ever left out."""

    name: str
    weights: QualityPolicy
    state: QualityPolicy
    bootstrap: QualityPolicy = Field(description="the first model ever, against the counting baseline")
    architecture: QualityPolicy = Field(description="weights of another network or of other features")
    labels: QualityPolicy = Field(description="weights that learned from other labels; needs a person")
    latency_ratio: dict[str, float] = Field(description="name -> largest acceptable candidate / champion")
    resource_ratio: dict[str, float] = Field(default={}, description="the same of size and memory")
    minimum_pairs: int = Field(default=100, gt=0)

    @field_validator("latency_ratio", "resource_ratio")
    @classmethod
    def _at_least_one(cls, limits: dict[str, float]) -> dict[str, float]:
        if wrong := [name for name, limit in limits.items() if limit < 1]:
            raise ValueError(f"{', '.join(wrong)} must be 1 or more: the champion itself has a ratio of 1")
        return limits

    @model_validator(mode="after")
    def _labels_need_a_person(self) -> GatePolicy:
        if not self.labels.needs_person:
            raise ValueError(
                "labels.needs_person must be true: other labels mean another goal, and numbers cannot choose"
            )
        return self

    def section(self, evidence: Evidence) -> Section:
        """Which section judges this candidate."""
        changed = {change.what for change in evidence.changes}
        if evidence.kind != "weights" or not changed:
            return evidence.kind
        return "labels" if "labels" in changed else "architecture"
