"""Days of behaviour data in the object store: files first, manifest last, every byte verified when read.

`behaviour/dt=DAY/` is what ingest landed, `accepted/dt=DAY/` what validate_data said of its rows, `catalogue/` and
`users/` the item and user tables by sha256. Readers go by manifest, never by listing files, so a half-written day is no
day. Of several revisions of a manifest the highest counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from tasks.adapters.store import Store
from tasks.adapters.tables import read_by_digest, read_file, read_table
from tasks.domain.behaviour import AcceptedManifest, PartitionFile, PartitionManifest
from tasks.domain.contract import CONTRACT_VERSION, EVENT, ITEM, PLAN, USER, arrow_schema
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date

if TYPE_CHECKING:
    import polars as pl

# the first revision has no number, so that no two names mean one revision
MANIFEST = re.compile(r"/dt=(?P<day>[^/]*)/manifest(-(?!00000[01])(?P<revision>[0-9]{6}))?\.json$")
RETIRED = "retired.json"  # beside the manifests of a day: it is too old, its bytes are gone
M = TypeVar("M", PartitionManifest, AcceptedManifest)


@dataclass(frozen=True, slots=True)
class Partition:
    """One landed day, verified."""

    manifest: PartitionManifest
    events: pa.Table
    plan: pa.Table


def landed_key(day: str, name: str = "manifest.json") -> str:
    return f"behaviour/dt={partition_date(day)}/{name}"


def accepted_key(day: str, name: str = "manifest.json") -> str:
    return f"accepted/dt={partition_date(day)}/{name}"


def catalogue_key(sha256: str) -> str:
    return f"catalogue/{sha256}.parquet"


def users_key(sha256: str) -> str:
    return f"users/{sha256}.parquet"


def retired_days(store: Store) -> list[str]:
    """Days that were landed and whose bytes were deleted because of their age: they are not landed again."""
    return sorted(day for day in _days_with(store.list("behaviour/"), RETIRED))


def manifest_name(revision: int) -> str:
    return "manifest.json" if revision == 1 else f"manifest-{revision:06d}.json"


def landed_days(store: Store) -> list[str]:
    """Days whose manifest exists, in order."""
    return sorted(landed_revisions(store))


def accepted_days(store: Store) -> list[str]:
    return sorted(accepted_revisions(store))


def landed_revisions(store: Store) -> dict[str, int]:
    """Day -> its newest revision, of every landed day, by one listing."""
    return _revisions(store, "behaviour/")


def accepted_revisions(store: Store) -> dict[str, int]:
    return _revisions(store, "accepted/")


def read_landed_manifest(store: Store, day: str, revision: int | None = None) -> PartitionManifest:
    """The newest revision, unless another is asked for."""
    revision = revision or _revisions(store, landed_key(day, "")).get(day, 1)
    return _manifest(store, landed_key(day, manifest_name(revision)), day, revision, PartitionManifest)


def read_accepted_manifest(store: Store, day: str, revision: int | None = None) -> AcceptedManifest:
    revision = revision or _revisions(store, accepted_key(day, "")).get(day, 1)
    return _manifest(store, accepted_key(day, manifest_name(revision)), day, revision, AcceptedManifest)


def read_partition(store: Store, day: str, revision: int | None = None) -> Partition:
    """Read one landed day. Raises InputRejected, naming the file, where an object is not what the manifest says."""
    manifest = read_landed_manifest(store, day, revision)
    events, plan = manifest.file("events"), manifest.file("plan")
    return Partition(
        manifest=manifest,
        events=read_table(store, landed_key(day, events.name), events, EVENT),
        plan=read_table(store, landed_key(day, plan.name), plan, PLAN),
    )


def read_accepted_events(store: Store, day: str, columns: Sequence[str] = EVENT.names) -> pa.Table:
    """The rows of an accepted day that are not quarantined, in landed order."""
    return accepted_rows(store, read_accepted_manifest(store, day), columns)


def accepted_rows(store: Store, manifest: AcceptedManifest, columns: Sequence[str] = EVENT.names) -> pa.Table:
    """The same of one revision of the day."""
    key = landed_key(manifest.partition, manifest.events.name)
    return without(read_table(store, key, manifest.events, EVENT, columns), read_caught(store, manifest))


def read_caught(store: Store, manifest: AcceptedManifest) -> pa.Table:
    """Rows that a rule caught: `row` of the landed file, `rules` that quarantine it (or none), `marks`, and the event."""
    file = manifest.file("caught")
    key = accepted_key(manifest.partition, file.name)
    try:
        caught = pq.read_table(pa.BufferReader(read_file(store, key, file)))
        caught.validate(full=True)
    except (pa.ArrowException, OSError) as err:
        raise InputRejected(f"{store.uri(key)} is no readable Parquet file; restore the object") from err
    types = {
        "row": pa.int64(),
        **{f.name: f.type for f in arrow_schema(EVENT)},
        "rules": pa.string(),
        "marks": pa.string(),
    }
    if dict(zip(caught.column_names, caught.schema.types, strict=True)) != types:
        raise InputRejected(f"{store.uri(key)} is no table of caught rows; restore the object")
    rows = caught["row"].to_numpy()
    if (
        len(rows) != file.rows
        or len(np.unique(rows)) != len(rows)
        or ((rows < 0) | (rows >= manifest.landed_rows)).any()
    ):
        raise InputRejected(
            f"{store.uri(key)} does not say which of the {manifest.landed_rows} landed rows were caught; restore the object"
        )
    return caught


def without(events: pa.Table, caught: pa.Table) -> pa.Table:
    """The events that `caught` does not quarantine."""
    kept = np.ones(events.num_rows, bool)
    kept[caught["row"].to_numpy()[pc.not_equal(caught["rules"], "").to_numpy()]] = False
    return events if kept.all() else events.filter(pa.array(kept))


def read_catalogue(store: Store, sha256: str) -> pa.Table:
    return read_by_digest(store, catalogue_key(sha256), sha256, ITEM)


def read_users(store: Store, sha256: str) -> pa.Table:
    """The user table of a day: pseudonyms, and whatever else the source knows of them."""
    return read_by_digest(store, users_key(sha256), sha256, USER)


def put_day(
    store: Store, prefix: str, files: list[tuple[PartitionFile, bytes]], manifest: PartitionManifest | AcceptedManifest
) -> None:
    """Write a day's files, then its manifest. A crash in between leaves files that nobody can see."""
    for file, body in files:
        store.put_new(f"{prefix}{file.name}", body)
    store.put_new(f"{prefix}{manifest_name(manifest.revision)}", manifest.model_dump_json(indent=1).encode())


def described(kind: str, body: bytes, rows: int, suffix: str = ".parquet") -> tuple[PartitionFile, bytes]:
    """Name a file by its content, so that two writers never fight over a name before a manifest decides."""
    digest = hashlib.sha256(body).hexdigest()
    return PartitionFile(name=f"{kind}-{digest[:16]}{suffix}", bytes=len(body), sha256=digest, rows=rows), body


def late_rows(events: pl.DataFrame, day: str) -> int:
    """Rows that happened on earlier days; those days stay as they are."""
    return int((events["event_time"] < datetime.combine(partition_date(day), time(), UTC)).sum())


def _revisions(store: Store, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    keys = store.list(prefix)
    for key in keys:
        if (named := MANIFEST.search(key)) and _is_day(day := named["day"]):
            found[day] = max(found.get(day, 1), int(named["revision"] or 1))
    for day in _days_with(keys, RETIRED):
        found.pop(day, None)
    return found


def _days_with(keys: list[str], name: str) -> list[str]:
    return [day for key in keys if key.endswith(f"/{name}") and _is_day(day := key.split("/dt=")[-1].split("/")[0])]


def _is_day(text: str) -> bool:
    try:
        partition_date(text)
    except InputRejected:
        return False
    return text.isascii()


def _manifest(store: Store, key: str, day: str, revision: int, model: type[M]) -> M:
    try:
        manifest = model.model_validate_json(store.get(key))
    except ValidationError as err:
        fault = err.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "text"
        raise InputRejected(f"{store.uri(key)} is not a manifest of a day: {where}: {fault['msg']}") from None
    if (manifest.partition, manifest.revision) != (day, revision):
        raise InputRejected(
            f"{store.uri(key)} is the manifest of {manifest.partition} revision {manifest.revision}, "
            f"not of {day} revision {revision}"
        )
    before = f"{key.rsplit('/', 1)[0]}/{manifest_name(revision - 1)}"
    if revision > 1 and not store.exists(before):
        raise InputRejected(
            f"{store.uri(key)} is there and {before} is not: a manifest was deleted or renamed, restore it"
        )
    if isinstance(manifest, PartitionManifest) and manifest.contract != CONTRACT_VERSION:
        raise InputRejected(
            f"{store.uri(key)} was landed under contract {manifest.contract}, this code reads {CONTRACT_VERSION}; run the "
            f"version that landed it, or land the day again from its source into a new bucket"
        )
    return manifest
