"""Several scores of one list -> one: a weighted sum whose weights are fitted on validation lists."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from tasks.domain.manifest import Record
from tasks.ranker.arrays import Floats
from tasks.ranker.search.lists import Lists

PENALTY = 1e-3


class Mix(Record):
    """mix.json: score = sum of weight x member / its deviation on validation."""

    members: tuple[str, ...]
    weights: tuple[float, ...]
    deviations: tuple[float, ...]

    def scores(self, members: dict[str, Floats]) -> Floats:
        """[pairs]"""
        told = [
            members[name] * np.float32(weight / deviation)
            for name, weight, deviation in zip(self.members, self.weights, self.deviations, strict=True)
        ]
        return np.sum(told, axis=0, dtype=np.float32)


def fit_mix(lists: Lists, members: dict[str, Floats]) -> Mix:
    """Weights by L-BFGS on the listwise loss that the members were trained with, kept small by .001 x their squares."""
    names = tuple(members)
    deviations = np.array([max(float(np.std(members[name])), 1e-6) for name in names])
    columns = np.stack([np.asarray(members[name], np.float64) for name in names], axis=1) / deviations
    taught = lists.teach()
    if not len(taught):
        raise ValueError("no validation list holds both a positive and another item, so no weight can be fitted")
    pairs, counts = lists.pairs(taught), np.diff(lists.ptr)[taught]
    owner, columns = np.repeat(np.arange(len(taught)), counts), columns[pairs]
    starts, positive = np.cumsum(counts) - counts, lists.grade[pairs] > 0
    share = positive / np.bincount(owner, positive)[owner]

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = columns @ weights
        odds = np.exp(scores - np.maximum.reduceat(scores, starts)[owner])
        chance = odds / np.add.reduceat(odds, starts)[owner]
        value = -(share * np.log(np.maximum(chance, 1e-12))).sum() / len(starts)
        slope = columns.T @ (chance - share) / len(starts)
        return value + PENALTY * float(weights @ weights), slope + 2 * PENALTY * weights

    found = minimize(loss, np.ones(len(names)), jac=True, method="L-BFGS-B").x
    return Mix(members=names, weights=tuple(found.tolist()), deviations=tuple(deviations.tolist()))
