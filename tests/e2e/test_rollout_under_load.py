"""Promotion, rollback and a dying canary under load, on the real router and real processes: callers see no failure."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tasks.adapters.processes import marked_processes
from tests.rollout_stack import Stack, load, wait_until

pytestmark = pytest.mark.stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "home")
    try:
        yield stack.start()
    finally:
        stack.stop()


def test_a_good_release_is_promoted_and_rolled_back_without_a_failed_request(stack: Stack) -> None:
    async def scenario() -> None:
        first, second = stack.champion("first"), stack.release("second")
        async with load(stack.settings) as seen:
            ended = await stack.ended(stack.submit(second))
            assert ended["state"] == "promoted", ended
            status = stack.client.status()
            assert status["champion"]["release"] == second and status["previous"]["release"] == first
            assert status["weights"] == {second: 100}
            done = await asyncio.to_thread(stack.client.rollback, actor="test", reason="drill")
            returned = asyncio.get_running_loop().time()
            await asyncio.sleep(1)
            again = await asyncio.to_thread(stack.client.rollback, actor="test", reason="pressed twice")
            await asyncio.sleep(0.5)
        assert (done["from"], done["to"], done["changed"]) == (second, first, True)
        assert again["changed"] is False and stack.client.status()["champion"]["release"] == first
        assert seen.failed == [], seen.failed
        assert seen.total > 150
        assert {release for _, _, release in seen.trail} == {first, second}
        late = [release for sent, _, release in seen.trail if sent > returned]
        assert late and set(late) == {first}, (
            "a request sent after the rollback returned was answered by the newer release"
        )
        print(f"\n{seen.total} requests, 0 failed; rollback took {done['seconds']} s")

    asyncio.run(scenario())


def test_a_canary_killed_during_its_step_costs_no_request(stack: Stack) -> None:
    async def scenario() -> None:
        first, second = stack.champion("first"), stack.release("second")
        async with load(stack.settings) as seen:
            rollout = stack.submit(second, steps=[{"weight": 50, "bake_s": 30}])
            await stack.reached(rollout, "canary")
            await asyncio.sleep(1)
            # again and again: one restart is forgiven, a crash loop is not
            for _ in range(4):
                victims = [p for p in marked_processes(stack.settings.home) if second in " ".join(p.cmdline())]
                for victim in victims:
                    os.kill(victim.pid, signal.SIGKILL)
                await asyncio.sleep(1.5)
            ended = await stack.ended(rollout)
        assert seen.failed == [], seen.failed
        assert ended["state"] == "rolled_back"
        assert stack.client.status()["champion"]["release"] == first
        print(f"\n{seen.total} requests, 0 failed; {ended['reason']}")

    asyncio.run(scenario())


def processes_of(stack: Stack, release: str) -> list[psutil.Process]:
    return [p for p in marked_processes(stack.settings.home) if release in " ".join(p.cmdline())]


def test_one_of_two_replicas_killed_costs_no_request_and_comes_back(stack: Stack) -> None:
    async def scenario() -> None:
        release = stack.champion("first")
        both = processes_of(stack, release)
        assert len(both) == 2
        async with load(stack.settings, 100) as seen:
            await asyncio.sleep(1)
            os.kill(both[0].pid, signal.SIGKILL)

            def again() -> bool:
                pids = {p.pid for p in processes_of(stack, release)}
                return len(pids) == 2 and both[0].pid not in pids and both[1].pid in pids

            await asyncio.to_thread(wait_until, again, "the other one runs on, and a new one beside it")
            await asyncio.sleep(1)
        assert seen.failed == [], seen.failed
        assert set(seen.replies) == {(200, release)} and seen.total > 200

    asyncio.run(scenario())


def test_a_champion_killed_is_answered_for_by_the_previous_release(stack: Stack) -> None:
    async def scenario() -> None:
        first, second = stack.champion("first"), stack.release("second")
        async with load(stack.settings) as seen:
            assert (await stack.ended(stack.submit(second)))["state"] == "promoted"
            for victim in processes_of(stack, second):
                os.kill(victim.pid, signal.SIGKILL)
            await asyncio.sleep(3)
        assert seen.failed == [], seen.failed
        assert first in {release for _, _, release in seen.trail[-150:]}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        pytest.param({"fail_every": 2}, "requests failed", id="fails every second request"),
        pytest.param({"nan": True}, "not a finite number", id="scores are not numbers"),
        pytest.param({"reversed": True}, "overlap_at_10", id="ranks in reverse"),
        pytest.param({"delay_ms": 400}, "latency_p50", id="is slow"),
    ],
)
def test_a_bad_release_is_refused_in_shadow_and_no_user_sees_it(
    stack: Stack, behaviour: dict[str, int], said: str
) -> None:
    async def scenario() -> None:
        first, bad = stack.champion("first"), stack.release("bad", **behaviour)
        async with load(stack.settings) as seen:
            ended = await stack.ended(stack.submit(bad))
        assert ended["state"] == "rolled_back" and said in ended["reason"], ended
        assert ended["step"] == "shadow"
        assert set(seen.replies) == {(200, first)} and not seen.failures
        with pytest.raises(Exception, match="not tried again"):
            stack.submit(bad)

    asyncio.run(scenario())


def test_without_traffic_nothing_is_promoted(stack: Stack) -> None:
    first, second = stack.champion("first"), stack.release("second")
    ended = stack.client.wait(stack.submit(second, hold_s=2), deadline_s=60)
    assert ended["state"] == "rolled_back" and "no sufficient evidence" in ended["reason"]
    assert stack.client.status()["champion"]["release"] == first


def test_a_controller_killed_mid_canary_is_replaced_and_finishes(stack: Stack) -> None:
    async def scenario() -> None:
        stack.champion("first")
        second = stack.release("second")
        async with load(stack.settings) as seen:
            rollout = stack.submit(second)
            await stack.reached(rollout, "canary")
            before = {p.pid for p in marked_processes(stack.settings.home)}
            assert stack.controller is not None
            stack.controller.kill()
            stack.controller.wait()
            await asyncio.sleep(1)
            await asyncio.to_thread(stack.start_controller)
            ended = await stack.ended(rollout)
        assert ended["state"] == "promoted", ended
        assert seen.failed == [], seen.failed
        assert before <= {p.pid for p in marked_processes(stack.settings.home)}, "replicas were adopted, not restarted"

    asyncio.run(scenario())


def test_after_the_whole_machine_restarts_the_same_release_serves(stack: Stack) -> None:
    first = stack.champion("first")
    stack.stop()
    stack.start()

    def answers() -> bool:
        reply = httpx.post(f"{stack.settings.url('router')}/rank", json={}, timeout=5)
        return reply.status_code == 200 and reply.headers["x-freshrank-release"] == first

    wait_until(answers, "the champion answers again")


def test_a_retired_release_is_stopped_and_its_port_is_free(stack: Stack) -> None:
    async def scenario() -> None:
        releases = [stack.champion("first")]
        async with load(stack.settings) as seen:
            for name in ("second", "third"):
                releases.append(stack.release(name))
                assert (await stack.ended(stack.submit(releases[-1])))["state"] == "promoted"
            await asyncio.to_thread(wait_until, lambda: len(marked_processes(stack.settings.home)) == 4, "two ended")
        running = " ".join(" ".join(p.cmdline()) for p in marked_processes(stack.settings.home))
        assert releases[0] not in running and releases[1] in running and releases[2] in running
        assert seen.failed == [], seen.failed

    asyncio.run(scenario())
