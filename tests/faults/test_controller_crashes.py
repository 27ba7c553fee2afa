"""The controller dies before or after each call that changes the world; the next one goes on from the log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.adapters.envoy import Traffic
from tasks.adapters.router import Counts
from tasks.domain.errors import Conflict, Unavailable
from tests.rollout_builders import A, B, C, D
from tests.rollout_world import Crash, CrashPoints, World

POINTS = 24


async def a_promotion(world: World) -> None:
    world.submit(B)
    await world.passes(30)


async def a_rollback(world: World) -> None:
    await world.commands.roll_back(to=None, actor="on-call", reason="bad", idempotency_key="press")
    await world.passes(10)


async def champion(world: World, *releases: str) -> None:
    for release in releases:
        world.submit(release, "bootstrap" if world.state.champion is None else "canary")
        await world.passes(30)
    assert world.state.champion is not None and world.state.champion.release == releases[-1]


async def in_shadow() -> World:
    """A serves, and B is copied to."""
    world = World(A, B)
    await champion(world, A)
    world.submit(B)
    await world.passes(3)
    assert world.state.rollout is not None and world.state.rollout.state == "shadow"
    return world


def test_the_scenarios_have_as_many_crash_points_as_are_tried() -> None:
    async def count() -> int:
        world, points = World(A, B), CrashPoints()
        await champion(world, A)
        world.start(points)
        await a_promotion(world)
        await a_rollback(world)
        return points.calls

    calls = asyncio.run(count())
    assert 8 <= calls <= POINTS, f"{calls} calls change the world; adjust POINTS"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, POINTS + 1))
def test_a_promotion_survives_a_crash_at_any_call(at: int, after: bool) -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A)
        world.start(CrashPoints(at, after=after))
        with suppress(Crash):
            await a_promotion(world)
        world.start()
        world.submit(B)  # the pipeline asks again with the same key
        await world.passes(40)
        assert world.state.champion is not None and world.state.champion.release == B
        assert [row.kind for row in world.log.rows()].count("promote") == 1
        world.is_what_the_log_says()
        every = {release for traffic in world.router.history for release in traffic.weights}
        assert every == {A, B}

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_rollback_survives_a_crash_at_any_call(at: int, after: bool) -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A, B)
        world.start(CrashPoints(at, after=after))
        with suppress(Crash):
            await a_rollback(world)
        world.start()
        await world.passes(2)
        again = await world.commands.roll_back(to=None, actor="on-call", reason="bad", idempotency_key="press")
        await world.passes(10)
        assert again["to"] == A
        assert [row.kind for row in world.log.rows()].count("rollback") == 1
        world.is_what_the_log_says()

    asyncio.run(scenario())


def test_rollback_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A, B)
        world.library.store_down = True
        done = await world.commands.roll_back(to=None, actor="on-call", reason="bad", idempotency_key="press")
        assert (done["from"], done["to"], done["changed"]) == (B, A, True)
        assert world.router.traffic.weights == {A: 100}

    asyncio.run(scenario())


def test_a_rollback_while_the_router_is_down_is_recorded_and_applied_later() -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A, B)
        world.router.down = True
        with pytest.raises(Exception, match="is written and will be applied"):
            await world.commands.roll_back(to=None, actor="on-call", reason="bad", idempotency_key="press")
        world.router.down = False
        await world.passes(6)
        world.is_what_the_log_says()
        assert world.router.traffic.weights == {A: 100}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "state"),
    [
        pytest.param({"scores": [1.0, None, 0.5]}, "rolled_back", id="scores that are no numbers"),
        pytest.param({"scores": [1.0, 1.0, 1.0]}, "rolled_back", id="constant scores"),
        pytest.param({"items": ["p", "q", "r"]}, "rolled_back", id="other items"),
        pytest.param({"latency_ms": 900.0}, "rolled_back", id="slow"),
        pytest.param({"latency_ms": 5.5}, "promoted", id="good"),
    ],
)
def test_what_a_challenger_answers_decides(change: dict[str, object], state: str) -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A)
        world.callers.changes[B] = change
        rollout = world.submit(B)
        await world.passes(30)
        assert world.commands.rollout(rollout)["state"] == state, world.commands.rollout(rollout)
        if state != "promoted":
            assert all(traffic.weights.get(B, 0) == 0 for traffic in world.router.history), "a user saw it"

    asyncio.run(scenario())


def test_errors_that_a_retry_hid_from_callers_still_end_a_canary() -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A)
        world.callers.errors.add(B)
        rollout = world.submit(B)
        await world.passes(20)
        told = world.commands.rollout(rollout)
        assert told["state"] == "rolled_back" and "requests failed" in told["reason"]

    asyncio.run(scenario())


def test_no_traffic_is_not_a_pass() -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A)
        rollout = world.submit(B)
        await world.passes(40, traffic=0)
        told = world.commands.rollout(rollout)
        assert told["state"] == "rolled_back" and "no sufficient evidence" in told["reason"]
        world.is_what_the_log_says()

    asyncio.run(scenario())


def test_time_that_nobody_watched_does_not_count_as_baked() -> None:
    async def scenario() -> None:
        world = await in_shadow()
        world.clock.advance(3600)  # the controller was dead for an hour
        world.start()
        await world.passes(2)
        assert world.state.rollout is not None and world.state.rollout.state == "shadow"
        await world.passes(30)
        assert world.state.champion is not None and world.state.champion.release == B

    asyncio.run(scenario())


def test_time_that_nobody_watched_is_not_held_against_the_challenger() -> None:
    """After a night off the first passes find no replica ready; after a restart in a step the router may not answer once."""

    async def scenario() -> None:
        world = await in_shadow()
        world.clock.advance(8 * 3600)
        for release, replica in world.replicas.items():
            world.replicas[release] = replica.model_copy(update={"state": "starting"})
        ready, world.launcher.tick = world.launcher.tick, _nothing  # type: ignore[method-assign]
        world.start()
        await world.passes(2)
        world.launcher.tick = ready  # type: ignore[method-assign]
        await world.passes(3)
        world.router.down = True
        world.clock.advance(10)
        await world.passes(1)
        world.router.down = False
        assert world.state.rollout is not None and world.state.rollout.state == "shadow", world.state.ended[-1].reason
        await world.passes(40)
        assert world.state.champion is not None and world.state.champion.release == B

    asyncio.run(scenario())


def test_a_router_that_stays_away_ends_a_rollout_at_its_deadline() -> None:
    async def scenario() -> None:
        world = await in_shadow()
        world.router.down = True
        world.clock.advance(10)
        world.start()
        await world.passes(10)
        assert world.state.rollout is not None
        await world.passes(10)
        assert world.state.rollout is None and world.state.ended[-1].state == "rolled_back"

    asyncio.run(scenario())


async def _nothing() -> None:
    return None


def test_a_release_damaged_on_disk_is_not_promoted() -> None:
    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A)
        rollout = world.submit(B)
        await world.passes(4)
        world.library.damaged.add(B)
        await world.passes(30)
        assert world.commands.rollout(rollout)["state"] == "rolled_back"
        assert "sha256" in world.commands.rollout(rollout)["reason"]

    asyncio.run(scenario())


@pytest.mark.parametrize("trouble", ["missing", "crash loop", "store down"])
def test_a_release_that_never_gets_ready_fails_and_the_champion_stays(trouble: str) -> None:
    async def scenario() -> None:
        world = World(A, *([] if trouble == "missing" else [B]))
        await champion(world, A)
        world.library.store_down = trouble == "store down"
        if trouble == "crash loop":
            world.launcher.broken.add(B)
        rollout = world.submit(B)
        await world.passes(40)
        told = world.commands.rollout(rollout)
        assert told["state"] == "failed", told
        world.is_what_the_log_says()
        assert world.router.traffic.weights == {A: 100}

    asyncio.run(scenario())


def test_previous_stays_warm_and_older_ones_are_retired() -> None:
    async def scenario() -> None:
        world = World(A, B, C)
        await champion(world, A, B, C)
        await world.passes(10)
        assert set(world.replicas) == {B, C}
        assert world.router.traffic.fallback == {C: B}

    asyncio.run(scenario())


def test_a_retired_replica_finishes_what_it_has() -> None:
    async def scenario() -> None:
        world = World(A, B, C)
        await champion(world, A, B)
        world.submit(C)
        while world.state.rollout:
            await world.passes(1)
            world.router.counts[A[:12]] = Counts(requests=10, active=1, healthy=True)
        await world.passes(2, traffic=0)
        assert A in world.replicas and A in world.router.traffic.backends, "stopped with a request in flight"
        world.router.counts[A[:12]] = Counts(requests=10, active=0, healthy=True)
        await world.passes(4, traffic=0)
        assert A not in world.replicas and A not in world.router.traffic.backends

    asyncio.run(scenario())


def test_a_release_on_its_way_out_serves_again_when_somebody_rolls_back_to_it() -> None:
    """The router did not confirm that it left the clusters, and then the press came."""

    async def scenario() -> None:
        world = World(A, B, C)
        await champion(world, A, B)
        world.submit(C)
        while world.state.rollout:
            await world.passes(1)
        confirm = world.router.apply

        async def unconfirmed(traffic: Traffic) -> None:
            await confirm(traffic)
            raise Unavailable("the router did not confirm")

        world.router.apply = unconfirmed  # type: ignore[method-assign]
        await world.passes(4, traffic=0)
        assert A in world.replicas and A not in world.router.traffic.backends, "out of the clusters, not stopped"
        world.router.apply = confirm  # type: ignore[method-assign]
        done = await world.commands.roll_back(to=A, actor="on-call", reason="all bad", idempotency_key="press")
        assert done["to"] == A and world.router.traffic.weights == {A: 100}
        await world.passes(10)
        world.is_what_the_log_says()

    asyncio.run(scenario())


def test_an_abort_is_applied_though_another_replica_goes_while_the_router_confirms_it() -> None:
    async def scenario() -> None:
        world = await in_shadow()
        confirm = world.router.apply

        async def meanwhile(traffic: Traffic) -> None:
            await confirm(traffic)
            world.replicas.pop(B, None)

        world.router.apply = meanwhile  # type: ignore[method-assign]
        await world.commands.abort(actor="on-call", reason="bad", idempotency_key="press")
        assert world.router.traffic.weights == {A: 100} and B not in world.router.traffic.backends

    asyncio.run(scenario())


def test_a_cold_release_is_warmed_before_the_log_names_it() -> None:
    async def scenario() -> None:
        world = World(A, B, C)
        await champion(world, A, B, C)
        await world.passes(10)
        assert A not in world.replicas
        done = await world.commands.roll_back(to=A, actor="on-call", reason="all bad", idempotency_key="press")
        assert done["to"] == A and world.router.traffic.weights == {A: 100}
        await world.passes(10)
        world.is_what_the_log_says()

    asyncio.run(scenario())


@pytest.mark.parametrize("trouble", ["a rollout begins meanwhile", "no port is free"])
def test_a_release_that_nobody_goes_back_to_any_more_is_not_kept_running(trouble: str) -> None:
    async def scenario() -> None:
        world = World(A, B, C, D)
        await champion(world, A, B, C)
        await world.passes(10)
        if trouble == "no port is free":
            world.launcher.start = _no_port  # type: ignore[method-assign]
        press = asyncio.create_task(
            world.commands.roll_back(to=A, actor="on-call", reason="all bad", idempotency_key="press")
        )
        await asyncio.sleep(0)
        if trouble == "a rollout begins meanwhile":
            world.submit(D)
        with pytest.raises((Conflict, Unavailable)):
            await press
        await world.passes(10)
        assert A not in world.replicas and world.state.champion is not None and world.state.champion.release != A
        world.is_what_the_log_says()

    asyncio.run(scenario())


async def _no_port(*given: object) -> None:
    raise Unavailable("ports 28020 to 28035 are all taken")


def test_a_release_that_cannot_start_here_keeps_no_other_from_starting() -> None:
    """A full disk stops the champion's new process; the release to go back to must come up all the same."""

    async def scenario() -> None:
        world = World(A, B)
        await champion(world, A, B)
        world.replicas.clear()  # the machine started again
        started, start = list[str](), world.launcher.start

        async def one_fails(release: str, src: Path, view: Path) -> None:
            if release == B:
                raise Unavailable("could not write store.json: No space left on device")
            started.append(release)
            await start(release, src, view)

        world.launcher.start = one_fails  # type: ignore[method-assign]
        await world.passes(1)
        assert started == [A]

    asyncio.run(scenario())
