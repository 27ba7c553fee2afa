"""Values for rollout tests; a test names only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.domain.rollout import CanaryStep, RolloutPolicy
from tasks.domain.rollout_log import Draft, Kind

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def a_policy(**changes: Any) -> RolloutPolicy:
    values: dict[str, Any] = {
        "ready_within_s": 60,
        "shadow_s": 10,
        "steps": (CanaryStep(weight=20, bake_s=10),),
        "full_bake_s": 10,
        "hold_s": 20,
        "min_requests": 20,
        "max_error_rate": 0.01,
        "max_latency_ratio_p50": 1.5,
        "max_latency_ratio_p95": 2.0,
        "latency_slack_ms": 5,
        "min_overlap_at_10": 0.3,
        "max_restarts": 2,
    }
    return RolloutPolicy(**(values | changes))


def a_draft(op: str = "op-1", kind: Kind = Kind.FREEZE, **changes: Any) -> Draft:
    return Draft(**({"op": op, "kind": kind, "actor": "test", "reason": "because"} | changes))


class Clock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
