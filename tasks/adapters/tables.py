"""Parquet tables in the object store: every byte verified when read, every column of the type that the contract says."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.adapters.store import Store
from tasks.domain.behaviour import PartitionFile
from tasks.domain.contract import Contract, arrow_schema
from tasks.domain.errors import InputRejected

if TYPE_CHECKING:
    import polars as pl

READERS = 8  # objects read at once
# few distinct values for many rows
CODED = ("user_id", "session_id", "surface", "item_id", "event_type", "store_id")
MANY = ("user_id", "session_id")  # too many for Parquet, which gives up coding them after a megabyte
# years 1 to 9999: what a calendar can say. A time beyond is garbage, and libraries crash on it
EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


def read_file(store: Store, key: str, file: PartitionFile) -> bytes:
    body = store.get(key)
    verify(store.uri(key), body, file.sha256)
    return body


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


def read_by_digest(store: Store, key: str, sha256: str, contract: Contract) -> pa.Table:
    body = store.get(key)
    verify(store.uri(key), body, sha256)
    return _parsed(store.uri(key), body, contract)


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


def verify(uri: str, body: bytes, sha256: str) -> None:
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
