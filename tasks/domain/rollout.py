"""How a release earns its traffic: policy, steps and the next move. Decides only; reads no clock and starts nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from tasks.domain.gate import Outcome
from tasks.domain.manifest import Record

PENDING = -1  # submitted, not ready yet; step 0 is shadow, then the canary steps, then full
SHADOW = 0
LONGEST_BAKE_S = 7 * 86_400


class Action(StrEnum):
    WAIT = "wait"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class CanaryStep(Record):
    """One rung: this percent of the traffic, for at least this long."""

    weight: int = Field(ge=1, le=99)
    bake_s: float = Field(ge=0, le=LONGEST_BAKE_S)


class RolloutPolicy(Record):
    """What a challenger must show, against the champion over the same window, before it gets more traffic."""

    ready_within_s: float = Field(gt=0, description="pull, start and golden requests together")
    shadow_s: float = Field(ge=0, le=LONGEST_BAKE_S)
    steps: tuple[CanaryStep, ...] = Field(min_length=1)
    full_bake_s: float = Field(ge=0, le=LONGEST_BAKE_S)
    hold_s: float = Field(gt=0, description="how long after its bake time a step waits for evidence, then rolls back")
    min_requests: int = Field(ge=1, description="of challenger and champion, in each step")
    max_error_rate: float = Field(
        ge=0, lt=1, description="of the challenger, or the champion's own where that is higher"
    )
    max_latency_ratio_p50: float = Field(gt=1)
    max_latency_ratio_p95: float = Field(gt=1)
    latency_slack_ms: float = Field(ge=0, description="a difference below this never counts as slower")
    min_overlap_at_10: float = Field(ge=0, le=1, description="mean share of common items in the top 10, shadow only")
    max_restarts: int = Field(ge=0, description="crashes of the challenger that a step forgives")
    # a log keeps the policy of each rollout, so what was added later has a default: old logs must stay readable
    max_latency_ratio_p99: float | None = Field(default=None, gt=1, description="empty: as of the p95")
    max_timeout_rate: float = Field(default=0.005, ge=0, lt=1)
    max_refused_rate: float = Field(default=0.01, ge=0, lt=1, description="requests answered with 4xx")
    max_short_rate: float = Field(
        default=0.01, ge=0, lt=1, description="lists with fewer than 10 items, and empty ones"
    )
    min_rank_correlation: float = Field(
        default=0.0, ge=-1, le=1, description="mean Kendall tau of common items, shadow"
    )
    max_online_drop: float = Field(default=0.05, ge=0, le=1, description="of NDCG@10 and conversion, from feedback")
    warm_up_s: float = Field(
        default=0,
        ge=0,
        le=LONGEST_BAKE_S,
        description="before the shadow: copies climb, caches fill, speed and rates are not judged",
    )

    @model_validator(mode="after")
    def _weights_climb(self) -> Self:
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"canary weights must climb, got {weights}")
        return self

    @property
    def last_step(self) -> int:
        return len(self.steps) + 1

    def weight(self, step: int) -> int:
        """Percent of live traffic at a step: 0 while pending and in shadow, 100 in the last."""
        if step <= SHADOW:
            return 0
        return 100 if step == self.last_step else self.steps[step - 1].weight

    def bake_s(self, step: int) -> float:
        if step == PENDING:
            return 0.0
        if step == SHADOW:
            return self.shadow_s
        return self.full_bake_s if step == self.last_step else self.steps[step - 1].bake_s

    def step_name(self, step: int) -> str:
        if step == PENDING:
            return "pending"
        if step == SHADOW:
            return "shadow"
        return "full" if step == self.last_step else f"canary {self.weight(step)}%"


class Position(Record):
    """Where a rollout stands. `since` is when evidence for this step began, later than the step after a restart."""

    step: int
    since: datetime
    frozen: bool = False


def next_action(policy: RolloutPolicy, at: Position, outcome: Outcome, now: datetime) -> Action:
    """Choose the next move. Bad news acts at once, even when frozen; good news waits out the bake time.

    No data is never good news: a step without evidence waits `hold_s` longer and is then rolled back.
    """
    if outcome is Outcome.FAIL:
        return Action.ROLL_BACK
    if at.frozen:
        return Action.WAIT
    bake = policy.bake_s(at.step)
    if now - at.since < timedelta(seconds=bake):
        return Action.WAIT
    if outcome is Outcome.INCONCLUSIVE:
        hold = policy.ready_within_s if at.step == PENDING else policy.hold_s
        return Action.WAIT if now - at.since < timedelta(seconds=bake + hold) else Action.ROLL_BACK
    return Action.PROMOTE if at.step == policy.last_step else Action.ADVANCE
