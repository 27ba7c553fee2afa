"""How likely a place in a list is looked at, learnt from the log; and what an answer there is worth.

The position-based model: an answer needs a look (which depends on the place) and a liking (which depends on the item).
Both are estimated by expectation maximisation, as Wang et al. do (Position Bias Estimation for Unbiased Learning to Rank in
Personal Search, WSDM 2018) with an item's mean for their regression. Items that were shown in several places tell the
two apart; places that no such item connects to the others are left uncorrected.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from tasks.ranker.arrays import Floats, Ints

Counts = NDArray[np.float64]
MOST_PLACES = 100  # everything below the hundredth place counts as that place
ROUNDS, CLOSE = 2_000, 1e-6


def examination(item: Ints, position: NDArray[np.int16], answered: NDArray[np.bool_]) -> Floats:
    """Chance that each place is looked at, against the place that is looked at most; 1 where the log cannot tell."""
    placed = position >= 0
    if not placed.any():
        return np.zeros(0, np.float32)
    number = np.unique(item[placed], return_inverse=True)[1]
    place = np.minimum(position[placed], MOST_PLACES - 1).astype(np.int64)
    places = int(place.max()) + 1
    cells, cell = np.unique(number * places + place, return_inverse=True)
    of_item, of_place = cells // places, cells % places
    shown = np.bincount(cell).astype(np.float64)
    clicked = np.bincount(cell, answered[placed]).astype(np.float64)
    looked = _expectation_maximisation(of_item, of_place, shown, clicked, places)
    looked[~_connected(of_item, of_place, shown, places)] = 1.0
    return np.clip(looked, 1e-3, 1.0).astype(np.float32)


def _expectation_maximisation(
    item: NDArray[np.int64], place: NDArray[np.int64], shown: Counts, clicked: Counts, places: int
) -> NDArray[np.float64]:
    look, like = np.full(places, 0.5), np.full(int(item.max()) + 1, 0.5)
    of_place, of_item = np.bincount(place, shown, places), np.bincount(item, shown)
    ignored = shown - clicked
    for _ in range(ROUNDS):
        both = np.minimum(look[place] * like[item], 1 - 1e-9)
        looked = clicked + ignored * (look[place] - both) / (1 - both)
        liked = clicked + ignored * (like[item] - both) / (1 - both)
        before, look = look, np.bincount(place, looked, places) / np.maximum(of_place, 1)
        like = np.bincount(item, liked) / np.maximum(of_item, 1)
        if np.abs(look - before).max() < CLOSE:
            break
    return look / max(look.max(), 1e-9)


def _connected(item: NDArray[np.int64], place: NDArray[np.int64], shown: Counts, places: int) -> NDArray[np.bool_]:
    """Places that can be compared with the most seen one through items shown in both."""
    items = int(item.max()) + 1
    edges = sparse.coo_matrix((np.ones(len(item)), (place, places + item)), shape=(places + items, places + items))
    part = connected_components(edges, directed=False)[1][:places]
    most_seen = int(np.bincount(place, shown, places).argmax())
    return np.asarray(part == part[most_seen])


def inverse_propensity(position: NDArray[np.int16], propensity: Floats, looked: Floats, most: float) -> Floats:
    """What one answer weighs: 1 / the chance of a look at its place, else 1 / the logged propensity; `most` at most.

    The look goes first: 1 / the chance of being shown at a place is right only where each item may come to each place, and
    counts an item twice that may come to two of them, as near ties that the service swaps do (ADR 42).
    """
    chance = np.where(np.isnan(propensity), np.float32(1), propensity)
    if len(looked):
        chance = np.where(position >= 0, looked[np.clip(position, 0, len(looked) - 1)], chance)
    return np.minimum(1 / np.maximum(chance, 1e-6), most).astype(np.float32)
