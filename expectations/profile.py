"""A suite held against a table by Polars: which rows break which expectation, and a summary that Great Expectations judges.

The conditions mean what Great Expectations makes of them on pandas: null and NaN are absent values, which only
not-null minds. A test holds both ways against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import polars.selectors as cs

from expectations.coded import values_of
from expectations.suites import Expectation, Suite

ROW = "row"  # index column of every judged frame: which row broke an expectation
LIMIT = 1_000  # rows that a profile names per expectation; Great Expectations itself lists 200 values
CODED = (pl.Categorical, pl.Enum)
SAMPLE = 1_000  # rows by which a column of text is taken to repeat itself
Masks = Mapping[str, pl.Series]


def broken(suite: Suite, frame: pl.DataFrame) -> dict[str, pl.Series]:
    """For each expectation, by name, which rows break it. Two passes over the table, each on all cores."""
    judged = sorted({one.columns[0] for one in suite.expectations if one.kind in CONDITIONS})
    values = _distinct(frame.select(name for name in judged if _repeats(frame[name])))
    floats = _floats(frame)
    marks = {one.name: _mark(one, frame, floats, values) for one in suite.expectations}
    found = frame.select(**{name: mark for name, mark in marks.items() if mark is not None})
    none = pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
    return {name: found[name] if name in found.columns else none for name in marks}


def _mark(
    expectation: Expectation, frame: pl.DataFrame, floats: frozenset[str], texts: Mapping[str, pl.Series]
) -> pl.Expr | None:
    """True where a row breaks `expectation`; nothing where null counts or distinct values tell that no row does."""
    kind, arguments, columns = expectation.kind, expectation.arguments, expectation.columns
    if kind == "ExpectCompoundColumnsToBeUnique":
        together = pl.struct(pl.col(name).fill_nan(None) if name in floats else name for name in columns)
        return ~_all_absent(columns, floats) & together.is_duplicated()
    (name,) = columns
    if kind == "ExpectColumnValuesToNotBeNull":
        return _absent(name, floats) if name in floats or frame[name].null_count() else None
    if kind == "ExpectColumnValuesToBeUnique":
        return ~_absent(name, floats) & pl.col(name).is_duplicated()
    breaks = CONDITIONS[kind]
    if name in texts:
        wrong = texts[name].to_frame().filter(breaks(pl.col(name), arguments)).to_series()
        return pl.col(name).is_in(wrong.implode()).fill_null(False) if len(wrong) else None
    if frame[name].null_count() == frame.height:
        return None
    value = pl.col(name).cast(pl.Float64) if name in floats else pl.col(name)
    return (breaks(value, arguments) & ~_absent(name, floats)).fill_null(False)


def _distinct(texts: pl.DataFrame) -> dict[str, pl.Series]:
    """The values of each column; of categories and enumerations those that it may have."""
    coded = {name: of for name, of in texts.schema.items() if isinstance(of, CODED)}
    scanned = texts.select(pl.exclude(list(coded)).unique().implode())
    values = {name: scanned[name].explode().drop_nulls() for name in scanned.columns}
    return values | {name: values_of(texts[name]).alias(name) for name in coded}


def _repeats(column: pl.Series) -> bool:
    """Whether a text column has so few different values that telling them apart is cheaper than matching each row."""
    if isinstance(column.dtype, CODED):
        return True
    return column.dtype == pl.String and 2 * column.head(SAMPLE).n_unique() <= SAMPLE


def _outside_set(value: pl.Expr, arguments: dict[str, Any]) -> pl.Expr:
    return ~value.is_in(arguments["value_set"])


def _no_match(value: pl.Expr, arguments: dict[str, Any]) -> pl.Expr:
    """Python's \\Z is \\z here. A bare $ is refused: for Python it also matches before a last line break."""
    pattern: str = arguments["regex"]
    if "$" in pattern:
        raise ValueError(f"the pattern {pattern!r} means two things in two engines; end it with \\Z instead of $")
    return ~value.str.contains(pattern.replace(r"\Z", r"\z"))


def _out_of_range(value: pl.Expr, arguments: dict[str, Any]) -> pl.Expr:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    if low is None:
        return value > high
    return value < low if high is None else (value < low) | (value > high)


def _out_of_length(value: pl.Expr, arguments: dict[str, Any]) -> pl.Expr:
    return _out_of_range(value.str.len_chars(), arguments)


CONDITIONS: dict[str, Callable[[pl.Expr, dict[str, Any]], pl.Expr]] = {
    "ExpectColumnValuesToBeInSet": _outside_set,
    "ExpectColumnValuesToMatchRegex": _no_match,
    "ExpectColumnValuesToBeBetween": _out_of_range,
    "ExpectColumnValueLengthsToBeBetween": _out_of_length,
}


def _floats(frame: pl.DataFrame) -> frozenset[str]:
    """Once a table: reading a schema copies the categories of every enumeration."""
    return frozenset(name for name, of in frame.schema.items() if of.is_float())


def _absent(name: str, floats: frozenset[str]) -> pl.Expr:
    value = pl.col(name)
    return value.is_null() | value.is_nan().fill_null(False) if name in floats else value.is_null()


def _all_absent(columns: tuple[str, ...], floats: frozenset[str]) -> pl.Expr:
    return pl.all_horizontal(_absent(name, floats) for name in columns)


@dataclass(frozen=True, slots=True)
class Found:
    """How many rows break one expectation, and the first of them: `row` and the values of its columns."""

    count: int
    ignored: int  # rows that the expectation does not speak of, for want of a value
    sample: pl.DataFrame

    def __add__(self, other: Found) -> Found:
        sample = pl.concat([self.sample, other.sample], how="vertical_relaxed").head(LIMIT)
        return Found(self.count + other.count, self.ignored + other.ignored, sample)


@dataclass(frozen=True, slots=True)
class Profile:
    """All that judging a table takes, however long the table is. Profiles of its parts add up to the whole's."""

    suite: Suite
    rows: int
    absent: dict[str, int]  # column -> null and NaN
    found: dict[str, Found]  # expectation -> what breaks it

    @classmethod
    def of(cls, suite: Suite, frame: pl.DataFrame, masks: Masks | None = None) -> Profile:
        """Of a frame with a `row` column. `masks` is what `broken` gave for it, where that is known already."""
        masks = broken(suite, frame) if masks is None else masks
        floats = _floats(frame)
        counts = frame.select(_absent(name, floats).sum() for name in suite.columns)
        absent: dict[str, int] = counts.row(0, named=True)
        found = {}
        for one in suite.expectations:
            mask, columns = masks[one.name], one.columns
            count = int(mask.sum())
            first = mask.arg_true().head(LIMIT) if count else pl.Series([], dtype=pl.UInt32)
            sample = frame.select(ROW, *columns)[first].with_columns((cs.categorical() | cs.enum()).cast(pl.String))
            joint = len(columns) > 1
            ignored = frame.select(_all_absent(columns, floats).sum()).item() if joint else absent[columns[0]]
            found[one.name] = Found(count, ignored, sample)
        return cls(suite, frame.height, absent, found)

    def __add__(self, other: Profile) -> Profile:
        """The profile of both tables, one behind the other; `row` must go on counting.

        Raises:
            ValueError: the suite asks for unique values, which cannot be told from summaries.
        """
        whole = [one.name for one in self.suite.expectations if "Unique" in one.kind]
        if whole or self.suite is not other.suite:
            raise ValueError(
                f"profiles of {self.suite.name} and {other.suite.name} cannot be added "
                f"({', '.join(whole) or 'two suites'}); profile the table in one piece"
            )
        absent = {name: count + other.absent[name] for name, count in self.absent.items()}
        found = {name: one + other.found[name] for name, one in self.found.items()}
        return Profile(self.suite, self.rows + other.rows, absent, found)
