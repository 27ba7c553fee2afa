"""One user's history, counted once for a request: by item, type, category and brand, as of one morning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tasks.ranker.arrays import Floats, Groups, Ints
from tasks.ranker.state import ItemState, UserHistory

TRIP_DECAY = 0.97
NEVER = 400.0  # days or trips since something that never happened


@dataclass(frozen=True)
class Profile:
    """What features, tokens and retrieval need to know about a user. Later events count as yesterday's."""

    items: ItemState
    user: UserHistory
    day: int

    @cached_property
    def age(self) -> Floats:
        """Days since each event, at least 1: what is not known this morning cannot be told from yesterday."""
        return np.maximum(self.day - self.user.days, 1).astype(np.float32)

    @cached_property
    def _trip(self) -> tuple[Ints, Ints, Ints]:
        days = self.user.days  # sorted
        new = np.ones(len(days), bool)
        np.not_equal(days[1:], days[:-1], out=new[1:])
        starts = np.flatnonzero(new)
        size = np.diff(np.append(starts, len(days)))
        return days[starts], np.cumsum(new, dtype=np.int32) - np.int32(1), size.astype(np.int32)

    @property
    def trips(self) -> int:
        return len(self._trip[0])

    @property
    def trip_days(self) -> Ints:
        return self._trip[0]

    @cached_property
    def trips_since(self) -> Floats:
        """Trips after the one of each event."""
        return (self.trips - 1 - self._trip[1]).astype(np.float32)

    @cached_property
    def basket(self) -> Floats:
        """Lines of each event's trip."""
        return self._trip[2][self._trip[1]].astype(np.float32)

    @cached_property
    def type(self) -> Ints:
        return self.items.type[self.user.rows]

    @cached_property
    def category(self) -> Ints:
        return self.items.category[self.user.rows]

    @cached_property
    def brand(self) -> Ints:
        return self.items.brand[self.user.rows]

    @cached_property
    def by_item(self) -> Groups:
        return Groups(self.user.rows)

    @cached_property
    def by_type(self) -> Groups:
        return Groups(self.type)

    @cached_property
    def by_category(self) -> Groups:
        return Groups(self.category)

    @cached_property
    def by_brand(self) -> Groups:
        return Groups(self.brand)

    @cached_property
    def type_days(self) -> Floats:
        """Days on which each type of `by_type` was bought."""
        order, starts = self.by_type.order, self.by_type.starts
        days = self.user.days[order]
        new = np.ones(len(order), np.float32)
        new[1:] = days[1:] != days[:-1]
        new[starts] = 1
        return np.add.reduceat(new, starts) if len(starts) else np.zeros(0, np.float32)

    @cached_property
    def trip_decay(self) -> Floats:
        return (TRIP_DECAY**self.trips_since).astype(np.float32)

    def decay(self, days: float) -> Floats:
        return np.exp(self.age * (-1.0 / days)).astype(np.float32)

    @cached_property
    def text_profile(self) -> Floats:
        """Mean text vector of what was bought, recent purchases first; zeros for a user without texts."""
        if not len(self.user.rows):
            return np.zeros(self.items.text_vectors.shape[1], np.float32)
        weight = np.bincount(self.items.text[self.user.rows] + 1, self.decay(45.0))  # the first is that of no text
        texts = np.flatnonzero(weight).astype(np.int32)
        mean: Floats = weight[texts].astype(np.float32) @ self.items.texts(texts - 1)
        return mean / max(float(np.linalg.norm(mean)), 1e-6)

    @cached_property
    def price_habit(self) -> float:
        """Mean log price level of what the user buys, against its type; 0 is average."""
        rows = self.user.rows[self.user.rows < self.items.size]
        return float(self.items.price_level[rows].mean()) if len(rows) else 0.0

    @cached_property
    def discount_habit(self) -> float:
        """Share of the user's lines that had money off."""
        return float(self.user.discounted.mean()) if len(self.user.rows) else 0.0


def neighbour_scores(user: UserHistory, candidates: Ints) -> Floats:
    """[n, columns]: what is known of each candidate from similar users; 0 outside the stored list."""
    if not len(user.cf_rows):
        return np.zeros((len(candidates), user.cf_scores.shape[1]), np.float32)
    at = np.minimum(np.searchsorted(user.cf_rows, candidates), len(user.cf_rows) - 1)
    return np.where((user.cf_rows[at] == candidates)[:, None], user.cf_scores[at], np.float32(0))
