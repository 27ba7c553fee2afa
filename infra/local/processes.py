"""Start, find and end the processes of one stack. Each service leads its own session, so one signal reaches its group.

Strays (a SIGKILLed supervisor's services, replicas that the controller detached, a task's children) are found by the
environment marker, which every descendant inherits.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from infra.local.services import MARKER, ServiceSpec


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


def of_stack(home: Path) -> list[psutil.Process]:
    """Every process that carries this home's marker, except the caller and its ancestors."""
    mine = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    wanted = str(home)
    return [p for p in psutil.process_iter() if p.pid not in mine and _marker(p) == wanted]


def end(processes: Iterable[psutil.Process], grace_s: float) -> list[psutil.Process]:
    """Ask, wait, then kill. Returns what is still there, which is only what may not be signalled."""
    there = list(processes)
    for process in there:
        _quietly(process.terminate)
    _, there = psutil.wait_procs(there, timeout=grace_s)
    for process in there:
        _quietly(process.kill)
    _, there = psutil.wait_procs(there, timeout=5)
    return there


def end_stack(home: Path, grace_s: float = 5.0) -> tuple[int, list[psutil.Process]]:
    """End all of a stack's processes, also those started meanwhile. Returns how many there were and the survivors."""
    seen: set[int] = set()
    for _ in range(5):
        there = of_stack(home)
        if not there:
            return len(seen), []
        seen |= {p.pid for p in there}
        end(there, grace_s)
    return len(seen), of_stack(home)


def _marker(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get(MARKER)
    except (psutil.Error, OSError):  # another user's, or gone
        return None


def _quietly(action: object) -> None:
    try:
        action()  # type: ignore[operator]
    except psutil.Error:
        pass
