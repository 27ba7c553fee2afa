"""A small share of lists is shown with near ties the other way round, so that the log can tell places from items.

Which lists, and which of their pairs, follows from the request's id alone: asked again it is the same list, and releases have
no draws of their own. The chances are exact, because they are those of this draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_EXPLORED = 0.05  # of all lists
NEAR = 0.05  # of what lies between the best and the last score of a list: neighbours so close are a near tie


def near_ties(scores: Sequence[float], unknown: float, kept: Sequence[int] = ()) -> NDArray[np.bool_]:
    """[items - 1], whether the item at each place and the next one may change places.

    Args:
        scores: best first.
        unknown: score of items that the model does not know; they are near to nothing.
        kept: places whose item stays on its side of the border to the next one.
    """
    told = np.asarray(scores, np.float64)
    known = told[told > unknown]
    near = np.zeros(max(len(told) - 1, 0), bool)
    if len(known) > 1:
        near[: len(known) - 1] = known[:-1] - known[1:] <= NEAR * (known[0] - known[-1])
        near[[place for place in kept if place < len(near)]] = False
    return near


def drawn(
    request_id: str, explored: float, near: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], bool]:
    """(which place of the model's list is shown at each place, the chance that it is shown there, whether any moved).

    One bit of the id says whether pairs begin at even or at odd places, so that no item is in two of them. The rest is a
    coin: with the chance `explored` every pair of the list that is a near tie is swapped, else none. So the chances are
    `explored` and 1 - `explored` within those pairs, and 1 elsewhere.
    """
    luck = int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8, person=b"explore").digest())
    upper = np.flatnonzero(near)
    upper = upper[upper % 2 == luck % 2]
    order, chance = np.arange(len(near) + 1), np.ones(len(near) + 1)
    swaps = (luck >> 11) / 2**53 < explored
    chance[upper] = chance[upper + 1] = explored if swaps else 1 - explored
    if swaps:
        order[upper], order[upper + 1] = upper + 1, upper
    return order, chance, swaps and len(upper) > 0
