"""What is wrong with the rows of one file, batch by batch: the contract's columns decide, as they do after ingest.

Values leave here cut: an id shows two characters at most, so that no raw user id reaches a terminal or a log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from expectations.profile import broken
from expectations.suites import Expectation, Suite, from_contract
from tasks.conform import conform
from tasks.domain.contract import EVENT, PLAN, Column, Contract, arrow_schema, as_sent
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date
from tasks.own_data.table_keys import KnownKeys
from tasks.sources.tables import Batch, Fault, TableFile

WORD, DATE = re.compile(r"[A-Za-z_ -]{1,24}"), re.compile(r"-?\d{4,6}-\d\d-\d\d")
NUMBERS = ("int32", "float64", "float32", "bool")
UNPARSED = ("not_json", "not_object", "not_utf8")  # of a whole line: their value is ours, not the file's


class Hit(NamedTuple):
    """Rows that share one fault: how many, and the first of them as (row, cut value). No row: the whole column."""

    kind: str
    column: str
    sentence: str
    rows: int
    examples: list[tuple[int | None, str]]


class FileRows:
    """One file held against its contract. `latest` is the last moment that a clock may show."""

    def __init__(self, file: TableFile, most: int, latest: datetime, items: KnownKeys | None) -> None:
        self._file, self._most, self._latest, self._items = file, most, latest, items
        self._contract = as_sent(file.contract)
        self._expectations = tuple(from_contract(self._contract))
        self._judged: set[str] = set()  # columns whose presence and type have been judged
        self._refused: set[str] = set()  # those of another type
        self.further: set[str] = set()

    def judge(self, batch: Batch) -> tuple[pl.DataFrame, list[Hit]]:
        """(the sound columns in the contract's types, what is wrong). A column of another type is left out, named once."""
        hits = [*self._columns(batch)]
        faults = list(batch.faults)
        self.further |= set(batch.further)
        table, lossy = self._cast(batch)
        faults += lossy
        frame = pl.DataFrame(table)
        hits += _of_faults(faults, self._column, self._most)
        unread = {(fault.row, fault.column) for fault in faults}
        for kind, column, said, mask in self._masks(frame):
            at = mask.arg_true().to_list()
            if unread:  # a cell that could not be read is null here, and said so above
                at = [n for n in at if (batch.rows[n], column) not in unread]
            if at:
                values = frame[column].gather(at[: self._most])
                texts = values.cast(pl.String) if values.dtype == pl.Datetime else values
                cut = [shown(self._column(column), value) for value in texts.to_list()]
                rows = [batch.rows[n] for n in at[: self._most]]
                hits.append(Hit(kind, column, said, len(at), list(zip(rows, cut, strict=True))))
        return frame, hits

    def _columns(self, batch: Batch) -> Iterator[Hit]:
        schema, first = batch.table.schema, not self._judged
        if first and (len(batch.rows) or schema.names):  # JSON lines without a line lack nothing
            for name in self._contract.required:
                if name not in schema.names:
                    self._judged.add(name)
                    yield Hit("missing_column", name, "is missing", 0, [(None, "")])
        for name in schema.names:
            if name not in self._judged:
                self._judged.add(name)
                if wrong := self._wrong_type(schema.field(name)):
                    self._refused.add(name)
                    yield Hit("wrong_type", name, wrong, 0, [(None, "")])
        if first and not self._refused and set(self._contract.required) <= set(schema.names):
            try:
                conform(schema.empty_table(), self._contract, f"the {self._contract.name} table")
            except InputRejected as err:  # what ingest says of the columns together
                yield Hit("refused", "", str(err), 0, [(None, "")])

    def _wrong_type(self, field: pa.Field) -> str:
        """What ingest would say of a column of this type, without rows; nothing when it takes it."""
        schema = pa.schema([field])
        try:
            if field.name in self._contract.names:
                conform(schema.empty_table(), self._only(field.name), "")
            else:
                arrow_schema(self._contract, schema)
        except InputRejected:
            known = field.name in self._contract.names
            wanted = _type_of(self._contract, field) if known else "text, bool or a number"
            return f"is {field.type}, the contract says {wanted}"
        return ""

    def _cast(self, batch: Batch) -> tuple[pa.Table, list[Fault]]:
        """Columns in the contract's types. A value that would change on the way becomes null and a fault."""
        columns, faults = {}, []
        for name in batch.table.column_names:
            if name in self._refused:
                continue
            found = batch.table.column(name)
            wanted = _type_of(self._contract, batch.table.schema.field(name))
            try:
                columns[name] = found.cast(wanted)
            except pa.ArrowInvalid:
                columns[name], lossy = _loosely(found, wanted, name, batch.rows)
                faults += lossy
        return pa.table(columns), faults

    def _masks(self, frame: pl.DataFrame) -> Iterator[tuple[str, str, str, pl.Series]]:
        there = tuple(one for one in self._expectations if set(one.columns) <= set(frame.columns))
        for name, mask in broken(Suite(self._contract.name, (), there), frame).items():
            one = next(one for one in there if one.name == name)
            yield name, one.columns[0], sentence(one), mask
        for name, of in frame.schema.items():
            if of.is_float():
                yield f"{name}_finite", name, "is NaN or infinite", (~frame[name].is_finite()).fill_null(False)
            if of == pl.Datetime:
                future = (frame[name] > self._latest).fill_null(False)
                yield f"{name}_future", name, "lies in the future: a clock or a unit is wrong", future
        if self._file.contract is EVENT and self._file.day and "event_time" in frame.columns:
            end = partition_date(self._file.day) + timedelta(days=1)
            later = (frame["event_time"].dt.date() >= end).fill_null(False)
            yield "wrong_day", "event_time", "is after the day that its file or folder is named for", later
        if self._items and self._file.contract in (EVENT, PLAN) and "item_id" in frame.columns:
            yield "unknown_item", "item_id", "is not in the item table", self._items.unknown(frame["item_id"])

    def _only(self, name: str) -> Contract:
        return Contract(self._contract.name, name, (self._column(name),))

    def _column(self, name: str) -> Column:
        known = (column for column in self._contract.columns if column.name == name)
        return next(known, Column(name, "string", "", ""))


def shown(column: Column, value: Any) -> str:
    """A value for people: numbers, times and words of a fixed set as they are; any other text by its first letters."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = str(value)
    number = column.type in NUMBERS and not isinstance(value, str)
    moment = column.type == "timestamp" and DATE.match(text) is not None
    if number or (moment and len(text) < 40) or (column.values and WORD.fullmatch(text)):
        return text
    letters = min(2, len(text) // 4)
    return f"{ascii(text[:letters])[1:-1]}... ({len(text)} characters)"


def sentence(expectation: Expectation) -> str:
    """What is wrong with a value that breaks an expectation made from the contract."""
    told = expectation.arguments
    low, high = told.get("min_value"), told.get("max_value")
    match expectation.kind:
        case "ExpectColumnValuesToNotBeNull":
            return "is null, or absent"
        case "ExpectColumnValuesToBeInSet":
            return f"is none of {', '.join(told['value_set'])}"
        case "ExpectColumnValueLengthsToBeBetween":
            return f"is longer than {high:,} characters"
        case "ExpectColumnValuesToMatchRegex" if expectation.name.endswith("_not_blank"):
            return "is blank"
        case "ExpectColumnValuesToMatchRegex":
            return f"does not match {told['regex']}"
    bounds = [
        str(bound.date()) if isinstance(bound, datetime) else f"{bound:g}" for bound in (low, high) if bound is not None
    ]
    return f"is not between {' and '.join(bounds)}" if len(bounds) == 2 else f"is below {bounds[0]}"


def _of_faults(faults: list[Fault], column: Callable[[str], Column], most: int) -> Iterator[Hit]:
    kinds: dict[tuple[str, str, str], list[Fault]] = {}
    for fault in faults:
        kinds.setdefault((fault.kind, fault.column, fault.sentence), []).append(fault)
    for (kind, name, said), mine in kinds.items():
        first = [(one.row, _cut(column(name), one)) for one in mine[:most]]
        yield Hit(kind, name, said, sum(one.row is not None for one in mine), first)


def _cut(column: Column, fault: Fault) -> str:
    return str(fault.value or "") if fault.kind in UNPARSED else shown(column, fault.value)


def _loosely(
    found: pa.ChunkedArray, wanted: pa.DataType, name: str, rows: Sequence[int]
) -> tuple[pa.ChunkedArray, list[Fault]]:
    """What fits, and a fault for each value that would be another one in the contract's type."""
    loose = found.cast(wanted, safe=False)
    before, after = (pl.Series(one.cast(pa.int64(), safe=False)) for one in (found, loose.cast(found.type, safe=False)))
    changed = (before != after).fill_null(False)
    said = f"does not fit {wanted}"
    faults = [Fault(rows[n], name, "wrong_type", found[n].as_py(), said) for n in changed.arg_true().to_list()]
    # Arrow refuses whole numbers beyond 2**53 as float64, those that would fit by chance too
    return pl.Series(loose).set(changed, None).to_arrow(), faults or [Fault(None, name, "wrong_type", None, said)]


def _type_of(contract: Contract, field: pa.Field) -> pa.DataType:
    if field.name in contract.names:
        return arrow_schema(contract).field(field.name).type
    return arrow_schema(contract, pa.schema([field])).field(field.name).type
