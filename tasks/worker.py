"""Which worker runs this process, and whether it may: the facts that a queue's worker has to agree on with its scheduler."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from tasks.adapters.broker import Broker, Version
from tasks.domain.errors import Unavailable
from tasks.run import code_version, lock_digest
from tasks.settings import Settings

# not FRESHRANK_*: settings refuse unknown ones
WORKER = "FRSTACK_WORKER"  # queue that this process was started for
CODE, LOCK = "FRSTACK_CODE", "FRSTACK_LOCK"  # in a pod: what the DAG's side had when it asked for the pod
REMEDY = {
    "celery": "Bring both to one version and restart them (`make down`, then `make run GPU_WORKER=1`)",
    "kubernetes": "Set the chart's image.digests to images of one build (`helm upgrade`); the step is tried again meanwhile",
}


def name() -> str:
    """`gpu@host` in a worker of queue gpu; the host alone where the scheduler runs its tasks itself."""
    queue = os.environ.get(WORKER)
    return f"{queue}@{socket.gethostname()}" if queue else socket.gethostname()


def version() -> Version:
    return Version(code=code_version(), lock=lock_digest())


def version_for_pods() -> dict[str, str]:
    """Environment of a pod that shall run a step: which code and lock asked for it."""
    own = version()
    return {CODE: own.code, LOCK: own.lock}


def require_same_version(settings: Settings) -> None:
    """Compare this process's code and lock with those of the side that sent the step here.

    Raises:
        Unavailable: they differ. The step is tried again: a worker that agrees may take it.
    """
    if settings.executor == "local":
        return  # the scheduler's own child
    wanted = Broker(settings.broker).announced() if settings.executor == "celery" else _told_to_pod(os.environ)
    own = version()
    if wanted != own:
        raise Unavailable(refusal(name(), own, wanted, REMEDY[settings.executor]))


def _told_to_pod(environment: Mapping[str, str]) -> Version | None:
    if CODE in environment and LOCK in environment:
        return Version(code=environment[CODE], lock=environment[LOCK])
    return None


def refusal(worker: str, own: Version, wanted: Version | None, remedy: str) -> str:
    if wanted is None:
        return f"worker {worker} is refused: nobody told it which code the scheduler has. {remedy}"
    parts = [
        f"{what} {mine} where the scheduler has {theirs}"
        for what, mine, theirs in (("code", own.code, wanted.code), ("lock", own.lock, wanted.lock))
        if mine != theirs
    ]
    return f"worker {worker} is refused: it has {' and '.join(parts)}. {remedy}"
