"""Maximal marginal relevance: each place goes to the item that is best for what is not yet shown.

Carbonell and Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998, with the cosine of item texts as similarity.
"""

from __future__ import annotations

import numpy as np

from tasks.domain.merchandising import Diversity
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.state import ItemState

POOL = 5  # times the places to fill: who is ranked lower does not come up, however different


def diversified(rule: Diversity, items: ItemState, rows: Ints, scores: Floats, pinned: int) -> Ints:
    """Places of `rows` in the order to show: the first `rule.first` by marginal relevance, the others as they were.

    An item's worth is (1 - weight) x its score, 0 to 1 over the pool, - weight x its cosine to the nearest item above it.
    Pinned items, which are the first, stay and count as shown. Unknown items (row -1) have no text and stay.
    """
    begin, end = pinned, min(len(rows), pinned + POOL * rule.first)
    pool = begin + np.flatnonzero(rows[begin:end] >= 0)
    places = min(rule.first - pinned, len(pool))
    if places < 1 or len(pool) < 2:
        return np.arange(len(rows), dtype=np.int32)
    vectors, told = items.vectors(rows[pool]), scores[pool].astype(np.float64)
    worth = (1 - rule.weight) * (told - told.min()) / max(float(np.ptp(told)), 1e-12)
    above = rows[:pinned][rows[:pinned] >= 0]
    nearest = (vectors @ items.vectors(above).T).max(1) if len(above) else np.zeros(len(pool), np.float32)
    left, chosen = np.ones(len(pool), bool), []
    for _ in range(places):
        best = int(np.where(left, worth - rule.weight * nearest, -np.inf).argmax())
        left[best] = False
        chosen.append(int(pool[best]))
        near = vectors @ vectors[best]
        nearest = np.maximum(nearest, near) if len(chosen) > 1 or len(above) else near
    rest = np.ones(len(rows), bool)
    rest[:pinned] = rest[chosen] = False
    return np.concatenate([np.arange(pinned), chosen, np.flatnonzero(rest)]).astype(np.int32)
