"""Crashes of a step count although the router did not answer while they happened."""

from __future__ import annotations

import asyncio

from tests.rollout_builders import A, B
from tests.rollout_world import World


def test_crashes_while_the_router_is_away_are_not_forgiven() -> None:
    async def scenario() -> None:
        world = World(A, B)
        world.submit(A, "bootstrap")
        await world.passes(4)
        world.router.down = True
        rollout = world.submit(B, max_restarts=1)
        await world.passes(4)
        assert world.state.rollout and world.state.rollout.step == 0
        for _ in range(3):
            world.launcher.crash(B)
            await world.passes(2, seconds=0.5)
        world.router.down = False
        await world.passes(3)
        ended = world.state.find(rollout)
        assert ended and ended.state == "rolled_back" and "3 crashes" in ended.reason, ended

    asyncio.run(scenario())
