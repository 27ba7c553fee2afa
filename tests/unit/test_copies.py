"""Copies to a release that serves nobody: few at first, more while nobody is refused, fewer when somebody is."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.adapters import envoy
from tasks.adapters.envoy import Traffic
from tasks.domain.copies import ALL, FIRST, Copies, first_copies, next_copies
from tests.rollout_builders import NOON, A, B, C, a_policy
from tests.rollout_world import World

WARM = a_policy(warm_up_s=12)


@pytest.mark.parametrize(
    ("share", "stood_s", "answered", "refused", "expected"),
    [
        pytest.param(5, 2.0, 100, 0, 10, id="doubled after a sixth of the warm-up"),
        pytest.param(5, 1.9, 100, 0, 5, id="not before"),
        pytest.param(80, 2.0, 100, 0, 100, id="never more than all"),
        pytest.param(100, 60.0, 100, 0, 100, id="all it stays"),
        pytest.param(80, 1.0, 99, 1, 80, id="one in a hundred is borne, and no time to climb"),
        pytest.param(80, 1.0, 90, 10, 40, id="halved"),
        pytest.param(80, 0.5, 90, 10, 80, id="what a change does must be seen first"),
        pytest.param(1, 9.0, 0, 10, 1, id="one in a hundred is copied whatever happens"),
        pytest.param(5, 9.0, 0, 0, 10, id="without traffic nobody was refused"),
    ],
)
def test_next_copies(share: int, stood_s: float, answered: int, refused: int, expected: int) -> None:
    at = Copies(share=share, since=NOON)
    assert next_copies(WARM, at, answered, refused, NOON + timedelta(seconds=stood_s)).share == expected


def test_a_policy_without_warm_up_and_a_warm_release_begin_with_all() -> None:
    assert first_copies(WARM, NOON, cold=True).share == FIRST
    assert first_copies(WARM, NOON, cold=False).share == ALL
    assert first_copies(a_policy(), NOON, cold=True).share == ALL


@given(st.lists(st.tuples(st.floats(0.1, 30), st.integers(0, 500), st.integers(0, 500)), max_size=40))
def test_copies_stay_within_bounds_and_come_back(looks: list[tuple[float, int, int]]) -> None:
    at, now = first_copies(WARM, NOON, cold=True), NOON
    for seconds, answered, refused in looks:
        now += timedelta(seconds=seconds)
        at = next_copies(WARM, at, answered, refused, now)
        assert 1 <= at.share <= ALL
    for _ in range(8):
        now += timedelta(seconds=2)
        at = next_copies(WARM, at, 100, 0, now)
    assert at.share == ALL


def test_a_shadow_climbs_is_judged_anew_when_warm_and_yields_when_the_champion_refuses() -> None:
    async def scenario() -> None:
        world = World(A, B)
        world.submit(A, "bootstrap")
        await world.passes(4)
        world.callers.changes[B] = {"latency_ms": 500.0}  # as cold caches do
        world.submit(B, warm_up_s=12, shadow_s=10)
        shares = []
        while world.state.rollout and len(shares) < 9:
            await world.passes(1)
            if world.router.traffic.mirror == B:
                shares.append(world.router.traffic.mirror_percent)
                if len(shares) > 6:
                    world.callers.changes[B] = {}
        assert shares == [5, 5, 5, 10, 20, 40, 80, 100, 100]
        assert world.controller.judgement and world.controller.judgement.outcome != "fail", (
            "slow only while it was cold"
        )
        world.callers.changes[A] = {"status": 429, "items": [], "scores": []}
        await world.passes(2)
        assert world.router.traffic.mirror_percent == 50, "callers were refused"

    asyncio.run(scenario())


def test_what_is_wrong_with_a_cold_challenger_stops_it_at_once() -> None:
    async def scenario() -> None:
        world = World(A, B)
        world.submit(A, "bootstrap")
        await world.passes(4)
        world.callers.changes[B] = {"scores": [1.0, None, 0.5]}
        rollout = world.submit(B, warm_up_s=600)
        await world.passes(6)
        ended = world.state.find(rollout)
        assert ended and ended.state == "rolled_back" and "not a finite number" in ended.reason

    asyncio.run(scenario())


def ranked_routes(plan: Traffic) -> dict[str, dict[str, Any]]:
    """Cluster -> match and route, of what is ranked for callers that force nothing."""
    (host,) = envoy.routes(plan)["virtual_hosts"]
    found = [one for one in host["routes"] if one["match"].get("path") == "/rank" and len(one["match"]["headers"]) == 1]
    return {one["route"]["cluster"]: one for one in found}


def test_a_refusal_goes_to_the_release_behind_and_is_final_where_there_is_none() -> None:
    ports = {A: (1,), B: (2,), C: (3,)}
    a, b_then_a, a_then_c = envoy.cluster_name(A), envoy.fallback_name(B, A), envoy.fallback_name(A, C)
    plans = {
        "the first champion": (Traffic(weights={A: 100}, backends=ports), {a: False}),
        "its shadow": (Traffic(weights={A: 100, B: 0}, backends=ports, mirror=B, fallback={B: A}), {a: False}),
        "a canary, the champion without a previous one": (
            Traffic(weights={A: 95, B: 5}, backends=ports, fallback={B: A}), {a: False, b_then_a: True}
        ),
        "a canary": (
            Traffic(weights={A: 95, B: 5}, backends=ports, fallback={B: A, A: C}), {a_then_c: True, b_then_a: True}
        ),
        "a champion with a previous one": (Traffic(weights={B: 100}, backends=ports, fallback={B: A}), {b_then_a: True}),
        "the previous one is gone": (
            Traffic(weights={B: 100}, backends={B: (2,)}, fallback={B: A}), {envoy.cluster_name(B): False}
        ),
    }  # fmt: skip
    for name, (plan, repeated) in plans.items():
        seen = {
            cluster: "retriable-status-codes" in one["route"]["retry_policy"]["retry_on"]
            for cluster, one in ranked_routes(plan).items()
        }
        assert seen == repeated, name


@given(st.integers(1, 99))
def test_every_request_is_somebodys_and_each_release_gets_its_share(weight: int) -> None:
    """Envoy takes the first route that matches, and holds all fractions of a request against one random number."""
    plan = Traffic(weights={A: 100 - weight, B: weight}, backends={A: (1,), B: (2,)}, fallback={B: A})
    found = list(ranked_routes(plan).items())
    told: Counter[str] = Counter()
    for number in range(100):
        fractions = ((cluster, one["match"].get("runtime_fraction")) for cluster, one in found)
        told[next(c for c, f in fractions if f is None or number < f["default_value"]["numerator"])] += 1
    assert told == {envoy.cluster_name(A): 100 - weight, envoy.fallback_name(B, A): weight}


def test_the_share_of_copies_is_in_the_routes() -> None:
    plan = Traffic(weights={A: 100, B: 0}, backends={A: (1,), B: (2,)}, mirror=B, mirror_percent=20)
    ((_, found),) = ranked_routes(plan).items()
    (policy,) = found["route"]["request_mirror_policies"]
    assert policy["runtime_fraction"]["default_value"] == {"numerator": 20, "denominator": "HUNDRED"}
