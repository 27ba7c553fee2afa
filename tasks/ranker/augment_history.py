"""Histories altered in training alone, by a seed: crop, mask and reorder of Xie et al. 2020 (CL4SRec, arXiv 2010.14395).

The unit is a trip: what a slate's user bought on one day goes, stays or moves together, behind every candidate. What is left tells
its gaps anew, as if the other trips had never been. Features are left as they are: they count every trip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.domain.recipe import Augmentation
from tasks.ranker.arrays import Halves
from tasks.ranker.tokens import AGE, DUE, GAP, TOKEN, rhythm

TIMES = [AGE, TOKEN.index("trips_since"), TOKEN.index("same_weekday")]  # what a trip's lines share
OF_TYPE, OF_TYPE_DAY = TOKEN.index("of_type"), TOKEN.index("of_type_day")
AGE_BITS = 16


def altered(
    tokens: Halves, lengths: NDArray[Any], slate: NDArray[Any], plan: Augmentation, draw: np.random.Generator
) -> tuple[Halves, NDArray[np.int64]]:
    """The packed tokens and their number in each row, [rows], of another history of each slate's user.

    slate: [rows] 0..slates-1, in order.
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    age_bits = tokens[:, AGE].view(np.uint16).astype(np.int64)  # of numbers not below 0: in the order of ages
    codes, line, trip = np.unique(slate[row] << AGE_BITS | age_bits, return_index=True, return_inverse=True)
    owner = codes >> AGE_BITS
    kept, day = _kept(owner, plan, draw), _days(owner, plan.reorder_history, draw)
    stays = kept[trip]
    times = tokens[line[day[trip[stays]]]][:, TIMES]
    tokens, row = tokens[stays], row[stays]
    tokens[:, TIMES] = times
    stream = tokens[:, OF_TYPE] + 2 * tokens[:, OF_TYPE_DAY]
    order = np.lexsort((-tokens[:, AGE], stream, row))
    tokens, row = tokens[order], row[order]
    age = np.expm1(2 * tokens[:, AGE].astype(np.float32)).round()
    tokens[:, GAP], tokens[:, DUE] = rhythm(age, row * 3 + stream[order].astype(np.int64))
    return tokens, np.bincount(row, minlength=len(lengths))


def _kept(owner: NDArray[np.int64], plan: Augmentation, draw: np.random.Generator) -> NDArray[np.bool_]:
    """[trips] whether it stays; trips of one owner are together, the youngest first."""
    count, place = _places(owner)
    cut = draw.integers(0, (plan.crop_history * count).astype(np.int64), endpoint=True)
    first = draw.integers(0, cut, endpoint=True)
    inside = (place >= first[owner]) & (place < (first + count - cut)[owner])
    kept: NDArray[np.bool_] = inside & (draw.random(len(owner)) >= plan.mask_history)
    return kept


def _days(owner: NDArray[np.int64], share: float, draw: np.random.Generator) -> NDArray[np.int64]:
    """[trips] the trip on whose day it was: its own, but for a run of each owner's trips that are shuffled."""
    count, place = _places(owner)
    size = (share * count).astype(np.int64)
    first = draw.integers(0, count - size, endpoint=True)
    run = np.flatnonzero((place >= first[owner]) & (place < (first + size)[owner]))
    day = np.arange(len(owner))
    day[run] = run[np.lexsort((draw.random(len(run)), owner[run]))]
    return day


def _places(owner: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(trips of each owner, place of each trip among those of its owner)."""
    count = np.bincount(owner)
    return count, np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
