"""
### gate_error_rates: how often the gate errs, measured every night on the last run

Trains the latest run's recipe with other seeds and on damaged rows, and lets the gate judge hundreds of mixtures of them on real
slates. The task's log has the sentence; *Report and Data Docs* leads to the table in MLflow. **Red means that the gate blocks
sound models, or promotes damaged ones, more often than its bar allows**: `docs/runbooks/gate_error_rates.md`. Nothing that
serves is touched, and a night without a new run does no work. The same by hand: `freshrank gate-error-rates`.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from _ranker import DEFAULTS, Pages, gpu
from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task

from tasks.settings import Settings

log = logging.getLogger("freshrank.dags")


@task(task_id="gate_error_rates", execution_timeout=timedelta(hours=6), **(gpu() | {"pool": "one_benchmark_at_a_time"}))
def measure() -> str:
    from tasks.gate_trials.nightly import measure as measured
    from tasks.gate_trials.nightly import require_bars

    uri, summary = measured(Settings(), run_key=get_current_context()["run_id"])
    log.info(summary["sentence"])
    require_bars(summary)
    return uri


@dag(
    schedule=CronTriggerTimetable("0 1 * * *", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    tags=["ranker", "tier-1"],
    doc_md=__doc__,
)
def gate_error_rates() -> None:
    measure().operator.operator_extra_links = (Pages(),)


gate_error_rates()
