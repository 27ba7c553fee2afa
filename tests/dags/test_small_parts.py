"""The retry rule by error class, the wait for a partition, the candidate of a rollout: called as Airflow calls them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tests.dags.conftest import REPO


def decide(error: BaseException, try_number: int, max_tries: int = 8) -> Any:
    from _ranker import RetryByErrorClass

    return RetryByErrorClass().evaluate(error, try_number, max_tries)


@pytest.mark.parametrize("error", [InputRejected("no"), Conflict("no")])
def test_wrong_input_is_never_retried(error: Exception) -> None:
    assert decide(error, 1).action.value == "fail"


def test_what_did_not_answer_is_asked_again_quickly_at_first_and_for_more_than_ten_minutes() -> None:
    decisions = [decide(Unavailable("no answer"), number) for number in range(1, 9)]
    assert {decision.action.value for decision in decisions} == {"retry"}
    delays = [decision.retry_delay.total_seconds() for decision in decisions]
    assert delays[:4] == [5, 10, 20, 40] and delays == sorted(delays)
    assert sum(delays) > 600 and max(delays) <= 600


@pytest.mark.parametrize("error", [ConnectionError("reset"), TimeoutError("late"), OSError(28, "no space")])
def test_errors_of_the_machine_are_retried_too(error: Exception) -> None:
    assert decide(error, 4).action.value == "retry"


def test_a_bug_gets_one_more_try_and_not_twenty_minutes() -> None:
    assert decide(KeyError("x"), 1).retry_delay == timedelta(seconds=5)
    assert decide(KeyError("x"), 2).action.value == "fail"


def test_a_cleared_task_starts_counting_anew() -> None:
    assert decide(Unavailable("no"), 10, max_tries=17).retry_delay == timedelta(seconds=5)
    assert decide(KeyError("x"), 10, max_tries=17).action.value == "retry"


@given(try_number=st.integers(1, 1000), max_tries=st.integers(0, 1000))
def test_the_rule_has_an_answer_for_every_count(try_number: int, max_tries: int) -> None:
    delay = decide(Unavailable("no"), try_number, max_tries).retry_delay
    assert timedelta(seconds=5) <= delay <= timedelta(minutes=10)


def fired(answers: list[Any], deadline: datetime, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    import _partition_trigger

    said = iter(answers)

    def is_landed(key: str) -> bool:
        answer = next(said)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async def first() -> dict[str, Any]:
        trigger = _partition_trigger.PartitionTrigger(
            "behaviour/dt=2017-07-01/manifest.json", deadline.isoformat(), 0.001
        )
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("the trigger ended without an event")

    monkeypatch.setattr(_partition_trigger, "_is_landed", is_landed)
    return asyncio.run(first())


def test_the_trigger_waits_through_a_store_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    assert fired([False, Unavailable("the store is down"), False, True], later, monkeypatch)["landed"] is True


def test_the_trigger_gives_up_at_its_deadline_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert fired([Unavailable("the store is down")], past, monkeypatch) == {"landed": False, "why": "the store is down"}
    assert fired([False], past, monkeypatch) == {"landed": False, "why": "it is not there"}


def test_a_day_that_never_lands_fails_in_one_sentence(airflow_home: Path) -> None:
    from _partition_trigger import PartitionLanded
    from airflow.sdk.exceptions import AirflowSensorTimeout

    sensor = PartitionLanded(task_id="wait", ingested="memory://x", timeout=7200)
    with pytest.raises(
        AirflowSensorTimeout, match=r"^2017-07-02 did not land within 2:00:00: behaviour/k: it is not there\. "
    ):
        sensor.landed_or_late({}, {"landed": False, "why": "it is not there"}, "2017-07-02", "behaviour/k")
    sensor.landed_or_late({}, {"landed": True, "why": ""}, "2017-07-02", "behaviour/k")


def candidate(monkeypatch: pytest.MonkeyPatch, package: str | None, events: list[Any]) -> str:
    import model_rollout
    from _ranker import CANDIDATE

    monkeypatch.setattr(model_rollout, "get_current_context", lambda: {"params": {"package": package}})
    return str(model_rollout.find_candidate.function(triggering_asset_events={CANDIDATE: events} if events else {}))


def an_event(manifest: str, hour: int) -> Any:
    return SimpleNamespace(extra={"manifest": manifest}, timestamp=datetime(2026, 11, 22, hour, tzinfo=UTC))


def test_of_two_candidates_the_newer_one_is_rolled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        candidate(monkeypatch, None, [an_event("s3://b/new.json", 6), an_event("s3://b/old.json", 5)])
        == "s3://b/new.json"
    )
    assert candidate(monkeypatch, "s3://b/mine.json", [an_event("s3://b/new.json", 6)]) == "s3://b/mine.json"


def test_a_rollout_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputRejected, match="names no package"):
        candidate(monkeypatch, None, [])


def test_the_airflow_api_can_be_built_and_answers_its_health_page(airflow_home: Path) -> None:
    """Package sets exist that install cleanly, import cleanly, and die here."""
    code = (
        "from fastapi.testclient import TestClient\n"
        "from airflow.api_fastapi.app import create_app\n"
        "answer = TestClient(create_app()).get('/api/v2/monitor/health')\n"
        "assert answer.status_code == 200, answer.text\n"
        "assert answer.json()['metadatabase']['status'] == 'healthy', answer.text\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=dict(os.environ), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(("raised", "noted"), [(ValueError("bad"), False), (None, True)])
def test_a_step_that_the_scheduler_ended_leaves_a_sentence_on_the_refresh_s_page(
    home: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception | None, noted: bool
) -> None:
    """A worker's own failure has an exception in its context; where nobody took the step, or its worker died, there is none."""
    from _ranker import mark_failed

    closed: list[Any] = []
    monkeypatch.setattr("tasks.refresh.close_refresh", lambda *told, note: closed.append((told[1], note)))
    run = SimpleNamespace(partition_key=None)
    mark_failed(
        {"run_id": "r", "params": {}, "dag_run": run, "ti": SimpleNamespace(task_id="finetune"), "exception": raised}
    )
    ((status, note),) = closed
    assert status == "FAILED" and bool(note) == noted
    assert not noted or "finetune failed without a word of its own: no worker took it within 300 s" in note
