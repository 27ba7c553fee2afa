"""Airflow's own old runs, out of its database by Airflow's own means: `airflow db clean`. Logs are tasks/prune/machine.py's.

In a process of its own with the stack's settings, because Airflow keeps tasks away from its database.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from infra.local import airflow_config
from tasks.domain.errors import Forbidden, Unavailable
from tasks.policies import load_policy
from tasks.settings import Settings

TIMEOUT_S = 1800
# the table of logins is not ours to shorten, and a DAG's last run stays: Airflow's own default
COMMAND = ("db", "clean", "--skip-archive", "--yes", "--clean-before-timestamp")


def clean(settings: Settings) -> str:
    """Delete runs, task instances, XComs and events older than the policy's `log_days`; what it did, in one sentence.

    Raises:
        Forbidden: this Airflow's database is not ours: whoever installed it cleans it.
        Unavailable: the database did not answer, or was busy for half an hour. What was deleted stays deleted.
    """
    if settings.executor == "kubernetes" and settings.airflow_database is None:
        raise Forbidden("Airflow's database belongs to the chart that installed it; clean it there: `airflow db clean`")
    before = datetime.now(UTC) - timedelta(days=load_policy(settings.policy).retention.log_days)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
    command = [sys.executable, "-m", "airflow", *COMMAND, before.isoformat(timespec="seconds")]
    try:
        done = subprocess.run(
            command,
            env=inherited | airflow_config.environment(settings),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise Unavailable(f"`airflow db clean` did not end within {TIMEOUT_S} s; it goes on tomorrow") from err
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"`airflow db clean` failed with {done.returncode}: {' '.join(said[-3:])[-500:]}")
    return f"Airflow's rows from before {before:%Y-%m-%d} are gone"
