"""NDCG@10 of judged lists: binary gain, log2 discount, the ideal from the list itself; equal scores keep a fixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats
from tasks.ranker.search.lists import Lists

K = 10


def tie_order(items: Sequence[str]) -> NDArray[np.uint64]:
    """By hash of the item's id, so that no model gains from the order that a file happens to have."""
    return np.array([int(hashlib.sha256(item.encode()).hexdigest()[:16], 16) for item in items], np.uint64)


def ndcg(lists: Lists, scores: Floats, tie: NDArray[np.uint64] | None = None) -> NDArray[np.float64]:
    """[lists]; 0 for a list without a positive. tie: [pairs], else the place in the list."""
    owner, place = lists.owner, np.arange(len(scores)) if tie is None else tie
    order = np.lexsort((place, -np.asarray(scores, np.float64), owner))
    gain = (lists.grade > 0)[order]
    rank = np.arange(len(order)) - lists.ptr[owner]
    discount = np.where(rank < K, 1 / np.log2(2 + rank), 0)
    reached = np.bincount(owner, gain * discount, minlength=len(lists))
    ideal = np.cumsum(np.append(0, 1 / np.log2(2 + np.arange(K))))
    positives = np.bincount(owner, gain, minlength=len(lists)).astype(int)
    best = ideal[np.minimum(positives, K)]
    return np.divide(reached, best, out=np.zeros(len(lists)), where=best > 0)
