"""
### model_rollout: a packaged release takes over the traffic step by step, or is taken out

Started by the asset event of `model_refresh`. Hands the release to the controller, which copies live requests to it
(shadow), gives it a small share (canary), then all, and judges it all the time. **Green: it was promoted. Red: it was
not, and the champion serves**; the log says why, in the controller's words. The controller does not need this run:
stopping it stops nothing. To stop the rollout: `freshrank abort`. To go back after it: `docs/runbooks/rollback.md`.

A retry joins the rollout that is under way. By hand: give the manifest of a `package` step.
"""

from __future__ import annotations

import logging
from typing import Any

from _ranker import CANDIDATE, DEFAULTS
from airflow.sdk import Param, PartitionedAssetTimetable, dag, get_current_context, task

from tasks.settings import Settings

log = logging.getLogger("freshrank.dags")
FORM = {
    "package": Param(
        None, type=["null", "string"], description="manifest URI of a package step; empty: the asset event's"
    )
}


@task
def find_candidate(triggering_asset_events: Any = None) -> str:
    """The manifest of the newest candidate: of two packaged while a rollout ran, only the later one counts."""
    from tasks.domain.errors import InputRejected

    if named := get_current_context()["params"]["package"]:
        return str(named)
    events = sorted((triggering_asset_events or {}).get(CANDIDATE, ()), key=lambda event: event.timestamp)
    if not events:
        raise InputRejected("no asset event started this run and the form names no package; give its manifest URI")
    return str(events[-1].extra["manifest"])


@task
def roll_out(package: str) -> None:
    from tasks.refresh import roll_out as submitted

    context = get_current_context()
    log.info(submitted(package, context["run_id"], Settings()))


@dag(
    schedule=PartitionedAssetTimetable(assets=CANDIDATE),
    catchup=False,
    max_active_runs=1,
    params=FORM,
    default_args=DEFAULTS,
    tags=["ranker", "tier-1"],
    doc_md=__doc__,
)
def model_rollout() -> None:
    roll_out(find_candidate())


model_rollout()
