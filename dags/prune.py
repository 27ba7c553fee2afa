"""
### prune: what nobody needs any more goes, every day

Old outputs, releases and views of the store (marked one day, deleted the next), copies and logs that lie on the machines of steps,
and Airflow's own old runs. Never what serves, served before, is being rolled out or is pinned, nor what led to it, nor what a
decision of the last days rests on: the policy's `retention` says how many. A day of its own, not the end of the refresh: where
refreshes fail for a week the disk fills all the same. **Red says in one sentence why**; a skipped `store` means that nothing
serves yet, or that on AWS another role prunes. `docs/runbooks/prune.md`; the same by hand: `freshrank prune --dry-run`.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from _ranker import DEFAULTS, gpu
from airflow.sdk import CronTriggerTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from tasks.settings import Settings

log = logging.getLogger("freshrank.dags")


@task
def machine() -> None:
    from tasks.prune.commands import of_machine

    freed = of_machine(Settings())
    log.info("things=%s bytes=%s", freed.things, freed.bytes)


@task
def store() -> None:
    from tasks.prune.commands import NotHere, in_words, of_store

    try:
        log.info("\n".join(in_words(of_store(Settings()), dry_run=False)))
    except NotHere as err:
        raise AirflowSkipException(str(err)) from err


@task
def airflow_runs() -> None:
    from infra.local.airflow_clean import clean
    from tasks.domain.errors import Forbidden

    try:
        log.info(clean(Settings()))
    except Forbidden as err:
        raise AirflowSkipException(str(err)) from err


@dag(
    schedule=CronTriggerTimetable("0 3 * * *", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # whoever has to switch it on finds out by a full disk
    default_args=DEFAULTS,
    tags=["ranker", "tier-1"],
    doc_md=__doc__,
)
def prune() -> None:
    machine()
    if Settings().executor == "celery":  # else there is one disk, or in a cluster one that ends with its pod
        machine.override(task_id="machine_of_gpu_worker", **gpu())()
    store()
    airflow_runs()


prune()
