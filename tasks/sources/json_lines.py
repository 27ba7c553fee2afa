"""JSON lines, one object a line, as columns in the contract's types; what does not fit is named by line and column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import polars as pl

from tasks.domain.contract import TIME, Column, Contract
from tasks.domain.errors import InputRejected

BLOCK_BYTES = 4 << 20
LONGEST_LINE = 16 << 20
OTHERS = {  # the first bytes of what is often sent under this name
    b"\xff\xfe": "UTF-16 text; write it as UTF-8",
    b"\xfe\xff": "UTF-16 text; write it as UTF-8",
    b"PAR1": "a Parquet file; call it .parquet",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"(\xb5/\xfd": "compressed with zstd; unpack it",
}
DTYPES = {"string": pl.String, "timestamp": pl.String, "bool": pl.Boolean, "int32": pl.Int64}
PYTHON: Mapping[Any, set[type]] = {
    pl.String: {str},
    pl.Boolean: {bool},
    pl.Int64: {int, float},
    pl.Float64: {int, float},
}
WORDS = {pl.String: "a string", pl.Boolean: "true or false", pl.Int64: "a whole number", pl.Float64: "a number"}
Told = tuple[int | None, str, str, Any, str]  # row, column, kind, value, sentence


class Block(NamedTuple):
    """Some lines of a file: sound cells as columns, the rest as faults."""

    frame: pl.DataFrame
    lines: list[int] | range
    faults: list[Told]
    further: tuple[str, ...]
    read: int  # bytes of the file, up to here


def read_json_lines(path: Path, contract: Contract) -> Iterator[Block]:
    """Blocks of a file, in order; an empty one if it has no line. Raises InputRejected when these are no JSON lines."""
    further: dict[str, Any] = {}  # column that the contract does not have -> its type, once a line tells
    seen: set[str] = set()
    first, read = 1, 0
    for lines in _lines(path):
        objects, numbers, faults = _objects(lines, first)
        first += len(lines)
        read += sum(map(len, lines)) + len(lines)
        seen |= set().union(*objects)
        further |= {name: further.get(name) for name in sorted(seen - set(contract.names))}
        columns = {}
        for column in contract.columns:
            if column.name in seen:
                values = [one.get(column.name) for one in objects]
                columns[column.name], bad = _column(column.name, values, DTYPES.get(column.type, pl.Float64), numbers)
                if column.type == "timestamp":
                    columns[column.name], more = _times(column, columns[column.name], numbers)
                    bad += more
                faults += bad
        if contract.open:
            for name in further:
                values = [one.get(name) for one in objects]
                further[name] = further[name] or _told_type(values)
                columns[name], bad = _column(name, values, further[name] or pl.String, numbers)
                faults += bad
        yield Block(pl.DataFrame(columns), numbers, faults, tuple(further), read)


def _lines(path: Path) -> Iterator[list[bytes]]:
    """Lists of lines, about BLOCK_BYTES each; at least one list, which may be empty."""
    rest, done = b"", 0
    with path.open("rb") as file:
        while piece := file.read(BLOCK_BYTES):
            if not done and not rest:
                piece = _without_mark(path, piece)
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            if len(rest) > LONGEST_LINE:
                raise InputRejected(
                    f"{path}: line {done + len(lines) + 1} is longer than {LONGEST_LINE >> 20} MiB; "
                    f"JSON lines have one object on each line"
                )
            if lines:
                yield lines
            done += len(lines)
    if rest or not done:
        yield [rest] if rest else []


def _without_mark(path: Path, piece: bytes) -> bytes:
    for begin, what in OTHERS.items():
        if piece.startswith(begin):
            raise InputRejected(f"{path} is {what}")
    return piece.removeprefix(b"\xef\xbb\xbf")


def _objects(lines: list[bytes], first: int) -> tuple[list[dict[str, Any]], list[int] | range, list[Told]]:
    """(objects, the line of each, faults). Blank lines are none of these."""
    try:
        objects = [orjson.loads(line) for line in lines]
        if set(map(type, objects)) <= {dict}:
            return objects, range(first, first + len(lines)), []
    except orjson.JSONDecodeError:
        pass
    numbers: list[int] = []
    faults: list[Told] = []
    objects = []
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        found, fault = _parsed(line)
        if fault:
            faults.append((number, "", *fault))
        else:
            objects.append(found)
            numbers.append(number)
    return objects, numbers, faults


def _parsed(line: bytes) -> tuple[Any, tuple[str, Any, str] | None]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as err:
        try:
            line.decode()
        except UnicodeDecodeError:
            return None, ("not_utf8", None, "is not UTF-8")
        where = f"column {err.colno}: {err.msg}"
        return None, ("not_json", where, "is not JSON; neither are NaN and Infinity: write null")
    if not isinstance(found, dict):
        return None, ("not_object", None, "is JSON, but no object: write {...} on each line")
    return found, None


def _column(name: str, values: list[Any], dtype: Any, numbers: Sequence[int]) -> tuple[pl.Series, list[Told]]:
    """Values of other types become null and a fault; a float that is whole counts as an integer, as in JSON Schema."""
    known = PYTHON[dtype] | {type(None)}
    faults: list[Told] = []
    if dtype == pl.Int64 or not set(map(type, values)) <= known:
        for at, value in enumerate(values):
            if type(value) not in known or (dtype == pl.Int64 and value is not None and not _fits(value)):
                faults.append((numbers[at], name, "wrong_type", value, f"is not {WORDS[dtype]}"))
                values[at] = None
    return pl.Series(name, values, dtype, strict=False), faults


def _fits(value: float) -> bool:
    return -(2**31) <= value < 2**31 and value == int(value)


def _times(column: Column, texts: pl.Series, numbers: Sequence[int]) -> tuple[pl.Series, list[Told]]:
    """RFC 3339 with an offset; nanoseconds are cut to microseconds."""
    sound = texts.str.contains(TIME)
    times = texts.set(~sound, None).str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    faults: list[Told] = []
    for at in (times.is_null() & texts.is_not_null()).arg_true():
        naive = texts[at] is not None and bool(pl.Series([f"{texts[at]}Z"]).str.contains(TIME)[0])
        kind = "no_time_zone" if naive else "not_a_time"
        said = (
            "has no time zone; times end in Z or an offset" if naive else "is no time; write it as 2026-03-02T18:04:05Z"
        )
        faults.append((numbers[at], column.name, kind, texts[at], said))
    return times, faults


def _told_type(values: list[Any]) -> Any:
    """What the first value that is no null and no list or object says; nothing while there is none."""
    types = {str: pl.String, bool: pl.Boolean, int: pl.Float64, float: pl.Float64}
    return next((types[type(value)] for value in values if type(value) in types), None)
