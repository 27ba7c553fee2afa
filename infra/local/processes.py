"""Start, find and end the processes of one stack. Each service leads its own session, so one signal reaches its group.

Strays (a SIGKILLed supervisor's services, replicas that the controller detached, a task's children) are found by the
environment marker, which every descendant inherits, and by the sessions in the service table.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from infra.local.services import ServiceSpec
from tasks import service_table
from tasks.machine import is_alive, stack_of
from tasks.settings import Settings


def start(spec: ServiceSpec, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Call it from the main thread only: a parent-death signal fires when the starting *thread* ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # O_APPEND, and no pipe: the log can be truncated under the child, and the child outlives its supervisor
    with log.open("ab") as output:
        return subprocess.Popen(
            spec.argv,
            cwd=spec.cwd,
            env={**environment, **spec.env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def signal_group(pgid: int, number: signal.Signals) -> bool:
    """False when the group has no process left."""
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    return True


def born(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def of_stack(settings: Settings) -> list[psutil.Process]:
    """Every process that carries this home's marker or belongs to a service's session, except the caller's line."""
    mine = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    home, sessions = str(settings.home), _sessions(settings)
    return [p for p in psutil.process_iter() if p.pid not in mine and (stack_of(p) == home or _session(p) in sessions)]


def _sessions(settings: Settings) -> set[int]:
    """Sessions that the supervisor started. A session's number is not given away while one of its processes lives."""
    rows = service_table.last_services(settings).values()
    recorded = {int(row["pid"]): row["born"] for row in rows if row.get("pid")}
    return {pid for pid, start in recorded.items() if not psutil.pid_exists(pid) or is_alive(pid, start)}


def end(processes: Iterable[psutil.Process], grace_s: float) -> list[psutil.Process]:
    """Ask, wait, then kill. Returns what is still there, which is only what may not be signalled."""
    there = list(processes)
    for action, patience_s in ((psutil.Process.terminate, grace_s), (psutil.Process.kill, 5.0)):
        for process in there:
            try:
                action(process)
            except psutil.Error:
                pass
        there = _remaining(there, patience_s)
    return there


def _remaining(processes: list[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Not psutil.wait_procs: a dead process that nobody takes the exit status of counts as alive there."""
    deadline = time.monotonic() + patience_s
    while (there := [p for p in processes if runs(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return there


def end_stack(settings: Settings, grace_s: float = 5.0) -> tuple[int, list[psutil.Process]]:
    """End all of a stack's processes, also those started meanwhile. Returns how many there were and the survivors."""
    seen: set[int] = set()
    for _ in range(5):
        there = of_stack(settings)
        if not there:
            return len(seen), []
        seen |= {p.pid for p in there}
        end(there, grace_s)
    return len(seen), of_stack(settings)


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):
        return None


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
