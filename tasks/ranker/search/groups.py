"""Which queries and items meet in one training step: queries that share judged items, and the items that teach most."""

from __future__ import annotations

import numpy as np

from tasks.ranker.arrays import Floats
from tasks.ranker.search.lists import Lists, Longs

GROUP = 8
HARDEST = 6  # negatives of a list that the hard ones are drawn from
HARD, RANDOM = 2, 1  # negatives of a list in one step, beside one positive


def grouped(lists: Lists, draw: np.random.Generator) -> Longs:
    """An order of all lists in which each 8 share as many items as a greedy choice finds.

    A query drawn at random takes the 7 free ones with most of its items. So a step of 32 queries needs about 87 items,
    not 128, and finds 11 labels a query instead of 4.
    """
    owner = lists.owner
    by_item = np.argsort(lists.rows, kind="stable")
    starts = np.searchsorted(lists.rows[by_item], np.arange(lists.rows.max(initial=-1) + 2))
    free, order = np.ones(len(lists), bool), []
    for seed in draw.permutation(len(lists)).tolist():
        if not free[seed]:
            continue
        free[seed] = False
        group = [seed]
        items = lists.rows[lists.ptr[seed] : lists.ptr[seed + 1]]
        near = [owner[by_item[starts[row] : starts[row + 1]]] for row in items[items >= 0].tolist()]
        if near:
            others, shared = np.unique(np.concatenate(near), return_counts=True)
            kept = free[others]
            others, shared = others[kept], shared[kept]
            group += others[np.argsort(-shared, kind="stable")[: GROUP - 1]].tolist()
        free[group] = False
        order.append(group)
    # whole groups first, in the order drawn: a query that was left over alone closes the pass
    order.sort(key=lambda group: len(group) < GROUP)
    return np.array([n for group in order for n in group], np.int64)


def drawn_pairs(lists: Lists, chosen: Longs, hardness: Floats, draw: np.random.Generator) -> Longs:
    """Pairs whose items a step reads: of each list one positive, 2 of its 6 hardest negatives and another negative.

    hardness: [pairs] of the untrained encoder and text match; the highest negatives are the hardest.
    """
    picked: list[int] = []
    for n in chosen.tolist():
        pairs = np.arange(lists.ptr[n], lists.ptr[n + 1])
        pairs = pairs[lists.rows[pairs] >= 0]  # an unknown item has no text to learn from
        positive, negative = pairs[lists.grade[pairs] > 0], pairs[lists.grade[pairs] <= 0]
        picked += draw.permutation(positive)[:1].tolist()
        hardest = negative[np.argsort(-hardness[negative], kind="stable")[:HARDEST]]
        picked += draw.permutation(hardest)[:HARD].tolist()
        picked += draw.permutation(negative)[:RANDOM].tolist()
    return np.array(picked, np.int64)
