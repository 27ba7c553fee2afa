"""A slate: what one user bought on one day, to be found in the catalogue of that morning.

Where a log says what was shown, a list is a slate too: its candidates are what was shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.build import Morning, StateBuilder


@dataclass(frozen=True, slots=True)
class Slate:
    """`positives` are catalogue rows of the morning, ascending; `new` marks those never bought by the user before."""

    day: int
    user: int
    positives: Ints
    new: NDArray[np.bool_]
    paid: Floats  # for each of them on this day


def slates_of(builder: StateBuilder, day: int, row_of: Ints, size: int) -> list[Slate]:
    """One slate for each selected user who bought of the catalogue on `day`. Reads the day itself: these are labels."""
    log = builder.log
    first, after = log.before(day), log.before(day + 1)
    rows = row_of[log.item[first:after]]
    kept = (rows >= 0) & (rows < size) & np.isin(log.user[first:after], builder.users)
    rows, users, new = rows[kept], log.user[first:after][kept], builder.previous[first:after][kept] < 0
    paid = log.value[first:after][kept]
    slates = []
    for user in np.unique(users):
        mine = users == user
        order = np.argsort(rows[mine])
        slates.append(Slate(day, int(user), rows[mine][order].astype(np.int32), new[mine][order], paid[mine][order]))
    return slates


def slates_on(builder: StateBuilder, day: int) -> tuple[Morning, list[Slate]]:
    """The morning of `day` and its slates, with the histories of exactly their users."""
    items, row_of = builder.items(day)
    slates = slates_of(builder, day, row_of, items.size)
    users = np.array([slate.user for slate in slates], np.int32)
    return builder.with_histories(items, row_of, users), slates


@dataclass(frozen=True, slots=True)
class ShownSlate:
    """One list that was shown: the part of it that the morning's catalogue holds, and what came of it."""

    day: int
    user: int
    request: int
    rows: Ints
    position: NDArray[np.int16]
    propensity: Floats
    grade: NDArray[np.uint8]


def shown_on(builder: StateBuilder, day: int, row_of: Ints, size: int) -> list[ShownSlate]:
    """The lists of `day` that selected users answered in part: without an answer, or with nothing else, there is no order."""
    shown = builder.shown
    if shown is None:
        return []
    first, after = np.searchsorted(shown.day, (day, day + 1))
    rows = row_of[shown.item[first:after]]
    kept = first + np.flatnonzero((rows >= 0) & (rows < size) & np.isin(shown.user[first:after], builder.users))
    slates = []
    starts = np.flatnonzero(np.diff(shown.request[kept], prepend=-1)) if len(kept) else kept
    for part in np.split(kept, starts[1:]):
        answered = np.count_nonzero(shown.grade[part])
        if 0 < answered < len(part):
            one = int(part[0])
            slates.append(
                ShownSlate(
                    day,
                    int(shown.user[one]),
                    int(shown.request[one]),
                    row_of[shown.item[part]].astype(np.int32),
                    shown.position[part],
                    shown.propensity[part],
                    shown.grade[part],
                )
            )
    return slates
