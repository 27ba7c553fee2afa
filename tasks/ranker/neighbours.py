"""What users with similar recent baskets buy (UP-CF): a score for each user and item, from earlier days only."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.log import EventLog

RECENT_TRIPS = 50
SHARPNESS = 3.0  # similar users count this many powers more
NEIGHBOURS = 100
KEPT = 500  # items a user


class Neighbours:
    """Similar users of any morning. Sorts the log once, by user and item; a morning is then a filter."""

    def __init__(self, log: EventLog, pool: Ints) -> None:
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

    def of(self, users: Ints, day: int, row_of: Ints, size: int) -> list[tuple[Ints, Floats]]:
        """For each of `users`: (catalogue rows ascending, scores) of what the most similar members of the pool buy.

        A score is the similarity-weighted mean of the neighbours' purchase rate in their last 50 trips, the user
        excluded.
        """
        rate = self._rates(day)
        norm = np.sqrt(np.maximum(np.asarray(rate.multiply(rate).sum(1)).ravel(), 1e-18))
        unit = (sparse.diags(1 / norm) @ rate).tocsr()
        at = self.position[users]
        similarity = np.asarray((unit[at] @ unit.T).todense(), np.float32)
        similarity[np.arange(len(at)), at] = 0.0
        if similarity.shape[1] > NEIGHBOURS:
            cut = -np.partition(-similarity, NEIGHBOURS, axis=1)[:, NEIGHBOURS : NEIGHBOURS + 1]
            similarity[similarity <= cut] = 0.0
        weight = similarity**SHARPNESS
        weight /= np.maximum(weight.sum(1, keepdims=True), 1e-12)
        scores = sparse.csr_matrix(weight) @ _in_catalogue(rate, row_of, size)
        return [_best(scores, n) for n in range(len(at))]

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
        cut = -np.partition(-values, KEPT - 1)[KEPT - 1]
        above, ties = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
        ties = ties[np.argsort(rows[ties])][: KEPT - len(above)]
        chosen = np.concatenate([above, ties])
        rows, values = rows[chosen], values[chosen]
    order = np.argsort(rows)
    return rows[order].astype(np.int32), values[order]
