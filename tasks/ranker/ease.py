"""EASE (Steck, WWW 2019): the item-item regression that best rebuilds everyone's purchases, solved among users.

score = x - (x - x X' P X) / c with P = (X X' + lambda)^-1 and c the diagonal of 1 - X' P X: the same as inverting the
items' Gram matrix, but the matrix is as large as the pool of users, not as the catalogue. Solved anew every Monday, from
days before it; what is asked about is always the purchases of this morning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.co_purchases import counted_on

RIDGE = 500.0
LEAST_SHARE = 1e-6  # of an item that is not explained by the others
CHUNK = 2_048  # items at a time, to keep memory small


@dataclass(frozen=True, slots=True)
class Solved:
    monday: int
    bought: sparse.csr_matrix  # [pool, items]: 1 where the user bought the item
    users: Floats  # [pool, pool], P
    unexplained: Floats  # [items], c


class Ease:
    """Scores of any morning. `user` (0..pool-1), `item` and `day` are the events of the pool."""

    def __init__(self, user: Ints, item: Ints, day: Ints, pool: int, items: int) -> None:
        self.user, self.item, self.day, self.pool, self.items = user, item, day, pool, items
        self._solved: Solved | None = None

    def of(self, users: Ints, day: int) -> Floats:
        """[users, items] float32; items that nobody bought before Monday score 0."""
        monday = counted_on(day)
        if self._solved is None or self._solved.monday != monday:
            self._solved = self._solve(monday)
        solved = self._solved
        now = self._bought(day)[users]
        rebuilt = np.asarray((now @ solved.bought.T).todense(), np.float32) @ solved.users @ solved.bought
        own = now.multiply(1 - 1 / solved.unexplained).tocoo()
        scores: Floats = rebuilt / solved.unexplained
        scores[own.row, own.col] += own.data
        return scores

    def _solve(self, monday: int) -> Solved:
        bought = self._bought(monday)
        gram = np.asarray((bought @ bought.T).todense(), np.float64)
        gram[np.diag_indices(self.pool)] += RIDGE
        users = np.linalg.inv(gram).astype(np.float32)
        of_item, unexplained = bought.T.tocsr(), np.ones(self.items, np.float32)
        for first in range(0, self.items, CHUNK):
            part = of_item[first : first + CHUNK]
            unexplained[first : first + CHUNK] -= np.asarray(part.multiply(part @ users).sum(1)).ravel()
        return Solved(monday, bought, users, np.maximum(unexplained, LEAST_SHARE))

    def _bought(self, day: int) -> sparse.csr_matrix:
        known = self.day < day
        ones = np.ones(int(known.sum()), np.float32)
        bought = sparse.csr_matrix((ones, (self.user[known], self.item[known])), shape=(self.pool, self.items))
        bought.sum_duplicates()
        bought.data[:] = 1
        return bought
