"""What the training side says of itself, as metrics: the verdict on the newest day, the last run of every DAG.

Read from the store and from Airflow, by whoever watches; nothing that serves reads it.
"""

from __future__ import annotations

from tasks.adapters.airflow import FINAL_STATES, AirflowClient
from tasks.adapters.partitions import accepted_days, landed_days
from tasks.adapters.store import Store
from tasks.domain.manifest import Manifest

Sample = tuple[str, dict[str, str], float]  # name, labels, value
ACCEPTED, PENDING = "accepted", "pending"


def data_metrics(store: Store) -> list[Sample]:
    """One sample for the newest landed day: its verdict is accepted, hold, refuse, or pending while nobody has judged it.

    Raises Unavailable.
    """
    landed = landed_days(store)
    if not landed:
        return []
    day = landed[-1]
    verdict = ACCEPTED if day in accepted_days(store) else _judged(store, day)
    return [("freshrank_data_last_verdict", {"day": day, "verdict": verdict}, 1.0)]


def _judged(store: Store, day: str) -> str:
    keys = [k for k in store.list(f"runs/validate_data/{day}/") if k.endswith(".json") and k.count("/") == 3]
    runs = [Manifest.model_validate_json(store.get(key)) for key in keys]
    last = max(runs, key=lambda run: run.started_at, default=None)
    if last is None:
        return PENDING
    days = last.summary.get("days", {})
    return str(days.get(day, {}).get("verdict", last.summary.get("verdict", PENDING)))


def dag_metrics(airflow: AirflowClient) -> list[Sample]:
    """1 for a DAG whose last ended run failed, else 0. A DAG that never ended a run has no sample. Raises Unavailable."""
    found: list[Sample] = []
    for dag in airflow.dags():
        ended = [run for run in airflow.runs(dag, limit=5) if run["state"] in FINAL_STATES]
        if ended:
            found.append(("freshrank_dag_last_run_failed", {"dag": dag}, float(ended[0]["state"] == "failed")))
    return found
