"""What the tasks of all our DAGs share: the retry rule, where GPU steps run, and the body that runs one step.

Parsed for every task: nothing heavy is imported here. Only manifest URIs travel through XCom.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, BaseOperatorLink, RetryDecision, RetryPolicy, get_current_context, task
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException

import tasks
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.refresh import is_skipped, no_word
from tasks.settings import Settings

CANDIDATE = Asset("freshrank://candidate")
FIRST_DELAY, LONGEST_DELAY = timedelta(seconds=5), timedelta(minutes=10)
RETRIES = 8  # 5 s, 10 s, 20 s ... 10 min: 20 minutes in all, longer than any restart of a service
REVIEW = "request_review"
GPU = "nvidia.com/gpu"
BASE = "base"  # Airflow's name of the container that runs the task
RUNS_WHERE_OTHERS_SKIP = "none_failed_min_one_success"


class RetryByErrorClass(RetryPolicy):
    """Wrong input fails at once; what did not answer is asked again, ever more slowly; a bug gets one more try."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any | None = None
    ) -> RetryDecision:
        # a cleared task counts on from its old tries, and `max_tries` moves with it
        attempt = max(1, try_number - (max_tries - RETRIES))
        if isinstance(exception, InputRejected):
            return RetryDecision.fail(f"the input is wrong, a retry would say the same: {exception}")
        if isinstance(exception, Unavailable | OSError | AirflowRuntimeError):
            delay = min(FIRST_DELAY * 2 ** min(attempt - 1, RETRIES), LONGEST_DELAY)
            return RetryDecision.retry(delay, f"did not answer, again in {delay.total_seconds():.0f} s: {exception}")
        if attempt == 1:
            return RetryDecision.retry(FIRST_DELAY, f"unexpected {type(exception).__name__}, one more try")
        return RetryDecision.fail(f"unexpected {type(exception).__name__} twice: this is a bug, or too little memory")


def mark_failed(context: Any) -> None:
    """The last try failed: say so on the refresh's page in MLflow."""
    from tasks.refresh import close_refresh

    settings, note = Settings(), None
    if not context.get("exception"):  # the scheduler's word: no process of the step lived to raise one
        note = no_word(context["ti"].task_id, settings.queued_deadline_s)
    close_refresh(asked(context), "FAILED", settings, note=note)


DEFAULTS: dict[str, Any] = {
    "owner": "ranker",
    "retries": RETRIES,
    "retry_policy": RetryByErrorClass(),
    # where no exception reaches the policy (a killed worker) the scheduler follows the same rule
    "retry_delay": FIRST_DELAY,
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": LONGEST_DELAY,
    "execution_timeout": timedelta(hours=1),
}


def gpu() -> dict[str, Any]:
    """Queue and pool, in a cluster also the pod, of the steps that use a GPU where there is one: here, and nowhere else."""
    settings = Settings()
    placed: dict[str, Any] = {"queue": settings.gpu_queue, "pool": settings.pool_of_gpu_steps}
    if settings.executor == "kubernetes":
        placed["executor_config"] = {"pod_override": _gpu_pod(settings.gpu_pod)}
    return placed


def _pod(asked: dict[str, Any]) -> dict[str, Any]:
    """In a cluster: the pod of a step, told which code and lock asked for it, so that another one's image is refused.

    The environment is the scheduler's, because Airflow keeps what the DAG processor parsed and starts pods by that.
    """
    if Settings().executor != "kubernetes":
        return {}
    from kubernetes.client import V1Container, V1EnvVar, V1Pod, V1PodSpec

    from tasks.worker import version_for_pods

    pod = asked.get("executor_config", {}).get("pod_override") or V1Pod(
        spec=V1PodSpec(containers=[V1Container(name=BASE)])
    )
    base = next(one for one in pod.spec.containers if one.name == BASE)
    base.env = [*(base.env or ()), *(V1EnvVar(name=key, value=value) for key, value in version_for_pods().items())]
    return {"executor_config": {"pod_override": pod}}


def training() -> dict[str, Any]:
    """As gpu(), for finetune. With train_job the GPUs are those of the Job that it starts, and its own pod only waits."""
    settings, placed = Settings(), gpu()
    if settings.train_job is None:
        return placed
    if settings.executor != "kubernetes":
        raise InputRejected(f"train_job is set, which needs executor kubernetes; executor is {settings.executor}")
    return placed | {"executor_config": {"pod_override": _waiting_pod(settings.train_job)}}


def _waiting_pod(file: Path) -> Any:
    """The V1Pod beside the Job. Raises InputRejected where the file has not both."""
    import yaml
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    found = {one["kind"]: one for one in yaml.safe_load_all(file.read_text())} if file.is_file() else {}
    if not {"Pod", "Job"} <= found.keys():
        raise InputRejected(
            f"train_job is {file}, which holds no Pod and Job; the chart makes that file "
            f"(infra/helm/freshrank/templates/training.yaml)"
        )
    return PodGenerator.deserialize_model_dict(found["Pod"])


def _gpu_pod(file: Path | None) -> Any:
    """The V1Pod of the file; Airflow shows what is wrong with it as the DAG's import error, before anything runs.

    Raises:
        InputRejected: there is no such file, or its pods would get no GPU.
    """
    # only where tasks are pods: the client takes half a second to import
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    if file is None or not file.is_file():
        raise InputRejected(
            f"executor kubernetes needs the pod of the GPU steps, and gpu_pod is {file}; the chart makes that file and "
            f"mounts it (infra/helm/freshrank/templates/gpu-pod.yaml)"
        )
    pod = PodGenerator.deserialize_model_file(str(file))
    base = next((one for one in (pod.spec.containers if pod.spec else ()) if one.name == BASE), None)
    limits = (base.resources.limits if base and base.resources else None) or {}
    if not int(limits.get(GPU, 0)):
        raise InputRejected(
            f"{file} gives container base no {GPU}: GPU steps would run on a CPU without anybody knowing"
        )
    return pod


def recipe_names() -> list[str]:
    """By the names of the files: opening them is for the step that trains."""
    return sorted(path.stem for path in Path(tasks.__file__).with_name("recipes").glob("*.yaml"))


def asked(context: Any) -> Any:
    from tasks.refresh import Asked

    return Asked(context["run_id"], dict(context["params"]), context["dag_run"].partition_key)


def answered(context: Any) -> Any:
    """What a person answered when asked for a review; None where nobody was asked."""
    return context["ti"].xcom_pull(task_ids=REVIEW)


class Pages(BaseOperatorLink):
    """A button on the task: the report and the Data Docs of this step, in MLflow. Written when the task ends."""

    name = "Report and Data Docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        from tasks.refresh import pages_of

        return pages_of(operator.task_id, ti_key.run_id, Settings())


def step(name: str, **operator: Any) -> Callable[..., Any]:
    """A task that runs the step `name` on the manifests given by name, and returns the URI of its own manifest."""
    outlets = operator.get("outlets", ())
    operator |= _pod(operator)

    @task(task_id=name, **operator)
    def body(manifests: dict[str, str | None]) -> str:
        from tasks.refresh import run_step

        context = get_current_context()
        if is_skipped(name, context["params"]):
            raise AirflowSkipException(f"{name}: this run was asked for a new state only, which needs no new weights")
        made = {upstream: uri for upstream, uri in manifests.items() if uri}
        review = answered(context) if name == "package" else None
        uri, partition = run_step(name, made, asked(context), Settings(), review=review)
        for asset in outlets:
            event = context["outlet_events"][asset]
            event.extra = {"manifest": uri, "refresh": context["run_id"]}
            # Without a key of its own the event would carry the run's: none for a manual run, the wall date for a
            # scheduled one. A partitioned consumer ignores the first, a plain one the second (airflow 3.3).
            event.add_partitions(partition)
        return uri

    def task_of(**manifests: Any) -> Any:
        # a dict, because Airflow would mix its whole context into keyword arguments of any name
        made = body(manifests)
        made.operator.operator_extra_links = (Pages(),)
        return made

    return task_of
