"""Bring Airflow's database to the installed version and set the pools; a database known to be ready costs nothing.

Run by the supervisor as `python -m infra.local.airflow_database`, before any Airflow component starts.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra.local.airflow_config import database_url, home, pools
from tasks.adapters.broker import Broker
from tasks.atomic import write_atomically
from tasks.settings import Settings
from tasks.worker import version as version_of_code


def main() -> int:
    settings = Settings()
    if settings.executor == "celery":
        Broker(settings.broker).announce(version_of_code())
    stamp = home(settings) / "migrated.json"
    wanted = {"airflow": version("apache-airflow-core"), "pools": pools(settings), "database": database_url(settings)}
    if is_current(stamp, wanted, sqlite_file(settings)):
        return 0
    _migrate(settings)
    revision = sqlite_revision(sqlite_file(settings))
    told = json.dumps({**wanted, "revision": revision}, indent=1)
    write_atomically(stamp, told.encode(), mode=0o600)  # the URL of a PostgreSQL holds its password
    return 0


def is_current(stamp: Path, wanted: dict[str, Any], database: Path | None) -> bool:
    """True only if the stamp was written for this version, and the file still is at the revision it names.

    A database on a server is always asked: another machine may have moved it.
    """
    if database is None or not stamp.exists():
        return False
    try:
        found = json.loads(stamp.read_text())
    except ValueError:
        return False
    revision = found.pop("revision", None)
    return found == wanted and revision is not None and sqlite_revision(database) == revision


def sqlite_file(settings: Settings) -> Path | None:
    url = database_url(settings)
    return Path(url.removeprefix("sqlite:///").split("?")[0]) if url.startswith("sqlite:///") else None


def sqlite_revision(database: Path | None) -> str | None:
    if database is None or not database.exists():
        return None
    try:
        with sqlite3.connect(database) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError:
        return None
    return row[0] if row else None


def _migrate(settings: Settings) -> None:
    database = sqlite_file(settings)
    if database is not None:
        with sqlite3.connect(database) as connection:
            # kept in the file: readers no longer block the one writer, and the four components rarely meet
            connection.execute("PRAGMA journal_mode=WAL")
    from airflow.models.pool import Pool
    from airflow.utils import db

    db.upgradedb()
    for name, slots in pools(settings).items():
        Pool.create_or_update_pool(name=name, slots=slots, description="set by the supervisor", include_deferred=False)


if __name__ == "__main__":
    sys.exit(main())
