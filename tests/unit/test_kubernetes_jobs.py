"""One Job a step, whatever runs twice or dies: started once, joined, replaced after it failed, and believed only by its uid."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.kubernetes_api import Object
from tasks.adapters.kubernetes_jobs import run_job
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.recipe import load_recipe
from tasks.finetune_in_cluster import finetune_in_cluster, job_of
from tasks.finetune_together import OUT, REFUSED, SUMMARY, asked, main, told_by

JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "training"}, "spec": {}}
RUNS: Object = {"active": 2}
DONE: Object = {"succeeded": 2, "conditions": [{"type": "Complete", "status": "True"}]}
FAILED: Object = {
    "failed": 6,
    "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit reached"}],
}


class Jobs:
    """In memory. Each look shows the next of the states that the Job of the turn goes through; the last one stays."""

    def __init__(self, *lives: list[Object], there: bool = False) -> None:
        self.lives, self.created, self.deleted = [list(life) for life in lives], 0, list[str]()
        self.uid = 1 if there else 0
        self.is_there = there

    async def get(self, kind: str, name: str) -> Object | None:
        if not self.is_there:
            return None
        life = self.lives[self.uid - 1]
        status = life.pop(0) if len(life) > 1 else life[0]
        if status == {"gone": True}:
            self.is_there = False
            return None
        return {"metadata": {"name": name, "uid": f"uid-{self.uid}"}, "status": status}

    async def create(self, body: Object) -> bool:
        assert body["metadata"]["name"] == "training"
        if self.is_there:
            return False
        self.created, self.uid, self.is_there = self.created + 1, self.uid + 1, True
        return True

    async def delete_exactly(self, kind: str, name: str, uid: str) -> None:
        if self.is_there and uid == f"uid-{self.uid}":
            self.deleted.append(uid)
            self.is_there = False


def ended(jobs: Jobs, results: set[str] | None = None, said: list[str] | None = None) -> str:
    has = (lambda uid: True) if results is None else (lambda uid: uid in results)
    return asyncio.run(run_job(jobs, JOB, has, (said if said is not None else []).append, every_s=0))


def test_a_job_is_started_and_waited_for() -> None:
    jobs, said = Jobs([RUNS, RUNS, DONE]), list[str]()
    assert ended(jobs, said=said) == "uid-1" and jobs.created == 1 and jobs.deleted == []
    assert said == ["state=running active=2 succeeded=0 failed=0", "state=complete active=0 succeeded=2 failed=0"]


def test_a_retry_joins_the_job_that_runs_or_takes_what_it_left() -> None:
    for life in ([RUNS, RUNS, DONE], [DONE]):
        jobs = Jobs(life, there=True)
        assert ended(jobs) == "uid-1" and jobs.created == 0 and jobs.deleted == []


def test_two_live_copies_of_the_step_have_one_job() -> None:
    jobs = Jobs([RUNS] * 9 + [DONE])

    async def both() -> list[str]:
        return await asyncio.gather(*(run_job(jobs, JOB, lambda uid: True, lambda now: None, 0) for _ in range(2)))

    assert asyncio.run(both()) == ["uid-1", "uid-1"] and jobs.created == 1


def test_a_job_that_failed_before_is_replaced_and_one_that_fails_now_is_told() -> None:
    jobs = Jobs([FAILED], [RUNS, DONE], there=True)
    assert ended(jobs) == "uid-2" and jobs.deleted == ["uid-1"] and jobs.created == 1
    with pytest.raises(
        Unavailable, match=r"failed \(BackoffLimitExceeded: limit reached\); `kubectl logs --selector job-name=tr"
    ):
        ended(Jobs([RUNS, FAILED]))
    with pytest.raises(Unavailable, match="ended as failed"):  # so fast that nobody saw it run: not again and again
        ended(Jobs([FAILED], [FAILED], there=True))


def test_a_job_of_another_time_without_results_is_not_believed() -> None:
    jobs = Jobs([DONE], [RUNS, DONE], there=True)
    assert ended(jobs, results={"uid-2"}) == "uid-2" and jobs.deleted == ["uid-1"]
    with pytest.raises(Unavailable, match="ended as complete without results"):
        ended(Jobs([RUNS, DONE]), results=set())


def test_a_job_that_a_person_deletes_is_not_started_again_by_this_try() -> None:
    with pytest.raises(Unavailable, match="was deleted while it ran"):
        ended(Jobs([RUNS, {"gone": True}]))


def test_what_was_refused_before_is_asked_again(tmp_path: Path) -> None:
    """The operator gave the pods the right image and cleared the step: the Job of the wrong one is still there, for a day."""
    pattern, work = tmp_path / "training.yaml", tmp_path / "work"
    job = JOB | {"spec": {"template": {"spec": {"containers": [{"args": ["REQUEST"]}]}}}}
    pattern.write_text(json.dumps(job))
    for uid, name, told in (("uid-1", REFUSED, "another build"), ("uid-2", SUMMARY, {"slates": 5})):
        (work / uid / OUT).mkdir(parents=True)
        (work / uid / name).write_text(json.dumps(told))
    jobs = Jobs([DONE], [RUNS, DONE], there=True)
    given = (tmp_path, load_recipe("tiny"), work, tmp_path / "out", 1, 1, None, pattern)
    assert finetune_in_cluster(*given, api=jobs, every_s=0) == {"slates": 5} and jobs.deleted == ["uid-1"]


def test_a_file_without_a_job_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("kind: Pod\n")
    for name in ("empty.yaml", "absent.yaml"):
        with pytest.raises(InputRejected, match=f"train_job is .*{name}, which holds no Job"):
            job_of(tmp_path / name, "d" * 12, tmp_path / "request.json")


def test_pods_of_another_build_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch is imported, and for good: every pod of that image would say the same."""
    request = asked(tmp_path, tmp_path, load_recipe("tiny"), None, 1, 1, None)
    seen: dict[str, Any] = {"code": "another", "lock": "x"}
    monkeypatch.setattr("tasks.finetune_together._version", lambda: seen)
    assert main(str(request), "uid-1") == 0
    with pytest.raises(
        InputRejected, match="the training's pods have code another where the step has .* and lock x where"
    ):
        told_by(tmp_path / "uid-1")
    assert told_by(tmp_path) is None, "a Job without that uid has said nothing"
