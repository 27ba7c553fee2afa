"""One promise, two rollout logs: in memory and on SQLite."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.controller.log import MemoryLog, RolloutLog, SqliteLog
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.rollout_log import GENESIS, Kind
from tests.rollout_builders import NOON, A, B, a_draft


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> RolloutLog:
    return MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "controller" / "rollout.db")


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
