"""What a killed Celery worker leaves behind, and what its successor makes of it: a real broker, a real worker, real results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from infra.local.lost_tasks import UNACKED, UNACKED_INDEX, Fate, fate, give_back
from tasks.adapters.broker import Broker
from tasks.domain.errors import Unavailable
from tasks.settings import Settings

QUEUE, WORKER = "gpu", "gpu@here"
# what Airflow makes of its settings: messages are acknowledged when their task has ended, and a task that begins says so
PROGRAM = """
import sys, time
from celery import Celery
app = Celery(broker=sys.argv[1], backend=sys.argv[2])
app.conf.update(task_acks_late=True, task_track_started=True, worker_prefetch_multiplier=2)
@app.task(name="work")
def work(seconds):
    time.sleep(seconds)
app.worker_main(sys.argv[3:])
"""


@pytest.fixture
def broker(store_settings: Settings) -> Iterator[Broker]:
    broker = Broker(f"redis://127.0.0.1:{store_settings.port('valkey')}/4")
    yield broker
    broker._client().flushdb()


@pytest.fixture
def results(tmp_path: Path) -> str:
    return f"db+sqlite:///{tmp_path / 'results.db'}"


@pytest.fixture
def app(broker: Broker, results: str) -> Iterator[Celery]:
    with Celery(broker=broker.url, backend=results, set_as_current=False) as app:
        yield app


def start(broker: Broker, results: str) -> subprocess.Popen[bytes]:
    options = ("worker", "-c", "1", "-Q", QUEUE, "-n", WORKER, "--without-mingle", "--without-gossip")
    command = [sys.executable, "-c", PROGRAM, broker.url, results, *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, **quiet, env=dict(os.environ), start_new_session=True)


def kill(worker: subprocess.Popen[bytes]) -> None:
    """It and the process that runs its task."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(20)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.05)


def test_the_next_worker_fails_what_was_lost_and_puts_back_what_had_not_begun(
    broker: Broker, results: str, app: Celery
) -> None:
    running, unbegun = (app.send_task("work", (seconds,), queue=QUEUE).id for seconds in (600, 0))
    client, worker = broker._client(), start(broker, results)
    try:
        until(lambda: app.AsyncResult(running).state == "STARTED" and client.hlen(UNACKED) == 2)
        assert give_back(broker, results, QUEUE, WORKER, lambda pid: True) == {}, "it lives and answers"
    finally:
        kill(worker)
    # nobody answers for the queue now; what ran is failed, as the scheduler reads it, and is handed out to nobody again
    assert give_back(broker, results, QUEUE, WORKER, lambda pid: False) == {running: Fate.LOST, unbegun: Fate.UNBEGUN}
    assert app.AsyncResult(running).state == "FAILURE"
    assert "worker gpu@here was killed while it ran this task" in str(app.AsyncResult(running).result)
    assert (client.hlen(UNACKED), client.zcard(UNACKED_INDEX), client.llen(QUEUE)) == (0, 0, 1)
    assert give_back(broker, results, QUEUE, WORKER, lambda pid: False) == {}
    worker = start(broker, results)
    try:
        until(lambda: app.AsyncResult(unbegun).state == "SUCCESS")
    finally:
        kill(worker)


def test_another_workers_tasks_and_another_queues_are_left_alone(broker: Broker, results: str, app: Celery) -> None:
    elsewhere = app.send_task("work", (600,), queue=QUEUE).id
    worker = start(broker, results)
    try:
        until(lambda: app.AsyncResult(elsewhere).state == "STARTED")
        assert give_back(broker, results, QUEUE, "gpu@there", lambda pid: False) == {}
        assert give_back(broker, results, "default", WORKER, lambda pid: False) == {}
        assert app.AsyncResult(elsewhere).state == "STARTED" and broker._client().hlen(UNACKED) == 1
    finally:
        kill(worker)


def test_results_that_do_not_answer_are_a_sentence_and_nothing_is_touched(broker: Broker, free_port: int) -> None:
    with Celery(broker=broker.url, set_as_current=False) as app:
        app.send_task("work", (0,), queue=QUEUE)
    client = broker._client()
    message = client.rpop(QUEUE)
    client.hset(UNACKED, "tag", f'[{message}, "", "{QUEUE}"]')
    with pytest.raises(Unavailable, match="the results of Celery's tasks do not answer") as told:
        give_back(
            broker, f"db+postgresql+psycopg2://a:hunter2@127.0.0.1:{free_port}/a", QUEUE, WORKER, lambda pid: False
        )
    assert "hunter2" not in str(told.value) and client.hlen(UNACKED) == 1


@pytest.mark.parametrize(
    ("state", "holder", "alone", "expected"),
    [
        ("STARTED", {"hostname": WORKER, "pid": 7}, True, Fate.LOST),
        ("STARTED", {"hostname": WORKER, "pid": 7}, False, Fate.LOST),
        ("STARTED", {"hostname": WORKER, "pid": 8}, True, Fate.HELD),  # it lives
        ("STARTED", {"hostname": "gpu@there", "pid": 7}, True, Fate.HELD),
        ("STARTED", {}, True, Fate.HELD),
        ("PENDING", {}, True, Fate.UNBEGUN),
        ("PENDING", {}, False, Fate.HELD),  # the other worker may have taken it, and be about to begin
        ("SUCCESS", {}, True, Fate.HELD),
        ("FAILURE", {}, True, Fate.HELD),
    ],
)
def test_only_what_this_worker_can_know_is_decided(
    state: str, holder: dict[str, object], alone: bool, expected: Fate
) -> None:
    assert fate(state, holder, WORKER, lambda pid: pid == 8, lambda: alone) is expected
