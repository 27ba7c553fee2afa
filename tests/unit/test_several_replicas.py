"""Two replicas of a release: balanced over, judged, counted and ended together, and one is enough to answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tasks.adapters.envoy import Traffic, clusters, routes
from tasks.adapters.launcher import MemoryLauncher, Replica, SeveralLauncher
from tasks.controller.judge import Evidence
from tests.rollout_builders import A, B
from tests.rollout_world import World
from tests.unit.test_rollout_evidence import Scene


class Apart(MemoryLauncher):
    """Its ports are those of its place among the launchers."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    async def start(self, release: str, src: Path, view: Path) -> None:
        new = release not in self.world
        await super().start(release, src, view)
        if new:
            port = self.first + len(self.world)
            self.world[release] = self.world[release].model_copy(
                update={"port": port, "pid": port, "name": f"{release[:4]}-{port}"}
            )


def a_world() -> tuple[World, list[Apart]]:
    world, apart = World(A, B), [Apart(20_000), Apart(30_000)]
    world.launcher = SeveralLauncher(apart)  # type: ignore[assignment]
    world.start()
    return world, apart


def test_the_router_gets_both_and_keeps_the_place_of_one_that_crashed() -> None:
    async def scenario() -> None:
        world, apart = a_world()
        world.submit(A, "bootstrap")
        await world.passes(8, traffic=0)
        assert world.router.traffic.backends == {A: (20_001, 30_001)}
        apart[0].crash(A)
        replica = world.launcher.replicas()[A]
        assert (replica.port, replica.state) == (30_001, "ready"), "who is ready speaks for the release"
        await world.controller.route()
        assert world.router.traffic.backends == {A: (20_001, 30_001)}
        await world.passes(3, traffic=0)
        assert sorted(one.restarts for one in world.launcher.replicas()[A].all) == [0, 1]

    asyncio.run(scenario())


def test_a_release_is_not_ready_before_all_of_it_is() -> None:
    async def scenario() -> None:
        world, apart = a_world()
        apart[1].broken.add(A)
        name = world.submit(A, "bootstrap")
        await world.passes(3, traffic=0)
        assert world.state.champion is None
        await world.passes(8, traffic=0)
        ended = world.commands.rollout(name)
        assert "crashed" in ended["reason"] and world.state.champion is None

    asyncio.run(scenario())


def test_what_an_earlier_controller_left_alone_gets_company_and_both_end() -> None:
    async def scenario() -> None:
        apart = [Apart(20_000), Apart(30_000)]
        await apart[0].start(A, Path("src"), Path("view"))
        both = SeveralLauncher(apart)
        await both.tick()
        assert [one.port for one in both.replicas()[A].all] == [20_001, 30_001]
        await both.stop(A)
        assert both.replicas() == {}

    asyncio.run(scenario())


def test_evidence_is_read_from_every_process_and_counts_the_crashes_of_all() -> None:
    scene = Scene()
    twin = scene.replicas[B].model_copy(update={"name": "other", "port": 9, "pid": 9})
    scene.replicas[B] = scene.replicas[B].model_copy(update={"others": (twin,)})
    read: list[str] = []
    plain = scene.ring.served

    async def served(replica: Replica, after: int) -> list[dict[str, object]]:
        read.append(replica.name)
        return await plain(replica, after)

    scene.ring.served = served  # type: ignore[method-assign]
    scene.look()
    assert {"other", B[:4]} <= set(read)
    crashed = twin.model_copy(update={"state": "down"})
    scene.replicas[B] = scene.replicas[B].model_copy(update={"others": (crashed,)})
    assert scene.look().restarts == 1
    back = twin.model_copy(update={"restarts": 1, "pid": 10})
    scene.replicas[B] = scene.replicas[B].model_copy(update={"others": (back,)})
    assert scene.look().restarts == 1, "the same crash, seen again after the restart"
    assert isinstance(scene.evidence, Evidence)


def test_envoy_balances_by_least_request_and_tries_another_host_first() -> None:
    traffic = Traffic(weights={A: 100}, backends={A: (20_001, 30_001)})
    (cluster,) = clusters(traffic)
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    assert len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2
    retried = [
        route["route"]["retry_policy"]
        for route in routes(traffic)["virtual_hosts"][0]["routes"]
        if "retry_policy" in route.get("route", {})
    ]
    assert retried and all(
        policy["retry_host_predicate"][0]["name"] == "envoy.retry_host_predicates.previous_hosts" for policy in retried
    )
