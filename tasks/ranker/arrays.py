"""Small array idioms that state and features share; numpy only, no idea of the domain beyond days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
EPOCH = date(1970, 1, 1)
LARGEST_TABLE = 1 << 20  # codes; above, groups are searched


def epoch_day(day: str | date) -> int:
    """Days since 1970-01-01. Every day number in the ranker is one of these."""
    return ((date.fromisoformat(day) if isinstance(day, str) else day) - EPOCH).days


def iso_day(day: int) -> str:
    return date.fromordinal(EPOCH.toordinal() + int(day)).isoformat()


def weekday(day: int | Ints) -> int | Ints:
    """Monday is 0; 1970-01-01 was a Thursday."""
    return (day + 3) % 7


class Groups:
    """Events grouped by a code: sums, first and last members of each group, and lookup of other codes among the groups.

    Lookup answers len(keys) for a code without a group, so that `spread` can give those a default.
    """

    __slots__ = ("counts", "ends", "keys", "order", "starts")

    def __init__(self, codes: NDArray[Any]) -> None:
        self.order, ordered = _sorted(codes)
        new = np.ones(len(codes), bool)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        self.starts = np.flatnonzero(new)
        self.ends = np.append(self.starts[1:], len(codes)) if len(codes) else self.starts
        self.keys = ordered[self.starts]
        self.counts = (self.ends - self.starts).astype(np.float32)

    @classmethod
    def joined(cls, groups: Sequence[Groups], sizes: Sequence[int], stride: int) -> Groups:
        """Groups of events that lie behind each other; codes of part n are raised by n * stride."""
        if len(groups) == 1:
            return groups[0]
        joined = cls.__new__(cls)
        before = np.cumsum([0, *sizes[:-1]])
        joined.order = np.concatenate([one.order + n for one, n in zip(groups, before, strict=True)])
        joined.starts = np.concatenate([one.starts + n for one, n in zip(groups, before, strict=True)])
        joined.ends = np.concatenate([one.ends + n for one, n in zip(groups, before, strict=True)])
        joined.keys = np.concatenate([one.keys + np.int64(n * stride) for n, one in enumerate(groups)])
        joined.counts = np.concatenate([one.counts for one in groups])
        return joined

    def sum(self, values: Floats) -> Floats:
        return np.add.reduceat(values[self.order], self.starts) if len(self.starts) else np.zeros(0, np.float32)

    def first(self, values: NDArray) -> NDArray:
        return values[self.order[self.starts]]

    def last(self, values: NDArray) -> NDArray:
        return values[self.order[self.ends - 1]]

    def dense(self, values: Floats, size: int) -> Floats:
        """The value of every code below `size`, 0 for codes without a group."""
        table = np.zeros(size, np.float32)
        table[self.keys] = values
        return table

    def lookup(self, codes: NDArray[Any]) -> NDArray[np.intp]:
        if not len(self.keys) or not len(codes):
            return np.zeros(len(codes), np.intp)
        if int(self.keys[-1]) >= LARGEST_TABLE:
            at = np.minimum(np.searchsorted(self.keys, codes), len(self.keys) - 1)
            return np.where(self.keys[at] == codes, at, len(self.keys))
        # a table, not a binary search: ten times faster where the codes are the whole catalogue
        table = np.full(max(int(self.keys[-1]), int(codes.max())) + 1, len(self.keys), np.intp)
        table[self.keys] = np.arange(len(self.keys))
        return table[codes]


def _sorted(codes: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Stable order of `codes`, and the codes in it: one sort of (code, place) pairs, several times faster than argsort."""
    bits = max(len(codes) - 1, 1).bit_length()
    pairs = np.sort((codes.astype(np.int64) << bits) | np.arange(len(codes)))
    return (pairs & ((1 << bits) - 1)).astype(np.intp), (pairs >> bits).astype(codes.dtype)


def spread(values: NDArray, at: NDArray[np.intp], default: float = 0.0) -> NDArray:
    """Value of each looked-up group, `default` for codes without a group."""
    return np.append(values, values.dtype.type(default))[at]


def spread_together(
    columns: Mapping[str, tuple[NDArray[Any] | float, float]], at: NDArray[np.intp], groups: int
) -> dict[str, Floats]:
    """`spread` of several columns by the same lookup: name -> (value of each group, default)."""
    table = np.empty((len(columns), groups + 1), np.float32)
    for row, (values, default) in zip(table, columns.values(), strict=True):
        row[:-1] = values
        row[-1] = default
    return dict(zip(columns, table[:, at], strict=True))


def ranges(starts: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, ... counts[0] of them, then those of starts[1], and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def top(scores: Floats, k: int) -> Ints:
    """Indices of the k largest scores, largest first, ties by index: the same on every machine."""
    if k <= 0:
        return np.zeros(0, np.int32)
    if k < len(scores):
        negative = -scores  # many are equal and small: from this end numpy finds the place six times faster
        negative.partition(k - 1)
        chosen = np.flatnonzero(scores >= -negative[k - 1])
        if len(chosen) > k:  # of those that are equal to the last the first ones
            ties = np.flatnonzero(scores[chosen] == -negative[k - 1])
            chosen = np.delete(chosen, ties[k - len(chosen) :])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")].astype(np.int32)
