"""
### rollback_drill: give the running stack bad releases and see them stopped

By hand, best once a week and never during a rollout: `freshrank drill` as a form. Copies of the champion that turn bad under
traffic (wrong order, constant, NaN, slow, crash loop, memory hog) are rolled out and must be taken out again before a
user sees them; then a good copy is pressed back by hand. **Green: all were stopped and no request was lost. Red: one was
not; the champion serves all the same.** What to do: `docs/runbooks/rollback_drill.md`.

It runs on the machine that serves, with its signing key. A retry begins again with new copies.
"""

from __future__ import annotations

import logging

from _ranker import DEFAULTS
from airflow.sdk import Param, dag, get_current_context, task

from tasks.settings import Settings

log = logging.getLogger("freshrank.dags")
FORM = {
    "rate": Param(50, type="number", minimum=1, maximum=1000, description="requests a second of the drill's own"),
    "confirm": Param(False, type="boolean", const=True, description="yes, roll out bad releases on the running stack"),
}


@task
def drill() -> None:
    from tasks.drill import KINDS, rehearse, require_passed

    results = rehearse(Settings(), list(KINDS), rate=float(get_current_context()["params"]["rate"]))
    for one in results:
        log.info(
            "drill=%s state=%s step=%s detected_s=%s lost=%d", one.kind, one.state, one.step, one.detected_s, one.lost
        )
    require_passed(results)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=FORM,
    default_args=DEFAULTS,
    tags=["ranker", "tier-1"],
    doc_md=__doc__,
)
def rollback_drill() -> None:
    drill()


rollback_drill()
