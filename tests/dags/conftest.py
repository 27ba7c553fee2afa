"""An Airflow home of its own, set before anything imports airflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
DAGS = REPO / "dags"
HOME = Path(tempfile.mkdtemp(prefix="freshrank-airflow-"))
AIRFLOW = {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__MP_START_METHOD": "spawn",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(HOME / "logs"),
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-this-test-session-and-long-enough-for-sha512-" + "x" * 16,
}
os.environ.update(AIRFLOW)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """The database is made once a session; `dags.test` brings the DAGs into it."""
    from airflow.models.pool import Pool
    from airflow.utils import db

    db.initdb()
    Pool.create_or_update_pool(name="one_benchmark_at_a_time", slots=1, description="", include_deferred=False)
    return HOME


@pytest.fixture(scope="session")
def dags(airflow_home: Path) -> dict[str, Any]:
    """Every DAG by id. Asserts first that there is something to look at."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(DAGS))
    assert bag.import_errors == {}
    assert sorted(bag.dags) == [
        "gate_error_rates",
        "model_refresh",
        "model_rollback",
        "model_rollout",
        "prune",
        "rollback_drill",
    ]
    return dict(bag.dags)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A freshrank home for one test. Its ports are not served: mirrors and clients meet a refused connection."""
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    monkeypatch.setenv("FRESHRANK_PORT_BASE", "36500")
    yield tmp_path
