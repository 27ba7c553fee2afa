"""What users with similar recent baskets buy (UP-CF): a score for each user and item, from earlier days only."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tasks.ranker.arrays import Floats, Ints, top
from tasks.ranker.log import EventLog

RECENT_TRIPS = 50
SHARPNESS = 3.0  # similar users count this many powers more
NEIGHBOURS = 100
KEPT = 500  # items a user


def neighbours(log: EventLog, day: int, pool: Ints, users: Ints, row_of: Ints, size: int) -> list[tuple[Ints, Floats]]:
    """For each of `users`: (catalogue rows ascending, scores) of what the most similar members of `pool` buy.

    A score is the similarity-weighted mean of the neighbours' purchase rate in their last 50 trips, the user excluded.
    """
    end = log.before(day)
    position = np.full(len(log.user_ids), -1, np.int32)
    position[pool] = np.arange(len(pool), dtype=np.int32)
    user = position[log.user[:end]]
    kept = user >= 0
    user, item, days = user[kept], log.item[:end][kept], log.day[:end][kept]
    rate = _rates(user, item, days, len(pool), len(row_of))
    norm = np.sqrt(np.maximum(np.asarray(rate.multiply(rate).sum(1)).ravel(), 1e-18))
    unit = (sparse.diags(1 / norm) @ rate).tocsr()
    at = position[users]
    similarity = np.asarray((unit[at] @ unit.T).todense(), np.float32)
    similarity[np.arange(len(at)), at] = 0.0
    if similarity.shape[1] > NEIGHBOURS:
        cut = -np.partition(-similarity, NEIGHBOURS, axis=1)[:, NEIGHBOURS : NEIGHBOURS + 1]
        similarity[similarity <= cut] = 0.0
    weight = similarity**SHARPNESS
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-12)
    scores = sparse.csr_matrix(weight) @ rate
    return [_best(scores, n, row_of, size) for n in range(len(at))]


def _rates(user: Ints, item: Ints, days: Ints, users: int, items: int) -> sparse.csr_matrix:
    """Share of each user's last trips that hold each item."""
    trips, trip = np.unique(user.astype(np.int64) * 100_000 + days, return_inverse=True)
    owner = (trips // 100_000).astype(np.int32)
    total = np.bincount(owner, minlength=users)
    last = np.cumsum(total) - 1
    recent = (last[user] - trip) < RECENT_TRIPS
    weight = (1.0 / np.minimum(total, RECENT_TRIPS).clip(1))[user[recent]].astype(np.float32)
    return sparse.csr_matrix((weight, (user[recent], item[recent])), shape=(users, items))


def _best(scores: sparse.csr_matrix, n: int, row_of: Ints, size: int) -> tuple[Ints, Floats]:
    part = slice(scores.indptr[n], scores.indptr[n + 1])
    rows, values = row_of[scores.indices[part]], scores.data[part]
    kept = (rows >= 0) & (rows < size)
    rows, values = rows[kept], values[kept].astype(np.float32)
    order = np.argsort(rows)
    rows, values = rows[order], values[order]
    best = np.sort(top(values, KEPT))
    return rows[best].astype(np.int32), values[best]
