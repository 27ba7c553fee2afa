"""Which worker runs this process, and whether it may: the facts that a queue's worker has to agree on with its scheduler."""

from __future__ import annotations

import os
import socket

from tasks.adapters.broker import Broker, Version
from tasks.domain.errors import Unavailable
from tasks.run import code_version, lock_digest
from tasks.settings import Settings

WORKER = "FRSTACK_WORKER"  # queue that this process was started for; not FRESHRANK_*: settings refuse unknown ones


def name() -> str:
    """`gpu@host` in a worker of queue gpu; the host alone where the scheduler runs its tasks itself."""
    queue = os.environ.get(WORKER)
    return f"{queue}@{socket.gethostname()}" if queue else socket.gethostname()


def version() -> Version:
    return Version(code=code_version(), lock=lock_digest())


def require_same_version(settings: Settings) -> None:
    """Raises Unavailable, so that the step is tried again: a worker that agrees may take it."""
    if settings.executor == "celery":
        wanted, own = Broker(settings.broker).announced(), version()
        if wanted != own:
            raise Unavailable(refusal(name(), own, wanted))


def refusal(worker: str, own: Version, wanted: Version | None) -> str:
    if wanted is None:
        return (
            f"worker {worker} does not know which code it should run: the stack has not announced any; start the stack"
        )
    parts = [
        f"{what} {mine} where the scheduler has {theirs}"
        for what, mine, theirs in (("code", own.code, wanted.code), ("lock", own.lock, wanted.lock))
        if mine != theirs
    ]
    return (
        f"worker {worker} is refused: it has {' and '.join(parts)}. Bring both to one version and restart them "
        f"(`make down`, then `make run GPU_WORKER=1`)"
    )
