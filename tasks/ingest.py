"""Land a source's days as immutable partitions: ids become pseudonyms, rows get one order, the manifest comes last.

This is the only door through which raw user ids enter, and none leaves it: not in files, logs or error texts. What the
rows are worth is validate_data's business; here only the shape is checked.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import polars as pl

from tasks.adapters.erasures import erased_users, finish_days, leave_out, sweep
from tasks.adapters.next_revision import held_by
from tasks.adapters.partitions import (
    catalogue_key,
    described,
    landed_days,
    landed_key,
    late_rows,
    put_day,
    read_landed_manifest,
    retired_days,
    users_key,
)
from tasks.adapters.store import Store
from tasks.adapters.tables import content_digest, contract_table, parquet_bytes
from tasks.conform import conform, frame_of, shown_names
from tasks.domain.behaviour import PartitionFile, PartitionManifest, partition_digest
from tasks.domain.contract import EVENT, ITEM, PLAN, USER, Contract
from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.manifest import partition_date
from tasks.raw_ids import AlreadyHashed, Pseudonyms
from tasks.sources import Source, require_day
from tasks.sources.feedback import Feedback

log = logging.getLogger("freshrank.ingest")


def ingest(source: Source, store: Store, through: str, key: bytes, key_id: str) -> dict[str, Any]:
    """Land every missing day up to `through`, oldest first, and check `through` itself against what is already there.

    The service's own feedback is not checked: a day of it is what had arrived when it was landed.
    Raises:
        InputRejected: the source does not have the day, or its table does not have the contract's shape.
        Conflict: `through` was landed before with other content; nothing was overwritten.
    """
    began = time.monotonic()
    require_day(source, through)
    present = landed_days(store)
    _same_key(store, present, key_id)
    erased = finish_days(store)
    settled = {*present, *(retired := retired_days(store))}
    if through in retired:
        raise InputRejected(f"{through} was retired because of its age; it is not landed again")
    missing = [day for day in source.days() if day <= through and day not in settled]
    tables = _Tables(source, store, key, erased)
    again = [] if tables.live else [through]
    landed = [land(source, store, day, tables, key_id) for day in missing or again]
    new = landed if missing else []
    _keep_out(store, tables, [manifest.partition for manifest in new])
    return {
        "through": through,
        "landed": len(new),
        "first": missing[0] if missing else None,
        "already": len([day for day in present if day <= through]),
        "rows": sum(manifest.rows for manifest in new),
        "late_rows": sum(manifest.late_rows for manifest in new),
        "erased_rows": sum(manifest.erased_rows for manifest in new),
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
    sent = tables.names.events(frame_of(raw))
    events = sent.filter(~held_by(sent, tables.erased))
    events = events.sort(EVENT.key, *(name for name in EVENT.names if name != EVENT.key))
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
        late_rows=late_rows(events, day),
        erased_rows=len(sent) - len(events),
        ignored_columns=shown_names([*ignored, *tables.ignored]),
        catalogue=tables.items.sha256,
        users=tables.users.sha256 if tables.users else None,
        source=source.name,
        pseudonym_key_id=key_id,
        content=content,
        digest=partition_digest(day, content),
    )
    if store.exists(landed_key(day)):
        return _known(store, manifest, tables.live)
    tables.put()
    try:
        put_day(store, landed_key(day, ""), files, manifest)
    except Conflict:  # another live copy of this task was first; its day counts if it is the same day
        return _known(store, manifest, tables.live)
    log.info(
        "partition=%s rows=%d late_rows=%d digest=%s", day, manifest.rows, manifest.late_rows, manifest.digest[:12]
    )
    return manifest


def _keep_out(store: Store, tables: _Tables, days: list[str]) -> None:
    """A user may be erased while days land: ingest writes a day and then looks, erasing writes its record and then looks."""
    erased = erased_users(store)
    if erased != tables.erased:
        tables.put(again=True)  # the other side may have swept what no day named yet
        leave_out(store, erased)
    elif erased and days:
        sweep(store, erased, days)  # an attempt that crashed before the user was erased left files of its own


def _same_key(store: Store, present: list[str], key_id: str) -> None:
    if present and (known := read_landed_manifest(store, present[-1]).pseudonym_key_id) != key_id:
        raise InputRejected(
            f"partitions up to {present[-1]} were pseudonymised with key {known}, this stack has key {key_id}: the "
            f"users would not join. Restore secrets.json of the stack that wrote them"
        )


def _known(store: Store, manifest: PartitionManifest, live: bool) -> PartitionManifest:
    """The landed day, which must be the same day unless its source goes on growing."""
    known = read_landed_manifest(store, manifest.partition)
    if known.digest != manifest.digest and not live:
        raise Conflict(
            f"{manifest.partition} was landed with digest {known.digest[:12]} ({known.rows} rows), the source now says "
            f"{manifest.digest[:12]} ({manifest.rows} rows); nothing was overwritten, a landed day never changes"
        )
    return known


class _Tables:
    """What all days of one source share: pseudonyms, who is erased, and the item and user tables, read once, put once."""

    def __init__(self, source: Source, store: Store, key: bytes, erased: frozenset[str]) -> None:
        self.live = isinstance(source, Feedback)
        self.names, self.erased = AlreadyHashed() if self.live else Pseudonyms(key), erased
        self._store, self._is_put = store, False
        items = frame_of(conform(source.items(), ITEM, f"{source.name} items")[0])
        self.items, self._items, of_items = _side_table("items", items.sort(ITEM.key, *ITEM.names[1:]), ITEM)
        self.users: PartitionFile | None = None
        self.content, self.ignored = {"items": of_items}, list[str]()
        if (sent := source.users()) is not None:
            raw, _ = conform(sent, USER, f"{source.name} users")
            users, copies = self.names.users(frame_of(raw))
            users = users.filter(~held_by(users, erased))
            # the order of the file follows the key: nothing may depend on it, and the source's own order may not stay
            self.users, self._users, of_users = _side_table("users", users.sort(users.columns, nulls_last=True), USER)
            self.content["users"] = of_users
            self.ignored = [f"users.{name}" for name in copies]

    def put(self, *, again: bool = False) -> None:
        if again or not self._is_put:
            self._store.put_new(catalogue_key(self.items.sha256), self._items)
            if self.users:
                self._store.put_new(users_key(self.users.sha256), self._users)
            self._is_put = True


def _side_table(kind: str, frame: pl.DataFrame, contract: Contract) -> tuple[PartitionFile, bytes, str]:
    file, body = described(kind, parquet_bytes(contract_table(frame, contract)), len(frame))
    return file, body, content_digest(frame, contract.key)
