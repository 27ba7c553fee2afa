"""What the project asks a broker, against a real one with a real Celery worker on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tasks import doctor, worker
from tasks.adapters.broker import Broker, Version
from tasks.domain.errors import Unavailable
from tasks.settings import Settings

QUEUE = "gpu"


@pytest.fixture
def settings(store_settings: Settings) -> Settings:
    """Celery's settings, with the session's Valkey as the broker."""
    url = f"redis://127.0.0.1:{store_settings.port('valkey')}/3"
    return store_settings.model_copy(update={"executor": "celery", "broker_url": url})


@pytest.fixture
def broker(settings: Settings) -> Iterator[Broker]:
    broker = Broker(settings.broker)
    yield broker
    broker._client().flushdb()


def doctor_says(settings: Settings, check: str) -> dict[str, object]:
    return next(finding for finding in doctor._queues(settings) if finding["check"] == check)


def test_a_queue_without_a_worker_is_told_with_its_steps_and_a_deadline(settings: Settings, broker: Broker) -> None:
    broker._client().rpush(QUEUE, "a task")
    found = doctor_says(settings, f"queue {QUEUE}")
    assert not found["ok"]
    assert found["sentence"] == (
        "no worker serves it; 1 tasks wait (finetune, compress, evaluate, benchmark), and each fails after 300 s in the queue"
    )


def test_a_full_broker_is_told_with_what_to_do(
    settings: Settings, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor_says(settings, "broker")["ok"]
    used, _ = broker.memory()
    monkeypatch.setattr(Broker, "memory", lambda self: (used, used + 1))
    found = doctor_says(settings, "broker")
    assert not found["ok"] and "a full broker takes no more tasks" in str(found["sentence"])


@pytest.mark.parametrize(
    ("device", "ok", "said"),
    [
        ("device=cuda (NVIDIA H200) driver=595.42 cuda=13.0", True, "gpu@far: device=cuda (NVIDIA H200)"),
        (
            "device=cpu driver=none memory_gib=23.5",
            False,
            "gpu@far serves GPU steps without a GPU (device=cpu driver=none",
        ),
        ("device=cpu driver=595.42 (no CUDA device)", False, "gpu@far serves GPU steps without a GPU"),
        (None, False, "gpu@far serves GPU steps without a GPU (it did not say what it computes on)"),
    ],
)
def test_a_gpu_worker_without_a_gpu_is_told_wherever_it_runs(
    settings: Settings, broker: Broker, device: str | None, ok: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "workers", lambda self: {QUEUE: ["celery@gpu@far"], "default": ["celery@default@here"]})
    broker.arrived("default@here", "device=cpu driver=none")
    if device:
        broker.arrived("gpu@far", device)
    found = doctor_says(settings, "gpu")
    assert (found["ok"], "nothing is lost" in str(found["sentence"])) == (ok, not ok)
    assert said in str(found["sentence"]) and "default@here" not in str(found["sentence"])
    assert ok or ("torch from a CUDA index" if "no CUDA" in str(device) else "NVIDIA's driver") in str(found["next"])


def test_a_worker_is_found_by_the_queue_that_it_serves(settings: Settings, broker: Broker) -> None:
    program = "from celery import Celery; import sys; Celery(broker=sys.argv[1]).worker_main(sys.argv[2:])"
    options = ("worker", "-P", "solo", "-Q", QUEUE, "-n", f"{QUEUE}@here", "--without-mingle", "--without-gossip")
    process = subprocess.Popen(
        [sys.executable, "-c", program, settings.broker, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    try:
        for _ in range(20):
            if found := broker.workers():
                break
        assert found == {QUEUE: [f"{QUEUE}@here"]}
        assert doctor_says(settings, f"queue {QUEUE}")["sentence"] == f"served by {QUEUE}@here; 0 tasks wait"
    finally:
        process.terminate()
        process.wait(20)


def test_who_asked_before_the_broker_was_started_again_is_answered_after_it(settings: Settings, broker: Broker) -> None:
    """The watch and the tests ask for days: a connection of before must not be used again."""
    for _ in range(2):
        assert broker.workers() == {}
        broker._client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert doctor_says(settings, f"queue {QUEUE}")["sentence"]


def test_a_worker_of_another_code_or_lock_is_refused_by_name(
    settings: Settings, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(worker.WORKER, QUEUE)
    with pytest.raises(Unavailable, match="nobody told it which code"):
        worker.require_same_version(settings)
    own = worker.version()
    broker.announce(own)
    worker.require_same_version(settings)
    broker.announce(Version(code="0123456789abcdef", lock=own.lock))
    with pytest.raises(
        Unavailable, match=rf"worker gpu@\S+ is refused: it has code {own.code} where the scheduler has 0123"
    ):
        worker.require_same_version(settings)
    broker.announce(Version(code=own.code, lock="fedcba9876543210"))
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.worker", QUEUE, "1"],
        env=os.environ
        | {
            "FRESHRANK_HOME": str(settings.home),
            "FRESHRANK_EXECUTOR": "celery",
            "FRESHRANK_BROKER_URL": settings.broker,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"lock {own.lock} where the scheduler has lock fedcba" not in done.stderr  # one name, said once
    assert f"is refused: it has lock {own.lock} where the scheduler has fedcba9876543210" in done.stderr


def test_a_broker_that_is_not_there_is_a_sentence_without_its_password(settings: Settings, free_port: int) -> None:
    broker = Broker(f"redis://:hunter2@127.0.0.1:{free_port}/0")
    for ask in (broker.announced, broker.workers, lambda: broker.waiting(QUEUE)):
        with pytest.raises(Unavailable, match=rf"the broker at 127.0.0.1:{free_port}/0 does not answer") as told:
            ask()
        assert "hunter2" not in str(told.value)
