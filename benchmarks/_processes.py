"""The processes that a benchmark measures: started, waited for, and ended whole, however the benchmark itself ends."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def leave_on_sigterm() -> None:
    """SIGTERM ends the benchmark as Ctrl-C does: through its `with` and `finally` blocks. For the main thread."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def die_with_parent() -> None:
    """`preexec_fn` of a process that must not outlive the benchmark's main thread: for SIGKILL, which runs no block."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def running(
    command: list[str], environment: dict[str, str], ready: str, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers at `ready`, ended with all its children. Raises SystemExit with its log if it ends first."""
    log = folder / f"log-{time.monotonic_ns()}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True, preexec_fn=die_with_parent
        )
    try:
        wait(ready, process, log)
        yield process
    finally:
        try:
            children = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:  # it ended by itself
            children = []
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        for child in psutil.wait_procs(children, timeout=10)[1]:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def wait(url: str, process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
    """Until `url` answers 200. Raises SystemExit after a minute, or when the process ended."""
    for _ in range(600):
        if process is not None and process.poll() is not None:
            raise SystemExit(f"ended with {process.returncode}: {log.read_text()[-2_000:] if log else ''}")
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} did not answer within a minute")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
