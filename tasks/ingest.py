"""Land a source's days as immutable partitions: ids become pseudonyms, rows get one order, the manifest comes last.

This is the only door through which raw user ids enter, and none leaves it: not in files, logs or error texts. What the
rows are worth is validate_data's business; here only the shape is checked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.adapters.partitions import (
    catalogue_key,
    content_digest,
    contract_table,
    described,
    landed_days,
    landed_key,
    parquet_bytes,
    put_day,
    read_landed_manifest,
)
from tasks.adapters.store import Store
from tasks.domain.behaviour import PartitionManifest, pseudonym, session_pseudonym
from tasks.domain.contract import EVENT, ITEM, PLAN, Contract, arrow_schema
from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.manifest import digest_of, partition_date
from tasks.sources import Source, require_day

log = logging.getLogger("freshrank.ingest")


def ingest(source: Source, store: Store, through: str, key: bytes, key_id: str) -> dict[str, Any]:
    """Land every missing day up to `through`, oldest first, and check `through` itself against what is already there.

    Raises:
        InputRejected: the source does not have the day, or its table does not have the contract's shape.
        Conflict: `through` was landed before with other content; nothing was overwritten.
    """
    began = time.monotonic()
    require_day(source, through)
    present = landed_days(store)
    _same_key(store, present, key_id)
    missing = [day for day in source.days() if day <= through and day not in set(present)]
    items = _Items(source, store)
    names = _Pseudonyms(key)
    landed = [land(source, store, day, items, names, key_id) for day in missing or [through]]
    new = landed if missing else []
    return {
        "through": through,
        "landed": len(new),
        "first": missing[0] if missing else None,
        "already": len([day for day in present if day <= through]),
        "rows": sum(manifest.rows for manifest in new),
        "late_rows": sum(manifest.late_rows for manifest in new),
        "empty": [manifest.partition for manifest in new if manifest.rows == 0],
        "ignored_columns": sorted({name for manifest in new for name in manifest.ignored_columns}),
        "source": source.name,
        "last_day": source.last_day,
        "seconds": round(time.monotonic() - began, 2),
    }


def land(source: Source, store: Store, day: str, items: _Items, names: _Pseudonyms, key_id: str) -> PartitionManifest:
    """Write one day. The same content again changes nothing; other content raises Conflict."""
    partition_date(day)
    raw, ignored = conform(source.events(day), EVENT, f"{source.name} events of {day}")
    events = names.replace(raw).sort(EVENT.key, *(name for name in EVENT.names if name != EVENT.key))
    plan = pl.from_arrow(conform(source.plan(day), PLAN, f"{source.name} plan of {day}")[0])
    assert isinstance(plan, pl.DataFrame)
    plan = plan.sort(PLAN.key, *PLAN.names[1:])
    files = [
        described("events", parquet_bytes(contract_table(events, EVENT)), len(events)),
        described("plan", parquet_bytes(contract_table(plan, PLAN)), len(plan)),
    ]
    late = events.filter(pl.col("event_time").dt.date() < partition_date(day))
    identity = {
        "partition": day,
        "events": content_digest(events, EVENT.key),
        "plan": content_digest(plan, PLAN.key),
        "items": items.digest,
    }
    manifest = PartitionManifest(
        partition=day,
        files=tuple(file for file, _ in files),
        rows=len(events),
        late_rows=len(late),
        ignored_columns=ignored,
        catalogue=items.sha256,
        source=source.name,
        pseudonym_key_id=key_id,
        digest=digest_of(identity),
    )
    if store.exists(landed_key(day)):
        return _same_content(store, manifest)
    items.put()
    try:
        put_day(store, landed_key(day, ""), files, manifest)
    except Conflict:  # another live copy of this task was first; its day counts if it is the same day
        return _same_content(store, manifest)
    log.info(
        "partition=%s rows=%d late_rows=%d digest=%s", day, manifest.rows, manifest.late_rows, manifest.digest[:12]
    )
    return manifest


def conform(table: pa.Table, contract: Contract, what: str) -> tuple[pa.Table, tuple[str, ...]]:
    """(the contract's columns in the contract's types, names of columns that were left out).

    Optional columns that are absent become null. Types are widened, never guessed: text that should be a number is
    refused, and the refusal names the column, never a value.
    """
    columns = []
    for column, field in zip(contract.columns, arrow_schema(contract), strict=True):
        if column.name not in table.column_names:
            if column.required:
                raise InputRejected(
                    f"{what}: the column {column.name} is missing; docs/data-contract.md lists what is needed"
                )
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        found = table.column(column.name)
        if not _widens(found.type, field.type):
            raise InputRejected(f"{what}: column {column.name} is {found.type}, the contract says {field.type}")
        try:
            columns.append(found.cast(field.type))
        except pa.ArrowInvalid:
            raise InputRejected(f"{what}: column {column.name} has values that are no {field.type}") from None
    ignored = tuple(sorted(set(table.column_names) - set(contract.names)))
    if ignored:
        log.warning("what=%r ignored_columns=%s", what, ",".join(ignored))
    # nulls in required columns are rows to quarantine, not a reason to refuse the file: hence nullable here
    return pa.table(columns, names=list(contract.names)), ignored


def _widens(found: pa.DataType, wanted: pa.DataType) -> bool:
    kinds: tuple[Callable[[pa.DataType], bool], ...] = (
        lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or _is_text_dictionary(t),
        pa.types.is_boolean,
        lambda t: pa.types.is_timestamp(t) and t.tz in ("UTC", "+00:00"),
    )
    if found == wanted or pa.types.is_null(found) or any(kind(found) and kind(wanted) for kind in kinds):
        return True
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_integer(found) or pa.types.is_floating(found))
    return bool(pa.types.is_integer(wanted) and pa.types.is_integer(found))


def _is_text_dictionary(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) and (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    )


def _same_key(store: Store, present: list[str], key_id: str) -> None:
    if present and (known := read_landed_manifest(store, present[-1]).pseudonym_key_id) != key_id:
        raise InputRejected(
            f"partitions up to {present[-1]} were pseudonymised with key {known}, this stack has key {key_id}: the "
            f"users would not join. Restore secrets.json of the stack that wrote them"
        )


def _same_content(store: Store, manifest: PartitionManifest) -> PartitionManifest:
    known = read_landed_manifest(store, manifest.partition)
    if known.digest != manifest.digest:
        raise Conflict(
            f"{manifest.partition} was landed with digest {known.digest[:12]} ({known.rows} rows), the source now says "
            f"{manifest.digest[:12]} ({manifest.rows} rows); nothing was overwritten, a landed day never changes"
        )
    return known


class _Pseudonyms:
    """Raw ids to pseudonyms, each computed once: users come back every day."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._users: dict[str, str] = {}

    def replace(self, raw: pa.Table) -> pl.DataFrame:
        frame = pl.from_arrow(raw)
        assert isinstance(frame, pl.DataFrame)
        blank = pl.col("user_id", "session_id").str.strip_chars() == ""  # a blank id is no id: one user for all of them
        frame = frame.with_columns(pl.when(~blank).then(pl.col("user_id", "session_id")))
        users = frame["user_id"].unique().drop_nulls().to_list()
        for user in users:
            if user not in self._users:
                self._users[user] = pseudonym(user, self._key)
        sessions = frame["session_id"].unique().drop_nulls().to_list()
        hashed = [session_pseudonym(session, self._key) for session in sessions]
        text = pl.String
        return frame.with_columns(
            pl.col("user_id").replace_strict(users, [self._users[u] for u in users], default=None, return_dtype=text),
            pl.col("session_id").replace_strict(sessions, hashed, default=None, return_dtype=text),
        )


class _Items:
    """The source's item table, read once and put once, only when a day needs it."""

    def __init__(self, source: Source, store: Store) -> None:
        table, _ = conform(source.items(), ITEM, f"{source.name} items")
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frame = frame.sort(ITEM.key, *ITEM.names[1:])
        self.digest = content_digest(frame, ITEM.key)
        self._file, self._body = described("items", parquet_bytes(contract_table(frame, ITEM)), len(frame))
        self.sha256 = self._file.sha256
        self._store, self._is_put = store, False

    def put(self) -> None:
        if not self._is_put:
            self._store.put_new(catalogue_key(self.sha256), self._body)
            self._is_put = True
