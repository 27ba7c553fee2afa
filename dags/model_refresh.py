"""
### model_refresh: one day of behaviour data becomes a proven release, or a reason why not

Lands the day, proves the data sound, makes two candidates (new weights; new state with the champion's weights),
compares both with the release that serves, and packages what proved itself. The asset event of `package` starts
`model_rollout`.

**A rejected candidate is a successful run**: the champion keeps serving, and the log of `report_rejection` says why. So
is a day that is empty, held or refused. **A failed run means the pipeline is broken**: traffic is not affected; see
`docs/runbooks/model_refresh.md`, and to go back to an older release `docs/runbooks/rollback.md`.

With *approval* the run waits for a person before `package`; a person may then also ship weights that the gate found
inconclusive, and must say why: who, why, when and which verdict are recorded in the release's step (`override.json`).
Nobody answering within a day is a no. The same numbers as text: `freshrank explain`.
"""

from __future__ import annotations

from datetime import timedelta

from _partition_trigger import PartitionLanded
from _ranker import CANDIDATE, DEFAULTS, REVIEW, RUNS_WHERE_OTHERS_SKIP, gpu, mark_failed, recipe_names, step, training
from _routes import evidence, report_data, report_rejection, route, route_data
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import CronPartitionTimetable, Param, dag

from tasks.domain.refresh import CANDIDATES, DAY

RECIPE = r"^([a-z0-9][a-z0-9_-]*|/.+\.yaml)$"
HOW_TO_TRAIN = "a recipe's name, or the absolute path of a file of your own; empty: as the settings say"
WHY = "why this may ship; needed where the gate ships nothing, and recorded with your name"
FORM = {
    "partition": Param(None, type=["null", "string"], pattern=DAY, description="e.g. 2017-07-01; empty: by the clock"),
    "recipe": Param(None, type=["null", "string"], pattern=RECIPE, examples=recipe_names(), description=HOW_TO_TRAIN),
    "candidates": Param("both", enum=list(CANDIDATES), description="what to make and compare with the champion"),
    "approval": Param(False, type="boolean", description="wait for a person before anything is packaged"),
}


@dag(
    # No start_date, and no grace for a slot that is over (False is a tenth of a day): unpausing would start it beside ours
    schedule=CronPartitionTimetable("0 5 * * *", timezone="UTC", key_format="%Y-%m-%d", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    params=FORM,
    default_args=DEFAULTS | {"on_failure_callback": mark_failed},
    user_defined_macros={"evidence": evidence},
    tags=["ranker", "tier-1"],
    doc_md=__doc__,
)
def model_refresh() -> None:
    ingested = step("ingest")()
    landed = PartitionLanded(task_id="wait_for_partition", ingested=ingested, timeout=20 * 3600)
    sound = step("validate_data")(ingest=ingested)
    champion = step("resolve_champion")(validate_data=sound)
    dataset = step("build_dataset")(validate_data=sound, resolve_champion=champion)
    given = {"build_dataset": dataset, "resolve_champion": champion}
    weights = step("finetune", **training(), execution_timeout=timedelta(hours=6))(**given)
    small = step("compress", **gpu())(finetune=weights, build_dataset=dataset)

    compare = {"trigger_rule": RUNS_WHERE_OTHERS_SKIP}  # a run for a new state only skips finetune and compress
    scores = step("evaluate", **gpu(), **compare)(compress=small, **given)
    alone = gpu() | {"pool": "one_benchmark_at_a_time"}
    speed = step("benchmark", **alone, **compare)(compress=small, evaluate=scores, **given)
    verdict = step("gate", **compare)(evaluate=scores, benchmark=speed, compress=small, resolve_champion=champion)
    request_review = ApprovalOperator(
        task_id=REVIEW,
        subject="Ship the candidate of {{ run_id }}?",
        body="{{ evidence(ti.xcom_pull(task_ids='gate')) }}",
        defaults=ApprovalOperator.REJECT,
        params={"reason": Param("", type=["null", "string"], description=WHY)},
        response_timeout=timedelta(days=1),
        execution_timeout=None,
    )
    release = step("package", outlets=[CANDIDATE], **compare)(gate=verdict, compress=small, **given)
    early = [report_data.override(task_id=name)(sound) for name in ("nothing_to_do", "keep_champion")]
    landed >> sound >> route_data(sound) >> [champion, *early]
    route(verdict) >> [request_review, release, report_rejection(verdict)]
    request_review >> release


model_refresh()
