"""The next revision of a landed day without some users, and of its accepted day: files first, manifest last, as ever.

The manifest says which rows of the revision before are gone. So an accepted day follows by its row numbers alone, also
when it was judged on a revision whose bytes are deleted by now.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from threading import Lock
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.adapters.partitions import (
    accepted_key,
    described,
    landed_key,
    late_rows,
    put_day,
    read_accepted_manifest,
    read_caught,
    read_landed_manifest,
    read_users,
    users_key,
)
from tasks.adapters.store import Store
from tasks.adapters.tables import content_digest, contract_table, parquet_bytes, read_table
from tasks.domain.behaviour import PartitionManifest, partition_digest
from tasks.domain.contract import EVENT, USER

log = logging.getLogger("freshrank.erase")


class UserTables:
    """User tables by sha256, each read once, and written once without the users."""

    def __init__(self, store: Store, users: Collection[str]) -> None:
        self._store, self._users = store, users
        self._lock = Lock()
        self._held: dict[str, pl.DataFrame | None] = {}  # the other rows of a table that holds one of the users

    def holds(self, sha256: str | None) -> bool:
        with self._lock:
            if sha256 is not None and sha256 not in self._held:
                frame = frame_of(read_users(self._store, sha256))
                held = held_by(frame, self._users)
                self._held[sha256] = frame.filter(~held) if held.any() else None
            return sha256 is not None and self._held[sha256] is not None

    def put_without(self, sha256: str) -> tuple[str, str]:
        """(sha256 of the table without the users, digest of its rows)."""
        with self._lock:
            frame = self._held[sha256]
            assert frame is not None
            file, body = described("users", parquet_bytes(contract_table(frame, USER)), len(frame))
            self._store.put_new(users_key(file.sha256), body)
            return file.sha256, content_digest(frame, USER.key)


def landed_without(store: Store, day: str, users: Collection[str], tables: UserTables) -> PartitionManifest:
    """The newest revision of `day` if none of `users` is in it, else a new one without them.

    Raises:
        InputRejected: another writer was first, or deleted what was being read; the newest revision tells.
    """
    manifest = read_landed_manifest(store, day)
    file, body, plan = manifest.file("events"), b"", manifest.file("plan")
    events = frame_of(read_table(store, landed_key(day, file.name), file, EVENT))
    held = held_by(events, users)
    changes: dict[str, Any] = {"taken_out": tuple(held.arg_true().to_list())}
    content = dict(manifest.content)
    if held.any():
        events = events.filter(~held)
        file, body = described("events", parquet_bytes(contract_table(events, EVENT)), len(events))
        content["events"] = content_digest(events, EVENT.key)
    if manifest.users is not None and tables.holds(manifest.users):
        changes["users"], content["users"] = tables.put_without(manifest.users)
    elif not body:
        return manifest
    following = manifest.model_copy(
        update={
            **changes,
            "revision": manifest.revision + 1,
            "files": (file, plan),
            "rows": len(events),
            "late_rows": late_rows(events, day),
            "erased_rows": manifest.erased_rows + len(changes["taken_out"]),
            "content": content,
            "digest": partition_digest(day, content),
        }
    )
    put_day(store, landed_key(day, ""), [(file, body)] if body else [], following)
    log.info("partition=%s revision=%d taken_out=%d", day, following.revision, len(changes["taken_out"]))
    return following


def accepted_along(store: Store, landed: PartitionManifest) -> None:
    """Make the accepted day speak of the landed day's newest revision. Which of the rows were caught stays the same."""
    day = landed.partition
    manifest = read_accepted_manifest(store, day)
    if manifest.landed_revision >= landed.revision:
        return
    caught = read_caught(store, manifest)
    rows = caught["row"].to_numpy()
    still = np.ones(len(rows), bool)
    for revision in range(manifest.landed_revision + 1, landed.revision + 1):
        gone = np.array(read_landed_manifest(store, day, revision).taken_out, np.int64)
        still &= ~np.isin(rows, gone)
        rows = rows - np.searchsorted(gone, rows)
    caught = caught.set_column(0, "row", pa.array(rows, pa.int64())).filter(pa.array(still))
    file, body = described("caught", parquet_bytes(caught), caught.num_rows)
    rules, marks = caught["rules"].to_pylist(), caught["marks"].to_pylist()
    following = manifest.model_copy(
        update={
            "revision": manifest.revision + 1,
            "files": tuple(file if other.kind == "caught" else other for other in manifest.files),
            "rows": landed.rows - sum(bool(rule) for rule in rules),
            "landed_rows": landed.rows,
            "quarantined": _by_rule(rules),
            "marked": _by_rule(marks),
            "events": landed.file("events"),
            "users": landed.users,
            "partition_digest": landed.digest,
            "landed_revision": landed.revision,
        }
    )
    put_day(store, accepted_key(day, ""), [(file, body)], following)


def held_by(events: pl.DataFrame, users: Collection[str]) -> pl.Series:
    return events["user_id"].is_in(pl.Series(sorted(users), dtype=pl.String).implode()).fill_null(False)


def frame_of(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _by_rule(joined: list[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(rule for rules in joined if rules for rule in rules.split(",")).items()))
