"""The controller's own code over a machine in memory whose every durable write may fail before, after or half way, and an
independent model of what the log means that checks each write the moment it happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar
from unittest import mock

from tasks.adapters.envoy import Traffic
from tasks.adapters.launcher import MemoryLauncher, Replica
from tasks.adapters.router import Counts, MemoryRouter
from tasks.controller import commands as commands_module
from tasks.controller.commands import Commands
from tasks.controller.log import MemoryLog
from tasks.controller.reconcile import Reconciler
from tasks.domain.errors import Unavailable
from tasks.domain.rollout import PENDING, RolloutPolicy
from tasks.domain.rollout_log import Draft, Kind, Row
from tests.rollout_builders import NOON, Clock
from tests.rollout_world import Crash, MemoryLibrary


class Broken(AssertionError):
    """An invariant does not hold. The reconcile loop survives any exception, so the first one is also kept aside."""

    seen: ClassVar[list[Broken]] = []


def must(holds: bool, said: str) -> None:
    if not holds:
        Broken.seen.append(Broken(said))
        raise Broken.seen[-1]


class Model:
    """Champion, previous, challenger and step by twelve lines of its own: a fold with a defect must not judge itself."""

    def __init__(self) -> None:
        self.champion: str | None = None
        self.previous: str | None = None
        self.active: tuple[str, RolloutPolicy, str] | None = None  # release, policy, kind
        self.step = PENDING
        self.entered = self.watched = NOON
        self.refused: set[str] = set()
        self.champions: set[str] = set()
        self.frozen = False
        self.rows = 0

    @property
    def weights(self) -> dict[str, int]:
        if self.champion is None:
            return {}
        if self.active is None or self.active[2] == "bootstrap" or self.step < 0:
            return {self.champion: 100}
        release, policy, _ = self.active
        ladder = [0, *(step.weight for step in policy.steps), 100]
        return {self.champion: 100 - ladder[self.step], release: ladder[self.step]}

    def follow(self, row: Row) -> None:
        at = row.time
        if row.kind is Kind.START:
            policy = RolloutPolicy.model_validate(row.details["policy"])
            self.active, self.step, self.entered = (str(row.to_release), policy, row.details["kind"]), PENDING, at
        elif row.kind is Kind.ADVANCE:
            self.step, self.entered = self.step + 1, at
        elif row.kind in (Kind.BOOT, Kind.PROMOTE):
            self.previous, self.champion, self.active = self.champion, row.to_release, None
            self.champions.add(str(row.to_release))
        elif row.kind is Kind.ABORT:
            self.active = None
            if row.details["state"] != "failed":
                self.refused.add(str(row.from_release))
                self.frozen = True
        elif row.kind is Kind.ROLLBACK:
            self.refused.add(str(row.from_release))
            self.champion, self.previous, self.frozen = row.to_release, None, True
        elif row.kind is Kind.FREEZE:
            self.frozen = True
        elif row.kind is Kind.UNFREEZE:
            self.frozen, self.entered = False, at
        self.rows = row.rev
        self.watched = max(self.watched, self.entered)


class Twin:
    """Log, router, replicas, callers and library outlive the controller. `arm` says at which write it dies, and how."""

    deaths: ClassVar[Counter[str]] = Counter()  # of all twins: which write, and how

    def __init__(self, releases: list[str]) -> None:
        self.clock, self.model = Clock(), Model()
        self.log, self.router, self.launcher = MemoryLog(), MemoryRouter(), MemoryLauncher()
        self.library = MemoryLibrary(set(releases))
        self.pending: Traffic | None = None  # written for a router that does not answer
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.bad: dict[str, dict[str, Any]] = {}
        self.errors: set[str] = set()
        self.in_step: dict[str, int] = {}  # requests since the step began
        self.crashes = 0  # of the challenger since this controller watched the step
        self.bad_all_step = False
        self.sent = 0
        self.loop = asyncio.new_event_loop()
        Broken.seen.clear()
        self.start()

    def start(self) -> None:
        """A new controller over what the old one left."""
        self.at: int | None = None
        self.how = "before"
        self.model.watched = max(self.model.entered, self.clock.now)
        self.crashes = 0  # what nobody counted is lost with the controller, as is the time that nobody watched
        self.controller = Reconciler(
            log=_Hooked(self.log, {"append": self._append}),
            router=_Hooked(self.router, {"apply": self._apply, "observe": self._observe}),
            launcher=_Hooked(self.launcher, {"start": self._start, "stop": self._stop}),
            library=self.library,
            reader=self,
            clock=self.clock,
        )
        self.commands = Commands(self.controller, "demo")

    def arm(self, at: int, how: str) -> None:
        self.at, self.how = at, how

    def call(self, work: Any) -> Any:
        """Run to its end, or to the death of the controller; a dead one is replaced."""
        try:
            return self.loop.run_until_complete(work)
        except Crash:
            self.start()
            return None
        finally:
            if Broken.seen:
                raise Broken.seen[0]

    def passes(self, count: int, *, requests: int = 5, seconds: float = 2) -> None:
        for _ in range(count):
            self.send(requests)
            self.call(self._pass())
            self.clock.advance(seconds)

    async def _pass(self) -> None:
        await self.controller.tick()
        for _ in range(3):
            await asyncio.sleep(0)  # pulls
        if self.model.champion is None or self.router.down:
            return
        active, judged = self.controller.state().rollout, self.controller.judgement
        if active and judged and judged.outcome == "fail" and self.model.step == active.step:
            must(False, f"{active.id} goes on although: {judged.reason}")

    def send(self, count: int) -> None:
        traffic = self.router.traffic
        for release, weight in traffic.weights.items():
            for _ in range(count if weight else 0):
                self.sent += 1
                for one in {release, traffic.mirror} - {None}:
                    self._answer(str(one), f"request-{self.sent}")

    def _answer(self, release: str, request: str) -> None:
        replica = self.launcher.world.get(release)
        ring, counts = self.answers.setdefault(release, []), self.router.counts.get(release[:12], Counts())
        failed = replica is None or replica.state == "down" or release in self.errors
        if not failed:
            good = {"status": 200, "latency_ms": 5.0, "items": ["x", "y", "z"], "scores": [3.0, 2.0, 1.0]}
            ring.append({"n": len(ring) + 1, "request_id": request} | good | self.bad.get(release, {}))
        self.router.counts[release[:12]] = Counts(
            requests=counts.requests + 1, errors=counts.errors + failed, healthy=not failed
        )
        self.in_step[release] = self.in_step.get(release, 0) + 1

    async def served(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        return self.answers.get(replica.release, [])[after : after + 1000]

    async def feedback(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        return []

    def crash(self, release: str) -> None:
        self.launcher.crash(release)
        if self.model.active and release == self.model.active[0]:
            self.crashes += 1

    def router_up(self) -> None:
        """It reads the files that were written while it was away."""
        self.router.down = False
        if self.pending is not None:
            self.router.traffic, self.pending = self.pending, None

    # the four durable writes

    def _dies(self, write: str, how: str) -> bool:
        if self.at is None or self.how != how:
            return False
        self.at -= 1
        self.deaths[f"{write}, {how}"] += self.at == 0
        return self.at == 0

    def _append(self, draft: Draft, *, expected: int, at: datetime) -> Row:
        if self._dies("log", "before") or self._dies("log", "torn"):  # a torn row is no row: the database takes it back
            raise Crash
        before = len(self.log.rows())
        row = self.log.append(draft, expected=expected, at=at)
        if len(self.log.rows()) > before:
            must(before == expected, f"appended at revision {before} by a writer that had seen {expected}")
            must(sum(one.op == draft.op for one in self.log.rows()) == 1, f"two rows for the key {draft.op}")
            self._check_row(row)
            self.model.follow(row)
            if row.kind in (Kind.START, Kind.ADVANCE, Kind.UNFREEZE):
                self._new_step()
        else:
            must(row.kind == draft.kind and row.to_release == draft.to_release, f"key {draft.op} answers another wish")
        if self._dies("log", "after"):
            raise Crash
        return row

    def _new_step(self) -> None:
        self.in_step, self.crashes = {}, 0
        active = self.model.active
        self.bad_all_step = bool(active) and (active[0] in self.bad or active[0] in self.errors)

    def heal(self, release: str) -> None:
        self.bad.pop(release, None)
        self.errors.discard(release)
        if self.model.active and release == self.model.active[0]:
            self.bad_all_step = False

    def _check_row(self, row: Row) -> None:
        model, now = self.model, self.clock.now
        must(bool(row.actor and row.reason), "a row without an actor or a reason")
        if row.kind is Kind.START:
            must(model.active is None and not model.frozen, "a rollout began beside another, or in a freeze")
            must(row.to_release not in model.refused, "what was refused is tried again")
            must(row.to_release != model.champion, "the champion challenges itself")
        if row.kind in (Kind.ADVANCE, Kind.PROMOTE, Kind.BOOT):
            assert model.active is not None
            release, policy, _ = model.active
            must(not model.frozen, "a step in a freeze")
            must(release not in self.library.damaged, "a damaged release moves on")
            must(row.to_release == release, "a step of another release")
            ladder = [0, *(step.weight for step in policy.steps), 100]
            if row.kind is Kind.ADVANCE:
                must(model.step + 1 < len(ladder) and row.weight == ladder[model.step + 1], "a rung was skipped")
            if row.kind is Kind.PROMOTE:
                must(model.step == len(ladder) - 1, "promoted before it had all the traffic")
            if model.step != PENDING:
                bakes = [policy.shadow_s, *(step.bake_s for step in policy.steps), policy.full_bake_s]
                watched = now - model.watched
                must(watched >= timedelta(seconds=bakes[model.step]), "time that nobody watched counted as baked")
                seen = self.in_step.get(release, 0)
                must(seen >= policy.min_requests, f"a step on {seen} requests")
                must(not self.bad_all_step, "a release that was bad all through the step moves on")
                must(self.crashes <= policy.max_restarts + 1, f"a step after {self.crashes} crashes")
        if row.kind is Kind.ROLLBACK:
            must(row.to_release in model.champions, "rolled back to what never was champion")
            must(row.to_release not in model.refused, "rolled back to a refused release")
            replica = self.launcher.world.get(str(row.to_release))
            must(replica is not None and replica.state == "ready", "rolled back to a release that is not ready")

    async def _apply(self, traffic: Traffic) -> None:
        before = self.router.traffic
        if self._dies("routes", "before"):
            raise Crash
        self._check_traffic(traffic, before)
        if self._dies("routes", "torn"):  # clusters are a file, routes another
            kept = {release: ports for release, ports in before.backends.items() if before.weights.get(release)}
            self.router.traffic = before.model_copy(update={"backends": kept | traffic.backends})
            raise Crash
        if self.router.down:
            self.pending = traffic
            raise Unavailable("the router does not answer; the plan is stored")
        await self.router.apply(traffic)
        if self._dies("routes", "after"):
            raise Crash

    def _check_traffic(self, traffic: Traffic, before: Traffic) -> None:
        model = self.model
        must(traffic.weights == model.weights, f"routes {traffic.weights}, the log says {model.weights}")
        must(sum(traffic.weights.values()) in (0, 100), "weights do not sum to 100")
        for release, weight in traffic.weights.items():
            must(not weight or release not in model.refused, "traffic for a refused release")
            replica = self.launcher.world.get(release)
            known = before.backends.get(release) == traffic.backends.get(release)
            ready = replica is not None and (replica.state == "ready" or known)
            must(not weight or ready, f"traffic for {release[:4]}, which never was ready")
        champion, challenger = model.champion, model.active[0] if model.active and len(traffic.weights) > 1 else None
        if challenger:
            must(traffic.fallback.get(challenger) == champion, "nobody answers for the challenger")
        if champion and model.previous in traffic.backends:
            must(traffic.fallback.get(champion) == model.previous, "nobody answers for the champion")
        must(traffic.mirror in (None, champion, challenger), "copies for a release that is not compared")
        if challenger and model.step == 0 and challenger in traffic.backends:
            must(traffic.mirror == challenger, "a shadow without copies")

    async def _observe(self) -> dict[str, Counts]:
        return await self.router.observe()

    async def _start(self, release: str, src: Any, view: Any) -> None:
        if self._dies("start", "before") or self._dies("start", "torn"):
            raise Crash
        must(
            release in {self.model.champion, self.model.previous} | set(self._named()),
            f"started {release[:4]} for nothing",
        )
        await self.launcher.start(release, src, view)
        if self._dies("start", "after"):
            raise Crash

    def _named(self) -> list[str]:
        return [*([self.model.active[0]] if self.model.active else []), *self.controller.held]

    async def _stop(self, release: str) -> None:
        if self._dies("stop", "before") or self._dies("stop", "torn"):
            raise Crash
        must(
            release not in {self.model.champion, self.model.previous, *self._named()},
            f"stopped {release[:4]}, which is needed",
        )
        must(release not in self.router.traffic.backends or self.router.down, "stopped while the router still names it")
        counts = self.router.counts.get(release[:12], Counts())
        must(not counts.active, "stopped with a request in flight")
        await self.launcher.stop(release)
        if self._dies("stop", "after"):
            raise Crash

    def settled(self) -> None:
        """Faults over, everybody calm: machine, router and log must agree, and the way back must be open."""
        model = self.model
        must(
            self.router.traffic.weights == model.weights,
            f"settled on {self.router.traffic.weights}, not {model.weights}",
        )
        needed, running = {model.champion, model.previous} - {None}, set(self.launcher.world)
        must(
            needed <= running <= needed | set(self._named()),
            "other replicas run than the log names",
        )
        state = self.controller.state()
        told = (state.champion.release if state.champion else None, state.previous.release if state.previous else None)
        must(told == (model.champion, model.previous), f"the fold says {told}")
        if model.champion and model.previous:
            must(self.router.traffic.fallback.get(model.champion) == model.previous, "previous is not warm")


class _Hooked:
    def __init__(self, target: Any, hooks: dict[str, Callable[..., Any]]) -> None:
        self._target, self._hooks = target, hooks

    def __getattr__(self, name: str) -> Any:
        return self._hooks.get(name) or getattr(self._target, name)


@contextmanager
def in_memory_time() -> Iterator[None]:
    """No threads and no waiting: pulls happen at once, and a minute of patience passes in a few looks."""

    async def inline(work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    naps, ticks = asyncio.sleep, iter(range(10**9))

    async def nap(seconds: float) -> None:
        await naps(0)

    class Time:
        @staticmethod
        def monotonic() -> float:
            return next(ticks) * 5.0

    class Naps:
        sleep = staticmethod(nap)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(asyncio, "to_thread", inline))
        stack.enter_context(mock.patch.object(commands_module, "time", Time))
        stack.enter_context(mock.patch.object(commands_module, "asyncio", Naps))
        yield
