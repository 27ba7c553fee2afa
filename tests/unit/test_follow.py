"""How a person who follows a refresh learns how it ended, also where no rollout ever starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tasks import follow
from tasks.domain.errors import Unavailable
from tasks.domain.refresh import not_taken
from tasks.settings import Settings

NEW, OLD = "b" * 64, "a" * 64
FROZEN = "Conflict: rollouts are frozen (revision 7); `freshrank unfreeze --reason TEXT` allows them again"


class Airflow:
    """One run of model_refresh, which has packaged NEW; what becomes of model_rollout is told by the test."""

    def __init__(self) -> None:
        self.rollouts = [{"dag_run_id": "of yesterday", "state": "failed"}]
        self.then: list[dict[str, str]] = []

    def runs(self, dag: str) -> list[dict[str, str]]:
        return self.rollouts

    def run_state(self, dag: str, run_id: str) -> str:
        self.rollouts = [*self.then, *self.rollouts[-1:]]
        return "success"

    def tasks(self, dag: str, run_id: str) -> list[dict[str, Any]]:
        task = {"task_id": "roll_out", "state": "failed", "duration": 1.0, "start_date": None, "try_number": 1}
        return [task] if dag == follow.ROLLOUT else []

    def task_log(self, dag: str, run_id: str, task: str, attempt: int) -> str:
        return FROZEN

    def run_page(self, dag: str, run_id: str) -> str:
        return f"{dag}/{run_id}"


class Controller:
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def status(self) -> dict[str, Any]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def serving(digest: str, **rollout: str) -> dict[str, Any]:
    return {"champion": {"digest": digest}, "rollout": rollout or None}


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    airflow = Airflow()
    monkeypatch.setattr(follow, "POLL_S", 0.0)
    monkeypatch.setattr(follow, "AirflowClient", lambda settings: airflow)
    told = {"release": NEW, "shipped": "weights", "reason": "proven"}
    monkeypatch.setattr(follow, "_explained", lambda *_: told)

    def run(*answers: Any, then: list[dict[str, str]] | None = None) -> dict[str, Any]:
        airflow.then = then or []
        monkeypatch.setattr(follow, "ControllerClient", lambda settings: Controller(*answers))
        return follow.follow_refresh(Settings(home=tmp_path), "run", Console(quiet=True), deadline_s=5)

    return run


def test_a_rollout_that_the_controller_refused_ends_the_wait_with_its_words(followed: Any) -> None:
    result = followed(serving(OLD), then=[{"dag_run_id": "ours", "state": "failed"}])
    assert not result["ok"]
    assert "refused" in result["sentence"] and FROZEN in result["sentence"]


def test_a_release_that_serves_already_is_no_rollout_to_wait_for(followed: Any) -> None:
    result = followed(serving(NEW, release=OLD, state="rolled_back", reason="bad"))
    assert result["ok"] and "serves already" in result["sentence"]


def test_a_controller_that_restarts_costs_a_moment(followed: Any) -> None:
    ended = serving(NEW, release=NEW, state="promoted", reason="full passed")
    result = followed(serving(OLD), Unavailable("restarting"), ended)
    assert result["ok"] and "full passed" in result["sentence"]


def test_a_step_that_no_worker_took_is_told_with_its_queue_and_deadline(
    followed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {
        "task_id": "finetune",
        "state": "failed",
        "queue": "gpu",
        "duration": 0.0,
        "queued_when": "2026-11-29T10:50:46Z",
        "start_date": "2026-11-29T10:51:33Z",  # as airflow 3.3.2 tells it: begun when it was ended, on no host
        "hostname": "",
        "try_number": 1,
    }
    monkeypatch.setattr(Airflow, "run_state", lambda *_: "failed")
    monkeypatch.setattr(Airflow, "tasks", lambda *_: [task])
    result = followed(serving(OLD))
    assert not result["ok"] and not_taken("finetune", "gpu", 300) in result["sentence"]


@pytest.mark.parametrize("call", ["runs", "run_state", "tasks"])
def test_an_api_server_that_restarts_costs_a_moment(followed: Any, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    outages, answer = [Unavailable("restarting")] * 2, getattr(Airflow, call)

    def answering(self: Airflow, *asked: Any) -> Any:
        if outages:
            raise outages.pop()
        return answer(self, *asked)

    monkeypatch.setattr(Airflow, call, answering)
    assert followed(serving(NEW, release=NEW, state="promoted", reason="full passed"))["ok"]
    assert not outages
