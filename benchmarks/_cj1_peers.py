"""The peers of CJ1 that need no training: counting and neighbour methods, computed anew each day from earlier days.

Settings are those that did best among two to four values on three days of dev (GP-TopFreq; TIFU-KNN of Hu et al., SIGIR
2020; UP-CF of Faggioli et al., UMAP 2020; EASE of Steck, WWW 2019; item neighbours by cosine).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks._cj1_protocol import Log, Longs

Scores = NDArray[np.float32]
TRIP_DECAY, UP_TRIPS, UP_POWER, RIDGE = 0.97, 50, 5, 500.0
WITHIN, ACROSS, GROUP, NEIGHBOURS, OWN = 0.9, 0.7, 7, 300, 0.7  # of TIFU-KNN
NAMES = ("popularity 7 d", "GP-TopFreq", "trip decay", "UP-CF", "TIFU-KNN", "ItemKNN", "EASE", "trip decay + EASE")


class Morning:
    """What is known before `day`: every household's trips, as matrices of households and catalogue products."""

    def __init__(self, log: Log, day: int, households: Longs) -> None:
        self.log, self.day, self.households = log, day, households
        self.end = int(log.ptr[day])
        self.h, self.p = log.household[: self.end], log.product[: self.end]
        self.size = len(log.household_ids)
        self.catalogue = log.catalogue(day)
        trips, trip = np.unique(self.h * 1_000 + log.day[: self.end], return_inverse=True)
        count = np.bincount(trips // 1_000, minlength=self.size)
        self.trips = count[self.h]  # of the event's household
        self.back = self.trips - 1 - (trip - (np.cumsum(count) - count)[self.h])  # trips since the event

    def matrix(self, weight: NDArray[np.floating]) -> sparse.csr_matrix:
        shape = (self.size, len(self.log.product_ids))
        whole = sparse.csr_matrix((weight.astype(np.float32), (self.h, self.p)), shape=shape)
        return whole[:, self.catalogue].tocsr()

    def sales(self, days: int) -> Scores:
        part = self.p[self.log.ptr[max(0, self.day - days)] :]
        return np.bincount(part, minlength=len(self.log.product_ids))[self.catalogue].astype(np.float32)

    def popular(self, days: int) -> Scores:
        """Below any difference that personal scores make."""
        sales = self.sales(days)
        return np.float32(1e-3) * sales / (sales.max() + 1)


def scores(morning: Morning) -> Iterator[tuple[str, Scores]]:
    """(peer, [households, catalogue] scores) of every peer."""
    asked, dense = morning.households, lambda m: np.asarray(m.todense(), np.float32)
    counted = morning.matrix(np.ones(morning.end))
    decayed = dense(morning.matrix(TRIP_DECAY**morning.back)[asked])
    ease = _ease(morning, counted)
    yield "popularity 7 d", np.tile(morning.sales(7), (len(asked), 1))
    yield "GP-TopFreq", dense(counted[asked]) + 500 * morning.popular(28)
    yield "trip decay", decayed + morning.popular(7)
    yield "UP-CF", _similar_users(morning)
    yield "TIFU-KNN", _tifu(morning)
    yield "ItemKNN", _item_neighbours(morning, counted)
    yield "EASE", ease
    yield "trip decay + EASE", decayed + ease


def _norms(matrix: sparse.csr_matrix, axis: int) -> Scores:
    return np.sqrt(np.maximum(np.asarray(matrix.multiply(matrix).sum(axis)).ravel(), 1e-18))


def _similar_users(morning: Morning) -> Scores:
    asked = morning.households
    rate = morning.matrix((morning.back < UP_TRIPS) / np.minimum(morning.trips, UP_TRIPS))
    unit = (sparse.diags(1 / _norms(rate, 1)) @ rate).tocsr()
    similarity = np.asarray((unit[asked] @ unit.T).todense(), np.float32)
    similarity[np.arange(len(asked)), asked] = 1
    return np.maximum(similarity, 0) ** UP_POWER @ rate


def _tifu(morning: Morning) -> Scores:
    """Trips weigh less the older they are, within groups of seven and from group to group; neighbours add 30 %."""
    asked, trips = morning.households, morning.trips
    group, groups = morning.back // GROUP, np.maximum(-(-trips // GROUP), 1)
    in_group = np.where(group == groups - 1, trips - (groups - 1) * GROUP, GROUP)
    vectors = morning.matrix(WITHIN ** (morning.back % GROUP) / in_group * ACROSS**group / groups)
    square = np.asarray(vectors.multiply(vectors).sum(1)).ravel()
    products = np.asarray((vectors[asked] @ vectors.T).todense(), np.float32)
    distance = square[None] + square[asked][:, None] - 2 * products
    distance[np.arange(len(asked)), asked] = np.inf
    near = np.zeros_like(distance, np.float32)
    np.put_along_axis(near, np.argpartition(distance, NEIGHBOURS, axis=1)[:, :NEIGHBOURS], 1 / NEIGHBOURS, 1)
    return OWN * np.asarray(vectors[asked].todense(), np.float32) + (1 - OWN) * (near @ vectors)


def _item_neighbours(morning: Morning, counted: sparse.csr_matrix) -> Scores:
    logs = counted.copy()
    logs.data = np.log1p(logs.data)
    unit = (logs @ sparse.diags(1 / np.maximum(_norms(logs, 0), 1e-9))).tocsr()
    return np.asarray((unit[morning.households] @ unit.T).todense(), np.float32) @ unit


def _ease(morning: Morning, counted: sparse.csr_matrix) -> Scores:
    """Solved among households: (X'X + r)^-1 = (1 - X'(XX' + r)^-1 X) / r."""
    bought = counted.copy()
    bought.data[:] = 1
    gram = np.asarray((bought @ bought.T).todense(), np.float64)
    inverse = np.linalg.inv(gram + RIDGE * np.eye(len(gram))).astype(np.float32)
    of_product = bought.T.tocsr()
    left = np.ones(len(morning.catalogue), np.float32)
    for first in range(0, len(left), 2_048):
        part = of_product[first : first + 2_048]
        left[first : first + 2_048] -= np.asarray(part.multiply(part @ inverse).sum(1)).ravel()
    own = np.asarray(bought[morning.households].todense(), np.float32)
    rebuilt = gram[morning.households].astype(np.float32) @ inverse @ bought
    return own - (own - rebuilt) / np.maximum(left, 1e-6)
