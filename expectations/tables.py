"""Tables that suites judge instead of millions of cells: a row for each training slate, a row for each ranked slate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expectations.profile import ROW

HISTORY = "history"
SIGN, INFINITE = np.uint16(0x8000), np.uint16(0x7C00)  # of a float16, as whole numbers; NaN lies beyond infinity
SLATE_COLUMNS = {
    "day": pl.String,
    "slate": pl.Int32,  # its place in the day's file
    "rows": pl.Int32,
    "positives": pl.Int32,
    "negatives": pl.Int32,
    "label_lowest": pl.Float64,
    "label_highest": pl.Float64,
    "weight_lowest": pl.Float64,
    "weight_highest": pl.Float64,
    "input_largest": pl.Float64,  # magnitude; NaN where any input is
    "input_name": pl.String,  # whose it is; HISTORY: of a line of the user's history
}


class SlateRows(Protocol):
    """What this module needs of tasks.ranker.slates.Rows."""

    ptr: NDArray[np.int32]
    x: NDArray[np.float16]
    lengths: NDArray[np.uint8]
    tokens: NDArray[np.float16]
    label: NDArray[Any]
    weight: NDArray[np.float32]


def training_slates(
    days: Iterable[tuple[str, SlateRows]], inputs: Sequence[str], nullable: Collection[str] = ()
) -> pl.DataFrame:
    """One row a slate of the training days.

    Args:
        inputs: names of the columns of `x`.
        nullable: those of them where NaN stands for unknown, and is filled in before anything reads it.
    """
    named, unknown = np.array([*inputs, HISTORY]), [list(inputs).index(name) for name in nullable]
    parts = [_slates_of(day, rows, named, unknown) for day, rows in days if len(rows.ptr) > 1]
    return pl.concat([pl.DataFrame(schema=SLATE_COLUMNS), *parts]).with_row_index(ROW)


def _slates_of(day: str, rows: SlateRows, inputs: NDArray[Any], nullable: list[int]) -> pl.DataFrame:
    starts, sizes = rows.ptr[:-1], np.diff(rows.ptr)
    label, weight = rows.label.astype(np.float64), rows.weight.astype(np.float64)
    positives = np.add.reduceat((label > 0).astype(np.int32), starts)
    magnitude = _magnitude(rows.x)
    magnitude[:, nullable] = np.where(magnitude[:, nullable] > INFINITE, 0, magnitude[:, nullable])
    magnitude = np.column_stack([np.maximum.reduceat(magnitude, starts, axis=0), _history(rows)])
    worst = magnitude.argmax(1)
    largest = magnitude[np.arange(len(worst)), worst].view(np.float16)
    columns = {
        "day": [day] * len(starts),
        "slate": np.arange(len(starts)),
        "rows": sizes,
        "positives": positives,
        "negatives": sizes - positives,
        "label_lowest": np.minimum.reduceat(label, starts),
        "label_highest": np.maximum.reduceat(label, starts),
        "weight_lowest": np.minimum.reduceat(weight, starts),
        "weight_highest": np.maximum.reduceat(weight, starts),
        "input_largest": largest.astype(np.float64),
        "input_name": inputs[worst],
    }
    return pl.DataFrame(columns, schema=SLATE_COLUMNS)


def _magnitude(halves: NDArray[np.float16]) -> NDArray[np.uint16]:
    """Without its sign bit a float16 sorts as a whole number, infinity and NaN last, many times faster than halves do."""
    magnitude: NDArray[np.uint16] = np.ascontiguousarray(halves).view(np.uint16) & ~SIGN
    return magnitude


def _history(rows: SlateRows) -> NDArray[np.uint16]:
    """Largest magnitude in the histories of each slate; 0 where nobody has one."""
    first = np.concatenate([[0], np.cumsum(rows.lengths, dtype=np.int64)])[rows.ptr]
    told = np.flatnonzero(np.diff(first))
    largest = np.zeros(len(first) - 1, np.uint16)
    if len(told):
        largest[told] = np.maximum.reduceat(_magnitude(rows.tokens).max(1), first[told])
    return largest


class Predictions:
    """Gathers one row for each slate that a system ranked."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(
        self, kind: str, system: str, day: str, user: int, order: NDArray[np.int32], scores: NDArray[np.float32]
    ) -> None:
        """`order` has the candidates' positions, best first; `scores` in the same order."""
        count = len(scores)
        placed = order[(order >= 0) & (order < count)]
        self._rows.append(
            {
                "kind": kind,
                "system": system,
                "day": day,
                "user": user,
                "candidates": count,
                "unranked": count - len(np.unique(placed)) + abs(len(order) - count),
                "rises": int((np.diff(scores) > 0).sum()),
                "score_lowest": float(scores.min()) if count else None,
                "score_highest": float(scores.max()) if count else None,
                "scores": len(np.unique(scores)),
            }
        )

    def table(self) -> pl.DataFrame:
        return pl.DataFrame(self._rows, schema=PREDICTION_COLUMNS).with_row_index(ROW)


PREDICTION_COLUMNS = {
    "kind": pl.String,
    "system": pl.String,  # candidate or champion
    "day": pl.String,
    "user": pl.Int64,  # the user's number in the dataset
    "candidates": pl.Int64,
    "unranked": pl.Int64,
    "rises": pl.Int64,
    "score_lowest": pl.Float64,  # NaN where any score is
    "score_highest": pl.Float64,
    "scores": pl.Int64,  # different ones
}
