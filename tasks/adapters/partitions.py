"""Days of behaviour data in the object store: files first, manifest last, every byte verified when read.

`behaviour/dt=DAY/` is what ingest landed, `accepted/dt=DAY/` what validate_data said of its rows, `catalogue/` and
`users/` the item and user tables by sha256. Readers go by manifest, never by listing files, so a half-written day is no
day. Of several revisions of a manifest the highest counts.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from tasks.adapters.store import Store
from tasks.domain.behaviour import AcceptedManifest, PartitionFile, PartitionManifest
from tasks.domain.contract import CONTRACT_VERSION, EVENT, ITEM, PLAN, USER, Contract, arrow_schema
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import digest_of, partition_date

if TYPE_CHECKING:
    import polars as pl

READERS = 8
# the first revision has no number, so that no two names mean one revision
MANIFEST = re.compile(r"/dt=(?P<day>[^/]*)/manifest(-(?!00000[01])(?P<revision>[0-9]{6}))?\.json$")
# few distinct values for many rows
CODED = ("user_id", "session_id", "surface", "item_id", "event_type", "store_id")
MANY = ("user_id", "session_id")  # too many for Parquet, which gives up coding them after a megabyte
# years 1 to 9999: what a calendar can say. A time beyond is garbage, and libraries crash on it
EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
RETIRED = "retired.json"  # beside the manifests of a day: it is too old, its bytes are gone
M = TypeVar("M", PartitionManifest, AcceptedManifest)


@dataclass(frozen=True, slots=True)
class Partition:
    """One landed day, verified."""

    manifest: PartitionManifest
    events: pa.Table
    plan: pa.Table


@dataclass(frozen=True, slots=True)
class Accepted:
    """Local copies of every accepted day through one partition, in day order, and the newest day's item table."""

    days: list[str]
    events: list[Path]
    plans: list[Path]  # of accepted days; the plan in dt=D speaks of the day after D
    catalogue: Path
    digests: dict[str, str]  # day -> which accepted rows, by content


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
    manifest = read_accepted_manifest(store, day)
    key = landed_key(day, manifest.events.name)
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
    return _by_digest(store, catalogue_key(sha256), sha256, ITEM)


def read_users(store: Store, sha256: str) -> pa.Table:
    """The user table of a day: pseudonyms, and whatever else the source knows of them."""
    return _by_digest(store, users_key(sha256), sha256, USER)


def read_table(
    store: Store,
    key: str,
    file: PartitionFile,
    contract: Contract,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """One file of a day, verified."""
    table = _parsed(store.uri(key), read_file(store, key, file), contract, columns)
    if table.num_rows != file.rows:
        raise InputRejected(f"{store.uri(key)} holds {table.num_rows} rows, its manifest says {file.rows}")
    return table


def read_frame(
    store: Store,
    key: str,
    file: PartitionFile,
    contract: Contract,
    columns: Sequence[str] | None = None,
    coded: Sequence[str] = CODED,
) -> pl.DataFrame:
    """The same as a data frame, with `coded` columns as categories of its own: rules compare codes, not sixty-four letters.

    Categories that all tables shared would remember every user of every day for as long as the process lives.
    """
    import polars as pl

    uri, body = store.uri(key), read_file(store, key, file)
    names = _columns(uri, body, contract, columns)
    coded = [name for name in coded if name in names]
    try:
        frame = pl.read_parquet(body, columns=[name for name in names if name not in coded])
        for name in coded:  # one at a time: as text an id column takes ten times the memory that it takes as codes
            frame = frame.with_columns(_coded(body, name))
    except (pl.exceptions.PolarsError, OSError) as err:
        raise InputRejected(f"{uri} is no readable Parquet file; write it again from its source") from err
    if len(frame) != file.rows:
        raise InputRejected(f"{uri} holds {len(frame)} rows, its manifest says {file.rows}")
    for name in names:
        if isinstance(frame.schema[name], pl.Datetime) and len(frame):
            _in_a_calendar(f"{uri}: column {name}", pa.chunked_array(frame[name].to_arrow()))
    return frame.select(names)


def _coded(body: bytes, name: str) -> pl.Series:
    """A text column as categories of its own."""
    import polars as pl

    own = pl.Categorical(pl.Categories.random())
    if name in MANY:
        return pl.read_parquet(body, columns=[name])[name].cast(own)
    # Parquet keeps these as codes: only their few values are looked at, in half the time
    table = pq.read_table(pa.BufferReader(body), columns=[name], read_dictionary=[name]).unify_dictionaries()
    if not table.num_rows:
        return pl.Series(name, [], own)
    column = table[name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    column.dictionary.validate(full=True)
    return pl.Series(name, column.dictionary).cast(own).gather(pl.Series(column.indices))


def read_file(store: Store, key: str, file: PartitionFile) -> bytes:
    body = store.get(key)
    _verify(store.uri(key), body, file.sha256)
    return body


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


def contract_table(frame: pl.DataFrame, contract: Contract) -> pa.Table:
    """The frame in the contract's types. Nullable throughout: a null where none may be is a row to quarantine."""
    table = frame.to_arrow()
    return table.cast(pa.schema([field.with_nullable(True) for field in arrow_schema(contract, table.schema)]))


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3)
    return sink.getvalue()


def content_digest(frame: pl.DataFrame, key: str) -> str:
    """sha256 of the rows in one spelling and one order: equal for equal rows, whatever wrote the Parquet file."""
    ordered = frame.sort(key, *(name for name in frame.columns if name != key), nulls_last=True)
    text = ordered.write_csv(quote_style="non_numeric", null_value="", include_header=True)
    return hashlib.sha256(text.encode()).hexdigest()


def late_rows(events: pl.DataFrame, day: str) -> int:
    """Rows that happened on earlier days; those days stay as they are."""
    return int((events["event_time"] < datetime.combine(partition_date(day), time(), UTC)).sum())


def fetch_accepted(store: Store, through: str, target: Path) -> Accepted:
    """Put the accepted rows of every day up to `through` under `target`; what is there is not fetched again."""
    revisions = {day: revision for day, revision in accepted_revisions(store).items() if day <= through}
    if not revisions:
        raise InputRejected(f"no accepted day up to {through}; run validate_data for it first")
    days = sorted(revisions)
    with ThreadPoolExecutor(READERS) as pool:
        manifests = list(pool.map(lambda day: read_accepted_manifest(store, day, revisions[day]), days))
        events = list(pool.map(lambda manifest: _accepted_file(store, manifest, target), manifests))
        wanted = [(landed_key(m.partition, m.plan.name), m.plan.sha256) for m in manifests]
        wanted += [(catalogue_key(manifests[-1].catalogue), manifests[-1].catalogue)]
        paths = list(pool.map(lambda item: _fetched(store, item[0], item[1], target), wanted))
    digests = {manifest.partition: _rows_digest(manifest) for manifest in manifests}
    return Accepted(days=days, events=events, plans=paths[:-1], catalogue=paths[-1], digests=digests)


def _rows_digest(manifest: AcceptedManifest) -> str:
    """The landed day, and which of its rows are left out: releasing some gives another digest."""
    return digest_of([manifest.partition_digest, manifest.file("caught").sha256 if manifest.quarantined else None])


def _accepted_file(store: Store, manifest: AcceptedManifest, target: Path) -> Path:
    """A local file of one day's accepted rows: the landed file itself where nothing is quarantined."""
    caught, key = manifest.file("caught"), landed_key(manifest.partition, manifest.events.name)
    if not manifest.quarantined:
        return _fetched(store, key, manifest.events.sha256, target)
    path = target / accepted_key(
        manifest.partition, f"accepted-{manifest.events.sha256[:16]}-{caught.sha256[:16]}.parquet"
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(parquet_bytes(read_accepted_events(store, manifest.partition)))
        draft.replace(path)
    return path


def _fetched(store: Store, key: str, sha256: str, target: Path) -> Path:
    path = target / key
    if not (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256):
        store.download(key, path)
        try:
            _verify(store.uri(key), path.read_bytes(), sha256)
        except InputRejected:
            path.unlink()
            raise
    return path


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


def _by_digest(store: Store, key: str, sha256: str, contract: Contract) -> pa.Table:
    body = store.get(key)
    _verify(store.uri(key), body, sha256)
    return _parsed(store.uri(key), body, contract)


def _verify(uri: str, body: bytes, sha256: str) -> None:
    found = hashlib.sha256(body).hexdigest()
    if found != sha256:
        raise InputRejected(
            f"{uri} has sha256 {found[:12]}, its manifest says {sha256[:12]}: the object changed after the manifest "
            f"was written. The day stays as it is and is not read; restore the object"
        )


def _parsed(uri: str, body: bytes, contract: Contract, columns: Sequence[str] | None = None) -> pa.Table:
    names = _columns(uri, body, contract, columns)
    try:
        table = pq.read_table(pa.BufferReader(body), columns=names).select(names)
        table.validate(full=True)  # bytes that are no UTF-8 are found here, or crash whoever reads them
    except (pa.ArrowException, OSError) as err:
        raise InputRejected(f"{uri} is no readable Parquet file; write it again from its source") from err
    for name in names:
        if pa.types.is_timestamp(table.schema.field(name).type) and table.num_rows:
            _in_a_calendar(f"{uri}: column {name}", table.column(name))
    return table


def _columns(uri: str, body: bytes, contract: Contract, columns: Sequence[str] | None) -> list[str]:
    """The columns to read. Raises InputRejected where one is not there, is there twice, or is of another type."""
    try:
        there = pq.read_schema(pa.BufferReader(body))
    except (pa.ArrowException, OSError) as err:
        raise InputRejected(f"{uri} is no readable Parquet file; write it again from its source") from err
    if len(set(there.names)) < len(there.names):
        raise InputRejected(f"{uri} holds a column twice; write it again from its source")
    wanted = arrow_schema(contract, there)
    names = list(columns or wanted.names)
    for name in names:
        if name not in there.names:
            raise InputRejected(f"{uri} lacks the column {name}; docs/data-contract.md lists what it needs")
        if (kind := there.field(name).type) != wanted.field(name).type:
            raise InputRejected(f"{uri}: column {name} is {kind}, the contract says {wanted.field(name).type}")
    return names


def _in_a_calendar(what: str, times: pa.ChunkedArray) -> None:
    earliest, latest = pc.min_max(times.cast(pa.int64())).as_py().values()
    if earliest is not None and (earliest < EARLIEST_US or latest > LATEST_US):
        raise InputRejected(f"{what} holds a time beyond the years 1 to 9999; ingest does not write such a file")
