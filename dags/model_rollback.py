"""
### model_rollback: send all traffic back to an older release, now

The same as `freshrank rollback --reason TEXT`, which also works when Airflow is down: `docs/runbooks/rollback.md`.
Empty *to* means the previous champion; during a rollout it means stopping the rollout. A retry of one run presses only
once. Green: no new request reaches the release that was left. Nothing here waits for training, MLflow or the object
store.
"""

from __future__ import annotations

import logging

from _ranker import DEFAULTS
from airflow.sdk import Param, dag, get_current_context, task

from tasks.settings import Settings

log = logging.getLogger("freshrank.dags")
RELEASE = r"^[0-9a-f]{64}$"
FORM = {
    "to": Param(
        None, type=["null", "string"], pattern=RELEASE, description="release digest; empty: the previous champion"
    ),
    "reason": Param(
        type="string", minLength=5, maxLength=500, description="one sentence; the rollout log keeps it forever"
    ),
    "confirm": Param(False, type="boolean", const=True, description="yes, change what serves"),
}


@task
def roll_back() -> None:
    from tasks.refresh import roll_back as pressed

    context = get_current_context()
    actor = f"airflow:{context['dag_run'].triggering_user_name or 'unknown'}"
    log.info(pressed(context["params"], actor, context["run_id"], Settings()))


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=FORM,
    default_args=DEFAULTS,
    tags=["ranker", "tier-1"],
    doc_md=__doc__,
)
def model_rollback() -> None:
    roll_back()


model_rollback()
