"""A machine in memory for the controller: log, router, replicas and callers outlive it; it may die at any call."""

from __future__ import annotations

import inspect
from typing import Any

from tasks.adapters.launcher import MemoryLauncher, Replica
from tasks.adapters.router import Counts, MemoryRouter
from tasks.controller.commands import Commands
from tasks.controller.log import MemoryLog
from tasks.controller.pull import Local
from tasks.controller.reconcile import Reconciler
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.rollout_state import RolloutState, fold
from tests.rollout_builders import Clock, a_policy


class Crash(BaseException):
    """The controller died here. Nothing may catch it."""


class CrashPoints:
    """Counts calls that change the world, and dies before or after the chosen one."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.at, self.after, self.calls = at, after, 0

    def watch(self, target: Any, *names: str) -> Any:
        points = self

        class Watched:
            def __getattr__(self, name: str) -> Any:
                found = getattr(target, name)
                if name not in names:
                    return found

                def called(*args: Any, **more: Any) -> Any:
                    points.before()
                    result = found(*args, **more)
                    if inspect.isawaitable(result):
                        return points.awaited(result)
                    points.afterwards()
                    return result

                return called

        return Watched()

    async def awaited(self, work: Any) -> Any:
        result = await work
        self.afterwards()
        return result

    def before(self) -> None:
        self.calls += 1
        if self.calls == self.at and not self.after:
            raise Crash

    def afterwards(self) -> None:
        if self.calls == self.at and self.after:
            raise Crash


class MemoryLibrary:
    """The in-memory twin of ReleaseLibrary. `stored` is what the object store holds."""

    def __init__(self, stored: set[str]) -> None:
        self.stored, self.here, self.damaged = stored, set[str](), set[str]()
        self.store_down = False

    def local(self, release: str) -> Local | None:
        return Local(src=f"/r/{release}", view="/v") if release in self.here else None

    def pull(self, release: str) -> Local:
        if self.store_down:
            raise Unavailable("the object store does not answer")
        if release not in self.stored:
            raise InputRejected(f"releases/{release[:12]}.json does not exist")
        self.here.add(release)
        return Local(src=f"/r/{release}", view="/v")

    def verify(self, release: str) -> None:
        if release in self.damaged:
            raise InputRejected("model/model.bin has another sha256; pull it again")

    def describe(self, release: str) -> dict[str, Any]:
        return {}


class Callers:
    """Traffic: each `send` answers some requests as the router routes them. Also the Reader of what replicas served."""

    def __init__(self, router: MemoryRouter, launcher: MemoryLauncher) -> None:
        self._router, self._launcher = router, launcher
        self.served_by: dict[str, list[dict[str, Any]]] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self.errors: set[str] = set()
        self._sent = 0

    def send(self, count: int = 10) -> None:
        traffic = self._router.traffic
        for release, weight in traffic.weights.items():
            if weight:
                for number in range(count):
                    request = f"request-{self._sent}-{number}"
                    self._answer(release, request)
                    if traffic.mirror:
                        self._answer(traffic.mirror, request)
                self._sent += 1

    def _answer(self, release: str, request: str) -> None:
        ring = self.served_by.setdefault(release, [])
        one = {"n": len(ring) + 1, "request_id": request, "status": 200, "latency_ms": 5.0}
        ring.append(one | {"items": ["x", "y", "z"], "scores": [3.0, 2.0, 1.0]} | self.changes.get(release, {}))
        errors = len(ring) if release in self.errors else 0
        self._router.counts[release[:12]] = Counts(requests=len(ring), errors=errors, healthy=True)

    async def served(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        return self.served_by.get(replica.release, [])[after : after + 1000]

    async def feedback(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        return []


class World:
    """Everything outside the controller, and a way to (re)start the controller in it."""

    def __init__(self, *stored: str) -> None:
        self.log, self.router, self.clock = MemoryLog(), MemoryRouter(), Clock()
        self.replicas: dict[str, Replica] = {}
        self.library = MemoryLibrary(set(stored))
        self.launcher = MemoryLauncher(self.replicas)
        self.callers = Callers(self.router, self.launcher)
        self.start()

    def start(self, points: CrashPoints | None = None) -> None:
        points = points or CrashPoints()
        self.controller = Reconciler(
            log=points.watch(self.log, "append"),
            router=points.watch(self.router, "apply"),
            launcher=points.watch(self.launcher, "start", "stop"),
            library=self.library,
            reader=self.callers,
            clock=self.clock,
        )
        self.commands = Commands(self.controller, "demo")

    @property
    def state(self) -> RolloutState:
        return fold(self.log.rows())

    async def passes(self, count: int, *, traffic: int = 10, seconds: float = 2) -> None:
        """The loop runs `count` times while callers send."""
        import asyncio

        for _ in range(count):
            if traffic:
                self.callers.send(traffic)
            await self.controller.tick()
            if pulls := list(
                self.controller._pulls.values()
            ):  # they run in threads: how many passes one takes is no chance
                await asyncio.wait(pulls, timeout=10)
            self.clock.advance(seconds)

    def submit(self, release: str, kind: Any = "canary", key: str | None = None, **policy: Any) -> str:
        answer = self.commands.submit(
            release=release,
            kind=kind,
            policy=a_policy(**policy),
            actor="pipeline",
            reason="new",
            idempotency_key=key or f"submit-{release[:4]}",
            expected_champion=None,
        )
        return str(answer["rollout"])

    def is_what_the_log_says(self) -> None:
        """Invariant 8: traffic, replicas and log agree."""
        self.log.verify()
        wanted = set(self.controller.wanted(self.state))
        assert set(self.replicas) == wanted
        assert self.router.traffic == self.controller.traffic(self.state)
        assert sum(self.router.traffic.weights.values()) == 100
