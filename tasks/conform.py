"""A source's table in the contract's shape, or a refusal that names the column and never quotes a value."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import polars as pl
import pyarrow as pa

from tasks.adapters.tables import EARLIEST_US, LATEST_US
from tasks.domain.contract import Contract, arrow_schema
from tasks.domain.errors import InputRejected

log = logging.getLogger("freshrank.ingest")
MOST_NAMES, LONGEST_NAME = 20, 64  # column names come from outside, and go into manifests and logs
MOST_FURTHER = 200  # columns of an open contract


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
