"""The rollout log on disk: append-only, hash-chained, one winner per revision. Never updated, never deleted from."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.rollout_log import Draft, Row, already_done, check_chain, following, read_row, spelled

SCHEMA = """
CREATE TABLE IF NOT EXISTS rollout_log (
    rev  INTEGER PRIMARY KEY,
    op   TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS rollout_log_keep BEFORE UPDATE ON rollout_log
    BEGIN SELECT RAISE(ABORT, 'the rollout log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS rollout_log_hold BEFORE DELETE ON rollout_log
    BEGIN SELECT RAISE(ABORT, 'the rollout log is append-only'); END;
"""


class RolloutLog(Protocol):
    """Rows in order of revision. `append` is the only way to change what serves."""

    def append(self, draft: Draft, *, expected: int, at: datetime) -> Row:
        """Add a row after revision `expected` and return it, on disk. The same `op` again returns the row it has.

        Raises:
            Conflict: somebody appended first, or `op` was used for something else. Nothing was written.
        """
        ...

    def rows(self, after: int = 0) -> list[Row]: ...

    def find(self, op: str) -> Row | None: ...

    def verify(self) -> None:
        """Raises InputRejected at the first row that is not as it was written."""
        ...


class MemoryLog:
    """The in-memory twin. Passes the same contract suite as SqliteLog and PostgresLog."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._lock = threading.Lock()

    def append(self, draft: Draft, *, expected: int, at: datetime) -> Row:
        with self._lock:
            present = self.find(draft.op)
            if present:
                return already_done(present, draft)
            row = following(draft, self._rows[-1] if self._rows else None, expected, at)
            self._rows.append(row)
            return row

    def rows(self, after: int = 0) -> list[Row]:
        return self._rows[after:]

    def find(self, op: str) -> Row | None:
        return next((row for row in self._rows if row.op == op), None)

    def verify(self) -> None:
        check_chain(self._rows)


class SqliteLog:
    """One file. WAL with synchronous=FULL: a row that was returned survives a power cut. A connection per call, so that
    threads and other processes (the command line) may use the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.executescript(SCHEMA)

    def append(self, draft: Draft, *, expected: int, at: datetime) -> Row:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")  # takes the write lock before reading: two writers cannot see the same head
            present = _row(db.execute("SELECT body FROM rollout_log WHERE op = ?", (draft.op,)).fetchone())
            if present:
                return already_done(present, draft)
            head = _row(db.execute("SELECT body FROM rollout_log ORDER BY rev DESC LIMIT 1").fetchone())
            row = following(draft, head, expected, at)
            db.execute("INSERT INTO rollout_log (rev, op, body) VALUES (?, ?, ?)", (row.rev, row.op, spelled(row)))
            db.execute("COMMIT")
            return row

    def rows(self, after: int = 0) -> list[Row]:
        with self._open() as db:
            found = db.execute("SELECT body FROM rollout_log WHERE rev > ? ORDER BY rev", (after,)).fetchall()
        return [read_row(body) for (body,) in found]

    def find(self, op: str) -> Row | None:
        with self._open() as db:
            return _row(db.execute("SELECT body FROM rollout_log WHERE op = ?", (op,)).fetchone())

    def verify(self) -> None:
        check_chain(self.rows())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=10, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                yield db
            finally:
                db.close()  # without COMMIT this rolls back
        except sqlite3.Error as err:
            raise Unavailable(f"the rollout log {self.path} cannot be used: {err}; traffic stays as it is") from err


def open_log(data: Path, url: str | None) -> RolloutLog:
    """The log of this stack: a file under its data, or the PostgreSQL database of the URL."""
    if url is None:
        return SqliteLog(data / "controller" / "rollout.db")
    if not url.startswith(("postgresql://", "postgres://")):
        raise InputRejected(
            "rollout_log is no PostgreSQL URL; write postgresql://user@host/database, or leave it empty"
        )
    from tasks.controller.postgres_log import PostgresLog

    return PostgresLog(url)


def _row(found: tuple[str] | None) -> Row | None:
    return read_row(found[0]) if found else None
