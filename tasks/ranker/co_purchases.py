"""Which items are bought together: a graph counted from the baskets of earlier weeks; build time only.

An edge's weight is the cosine of two items' baskets, shrunk where they met seldom. Counted anew every Monday, from days
before it, and used the whole week: a week old at most, and never of the day itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from tasks.ranker.arrays import Floats, Ints, ranges, weekday
from tasks.ranker.log import EventLog

WINDOW_DAYS = 90
LEAST = 3  # baskets that must hold both
SHRINK = 10.0  # baskets that hold only one of them, added to every pair
EDGES = 20  # an item


@dataclass(frozen=True, slots=True)
class Graph:
    """Edges by source: item i is bought with target[ptr[i]:ptr[i + 1]]. Items are those of the log."""

    ptr: Ints
    target: Ints
    weight: Floats


def counted_on(day: int) -> int:
    """The Monday whose graph serves `day`."""
    return day - int(weekday(day))


def bought_together(log: EventLog, monday: int) -> Graph:
    """The graph of the baskets (user and day) in the 90 days before `monday`."""
    part = slice(log.before(monday - WINDOW_DAYS), log.before(monday))
    items = len(log.items.ids)
    baskets, basket = np.unique(log.user[part].astype(np.int64) * 100_000 + log.day[part], return_inverse=True)
    ones = np.ones(len(basket), np.float32)
    held = sparse.csr_matrix((ones, (basket, log.item[part])), shape=(len(baskets), items))
    pairs = (held.T.tocsr() @ held).tocoo()
    kept = (pairs.row != pairs.col) & (pairs.data >= LEAST)
    source, target, together = pairs.row[kept], pairs.col[kept], pairs.data[kept]
    alone = np.asarray(held.sum(0)).ravel()
    weight = together / (np.sqrt(alone[source] * alone[target]) + SHRINK)
    order = np.lexsort((target, -weight, source))
    source, target, weight = source[order], target[order], weight[order]
    ptr = np.searchsorted(source, np.arange(items + 1))
    best = np.arange(len(source)) - ptr[source] < EDGES
    return Graph(
        ptr=np.append(0, np.cumsum(best))[ptr].astype(np.int32),
        target=target[best].astype(np.int32),
        weight=weight[best].astype(np.float32),
    )


def among(graph: Graph, rows: Ints, row_of: Ints, size: int) -> Graph:
    """The edges between catalogue rows, numbered as the catalogue numbers them. `rows` are its items."""
    counts = np.diff(graph.ptr)[rows]
    source, at = np.repeat(np.arange(size), counts), ranges(graph.ptr[rows], counts)
    target = row_of[graph.target[at]]
    kept = (target >= 0) & (target < size)
    ptr = np.append(0, np.cumsum(np.bincount(source[kept], minlength=size)))
    return Graph(ptr.astype(np.int32), target[kept].astype(np.int32), graph.weight[at][kept])
