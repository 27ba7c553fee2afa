"""What every DAG has, and the shape of each: the order of DESIGN section 1."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.dags.conftest import DAGS, REPO

THE_PATH = (
    "ingest",
    "wait_for_partition",
    "validate_data",
    "route_data",
    "resolve_champion",
    "build_dataset",
    "finetune",
    "compress",
    "evaluate",
    "benchmark",
    "gate",
    "route",
    "request_review",
    "package",
)
ENDS = {"nothing_to_do", "keep_champion", "report_rejection", "package"}


def test_model_refresh_runs_the_steps_in_the_order_of_the_design(dags: dict[str, Any]) -> None:
    dag = dags["model_refresh"]
    assert set(dag.task_ids) == set(THE_PATH) | ENDS
    order = [task.task_id for task in dag.topological_sort() if task.task_id in THE_PATH]
    assert order == list(THE_PATH)
    for earlier, later in pairwise(THE_PATH):
        upstream = {task.task_id for task in dag.get_task(later).get_flat_relatives(upstream=True)}
        assert earlier in upstream, f"{later} may start before {earlier} has ended"
    assert {task.task_id for task in dag.leaves} == ENDS


def test_each_step_is_given_what_the_registry_says_it_reads(dags: dict[str, Any]) -> None:
    from tasks.steps import STEPS

    seen = 0
    for name, step in STEPS.items():
        task = dags["model_refresh"].get_task(name)
        given = set(task.op_args[0])
        assert set(step.inputs) <= given <= set(step.inputs) | set(step.optional), name
        seen += 1
    assert seen == 10


def test_the_other_two_are_as_small_as_they_look(dags: dict[str, Any]) -> None:
    assert [task.task_id for task in dags["model_rollout"].topological_sort()] == ["find_candidate", "roll_out"]
    assert dags["model_rollback"].task_ids == ["roll_back"]
    assert dags["model_rollback"].schedule is None


def test_package_announces_what_model_rollout_listens_to(dags: dict[str, Any]) -> None:
    (outlet,) = dags["model_refresh"].get_task("package").outlets
    assert outlet.uri == "freshrank://candidate/" or outlet.uri == "freshrank://candidate"
    assert type(dags["model_rollout"].timetable).__name__ == "PartitionedAssetTimetable"
    assert dags["model_rollout"].timetable.asset_condition == outlet


def test_every_dag_can_be_operated(dags: dict[str, Any]) -> None:
    for name, dag in dags.items():
        assert dag.doc_md and f"### {name}" in dag.doc_md and "docs/runbooks/" in dag.doc_md, name
        assert {"ranker", "tier-1"} <= set(dag.tags), name
        assert dag.max_active_runs == 1 and dag.catchup is False, name
        for task in dag.tasks:
            assert task.owner == "ranker", task.task_id
            assert task.execution_timeout or task.task_id == "request_review", task.task_id
            assert type(task.retry_policy).__name__ == "RetryByErrorClass", task.task_id
            assert task.retries == 8 and task.retry_delay == timedelta(seconds=5), task.task_id


def test_a_dag_file_is_short_enough_to_be_read_aloud() -> None:
    for path in DAGS.glob("[!_]*.py"):
        assert len(path.read_text().splitlines()) <= 85, path.name


def test_gpu_steps_take_queue_and_pool_from_the_settings(dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from _ranker import gpu

    from tasks.domain.refresh import GPU_STEPS

    dag = dags["model_refresh"]
    assert dag.get_task("benchmark").pool == "one_benchmark_at_a_time"
    assert {task.task_id for task in dag.tasks if task.queue == "gpu"} == set(GPU_STEPS)
    assert {task.queue for task in dag.tasks} == {"gpu", "default"}
    assert gpu() == {"queue": "gpu", "pool": "default_pool"}
    monkeypatch.setenv("FRESHRANK_EXECUTOR", "celery")
    assert gpu() == {"queue": "gpu", "pool": "gpu"}
    monkeypatch.setenv("FRESHRANK_GPU_QUEUE", "h200")
    monkeypatch.setenv("FRESHRANK_GPU_POOL", "two_gpus")
    assert gpu() == {"queue": "h200", "pool": "two_gpus"}


GPU_POD = """
apiVersion: v1
kind: Pod
spec:
  containers: [{name: base, image: worker-gpu, resources: {limits: {nvidia.com/gpu: "2"}}}]
"""


def test_in_a_cluster_the_pods_of_gpu_steps_alone_ask_for_a_gpu(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the DAG processor parses, and what the scheduler reads back from the database."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    from tasks.domain.refresh import GPU_STEPS
    from tasks.steps import STEPS
    from tasks.worker import version_for_pods

    monkeypatch.setenv("FRESHRANK_EXECUTOR", "kubernetes")
    monkeypatch.setenv("FRESHRANK_GPU_POD", str(tmp_path / "pod.yaml"))
    bag = DagBag(str(DAGS / "model_refresh.py"))
    assert "the chart makes that file" in str(bag.import_errors)
    (tmp_path / "pod.yaml").write_text(GPU_POD.replace('{nvidia.com/gpu: "2"}', '{cpu: "2"}'))
    assert "gives container base no nvidia.com/gpu" in str(DagBag(str(DAGS / "model_refresh.py")).import_errors)
    (tmp_path / "pod.yaml").write_text(GPU_POD)
    bag = DagBag(str(DAGS / "model_refresh.py"))
    assert bag.import_errors == {}
    dag = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags["model_refresh"]))
    pods = {task.task_id: task.executor_config["pod_override"] for task in dag.tasks if task.executor_config}
    asking = {name: pod.spec.containers[0].resources for name, pod in pods.items() if pod.spec.containers[0].resources}
    assert set(asking) == set(GPU_STEPS)
    assert {resources.limits["nvidia.com/gpu"] for resources in asking.values()} == {"2"}
    told = {name: [(one.name, one.value) for one in pod.spec.containers[0].env] for name, pod in pods.items()}
    asked = list(version_for_pods().items())
    assert told == dict.fromkeys(STEPS, asked), "every step's pod, once, GPU or not"


TRAINING = """
kind: Pod
spec: {serviceAccountName: finetune, containers: [{name: base, resources: {limits: {cpu: "1"}}}]}
---
kind: Job
metadata: {name: training}
"""


def test_with_a_job_of_several_pods_finetune_itself_only_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from _ranker import gpu, training

    from tasks.domain.errors import InputRejected

    assert training() == gpu()
    monkeypatch.setenv("FRESHRANK_TRAIN_JOB", str(tmp_path / "training.yaml"))
    with pytest.raises(InputRejected, match="needs executor kubernetes; executor is local"):
        training()
    monkeypatch.setenv("FRESHRANK_EXECUTOR", "kubernetes")
    monkeypatch.setenv("FRESHRANK_GPU_POD", str(tmp_path / "pod.yaml"))
    (tmp_path / "pod.yaml").write_text(GPU_POD)
    with pytest.raises(InputRejected, match="which holds no Pod and Job; the chart makes that file"):
        training()
    (tmp_path / "training.yaml").write_text(TRAINING)
    pod = training()["executor_config"]["pod_override"]
    assert pod.spec.service_account_name == "finetune" and pod.spec.containers[0].resources.limits == {"cpu": "1"}
    assert training()["queue"] == "gpu"


@pytest.mark.parametrize("clock", ["00:00", "05:01", "05:53", "07:30", "23:59"])
def test_unpausing_starts_no_run_for_a_slot_that_is_over(
    dags: dict[str, Any], clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make run` unpauses and triggers: a scheduled run beside it would take its place in the queue."""
    import pendulum
    from airflow.serialization.encoders import coerce_to_core_timetable
    from airflow.timetables import trigger
    from airflow.timetables.base import TimeRestriction

    now = pendulum.parse(f"2026-11-22T{clock}:22Z")
    monkeypatch.setattr(trigger, "utcnow", lambda: now)
    dag = dags["model_refresh"]
    assert dag.start_date is None
    timetable = coerce_to_core_timetable(dag.timetable)
    first = timetable.next_dagrun_info_v2(
        last_dagrun_info=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
    )
    assert first is not None and first.run_after > now
    assert first.partition_key == first.run_after.strftime("%Y-%m-%d") and first.run_after.hour == 5


@pytest.mark.parametrize(
    ("dag", "param", "bad"),
    [
        ("model_refresh", "partition", "2017-7-1"),
        ("model_refresh", "partition", "latest"),
        ("model_refresh", "partition", 20170701),
        ("model_refresh", "recipe", "../../etc/passwd"),
        ("model_refresh", "candidates", "all"),
        ("model_refresh", "approval", "yes"),
        ("model_rollback", "to", "latest"),
        ("model_rollback", "reason", "bad"),
        ("model_rollback", "confirm", False),
    ],
)
def test_the_form_refuses(dags: dict[str, Any], dag: str, param: str, bad: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    form = copy.deepcopy(dags[dag].params)
    with pytest.raises(ParamValidationError):
        form.get_param(param).resolve(value=bad)


def test_the_form_takes_what_it_says(dags: dict[str, Any]) -> None:
    form = copy.deepcopy(dags["model_refresh"].params)
    assert dict(form.dump()) == {"partition": None, "recipe": None, "candidates": "both", "approval": False}
    assert form.get_param("partition").resolve(value="2017-07-01") == "2017-07-01"
    assert form.get_param("recipe").resolve(value="tiny") == "tiny"
    assert copy.deepcopy(dags["model_rollback"].params).get_param("confirm").resolve(value=True) is True


def test_the_triggerer_can_import_the_trigger_with_the_environment_that_the_supervisor_gives_it(tmp_path: Path) -> None:
    from _partition_trigger import PartitionTrigger

    from infra.local.airflow_config import environment
    from tasks.settings import Settings

    path, given = PartitionTrigger("behaviour/x", "2026-11-22T00:00:00+00:00", 5).serialize()
    module, name = path.rsplit(".", 1)
    code = f"import {module}; t = {module}.{name}(**{given!r}); assert t.serialize() == ({path!r}, {given!r})"
    child = {**os.environ, **environment(Settings(home=tmp_path)), "AIRFLOW_HOME": os.environ["AIRFLOW_HOME"]}
    child["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=child, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-1500:]


def test_every_page_that_a_dag_names_exists(dags: dict[str, Any]) -> None:
    named = {page for dag in dags.values() for page in re.findall(r"docs/runbooks/\w+\.md", dag.doc_md)}
    assert {"docs/runbooks/rollback.md", "docs/runbooks/model_refresh.md"} <= named
    assert [page for page in named if not (REPO / page).is_file()] == []


@pytest.mark.parametrize("broken", [False, True])
def test_a_night_is_red_only_where_a_bar_is_broken(
    dags: dict[str, Any], broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.domain.errors import InputRejected
    from tasks.gate_trials import nightly

    (task,) = dags["gate_error_rates"].tasks
    assert task.pool == "one_benchmark_at_a_time" and [link.name for link in task.operator_extra_links]
    body = task.python_callable
    monkeypatch.setitem(body.__globals__, "get_current_context", lambda: {"run_id": "scheduled__1"})
    told = {"sentence": "the gate breaks its bar", "broken": broken}
    monkeypatch.setattr(nightly, "measure", lambda settings, run_key: (f"s3://{run_key}.json", told))
    if broken:
        with pytest.raises(InputRejected, match="breaks its bar"):
            body()
    else:
        assert body() == "s3://scheduled__1.json"
