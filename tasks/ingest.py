"""Land a source's days as immutable partitions: ids become pseudonyms, rows get one order, the manifest comes last.

This is the only door through which raw user ids enter, and none leaves it: not in files, logs or error texts. What the
rows are worth is validate_data's business; here only the shape is checked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.adapters.partitions import (
    EARLIEST_US,
    LATEST_US,
    catalogue_key,
    content_digest,
    contract_table,
    described,
    landed_days,
    landed_key,
    parquet_bytes,
    put_day,
    read_landed_manifest,
    users_key,
)
from tasks.adapters.store import Store
from tasks.domain.behaviour import PartitionFile, PartitionManifest, partition_digest
from tasks.domain.contract import EVENT, ITEM, PLAN, USER, Contract, arrow_schema
from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.manifest import partition_date
from tasks.raw_ids import Pseudonyms
from tasks.sources import Source, require_day

log = logging.getLogger("freshrank.ingest")
MOST_NAMES, LONGEST_NAME = 20, 64  # column names come from outside, and go into manifests and logs
MOST_FURTHER = 200  # columns of an open contract


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
    tables = _Tables(source, store, Pseudonyms(key))
    landed = [land(source, store, day, tables, key_id) for day in missing or [through]]
    new = landed if missing else []
    return {
        "through": through,
        "landed": len(new),
        "first": missing[0] if missing else None,
        "already": len([day for day in present if day <= through]),
        "rows": sum(manifest.rows for manifest in new),
        "late_rows": sum(manifest.late_rows for manifest in new),
        "empty": [manifest.partition for manifest in new if manifest.rows == 0],
        "users": tables.users.rows if tables.users else None,
        "ignored_columns": sorted({name for manifest in new for name in manifest.ignored_columns}),
        "source": source.name,
        "last_day": source.last_day,
        "seconds": round(time.monotonic() - began, 2),
    }


def land(source: Source, store: Store, day: str, tables: _Tables, key_id: str) -> PartitionManifest:
    """Write one day. The same content again changes nothing; other content raises Conflict."""
    partition_date(day)
    raw, ignored = conform(source.events(day), EVENT, f"{source.name} events of {day}")
    events = tables.names.events(frame_of(raw)).sort(EVENT.key, *(name for name in EVENT.names if name != EVENT.key))
    plan = frame_of(conform(source.plan(day), PLAN, f"{source.name} plan of {day}")[0])
    plan = plan.sort(PLAN.key, *PLAN.names[1:])
    files = [
        described("events", parquet_bytes(contract_table(events, EVENT)), len(events)),
        described("plan", parquet_bytes(contract_table(plan, PLAN)), len(plan)),
    ]
    content = {"events": content_digest(events, EVENT.key), "plan": content_digest(plan, PLAN.key), **tables.content}
    manifest = PartitionManifest(
        partition=day,
        files=tuple(file for file, _ in files),
        rows=len(events),
        late_rows=len(events.filter(pl.col("event_time").dt.date() < partition_date(day))),
        ignored_columns=shown_names([*ignored, *tables.ignored]),
        catalogue=tables.items.sha256,
        users=tables.users.sha256 if tables.users else None,
        source=source.name,
        pseudonym_key_id=key_id,
        content=content,
        digest=partition_digest(day, content),
    )
    if store.exists(landed_key(day)):
        return _same_content(store, manifest)
    tables.put()
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

    Optional columns that are absent become null; further columns of an open contract are kept. Types are widened, never
    guessed: text that should be a number is refused, and the refusal names the column, never a value.
    """
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise InputRejected(f"{what}: the column {', '.join(shown_names(twice))} is there more than once")
    further = [name for name in table.column_names if name not in contract.names] if contract.open else []
    if len(further) > MOST_FURTHER or any(shown_names([name]) != (name,) for name in further):
        raise InputRejected(
            f"{what}: further columns are up to {MOST_FURTHER}, with names of up to {LONGEST_NAME} printable letters; "
            f"here are {len(further)}: {', '.join(shown_names(further))}"
        )
    missing = [name for name in contract.required if name not in table.column_names]
    if missing:
        raise InputRejected(f"{what}: the column {missing[0]} is missing; docs/data-contract.md lists what is needed")
    wanted = arrow_schema(contract, table.schema)
    columns = [
        _cast(table.column(field.name), field.type, f"{what}: column {shown_names([field.name])[0]}")
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in wanted
    ]
    ignored = tuple(sorted(set(table.column_names) - set(wanted.names)))
    if ignored:
        log.warning("what=%r ignored_columns=%s", what, ",".join(shown_names(ignored)))
    # nulls in required columns are rows to quarantine, not a reason to refuse the file: hence nullable here
    return pa.table(columns, names=wanted.names), ignored


def frame_of(table: pa.Table) -> pl.DataFrame:
    """The table as a frame; a time that no calendar has is no time, and validate_data puts its row aside."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(
        pl.when(pl.col(name).cast(pl.Int64).is_between(EARLIEST_US, LATEST_US)).then(pl.col(name)) for name in times
    )


def shown_names(names: Sequence[str]) -> tuple[str, ...]:
    """Column names as they may be written down: printable, cut, and not more than a person reads."""
    shown = [
        "".join(letter if letter.isprintable() else "?" for letter in name)[:LONGEST_NAME]
        for name in names[:MOST_NAMES]
    ]
    return (*shown, *([f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []))


def _cast(found: pa.ChunkedArray, wanted: pa.DataType, what: str) -> pa.ChunkedArray:
    if not _widens(found.type, wanted):
        raise InputRejected(f"{what} is {found.type}, the contract says {wanted}")
    try:
        found.validate(full=True)
    except pa.ArrowInvalid:
        raise InputRejected(f"{what} is damaged, or holds text that is not UTF-8") from None
    try:
        return found.cast(wanted)
    except pa.ArrowInvalid:
        raise InputRejected(f"{what} has values that are no {wanted}") from None


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


class _Tables:
    """The source's item and user tables: read once, put once, only when a day needs them."""

    def __init__(self, source: Source, store: Store, names: Pseudonyms) -> None:
        self.names = names
        self._store, self._is_put = store, False
        items = frame_of(conform(source.items(), ITEM, f"{source.name} items")[0])
        self.items, self._items, of_items = _side_table("items", items.sort(ITEM.key, *ITEM.names[1:]), ITEM)
        self.users: PartitionFile | None = None
        self.content, self.ignored = {"items": of_items}, list[str]()
        if (sent := source.users()) is not None:
            raw, _ = conform(sent, USER, f"{source.name} users")
            users, copies = names.users(frame_of(raw))
            # the order of the file follows the key: nothing may depend on it, and the source's own order may not stay
            self.users, self._users, of_users = _side_table("users", users.sort(users.columns, nulls_last=True), USER)
            self.content["users"] = of_users
            self.ignored = [f"users.{name}" for name in copies]

    def put(self) -> None:
        if not self._is_put:
            self._store.put_new(catalogue_key(self.items.sha256), self._items)
            if self.users:
                self._store.put_new(users_key(self.users.sha256), self._users)
            self._is_put = True


def _side_table(kind: str, frame: pl.DataFrame, contract: Contract) -> tuple[PartitionFile, bytes, str]:
    file, body = described(kind, parquet_bytes(contract_table(frame, contract)), len(frame))
    return file, body, content_digest(frame, contract.key)
