"""What users with similar recent baskets buy (UP-CF, Faggioli et al., UMAP 2020): scores for each user and item.

From earlier days only. With `more`, three further readings: what all similar users buy, what they bought lately, and EASE.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.ease import Ease
from tasks.ranker.log import EventLog

RECENT_TRIPS = 50
SHARPNESS = 3.0  # similar users count this many powers more
NEIGHBOURS = 100
KEPT = 500  # items a user
KEPT_OF_EACH = 400  # items a user, by each column, where there is more
LATELY_DAYS = 14
BROADNESS = 2.0  # SHARPNESS where all users count, not only the nearest
CHUNK = 256  # users at a time: dense scores of the whole catalogue are large


class Neighbours:
    """Similar users of any morning. Sorts the log once, by user and item; a morning is then a filter."""

    def __init__(self, log: EventLog, pool: Ints, *, more: bool = False) -> None:
        self.pool, self.items = len(pool), len(log.items.ids)
        self.position = np.full(len(log.user_ids), -1, np.int32)
        self.position[pool] = np.arange(len(pool), dtype=np.int32)
        user = self.position[log.user]
        kept = np.flatnonzero(user >= 0)
        order = kept[np.lexsort((log.day[kept], log.item[kept], user[kept]))]
        self.user, self.item, self.day = user[order], log.item[order], log.day[order]
        trips, trip = np.unique(self.user.astype(np.int64) * 100_000 + self.day, return_inverse=True)
        self.trip_owner, self.trip_day = (trips // 100_000).astype(np.int32), (trips % 100_000).astype(np.int32)
        first = np.searchsorted(self.trip_owner, np.arange(len(pool)))
        self.nth = (trip - first[self.user]).astype(np.int32)  # of the user's trips, 0 for the first
        self.ease = Ease(self.user, self.item, self.day, self.pool, self.items) if more else None

    def of(self, users: Ints, day: int, row_of: Ints, size: int) -> list[tuple[Ints, Floats]]:
        """For each of `users`: (catalogue rows ascending, [rows, 1 or 1 + len(knowledge.MORE)] scores).

        The first score is the similarity-weighted mean of the nearest users' purchase rate in their last 50 trips, the
        user excluded.
        """
        rate = self._rates(day)
        norm = np.sqrt(np.maximum(np.asarray(rate.multiply(rate).sum(1)).ravel(), 1e-18))
        unit = (sparse.diags(1 / norm) @ rate).tocsr()
        rate = _in_catalogue(rate, row_of, size)
        found: list[tuple[Ints, Floats]] = []
        for first in range(0, len(users), CHUNK):
            at = self.position[users[first : first + CHUNK]]
            similarity = np.asarray((unit[at] @ unit.T).todense(), np.float32)
            similarity[np.arange(len(at)), at] = 0.0
            nearest = sparse.csr_matrix(_shares(_nearest(similarity) ** SHARPNESS)) @ rate
            if self.ease is None:
                found += [_best(nearest, n) for n in range(len(at))]
            else:
                found += self._with_more(at, day, similarity, nearest, rate, row_of, size)
        return found

    def _with_more(
        self,
        at: Ints,
        day: int,
        similarity: Floats,
        nearest: sparse.csr_matrix,
        rate: sparse.csr_matrix,
        row_of: Ints,
        size: int,
    ) -> list[tuple[Ints, Floats]]:
        assert self.ease is not None
        weight = _shares(similarity**BROADNESS)
        item_of = np.flatnonzero((row_of >= 0) & (row_of < size))
        ease = np.zeros((len(at), size), np.float32)
        ease[:, row_of[item_of]] = self.ease.of(at, day)[:, item_of]
        lately = _in_catalogue(self._lately(day), row_of, size)
        readings = [np.asarray(nearest.todense(), np.float32), weight @ rate, weight @ lately, ease]
        scores: Floats = np.stack(readings, axis=2)
        return [_best_of_each(of_user) for of_user in scores]

    def _lately(self, day: int) -> sparse.csr_matrix:
        """1 where a user bought an item in the last days."""
        recent = (self.day < day) & (self.day >= day - LATELY_DAYS)
        ones = np.ones(int(recent.sum()), np.float32)
        bought = sparse.csr_matrix((ones, (self.user[recent], self.item[recent])), shape=(self.pool, self.items))
        bought.sum_duplicates()
        bought.data[:] = 1
        return bought

    def _rates(self, day: int) -> sparse.csr_matrix:
        """Share of each user's last trips before `day` that hold each item."""
        total = np.bincount(self.trip_owner[self.trip_day < day], minlength=self.pool)
        recent = (self.day < day) & (self.nth >= total[self.user] - RECENT_TRIPS)
        user, item = self.user[recent], self.item[recent]
        weight = (1.0 / np.minimum(total, RECENT_TRIPS).clip(1))[user].astype(np.float32)
        ptr = np.searchsorted(user, np.arange(self.pool + 1))
        rates = sparse.csr_matrix((weight, item, ptr), shape=(self.pool, self.items))
        rates.sum_duplicates()
        return rates


def _nearest(similarity: Floats) -> Floats:
    """Similarity to the nearest users, 0 to the others."""
    if similarity.shape[1] <= NEIGHBOURS:
        return similarity
    cut = -np.partition(-similarity, NEIGHBOURS, axis=1)[:, NEIGHBOURS : NEIGHBOURS + 1]
    return np.where(similarity <= cut, np.float32(0), similarity)


def _shares(weight: Floats) -> Floats:
    shares: Floats = weight / np.maximum(weight.sum(1, keepdims=True), 1e-12)
    return shares


def _in_catalogue(rate: sparse.csr_matrix, row_of: Ints, size: int) -> sparse.csr_matrix:
    """The columns of items that can be ranked, numbered as the catalogue numbers them."""
    rows = row_of[rate.indices]
    kept = (rows >= 0) & (rows < size)
    ptr = np.append(0, np.cumsum(kept))[rate.indptr]
    return sparse.csr_matrix((rate.data[kept], rows[kept], ptr), shape=(rate.shape[0], size))


def _best(scores: sparse.csr_matrix, n: int) -> tuple[Ints, Floats]:
    """The largest scores of one user by ascending row; of equals the lower row."""
    part = slice(scores.indptr[n], scores.indptr[n + 1])
    rows, values = scores.indices[part], scores.data[part].astype(np.float32)
    if len(rows) > KEPT:
        chosen = _largest(values, rows, KEPT)
        rows, values = rows[chosen], values[chosen]
    order = np.argsort(rows)
    return rows[order].astype(np.int32), values[order, None]


def _best_of_each(scores: Floats) -> tuple[Ints, Floats]:
    """The rows of [size, columns] that are among the largest positive ones of some column, and all that is said of them."""
    rows, kept = np.arange(len(scores), dtype=np.int32), np.zeros(len(scores), bool)
    for column in scores.T:
        kept[_largest(column, rows, min(KEPT_OF_EACH, len(rows)))] = True
    chosen = np.flatnonzero(kept & (scores > 0).any(1))
    return chosen.astype(np.int32), scores[chosen]


def _largest(values: Floats, rows: Ints, k: int) -> Ints:
    """Places of the k largest values; of equals those of the lower rows."""
    cut = -np.partition(-values, k - 1)[k - 1]
    above, ties = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    ties = ties[np.argsort(rows[ties])][: k - len(above)]
    largest: Ints = np.concatenate([above, ties])
    return largest
