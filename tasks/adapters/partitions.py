"""Days of behaviour data in the object store: files first, manifest last, every byte verified when read.

`behaviour/dt=DAY/` is what ingest landed, `accepted/dt=DAY/` what validate_data let through, `catalogue/` the item
tables by sha256. Readers go by manifest, never by listing files, so a half-written day is no day.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from tasks.adapters.store import Store
from tasks.domain.behaviour import AcceptedManifest, PartitionFile, PartitionManifest
from tasks.domain.contract import EVENT, ITEM, PLAN, Contract, arrow_schema
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import PARTITION, Record, partition_date

if TYPE_CHECKING:
    import polars as pl

READERS = 8
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


def landed_key(day: str, name: str = "manifest.json") -> str:
    return f"behaviour/dt={partition_date(day)}/{name}"


def accepted_key(day: str, name: str = "manifest.json") -> str:
    return f"accepted/dt={partition_date(day)}/{name}"


def catalogue_key(sha256: str) -> str:
    return f"catalogue/{sha256}.parquet"


def landed_days(store: Store) -> list[str]:
    """Days whose manifest exists, in order."""
    return _days(store, "behaviour/dt=")


def accepted_days(store: Store) -> list[str]:
    return _days(store, "accepted/dt=")


def read_landed_manifest(store: Store, day: str) -> PartitionManifest:
    return _manifest(store, landed_key(day), day, PartitionManifest)


def read_accepted_manifest(store: Store, day: str) -> AcceptedManifest:
    return _manifest(store, accepted_key(day), day, AcceptedManifest)


def read_partition(store: Store, day: str) -> Partition:
    """Read one landed day. Raises InputRejected, naming the file, where an object is not what the manifest says."""
    manifest = read_landed_manifest(store, day)
    events, plan = manifest.file("events"), manifest.file("plan")
    return Partition(
        manifest=manifest,
        events=read_table(store, landed_key(day, events.name), events, EVENT),
        plan=read_table(store, landed_key(day, plan.name), plan, PLAN),
    )


def read_partitions(store: Store, days: Iterable[str]) -> list[Partition]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda day: read_partition(store, day), days))


def read_accepted_events(store: Store, day: str) -> pa.Table:
    file = read_accepted_manifest(store, day).file("accepted")
    return read_table(store, accepted_key(day, file.name), file, EVENT)


def read_catalogue(store: Store, sha256: str) -> pa.Table:
    key = catalogue_key(sha256)
    body = store.get(key)
    _verify(store.uri(key), body, sha256)
    return _parsed(store.uri(key), body, ITEM)


def read_table(store: Store, key: str, file: PartitionFile, contract: Contract) -> pa.Table:
    body = store.get(key)
    _verify(store.uri(key), body, file.sha256)
    table = _parsed(store.uri(key), body, contract)
    if table.num_rows != file.rows:
        raise InputRejected(f"{store.uri(key)} holds {table.num_rows} rows, its manifest says {file.rows}")
    return table


def put_day(store: Store, prefix: str, files: list[tuple[PartitionFile, bytes]], manifest: Record) -> None:
    """Write a day's files, then its manifest. A crash in between leaves files that nobody can see."""
    for file, body in files:
        store.put_new(f"{prefix}{file.name}", body)
    store.put_new(f"{prefix}manifest.json", manifest.model_dump_json(indent=1).encode())


def described(kind: str, body: bytes, rows: int, suffix: str = ".parquet") -> tuple[PartitionFile, bytes]:
    """Name a file by its content, so that two writers never fight over a name before a manifest decides."""
    digest = hashlib.sha256(body).hexdigest()
    return PartitionFile(name=f"{kind}-{digest[:16]}{suffix}", bytes=len(body), sha256=digest, rows=rows), body


def contract_table(frame: pl.DataFrame, contract: Contract) -> pa.Table:
    """The frame in the contract's types. Nullable throughout: a null where none may be is a row to quarantine."""
    return frame.to_arrow().cast(pa.schema([field.with_nullable(True) for field in arrow_schema(contract)]))


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3)
    return sink.getvalue()


def content_digest(frame: pl.DataFrame, key: str) -> str:
    """sha256 of the rows in one spelling and one order: equal for equal rows, whatever wrote the Parquet file."""
    ordered = frame.sort(key, *(name for name in frame.columns if name != key), nulls_last=True)
    text = ordered.write_csv(quote_style="non_numeric", null_value="", include_header=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fetch_accepted(store: Store, through: str, target: Path) -> Accepted:
    """Copy every accepted day up to `through` under `target`; what is there and intact is not fetched again."""
    days = [day for day in accepted_days(store) if day <= through]
    if not days:
        raise InputRejected(f"no accepted day up to {through}; run validate_data for it first")
    with ThreadPoolExecutor(READERS) as pool:
        manifests = list(pool.map(lambda day: read_accepted_manifest(store, day), days))
        wanted = [(accepted_key(m.partition, m.file("accepted").name), m.file("accepted").sha256) for m in manifests]
        wanted += [(landed_key(m.partition, m.plan.name), m.plan.sha256) for m in manifests]
        wanted += [(catalogue_key(manifests[-1].catalogue), manifests[-1].catalogue)]
        paths = list(pool.map(lambda item: _fetched(store, item[0], item[1], target), wanted))
    n = len(days)
    return Accepted(days=days, events=paths[:n], plans=paths[n : 2 * n], catalogue=paths[-1])


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


def _days(store: Store, prefix: str) -> list[str]:
    suffix = "/manifest.json"
    names = (key[len(prefix) : -len(suffix)] for key in store.list(prefix) if key.endswith(suffix))
    return sorted(name for name in names if PARTITION.fullmatch(name))


def _manifest(store: Store, key: str, day: str, model: type[M]) -> M:
    try:
        manifest = model.model_validate_json(store.get(key))
    except ValidationError as err:
        fault = err.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "text"
        raise InputRejected(f"{store.uri(key)} is not a manifest of a day: {where}: {fault['msg']}") from None
    if manifest.partition != day:
        raise InputRejected(f"{store.uri(key)} is the manifest of {manifest.partition}, not of {day}")
    return manifest


def _verify(uri: str, body: bytes, sha256: str) -> None:
    found = hashlib.sha256(body).hexdigest()
    if found != sha256:
        raise InputRejected(
            f"{uri} has sha256 {found[:12]}, its manifest says {sha256[:12]}: the object changed after the manifest "
            f"was written. The day stays as it is and is not read; restore the object"
        )


def _parsed(uri: str, body: bytes, contract: Contract) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(body))
    except (pa.ArrowException, OSError) as err:
        raise InputRejected(f"{uri} is no readable Parquet file; write it again from its source") from err
    wanted = arrow_schema(contract)
    for field in wanted:
        if field.name not in table.column_names:
            raise InputRejected(f"{uri} lacks the column {field.name}; docs/data-contract.md lists what it needs")
        if table.schema.field(field.name).type != field.type:
            found = table.schema.field(field.name).type
            raise InputRejected(f"{uri}: column {field.name} is {found}, the contract says {field.type}")
    return table.select(wanted.names)
