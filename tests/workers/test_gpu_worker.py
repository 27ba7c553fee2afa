"""`make run GPU_WORKER=1` on the tiny recipe: where the steps ran, what a killed worker costs, and what is left after `down`.

Not part of `make test` (minutes): `.venv/bin/python -m pytest -m workers tests/workers`. The stack is made for it, or is one that
runs already, FRSTACK_JOIN=HOME (recipe tiny, its newest refresh with new weights); the last test takes either down.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks.kill_matrix import day_to_refresh, played
from infra.local import processes
from infra.local.down import bring_down
from infra.local.services import services
from tasks import doctor, service_table
from tasks.adapters.airflow import AirflowClient
from tasks.adapters.broker import Broker
from tasks.domain.refresh import GPU_STEPS, not_taken
from tasks.follow import REFRESH, follow_refresh, start_refresh
from tasks.settings import Settings
from tests.conftest import free_port_base
from tests.e2e.conftest import Stack, logs

LONG = str(Path(__file__).with_name("half_a_minute.yaml"))
HOST = socket.gethostname()
pytestmark = [pytest.mark.workers, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = joined()
    made = running or Stack(tmp_path_factory.mktemp("workers"), free_port_base())
    made.environment["FRESHRANK_EXECUTOR"] = "celery"
    made.settings = made.settings.model_copy(update={"executor": "celery"})
    try:
        if not running:
            done = made.run(sys.executable, "-m", "infra.local.run", timeout=1200)
            assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{logs(made)}"
        yield made
    finally:
        if not running:
            bring_down(made.settings, Console(stderr=True, quiet=True))


def joined() -> Stack | None:
    if home := os.environ.get("FRSTACK_JOIN"):
        running = service_table.read_supervisor(Settings(home=Path(home)))
        assert running, f"no stack runs in {home}"
        return Stack(Path(home), int(running["port_base"]))
    return None


def newest_run(stack: Stack) -> tuple[AirflowClient, str]:
    airflow = AirflowClient(stack.settings)
    return airflow, airflow.runs(REFRESH)[0]["dag_run_id"]


def test_the_gpu_steps_ran_on_the_gpu_worker_and_no_other_step_did(stack: Stack) -> None:
    airflow, run = newest_run(stack)
    steps = {task["task_id"]: task for task in airflow.tasks(REFRESH, run) if task["state"] == "success"}
    assert {name for name, task in steps.items() if task["queue"] == "gpu"} == set(GPU_STEPS)
    for name in GPU_STEPS:
        told = airflow.task_log(REFRESH, run, name, steps[name]["try_number"])
        assert re.search(rf"step={name} worker=gpu@{HOST} device=\S+ driver=.+ precision=\S+ memory_gib=\d", told), told
    received = (stack.settings.logs / "worker-gpu.log").read_text()
    assert received.count("succeeded in") >= len(GPU_STEPS)


def test_the_doctor_says_who_serves_which_queue(stack: Stack) -> None:
    found = {row["check"]: row for row in doctor.examine(stack.settings)}
    for queue in ("default", "gpu"):
        assert found[f"queue {queue}"]["ok"] and f"{queue}@{HOST}" in found[f"queue {queue}"]["sentence"]


@pytest.mark.parametrize("queue", ["gpu", "default"])
def test_a_worker_that_is_killed_while_it_trains_costs_a_retry_and_nothing_else(stack: Stack, queue: str) -> None:
    day = day_to_refresh(stack.settings)
    checkpoints = f"work/runs-finetune-{day}-*/work/checkpoint.safetensors"
    row = played(
        *(f"worker-{queue}@finetune", day, stack.settings),
        recipe=LONG,
        ripe=lambda: any(stack.settings.data.glob(checkpoints)),
    )
    print(json.dumps(row))
    assert row["right"], row["wrong"]
    assert row["tries"] == ({"finetune": 2} if queue == "gpu" else {})
    if queue == "gpu":
        assert "outcome=resumed" in AirflowClient(stack.settings).task_log(REFRESH, row["run"], "finetune", 2)


def test_without_a_gpu_worker_its_steps_wait_say_so_fail_at_a_deadline_and_can_be_cleared(
    stack: Stack,
) -> None:
    down_and_up(stack, without="worker-gpu", FRESHRANK_QUEUED_DEADLINE_S="45")
    airflow, run = (
        AirflowClient(stack.settings),
        start_refresh(stack.settings, {"partition": day_to_refresh(stack.settings)}),
    )
    until(lambda: state_of(airflow, run, "finetune") == "queued", 600)
    told = stack.settings.model_copy(update={"queued_deadline_s": 45})
    waiting = Broker(told.broker).waiting("gpu")  # one, and on a joined stack those of a test that failed before
    assert waiting >= 1
    waits = {row["check"]: row for row in doctor.examine(told)}
    assert not waits["queue gpu"]["ok"]
    assert waits["queue gpu"]["sentence"] == (
        f"no worker serves it; {waiting} tasks wait ({', '.join(GPU_STEPS)}), and each fails after 45 s in the queue"
    )
    until(lambda: airflow.run_state(REFRESH, run) == "failed", 240)
    assert state_of(airflow, run, "finetune") == "failed"
    said = follow_refresh(told, run, Console(quiet=True))["sentence"]
    assert not_taken("finetune", "gpu", 45) in said
    print(waits["queue gpu"]["sentence"], said, sep="\n")
    down_and_up(stack)
    cleared = {"dag_run_id": run, "dry_run": False, "only_failed": True}
    airflow._request("POST", f"/api/v2/dags/{REFRESH}/clearTaskInstances", json=cleared)
    until(lambda: state_of(airflow, run, "finetune") == "success", 400)


def test_down_leaves_no_process(stack: Stack) -> None:
    home = str(stack.settings.home)
    bring_down(stack.settings, Console(stderr=True, quiet=True))
    assert processes.of_stack(stack.settings) == []
    assert not [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if home in (p.info["cmdline"] or ()) or f"{home}/" in " ".join(p.info["cmdline"] or ())
    ]


def down_and_up(stack: Stack, *, without: str = "", **extra: str) -> None:
    """The same stack again; all services, or all but one."""
    bring_down(stack.settings, Console(stderr=True, quiet=True))
    others = ",".join(name for name in services(stack.settings) if name != without) if without else ""
    done = stack.run(sys.executable, "-m", "infra.local", "up", "--only", others, **extra)
    assert done.returncode == 0, done.stdout[-2000:]


def state_of(airflow: AirflowClient, run: str, step: str) -> str | None:
    return next((task["state"] for task in airflow.tasks(REFRESH, run) if task["task_id"] == step), None)


def until(condition, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.5)
