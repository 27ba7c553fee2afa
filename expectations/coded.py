"""A column of few different values as numbers, so that counting it is a walk through an array instead of a hash table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Coded:
    """Which of its values each row has; a row without one has the number behind the last, `len(values)`."""

    values: pl.Series  # [values] text, each once; may hold some that no row has
    of: NDArray[np.uint32]  # [rows]

    @classmethod
    def column(cls, column: pl.Series) -> Coded:
        """Of a column of text, or of categories of its own."""
        if not isinstance(column.dtype, pl.Categorical):
            column = column.cast(pl.String).cast(pl.Categorical(pl.Categories.random()))
        values = values_of(column)
        return cls(values, column.to_physical().fill_null(len(values)).to_numpy())

    @classmethod
    def numbers(cls, column: pl.Series) -> Coded:
        """Of whole numbers that lie close together."""
        if column.null_count() == len(column):
            return cls(pl.Series([], dtype=pl.String), np.zeros(len(column), np.uint32))
        low, high = int(column.min()), int(column.max())  # type: ignore[arg-type]
        values = pl.Series([str(value) for value in range(low, high + 1)])
        return cls(values, (column.cast(pl.Int64) - low).fill_null(len(values)).cast(pl.UInt32).to_numpy())

    @property
    def rows(self) -> NDArray[np.int64]:
        """[values] how many rows have each."""
        counted: NDArray[np.int64] = np.bincount(self.of, minlength=len(self.values) + 1)[:-1]
        return counted

    def counts(self) -> Counts:
        """Value -> rows, of the values that any row has, in the order of the values."""
        return dict(sorted((value, rows) for value, rows in zip(self.values, self.rows.tolist(), strict=True) if rows))

    def by(self, other: Coded) -> dict[str, Counts]:
        """Value -> the other column's value -> rows that have both."""
        table = np.bincount(self._pairs(other), minlength=(len(self.values) + 1) * (len(other.values) + 1))
        table = table.reshape(len(self.values) + 1, -1)
        found = {
            value: {kind: rows for kind, rows in sorted(zip(other.values, row[:-1].tolist(), strict=True)) if rows}
            for value, row in sorted(zip(self.values, table[:-1], strict=True))
        }
        return {value: kinds for value, kinds in found.items() if kinds}

    def different(self, other: Coded) -> Counts:
        """Value -> how many different values of the other column the rows with it have."""
        met = np.zeros((len(self.values) + 1) * (len(other.values) + 1), bool)
        met[self._pairs(other)] = True
        told = met.reshape(len(self.values) + 1, -1)[:-1, :-1].sum(1)
        return dict(sorted((value, many) for value, many in zip(self.values, told.tolist(), strict=True) if many))

    def _pairs(self, other: Coded) -> NDArray[np.int64]:
        return self.of * np.int64(len(other.values) + 1) + other.of


def values_of(column: pl.Series) -> pl.Series:
    """The text of all categories that a column of them may have."""
    of = column.dtype
    assert isinstance(of, pl.Categorical | pl.Enum), of
    return of.categories if isinstance(of, pl.Enum) else of.categories.to_series()


def among(column: pl.Series, wanted: pl.Series) -> pl.Series:
    """The mask of the rows whose text is one of `wanted`."""
    if isinstance(column.dtype, pl.Categorical):
        codes = values_of(column).is_in(wanted.implode()).arg_true()
        return column.to_physical().is_in(codes.implode()).fill_null(False)
    return column.is_in(wanted.implode()).fill_null(False)
