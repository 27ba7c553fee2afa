"""Keeps the local stack up: starts services in dependency order, restarts what dies or hangs, stops in reverse order.

One supervisor per home, held by a file lock that the kernel releases with the process. It never sits between a service
and its log or its clients: when the supervisor is killed the services go on, and the next `up` or `down` finds them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from infra.local import journal, preflight, processes
from infra.local.checks import Check, ask
from infra.local.one_supervisor import one_supervisor
from infra.local.prepare import prepare
from infra.local.services import ServiceSpec, base_environment, chosen, services
from tasks import service_table
from tasks.domain.errors import FreshrankError, Unavailable
from tasks.settings import Settings

READY_POLL_S = 0.25
LIVENESS_EVERY_S = 15.0
LIVENESS_FAILURES = 6  # in a row, each up to 10 s long: training on two cores makes every server slow, not dead
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
SETTLED_S = 60.0  # a service that was ready this long starts again at the shortest backoff
FAILED_STARTS = 3  # before it is called failing; it is tried on all the same
ROTATE_EVERY_S = 30.0
OWNER_EVERY_S = 1.0


@dataclass
class Unit:
    """One service and where it stands. Only the supervisor's own thread touches it."""

    spec: ServiceSpec
    process: subprocess.Popen[bytes] | None = None
    state: str = "waiting"  # waiting | starting | ready | done | restarting | failing | stopping | stopped
    note: str = ""
    restarts: int = 0
    failed_starts: int = 0
    born: float | None = None  # start time as the kernel tells it: a pid alone may be used again
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # its keeper has ended

    def row(self) -> dict[str, Any]:
        pid = self.process.pid if self.process and self.process.returncode is None else None
        return {
            "state": self.state,
            "url": self.spec.url,
            "pid": pid,
            "born": self.born if pid else None,
            "restarts": self.restarts,
            "since": self.since.isoformat(timespec="milliseconds"),
            "note": self.note,
        }


class Supervisor:
    """`run` returns once the stack was stopped, by `stop` or a signal, or raises what made the start impossible.

    With an `owner` the stack also stops when that process ends.
    """

    def __init__(
        self,
        settings: Settings,
        only: tuple[str, ...] = (),
        owner: int | None = None,
        table: Callable[[Settings], dict[str, ServiceSpec]] = services,
    ) -> None:
        self.settings = settings
        self.only = only
        self._owner = owner
        self._table = table
        self._units: dict[str, Unit] = {}
        self._environment = base_environment(settings, dict(os.environ))
        self._phase = "starting"
        self._sentence = ""
        self._stop = asyncio.Event()
        self._ask_threads: ThreadPoolExecutor | None = None

    def stop(self) -> None:
        """Let `run` end: all services stop, in order. Any number of times, at any moment."""
        self._stop.set()

    async def run(self) -> None:
        with one_supervisor(self.settings):
            try:
                await self._run()
            except FreshrankError as err:
                self._enter("refused", str(err))
                raise

    async def _run(self) -> None:
        self._enter("starting")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        strays, stubborn = processes.end_stack(self.settings)
        if strays:
            self._log(f"ended {strays} processes that a killed supervisor had left")
        if stubborn:
            pids = ", ".join(str(p.pid) for p in stubborn)
            raise Unavailable(f"processes {pids} of an earlier start do not end; end them by hand")
        table = chosen(self._table(self.settings), self.only)
        preflight.check(table, self.settings)
        self._units = {name: Unit(spec) for name, spec in table.items()}
        # a hanging check must not hold up the others
        self._ask_threads = ThreadPoolExecutor(max_workers=len(table) + 4, thread_name_prefix="check")
        self._publish()
        keepers = [asyncio.create_task(self._keep(unit), name=name) for name, unit in self._units.items()]
        helpers = [asyncio.create_task(job) for job in (self._announce_ready(), self._rotate(), self._mind_owner())]
        try:
            await self._stop.wait()
        finally:
            for helper in helpers:
                helper.cancel()
            await self._stop_all()
            await asyncio.gather(*keepers, return_exceptions=True)
            left, stubborn = processes.end_stack(self.settings)
            self._enter("stopped", f"{left} further processes of the stack were ended" if left else "")
            self._ask_threads.shutdown(wait=False, cancel_futures=True)

    # one service

    async def _keep(self, unit: Unit) -> None:
        try:
            for name in unit.spec.depends_on:
                if name in self._units:
                    await self._unless_stopped(self._units[name].ready.wait())
            while not self._stop.is_set():
                try:
                    reason = await self._one_life(unit)
                except Exception as err:  # a fault of ours in one service must not take the others down
                    self._log(traceback.format_exc())
                    reason = f"could not be supervised: {type(err).__name__}: {err}"
                if self._stop.is_set() or unit.state == "done":
                    return
                await self._bury(unit, reason)
        finally:
            unit.settled.set()

    async def _one_life(self, unit: Unit) -> str:
        """Start, see it ready, watch it. Returns why it ended."""
        self._set(unit, "starting")
        try:
            await self._in_thread(prepare, unit.spec, self.settings)
            self._start(unit)
        except (OSError, FreshrankError) as err:
            return f"could not be started: {err}"
        if unit.spec.ready is None:
            return await self._finish(unit)
        problem = await self._until_ready(unit, unit.spec.ready)
        if problem is None:
            unit.failed_starts = 0
            self._set(unit, "ready")
            unit.ready.set()
            problem = await self._until_unwell(unit)
        return problem

    def _start(self, unit: Unit) -> None:
        log = journal.path(self.settings, unit.spec.name)
        unit.exited.clear()
        unit.process = processes.start(unit.spec, self._environment, log)
        unit.started = datetime.now(UTC)
        unit.born = processes.born(unit.process.pid)
        journal.note(log, f"started pid {unit.process.pid}")
        self._publish()

    async def _finish(self, unit: Unit) -> str:
        await self._unless_stopped(unit.exited.wait())
        if unit.process and unit.process.returncode == 0:
            self._set(unit, "done")
            unit.ready.set()
        return self._how_it_ended(unit)

    async def _until_ready(self, unit: Unit, check: Check) -> str | None:
        deadline = time.monotonic() + unit.spec.ready_timeout_s
        problem: str | None = "was not asked yet"
        while time.monotonic() < deadline:
            if await self._exits_within(unit, READY_POLL_S):
                return self._how_it_ended(unit)
            problem = await self._asked(unit, check)
            if problem is None:
                return None
            if problem != unit.note:
                unit.note = problem
                self._publish()
        return f"was not ready after {unit.spec.ready_timeout_s:.0f} s: {problem}"

    async def _until_unwell(self, unit: Unit) -> str:
        failures = 0
        while True:
            if await self._exits_within(unit, LIVENESS_EVERY_S):
                return self._how_it_ended(unit)
            problem = await self._asked(unit, unit.spec.liveness) if unit.spec.liveness else None
            failures = failures + 1 if problem else 0
            if failures >= LIVENESS_FAILURES:
                return f"hangs: {problem}"

    async def _bury(self, unit: Unit, reason: str) -> None:
        """After a death: nothing of it may stay, then wait a little longer each time."""
        was_ready = unit.ready.is_set() and unit.state == "ready"
        lived = (datetime.now(UTC) - unit.since).total_seconds()
        if unit.process:
            # workers of a killed server hold its port and its database
            processes.signal_group(unit.process.pid, signal.SIGKILL)
            await unit.exited.wait()
        unit.failed_starts = unit.failed_starts if was_ready else unit.failed_starts + 1
        unit.restarts = 0 if was_ready and lived > 24 * 3600 else unit.restarts + 1
        step = 0 if was_ready and lived > SETTLED_S else min(unit.restarts - 1, len(BACKOFF_S) - 1)
        self._log(f"{unit.spec.name} {reason}; restart {unit.restarts} in {BACKOFF_S[step]} s")
        self._set(unit, "failing" if unit.failed_starts >= FAILED_STARTS else "restarting", reason)
        await self._stopped_within(BACKOFF_S[step])

    # stopping

    async def _stop_all(self) -> None:
        """Dependents first. Services that do not depend on each other stop at the same time."""
        self._stop.set()  # else the keepers would bring back what is stopped
        self._enter("stopping")
        left = dict(self._units)
        while left:
            needed = {name for unit in left.values() for name in unit.spec.depends_on}
            wave = [unit for name, unit in left.items() if name not in needed] or list(left.values())
            await asyncio.gather(*(self._stop_one(unit) for unit in wave))
            for unit in wave:
                del left[unit.spec.name]

    async def _stop_one(self, unit: Unit) -> None:
        process = unit.process
        if process is not None:
            if process.returncode is None:
                self._set(unit, "stopping")
                processes.signal_group(process.pid, unit.spec.stop_signal)
                try:
                    await asyncio.wait_for(unit.exited.wait(), unit.spec.grace_s)
                except TimeoutError:
                    self._log(f"{unit.spec.name} did not stop within {unit.spec.grace_s:.0f} s and was killed")
            processes.signal_group(process.pid, signal.SIGKILL)
            await unit.exited.wait()
        await unit.settled.wait()
        self._set(unit, "stopped")

    # waiting, asking

    def _reap(self) -> None:
        for unit in self._units.values():
            if unit.process and unit.process.poll() is not None:
                unit.exited.set()

    async def _exits_within(self, unit: Unit, seconds: float) -> bool:
        """Also true when the stack stops: the caller has nothing left to watch."""
        waits = [asyncio.ensure_future(unit.exited.wait()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return unit.exited.is_set() or self._stop.is_set()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _unless_stopped(self, waiting: Any) -> None:
        waits = [asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _asked(self, unit: Unit, check: Check) -> str | None:
        answer: str | None = await self._in_thread(ask, check, self.settings, unit.started, datetime.now(UTC))
        return answer

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._ask_threads, function, *arguments)

    def _how_it_ended(self, unit: Unit) -> str:
        code = unit.process.returncode if unit.process else None
        if code is None:
            return "was told to stop"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{how}; see {journal.path(self.settings, unit.spec.name)}"

    # what others see

    async def _announce_ready(self) -> None:
        for unit in self._units.values():
            await unit.ready.wait()
        self._enter("ready")

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_EVERY_S)
            for log in self.settings.logs.glob("*.log"):  # also those of the replicas and the router's access log
                try:
                    await self._in_thread(journal.rotate, log)
                # a full disk, or the controller took an old log away: the others are cut all the same
                except OSError as err:
                    self._log(f"{log.name} could not be cut: {err.strerror}")

    async def _mind_owner(self) -> None:
        """A stack started for one test session must not outlive it, however that session ends."""
        if self._owner is None:
            return
        try:
            owner = psutil.Process(self._owner)
            while processes.runs(owner):
                await asyncio.sleep(OWNER_EVERY_S)
        except psutil.NoSuchProcess:
            pass  # it ended before we looked
        self._log(f"process {self._owner}, for which this stack was started, has ended")
        self.stop()

    def _set(self, unit: Unit, state: str, note: str = "") -> None:
        unit.state, unit.note, unit.since = state, note, datetime.now(UTC)
        self._publish()

    def _publish(self) -> None:
        rows = {name: unit.row() for name, unit in self._units.items()}
        self._write(service_table.services_path(self.settings), rows)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        try:
            service_table.write(path, content)
        except OSError as err:  # a full disk must not end the supervisor: the tables are a view
            self._log(f"{path.name} could not be written: {err.strerror}")

    def _enter(self, phase: str, sentence: str = "") -> None:
        self._phase, self._sentence = phase, sentence
        self._log(f"{phase} {sentence}".strip())
        me = psutil.Process()
        row = {
            "pid": me.pid,
            "born": me.create_time(),
            "phase": phase,
            "sentence": sentence,
            "only": list(self.only),
            "port_base": self.settings.port_base,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        self._write(service_table.supervisor_path(self.settings), row)

    def _log(self, sentence: str) -> None:
        try:
            journal.note(journal.path(self.settings, "supervisor"), sentence)
        except OSError:
            pass
