"""One Celery worker for one queue: `python -m infra.local.worker QUEUE AT_ONCE`, started by the supervisor, or by hand on
another machine that has this home's settings. One of another code version or lock is refused before it takes a task."""

from __future__ import annotations

import os
import sys

import psutil

from infra.local import airflow_config
from infra.local.lost_tasks import give_back
from tasks.adapters.broker import Broker
from tasks.device import described
from tasks.domain.errors import FreshrankError
from tasks.machine import MARKER
from tasks.settings import Settings
from tasks.worker import WORKER, name, require_same_version


def main(queue: str, at_once: str) -> int:
    os.environ[WORKER] = queue
    try:
        settings = Settings()
        require_same_version(settings)
        broker = Broker(settings.broker)
        broker.arrived(name(), described("as the recipe says"))
        _end_orphans()
        results = airflow_config.celery_results(settings)
        for task, fate in give_back(broker, results, queue, name(), lambda pid: pid in _of_this_worker()).items():
            sys.stderr.write(f"task {task} of the worker before this one: {fate}\n")
    except FreshrankError as err:
        sys.stderr.write(f"{err}\n")
        return 2
    # without_*: workers that look for each other wait a second at each start, and nothing here uses what they find
    options = ("--without-mingle", "--without-gossip", "--skip-serve-logs")
    sys.argv = ["airflow", "celery", "worker", "-q", queue, "-c", at_once, "--celery-hostname", name(), *options]
    from airflow.__main__ import main as airflow

    airflow()
    return 0


def _end_orphans() -> None:
    """Tasks of a killed worker of this queue: each leads a process group, which outlives the worker's and would share the
    GPU with its own next try. The session that they are in has lost its leader."""
    ended = []
    for process in _of_this_worker().values():
        try:
            if not psutil.pid_exists(os.getsid(process.pid)):
                process.kill()
                ended.append(process)
        except (psutil.Error, OSError):
            continue
    psutil.wait_procs(ended, timeout=5)


def _of_this_worker() -> dict[int, psutil.Process]:
    """By pid, the processes of this home that serve this queue on this machine: ours, and of a worker before or beside it."""
    ours, found = {name: os.environ.get(name) for name in (WORKER, MARKER)}, {}
    for process in psutil.process_iter():
        try:
            theirs = process.environ()
            if {name: theirs.get(name) for name in ours} == ours:
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
