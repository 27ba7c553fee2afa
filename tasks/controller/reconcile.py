"""Make this machine be what the rollout log says, again and again. Level-triggered: every pass starts from the log and
from what is really running, so a crash at any point only delays it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.adapters.envoy import Traffic
from tasks.adapters.launcher import Launcher
from tasks.adapters.router import Router
from tasks.controller.copying import Copying, warm_at
from tasks.controller.judge import Evidence, Reader
from tasks.controller.log import RolloutLog
from tasks.controller.pull import Library
from tasks.domain.copies import ALL
from tasks.domain.errors import Conflict, FreshrankError, InputRejected, Unavailable
from tasks.domain.gate import Outcome
from tasks.domain.live_evidence import Finding
from tasks.domain.rollout import PENDING, SHADOW, Action, Position, next_action
from tasks.domain.rollout_commands import step_forward, stop_by_judge
from tasks.domain.rollout_judgement import Judgement, judge
from tasks.domain.rollout_log import Draft, Kind, short
from tasks.domain.rollout_state import Rollout, RolloutState, fold

log = logging.getLogger(__name__)

PERIOD_S = 0.5
PARTS = ("adopt", "replicas", "provide", "route", "judge", "retire")
RECHECK = timedelta(seconds=10)  # how often unchanged traffic is confirmed again
DRAIN = timedelta(seconds=10)  # how long a retired replica may finish what it has
PULL_AGAIN = timedelta(seconds=3)


class Reconciler:
    """Owns replicas and routes. Everything it remembers can be lost: it is evidence, patience and error texts."""

    def __init__(
        self,
        *,
        log: RolloutLog,
        router: Router,
        launcher: Launcher,
        library: Library,
        reader: Reader,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.log, self.router, self.launcher, self.library = log, router, launcher, library
        self.clock = clock
        self.held: set[str] = set()  # kept running although the log does not name them (a rollback is waiting)
        self.judgement: Judgement | None = None
        self._reader = reader
        self._state = RolloutState()
        self._routing = asyncio.Lock()
        self._confirmed: tuple[Traffic, datetime] | None = None
        self._watched: tuple[tuple[str, int, datetime], datetime] | None = None  # which step, and since when
        self._begun: tuple[tuple[str, int, datetime], datetime, int] | None = (
            None  # which step, since when it is seen, and restarts by then
        )
        self._evidence: tuple[tuple[str, int, datetime, bool], Evidence] | None = None
        self._copying = Copying()
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._pull_errors: dict[str, tuple[FreshrankError, datetime]] = {}
        self._retired: set[str] = set()  # out of the router's clusters, about to stop
        self._leaving: dict[str, datetime] = {}
        self.failing: dict[str, str] = {}  # part of a pass -> why it failed the last time
        self.passed: datetime | None = None  # when the last pass ended

    def state(self) -> RolloutState:
        """The fold of the log as it is now."""
        self._state = fold(self.log.rows(after=self._state.revision), self._state)
        return self._state

    async def run(self) -> None:
        """Adopt what runs, then reconcile until cancelled."""
        await self._attempt("adopt", self.launcher.adopt())
        while True:
            await self.tick()
            await asyncio.sleep(PERIOD_S)

    async def tick(self) -> None:
        """One pass. A part that fails is told once, does not stop the others, and is tried again in the next pass."""
        await self._attempt("replicas", self.launcher.tick())
        await self._attempt("provide", self.provide())
        await self._attempt("route", self.route())
        await self._attempt("judge", self._judge())
        await self._attempt("retire", self._retire())
        self.passed = self.clock()

    def wanted(self, state: RolloutState) -> list[str]:
        """Champion, previous (warm, so that a rollback is a change of routes) and the release that is rolled out."""
        named = [
            state.champion.release if state.champion else None,
            state.previous.release if state.previous else None,
            state.rollout.release if state.rollout else None,
            *sorted(self.held),
        ]
        return list(dict.fromkeys(release for release in named if release))

    async def provide(self) -> None:
        """Start what is wanted and here; fetch in the background what is wanted and not here."""
        running, failed = self.launcher.replicas(), list[Exception]()
        for release in self.wanted(self.state()):
            self._leaving.pop(release, None)
            if release in running:
                if running[release].state != "stopping":
                    self._retired.discard(release)  # wanted again before it was asked to end
                continue
            local = self.library.local(release)
            if local is None:
                self._begin_pull(release)
                continue
            self._retired.discard(release)
            try:
                await self.launcher.start(release, Path(local.src), Path(local.view))
            except Exception as err:  # the next one may be what somebody wants to go back to
                failed.append(err)
            else:
                log.info("release=%s event=replica-started", short(release))
        if failed:
            raise failed[0]

    async def route(self) -> None:
        """Apply the log's weights. While a release that needs traffic has no replica, routes stay as they are.

        Raises:
            Unavailable: the router has not confirmed.
        """
        async with self._routing:
            traffic = self.traffic(self.state())
            if traffic is None:
                return
            now = self.clock()
            if self._confirmed and self._confirmed[0] == traffic and now - self._confirmed[1] < RECHECK:
                return
            changed = not self._confirmed or self._confirmed[0] != traffic
            self._confirmed = None
            await self.router.apply(traffic)
            self._confirmed = (traffic, now)
            if changed:
                weights = ",".join(f"{short(release)}:{weight}" for release, weight in sorted(traffic.weights.items()))
                copies = f"{traffic.mirror_percent}% to {short(traffic.mirror)}" if traffic.mirror else "none"
                log.info("event=routed weights=%s mirror=%s", weights or "none", copies)

    def traffic(self, state: RolloutState) -> Traffic | None:
        """A pure function of the log and of which replicas have ever been ready. None: not possible yet."""
        seen = self._confirmed[0].backends if self._confirmed else {}
        wanted = self.wanted(state)
        backends: dict[str, tuple[int, ...]] = {}
        for release, replica in self.launcher.replicas().items():
            ports = tuple(
                sorted(
                    one.port
                    for one in replica.all
                    # a crashed replica keeps its place: it comes back on the same port, and others answer meanwhile
                    if (one.state == "ready" or one.port in seen.get(release, ())) and one.state != "stopping"
                )
            )
            if ports and (release in wanted or release not in self._retired):
                backends[release] = ports
        weights = state.weights
        live = [release for release, weight in weights.items() if weight]
        champion = state.champion.release if state.champion else None
        challenger, active = state.challenger, state.rollout
        fallback: dict[str, str] = {}
        if champion and state.previous:
            fallback[champion] = state.previous.release
        if champion and challenger:
            fallback[challenger] = champion
        mirror = None
        if champion and challenger and active:
            if active.step == SHADOW:
                mirror = challenger
            elif active.step == active.policy.last_step:
                mirror = champion  # the challenger has all users: copies keep the baseline alive in the same window
        if any(release not in backends for release in live):
            return None
        if mirror not in backends:
            mirror = None
        share = self._copying.share(active) if mirror else ALL
        return Traffic(weights=weights, fallback=fallback, mirror=mirror, mirror_percent=share, backends=backends)

    def is_routed(self, state: RolloutState) -> bool:
        """The router has confirmed what the log says now."""
        return self._confirmed is not None and self._confirmed[0] == self.traffic(state)

    async def _judge(self) -> None:
        state = self.state()
        active = state.rollout
        if active is None:
            self._evidence = self._watched = self._begun = self.judgement = None
            return
        judgement, since = await self._evidence_on(state, active)
        self.judgement = judgement
        at = Position(step=active.step, since=since, frozen=state.frozen)
        action = next_action(active.policy, at, judgement.outcome, self.clock())
        if action is Action.WAIT:
            return
        facts = judgement.model_dump(mode="json")
        name = active.policy.step_name(active.step)
        if action in (Action.ADVANCE, Action.PROMOTE):
            try:
                await asyncio.to_thread(self.library.verify, active.release)
            except InputRejected as err:
                self._append(stop_by_judge(state, active, f"{name}: {err}", facts), state)
                return
            self._append(step_forward(state, active, f"{name} passed: {judgement.reason}", facts), state)
        else:
            waited = "" if judgement.outcome is Outcome.FAIL else "no sufficient evidence before the deadline: "
            self._append(stop_by_judge(state, active, f"{name}: {waited}{judgement.reason}", facts), state)
        await self.route()

    async def _evidence_on(self, state: RolloutState, active: Rollout) -> tuple[Judgement, datetime]:
        """What is known about the current step, and since when it was watched."""
        if active.step == PENDING:
            return self._readiness(active), active.entered
        key, now = (active.id, active.step, active.entered), self.clock()
        if self._begun is None or self._begun[0] != key:
            replicas = self.launcher.replicas().get(active.release)
            restarts = sum(one.restarts for one in replicas.all) if replicas else 0
            self._begun = (key, max(active.entered, now), restarts)
        if not self.is_routed(state) or state.champion is None:
            unknown = Judgement(outcome=Outcome.INCONCLUSIVE, findings=())
            # not since the step was entered: a night without a controller is no fault of the challenger
            since = self._watched[1] if self._watched and self._watched[0] == key else self._begun[1]
            return unknown, min(now, warm_at(active, since))
        if self._watched is None or self._watched[0] != key:
            # after a restart the window begins again, and so does its bake time
            self._watched = (key, max(active.entered, now))
        warm = warm_at(active, self._watched[1])
        part = (*key, now < warm)  # what was slow or refused with empty caches is not held against it: a new window
        if self._evidence is None or self._evidence[0] != part:
            self._evidence = (part, Evidence(active.release, state.champion.release, self._begun[2]))
        evidence = self._evidence[1]
        try:
            counts = await self.router.observe()
        except Unavailable:
            counts = {}
        await evidence.gather(self._reader, self.launcher.replicas(), counts)
        if active.step in (SHADOW, active.policy.last_step):
            self._copying.look(active, evidence.window(), now)
        judged = judge(active.policy, evidence.window(), shadow=active.step == SHADOW, warming=now < warm)
        return judged, min(now, warm)

    def _readiness(self, active: Rollout) -> Judgement:
        """Ready, not yet, or never: a pulled, started replica that answered with its own digest."""
        replicas = self.launcher.replicas().get(active.release)
        group = replicas.all if replicas else ()
        # the one that is furthest from being ready speaks for all
        replica = max(group, key=lambda one: (one.state != "ready", one.restarts), default=None)
        failed = self._pull_errors.get(active.release)
        if failed and failed[1] < active.started:
            failed = None  # from an earlier attempt with the same release
        if replica and replica.state == "ready":
            names = " and ".join(one.name for one in group)
            outcome, said = Outcome.PASS, f"replica {names} {'is' if len(group) == 1 else 'are'} ready"
        elif replica and replica.restarts > active.policy.max_restarts:
            outcome, said = Outcome.FAIL, f"replica {replica.name} crashed {replica.restarts} times: {replica.message}"
        elif failed and isinstance(failed[0], InputRejected):
            outcome, said = Outcome.FAIL, str(failed[0])
        else:
            waiting = str(failed[0]) if failed else f"replica: {replica.message}" if replica else "being pulled"
            outcome, said = Outcome.INCONCLUSIVE, f"not ready yet, {waiting}"
        return Judgement(outcome=outcome, findings=(Finding(name="ready", outcome=outcome, said=said),))

    async def _retire(self) -> None:
        """Stop what nothing names any more: out of the routes, drained, out of the clusters, then asked to end."""
        state = self.state()
        if not self.is_routed(state) and state.champion is not None:
            return
        now = self.clock()
        for release, replica in self.launcher.replicas().items():
            if release in self.wanted(state) or replica.state == "stopping":
                continue
            since = self._leaving.setdefault(release, now)
            if release not in self._retired:
                counts = await self.router.observe()
                active = counts[release[:12]].active if release[:12] in counts else 0
                if (active or now - since < timedelta(seconds=1)) and now - since < DRAIN:
                    continue
                self._retired.add(release)
                await self.route()
            if release in self.wanted(self.state()):  # somebody pressed rollback to it meanwhile
                self._retired.discard(release)
                continue
            await self.launcher.stop(release)
            log.info("release=%s event=replica-retired", short(release))
        for release in self._retired - self.launcher.replicas().keys():
            self._retired.discard(release)
            self._leaving.pop(release, None)

    def _begin_pull(self, release: str) -> None:
        failed = self._pull_errors.get(release)
        if release in self._pulls or (failed and self.clock() - failed[1] < PULL_AGAIN):
            return
        self._pulls[release] = asyncio.create_task(self._pull(release))

    async def _pull(self, release: str) -> None:
        try:
            await asyncio.to_thread(self.library.pull, release)
            self._pull_errors.pop(release, None)
            log.info("release=%s event=pulled", short(release))
        except FreshrankError as err:
            self._pull_errors[release] = (err, self.clock())
            log.warning("release=%s event=not-pulled why=%s", short(release), err)
        except Exception as err:  # the loop must go on; the rollout ends at its deadline with this sentence
            self._pull_errors[release] = (Unavailable(f"pull failed: {type(err).__name__}: {err}"), self.clock())
            log.exception("release=%s event=not-pulled", short(release))
        finally:
            self._pulls.pop(release, None)

    def _append(self, draft: Draft, state: RolloutState) -> None:
        try:
            row = self.log.append(draft, expected=state.revision, at=self.clock())
        except Conflict:
            return  # somebody moved first; the next pass looks again
        say = log.warning if row.kind in (Kind.ABORT, Kind.ROLLBACK) else log.info
        say(
            "revision=%d kind=%s from=%s to=%s weight=%d reason=%s",
            row.rev, row.kind, short(row.from_release), short(row.to_release), row.weight, row.reason,
        )  # fmt: skip

    async def _attempt(self, what: str, work: Awaitable[None]) -> None:
        try:
            await work
            self.failing.pop(what, None)
        except FreshrankError as err:
            if self.failing.get(what) != str(err):
                log.warning("part=%s event=failed why=%s", what, err)
                self.failing[what] = str(err)
        except Exception as err:  # a defect in one part must not stop the others: a dead loop leaves a bad canary alone
            log.exception("part=%s event=failed", what)
            self.failing[what] = type(err).__name__
