"""Tables in a folder: which file is which table and of which day, and its rows in batches, Parquet or JSON lines.

Memory stays at one batch, however long the file is. A cell that cannot be read is null in the batch and a Fault beside
it; a file that cannot be read at all raises InputRejected. Texts of faults never repeat a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.domain.contract import CONTRACTS, Contract
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date
from tasks.sources.json_lines import read_json_lines

PARQUET, JSON_LINES = (".parquet",), (".jsonl", ".ndjson")
BATCH_ROWS = 131_072
DAY = re.compile(r"-(\d{4}-\d{2}-\d{2})$")


class TableFile(NamedTuple):
    """One file: which contract its rows should meet, and its day where its name or folder says one."""

    path: Path
    name: str  # from the root on, for people
    contract: Contract
    day: str | None


class Fault(NamedTuple):
    """What could not be read, and why. Row 1 is the first; in JSON lines it is the line. None: the column as a whole."""

    row: int | None
    column: str
    kind: str
    value: Any
    sentence: str


class Batch(NamedTuple):
    """Rows as they come. A column that no row has is absent; `rows` are the numbers of the table's rows."""

    table: pa.Table
    rows: list[int] | range
    faults: list[Fault]
    further: tuple[str, ...]  # columns that the contract does not have
    share: float  # of the file that has been read by now


def find_tables(root: Path, table: str = "") -> tuple[list[TableFile], list[str]]:
    """(the table files under `root`, names of other files). `root` may be a file; `table` decides where names do not.

    Raises:
        InputRejected: nothing there is a table, or a folder `dt=...` is not a day.
    """
    if not root.exists():
        raise InputRejected(f"{root} does not exist")
    top = root if root.is_dir() else root.parents[min(2, len(root.parents) - 1)]
    tables, others = [], []
    for path in [root] if root.is_file() else _files(root):
        name = path.name if path == root else path.relative_to(root).as_posix()
        contract = _contract(path, top, table) if path.suffix in PARQUET + JSON_LINES else None
        if contract:
            tables.append(TableFile(path, name, contract, _day(path)))
        else:
            others.append(name)
    if not tables:
        raise InputRejected(
            f"{root} holds no table: names of files, or of the folders they are in, begin with "
            f"{', '.join(f'{contract.name}s' for contract in CONTRACTS)} and end in {', '.join(PARQUET + JSON_LINES)}; "
            f"--table says which table other names are. Not recognised: {', '.join(others[:5]) or 'nothing is there'}"
        )
    return tables, others


def read_batches(file: TableFile) -> Iterator[Batch]:
    """The rows of one file, in order. Raises InputRejected when it cannot be read, then or later."""
    if file.path.suffix in PARQUET:
        return _parquet(file)
    return _json_lines(file)


def _files(root: Path) -> Iterator[Path]:
    """Regular files, in the order of their names; what begins with `.` or `_` is a marker of the program that wrote it."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        for name in sorted(names):
            path = Path(folder, name)
            if name[0] not in "._" and path.is_file():
                yield path


def _contract(path: Path, top: Path, table: str) -> Contract | None:
    """By the name of the file, else of the nearest folder up to `top` that says one."""
    folders = (parent.name for parent in path.parents if parent.is_relative_to(top))
    for word in [table] if table else [path.name, *folders]:
        for contract in CONTRACTS:
            if word.lower().startswith(contract.name):
                return contract
    return None


def _day(path: Path) -> str | None:
    for part in reversed(path.parts):
        if part.startswith("dt="):
            return partition_date(part[3:]).isoformat()
    found = DAY.search(path.stem)
    return partition_date(found[1]).isoformat() if found else None


def _json_lines(file: TableFile) -> Iterator[Batch]:
    size = max(file.path.stat().st_size, 1)
    for block in read_json_lines(file.path, file.contract):
        faults = [Fault(*fault) for fault in block.faults]
        yield Batch(block.frame.to_arrow(), block.lines, faults, block.further, block.read / size)


def _parquet(file: TableFile) -> Iterator[Batch]:
    path, contract, done = file.path, file.contract, 0
    try:
        reader = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
        found = reader.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as err:
        raise InputRejected(f"{path} is no readable Parquet file: it is truncated, corrupt or something else") from err
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InputRejected(f"{path} has the column {twice[0]} twice; which one counts?")
    further = tuple(sorted(set(found) - set(contract.names)))
    wanted = found if contract.open else [name for name in found if name in contract.names]
    with reader:
        batches = reader.iter_batches(BATCH_ROWS, columns=wanted)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as err:
                raise InputRejected(f"{path} cannot be read after row {done}: it is truncated or corrupt") from err
            if batch is None:
                break
            rows = range(done + 1, done + 1 + batch.num_rows)
            done += batch.num_rows
            table, faults = _as_utf8(pa.Table.from_batches([batch]), rows)
            yield Batch(table, rows, faults, further, done / max(reader.metadata.num_rows, 1))
    if not done:
        yield Batch(reader.schema_arrow.empty_table().select(wanted), range(0), [], further, 1.0)


def _as_utf8(table: pa.Table, rows: range) -> tuple[pa.Table, list[Fault]]:
    """Parquet says that text is UTF-8 and checks nothing; what is not becomes null and a fault."""
    faults = []
    for at, field in enumerate(table.schema):
        of = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not (pa.types.is_string(of) or pa.types.is_large_string(of)):
            continue
        try:
            table.column(at).validate(full=True)
        except pa.ArrowInvalid:
            texts = [_decoded(cell) for cell in table.column(at).cast(of).cast(pa.binary()).to_pylist()]
            bad = [row for row, (_, sound) in zip(rows, texts, strict=True) if not sound]
            faults += [Fault(row, field.name, "not_utf8", None, "is not UTF-8") for row in bad]
            table = table.set_column(at, field.name, pa.array([text for text, _ in texts], of))
    return table, faults


def _decoded(cell: bytes | None) -> tuple[str | None, bool]:
    try:
        return cell.decode() if cell is not None else None, True
    except UnicodeDecodeError:
        return None, False
