"""The rollout log in PostgreSQL, for controllers that do not own a disk: the same rows, the same promise, by URL.

A press of the rollback button writes here first, so this database must not be one that training can take down.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.domain.errors import Unavailable
from tasks.domain.rollout_log import Draft, Row, already_done, check_chain, following, read_row, spelled

if TYPE_CHECKING:
    import psycopg2.extensions

LOCK_KEY = 0x66726573  # of the advisory lock behind which the schema is made: two controllers may start at once
TIMEOUT_S = 5
SCHEMA = """
CREATE TABLE IF NOT EXISTS rollout_log (rev INTEGER PRIMARY KEY, op TEXT NOT NULL UNIQUE, body TEXT NOT NULL);
CREATE OR REPLACE FUNCTION rollout_log_keep() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the rollout log is append-only'; END $$;
CREATE OR REPLACE TRIGGER rollout_log_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON rollout_log
    FOR EACH STATEMENT EXECUTE FUNCTION rollout_log_keep();
"""


class PostgresLog:
    """One connection, used by one thread at a time and opened anew when it broke.

    A row that was returned is on the server's disk (synchronous_commit), whatever the server's default says.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._db: psycopg2.extensions.connection | None = None
        self._turn = threading.Lock()
        with self._transaction() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
            cursor.execute(SCHEMA)

    def append(self, draft: Draft, *, expected: int, at: datetime) -> Row:
        with self._transaction() as cursor:
            cursor.execute("SET LOCAL synchronous_commit TO on")
            # before reading: two writers cannot see the same head. Readers go on.
            cursor.execute("LOCK TABLE rollout_log IN SHARE ROW EXCLUSIVE MODE")
            present = _one(cursor, "SELECT body FROM rollout_log WHERE op = %s", (draft.op,))
            if present:
                return already_done(present, draft)
            head = _one(cursor, "SELECT body FROM rollout_log ORDER BY rev DESC LIMIT 1")
            row = following(draft, head, expected, at)
            values = (row.rev, row.op, spelled(row))
            cursor.execute("INSERT INTO rollout_log (rev, op, body) VALUES (%s, %s, %s)", values)
            return row

    def rows(self, after: int = 0) -> list[Row]:
        with self._transaction() as cursor:
            cursor.execute("SELECT body FROM rollout_log WHERE rev > %s ORDER BY rev", (after,))
            found = cursor.fetchall()
        return [read_row(body) for (body,) in found]

    def find(self, op: str) -> Row | None:
        with self._transaction() as cursor:
            return _one(cursor, "SELECT body FROM rollout_log WHERE op = %s", (op,))

    def verify(self) -> None:
        check_chain(self.rows())

    def close(self) -> None:
        with self._turn:
            self._forget()

    @contextmanager
    def _transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """Commits at the end. After a commit that broke off, the same `op` again tells whether the row is there."""
        import psycopg2

        with self._turn:
            try:
                db = self._connection()
                with db, db.cursor() as cursor:  # commits, or rolls back
                    yield cursor
            except psycopg2.Error as err:
                self._forget()
                why = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
                raise Unavailable(
                    f"the rollout log in PostgreSQL cannot be used: {why}; traffic stays as it is"
                ) from err

    def _connection(self) -> psycopg2.extensions.connection:
        """The one there is, if the server still knows it: a restarted server must not cost the next press."""
        import psycopg2

        if self._db is not None:
            try:
                with self._db, self._db.cursor() as cursor:
                    cursor.execute("SELECT 1")
                return self._db
            except psycopg2.Error:
                self._forget()
        db = psycopg2.connect(self._url, connect_timeout=TIMEOUT_S, application_name="freshrank-controller")
        with db, db.cursor() as cursor:  # of the session; in the URL they would replace the caller's own options
            cursor.execute(f"SET statement_timeout TO '{TIMEOUT_S}s'; SET lock_timeout TO '{TIMEOUT_S}s'")
        self._db = db
        return db

    def _forget(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _one(cursor: Any, query: str, given: tuple[object, ...] = ()) -> Row | None:
    cursor.execute(query, given)
    found = cursor.fetchone()
    return read_row(found[0]) if found else None
