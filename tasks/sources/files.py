"""A team's own folder that already meets the contract, as a source: no code, `FRESHRANK_SOURCE=files:/data/shop`.

    events/dt=2026-03-02/*.parquet|*.jsonl   or events-2026-03-02.parquet; what arrived on that day
    items.parquet                            or items/*.parquet
    plan/dt=2026-03-02/*, users.parquet      where there are any

Columns are taken as they are; ingest holds them against the contract. `freshrank data check` names every row that fails.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa

from tasks.domain.behaviour import next_day
from tasks.domain.contract import EVENT, ITEM, PLAN, USER, Contract, arrow_schema
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date
from tasks.sources import Trip, require_day, trips_of
from tasks.sources.tables import TableFile, find_tables, read_batches


class Files:
    """A folder of daily files. Files that appear later count from the next opening on."""

    name = "files"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files, _ = find_tables(folder)
        for file in self._files:
            if file.contract in (EVENT, PLAN) and file.day is None:
                raise InputRejected(
                    f"{file.path} does not say its day; call it {file.contract.name}-2026-03-02{file.path.suffix}, or put "
                    f"it into a folder dt=2026-03-02"
                )
        days = sorted(file.day for file in self._files if file.contract is EVENT and file.day)
        if not days:
            raise InputRejected(f"{folder} holds no events; docs/bring-your-own-data.md says how to lay them out")
        if not any(file.contract is ITEM for file in self._files):
            raise InputRejected(f"{folder} holds no item table; events without it have neither text nor features")
        self.title, self.first_day, self.last_day = f"The folder {folder}", days[0], days[-1]

    def days(self) -> list[str]:
        count = (partition_date(self.last_day) - partition_date(self.first_day)).days + 1
        return [next_day(self.first_day, n) for n in range(count)]

    def events(self, day: str) -> pa.Table:
        return self._day(EVENT, day)

    def plan(self, day: str) -> pa.Table:
        return self._day(PLAN, day)

    def items(self) -> pa.Table:
        return self._read(ITEM, [file for file in self._files if file.contract is ITEM])

    def users(self) -> pa.Table | None:
        files = [file for file in self._files if file.contract is USER]
        return self._read(USER, files) if files else None

    def trips(self, day: str) -> list[Trip]:
        return trips_of(pl.DataFrame(self._day(EVENT, day)))

    def _day(self, contract: Contract, day: str) -> pa.Table:
        require_day(self, day)
        return self._read(contract, [file for file in self._files if file.contract is contract and file.day == day])

    def _read(self, contract: Contract, files: list[TableFile]) -> pa.Table:
        tables = [table for file in files for table in _tables(file) if table.num_columns]
        if not tables:  # no file, or JSON lines without a line
            return pa.schema([field.with_nullable(True) for field in arrow_schema(contract)]).empty_table()
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as err:
            names = ", ".join(file.name for file in files)
            raise InputRejected(f"{self._folder}: {names} do not agree about the type of a column: {err}") from err


def _tables(file: TableFile) -> list[pa.Table]:
    """The file's batches; columns that the contract does not have come as nulls, so that ingest names them."""
    tables = []
    for batch in read_batches(file):
        for fault in batch.faults:
            where = f"row {fault.row}, " if fault.row else ""
            raise InputRejected(
                f"{file.path}: {where}{fault.column or 'the line'} {fault.sentence}; "
                f"`freshrank data check {file.path}` names all such rows"
            )
        table = batch.table
        for name in set(batch.further) - set(table.column_names):
            table = table.append_column(name, pa.nulls(table.num_rows))
        tables.append(table)
    return tables
