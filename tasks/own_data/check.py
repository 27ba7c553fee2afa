"""Hold a team's own files against the contract, row by row, before anything is wired: `freshrank data check PATH`.

Streams: memory stays at one batch, and a number for each item. Shows no text in full, so no raw user id either.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from tasks.domain.contract import CONTRACT_VERSION, EVENT, ITEM, PLAN, USER, Contract
from tasks.domain.errors import InputRejected
from tasks.own_data.row_faults import FileRows, Hit
from tasks.own_data.table_keys import KnownKeys, RepeatedKeys
from tasks.progress import Progress
from tasks.sources.tables import TableFile, find_tables, read_batches

ORDER = (ITEM, USER, PLAN, EVENT)  # what an item id refers to is read first
CLOCK_SKEW = timedelta(days=1)


@dataclass(slots=True)
class Problem:
    """One way in which rows, or a column, do not meet the contract. `examples` are the first of them."""

    table: str
    kind: str
    column: str
    sentence: str
    rows: int = 0  # 0: the column of a file as a whole
    examples: list[dict[str, Any]] = field(default_factory=list)  # file, row (of JSON lines: the line), value


@dataclass(slots=True)
class Report:
    """All that was found. `unreadable` holds a sentence for each file that could not be read to its end."""

    path: str
    contract_version: int = CONTRACT_VERSION
    tables: dict[str, dict[str, int]] = field(default_factory=dict)  # name -> files, rows
    problems: list[Problem] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 meets the contract, 1 does not, 2 cannot be read."""
        return 2 if self.unreadable else 1 if self.problems else 0

    def as_json(self) -> dict[str, Any]:
        return {"meets": self.exit_code == 0, "exit_code": self.exit_code, **asdict(self)}


def check(root: Path, table: str = "", examples: int = 20, now: datetime | None = None) -> Report:
    """Check a file, or every table in a folder. `examples` is how many rows of each problem are named.

    Raises:
        InputRejected: there is nothing to check.
    """
    began = time.monotonic()
    files, others = find_tables(root, table)
    report = Report(str(root))
    checker = _Checker(report, examples, (now or datetime.now(UTC)) + CLOCK_SKEW)
    with Progress("check", sum(map(_megabytes, files)), "MB") as bar:
        for contract in ORDER:
            if mine := [file for file in files if file.contract is contract]:
                checker.check_table(contract, mine, bar)
    report.problems.sort(key=lambda one: (one.rows > 0, -one.rows, one.table, one.column))
    report.notes += [f"not read, no table is called so: {_listed(others)}"] if others else []
    if EVENT.name in report.tables and ITEM.name not in report.tables:
        report.notes.append("there is no item table: whether the items of the events are known was not checked")
    report.seconds = round(time.monotonic() - began, 2)
    return report


class _Checker:
    """Fills a report, table by table. Knows the item ids once the item table has been read."""

    def __init__(self, report: Report, examples: int, latest: datetime) -> None:
        self._report, self._examples, self._latest = report, examples, latest
        self._problems: dict[tuple[str, str, str, str], Problem] = {}
        self._items: KnownKeys | None = None

    def check_table(self, contract: Contract, files: list[TableFile], bar: Progress) -> None:
        rows, known, further = 0, KnownKeys(), set()
        with tempfile.TemporaryDirectory(prefix="freshrank-check-") as scratch:
            repeated = RepeatedKeys(Path(scratch))
            for number, file in enumerate(files):
                mine, done = FileRows(file, self._examples, self._latest, self._items), 0
                try:
                    for batch in read_batches(file):
                        frame, hits = mine.judge(batch)
                        self._note(file, hits)
                        rows += len(batch.rows) + sum(fault.column == "" for fault in batch.faults)
                        if contract.key in frame.columns:
                            repeated.add(_keys(frame, file), number, batch.rows)
                            if contract is ITEM:
                                known.add(frame[contract.key])
                        bar.advance(max(0, int(batch.share * _megabytes(file)) - done))
                        done = max(done, int(batch.share * _megabytes(file)))
                except InputRejected as err:
                    self._report.unreadable[file.name] = str(err)
                further |= mine.further
            self._note_repeats(contract, repeated, files)
        self._report.tables[contract.name] = {"files": len(files), "rows": rows}
        if further and not contract.open:
            self._report.notes.append(f"columns of {contract.name}s that ingest leaves out: {_listed(sorted(further))}")
        if contract is ITEM and not self._report.unreadable:
            self._items = known

    def _note(self, file: TableFile, hits: list[Hit]) -> None:
        for hit in hits:
            examples = [{"file": file.name, "row": row, "value": value} for row, value in hit.examples]
            self._add(file.contract, hit.kind, hit.column, hit.sentence, hit.rows, examples)

    def _note_repeats(self, contract: Contract, repeated: RepeatedKeys, files: list[TableFile]) -> None:
        count, repeats = repeated.repeats(self._examples)
        if count:
            said = "stood before; the first one counts" if contract is EVENT else "stood before; only one may be"
            examples = [
                {
                    "file": files[one.file].name,
                    "row": one.row,
                    "value": f"first in row {one.first_row} of {files[one.first_file].name}",
                }
                for one in repeats
            ]
            self._add(contract, "duplicate", contract.key, said, count, examples)

    def _add(
        self, contract: Contract, kind: str, column: str, said: str, rows: int, examples: list[dict[str, Any]]
    ) -> None:
        key = (contract.name, kind, column, said)
        if key not in self._problems:
            self._problems[key] = Problem(*key)
            self._report.problems.append(self._problems[key])
        problem = self._problems[key]
        problem.rows += rows
        problem.examples += examples[: self._examples - len(problem.examples)]


def _keys(frame: pl.DataFrame, file: TableFile) -> pl.Series:
    """What no two rows share. A plan names an item once a day."""
    key = frame[file.contract.key]
    return key + f" {file.day}" if file.contract is PLAN else key


def _megabytes(file: TableFile) -> int:
    return max(1, file.path.stat().st_size >> 20)


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
