"""Facts about this machine that decide whether the stack can start or go on: ports, disk, packages, processes."""

from __future__ import annotations

import ctypes
import errno
import platform
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from tasks.domain.errors import Unavailable

MARKER = "FRSTACK_HOME"  # in the environment of every process of a stack; not FRESHRANK_*: settings refuse unknown ones
NEEDED_BYTES = 2 << 30


def processor() -> str:
    """Model and cores: timings of two machines are not compared."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {psutil.cpu_count()} cores"


def is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do: a port whose old connections fade out is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as err:
            return err.errno in (errno.EADDRINUSE, errno.EACCES)
    return False


def is_alive(pid: int | None, born: float | None) -> bool:
    """Whether this very process runs; a pid alone may be used again."""
    if pid is None or born is None:
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def holder(port: int) -> psutil.Process | None:
    """Who listens on the port; None where that is another user's process."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return psutil.Process(connection.pid)
    except psutil.Error:
        pass
    return None


def described(process: psutil.Process | None) -> str:
    try:
        return f"{process.name()} (pid {process.pid})" if process else "a process of another user"
    except psutil.Error:
        return "a process that has just ended"


def stack_of(process: psutil.Process) -> str | None:
    """The home of the stack that the process belongs to."""
    try:
        return process.environ().get(MARKER) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):  # another user's, or gone
        return None


def free_bytes(directory: Path) -> int:
    """Of the disk that holds it, also when it does not exist yet."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def missing_modules(names: set[str]) -> list[str]:
    """Looked up, not imported."""
    return sorted(name for name in names if find_spec(name) is None)


def missing_distributions(names: set[str]) -> list[str]:
    present = {str(found.metadata["Name"]).lower().replace("_", "-") for found in distributions()}
    return sorted(names - present)


def told_by(command: Sequence[str], of: str, step: str, within_s: float, **more: Any) -> str:
    """What a process says that measures the memory `of` something for `step`. more: as subprocess.run takes it.

    Raises:
        Unavailable: it failed, with its last words, or did not end.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False, **more)
    except subprocess.TimeoutExpired as err:
        raise Unavailable(f"a process that measures memory did not end within {within_s} s; run {step} again") from err
    if done.returncode:
        raise Unavailable(f"the memory of {of} could not be measured: {done.stderr.strip()[-300:]}; run {step} again")
    return done.stdout


def die_with_parent() -> None:
    """Let this process be killed with the thread that started it: a step killed at 3 a.m. leaves nothing running.

    As `preexec_fn` of a child, whose own children do not inherit it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
