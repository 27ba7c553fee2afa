"""The DAG that lets go: its tasks, where they run, and Airflow's own rows in a real database."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.domain.errors import Forbidden, Unavailable
from tasks.prune.commands import NotHere
from tasks.prune.machine import Freed
from tasks.settings import Settings
from tests.dags.conftest import AIRFLOW, DAGS


def test_it_runs_by_itself_and_each_part_for_itself(dags: dict[str, Any]) -> None:
    dag = dags["prune"]
    assert set(dag.task_ids) == {"machine", "store", "airflow_runs"}
    assert dag.is_paused_upon_creation is False
    assert all(not task.upstream_task_ids for task in dag.tasks), (
        "a store that is down keeps nobody from freeing the disk"
    )


@pytest.mark.parametrize(("refusal", "store"), [(NotHere, "skipped"), (Forbidden, "failed")])
def test_only_who_by_design_does_not_prune_the_store_skips_that_part(
    airflow_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch, refusal: type[Exception], store: str
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    def may_not(settings: Settings) -> None:
        raise refusal("the object store refused control/pruned/stacks/a.json")

    monkeypatch.setattr("tasks.prune.commands.of_machine", lambda settings: Freed(things={}, bytes={}))
    monkeypatch.setattr("tasks.prune.commands.of_store", may_not)
    monkeypatch.setattr("infra.local.airflow_clean.clean", lambda settings: "cleaned")
    done = DagBag(str(DAGS)).dags["prune"].test()
    told = {ti.task_id: str(ti.state) for ti in done.get_task_instances()}
    assert told == {"machine": "success", "store": store, "airflow_runs": "success"}


def test_a_gpu_worker_of_its_own_prunes_its_own_disk(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("FRESHRANK_EXECUTOR", "celery")
    dag = DagBag(str(DAGS / "prune.py")).dags["prune"]
    assert dag.get_task("machine_of_gpu_worker").queue == "gpu" and dag.get_task("machine").queue == "default"


def test_airflow_s_old_rows_are_gone_and_the_young_ones_stay(
    airflow_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    from infra.local.airflow_clean import clean

    now = datetime.now(UTC)
    with create_session() as session:
        for name, days in (("prune-old", 31), ("prune-young", 29)):
            row = Log(event=name)
            row.dttm = now - timedelta(days=days)
            session.add(row)
    settings = Settings(airflow_database=AIRFLOW["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    assert clean(settings) == f"Airflow's rows from before {now - timedelta(days=30):%Y-%m-%d} are gone"
    with create_session() as session:
        left = {row.event for row in session.query(Log).filter(Log.event.like("prune-%"))}
        assert left == {"prune-young"}
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="`airflow db clean` failed with 1"):
        clean(settings)
    with pytest.raises(Forbidden, match="clean it there"):
        clean(settings.model_copy(update={"executor": "kubernetes", "airflow_database": None}))
