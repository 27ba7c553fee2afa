"""A home has one supervisor: the second one is told which, and starts nothing."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tasks import service_table
from tasks.domain.errors import Unavailable
from tasks.settings import Settings


class AlreadyRunning(Unavailable):
    """Another supervisor holds this home."""


@contextmanager
def one_supervisor(settings: Settings) -> Iterator[None]:
    """Exclusive while this process lives. Children do not inherit it: file descriptors are closed on exec.

    Raises:
        AlreadyRunning: another process holds it.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "supervisor.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(already_running(settings)) from None
        yield


def already_running(settings: Settings) -> str:
    row = service_table.read_supervisor(settings) or {}
    return (
        f"the stack of {settings.home} is already kept by supervisor pid {row.get('pid', 'unknown')} "
        f"(since {row.get('at', 'just now')}); `freshrank status` shows it, `make down` stops it"
    )
