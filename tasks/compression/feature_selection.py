"""Which features a trained head can do without: what each is worth on validation lists, least first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tasks.ranker.arrays import Floats
from tasks.ranker.search.inputs import Inputs


def worth_of_features(names: Sequence[str], inputs: Inputs, quality: Callable[[Inputs], float]) -> dict[str, float]:
    """Quality lost when a feature is told by its mean alone, features in the order in which they may go.

    Backward elimination: the least needed is silenced, then the least needed of the rest, for two features that say the same
    are both cheap to lose only while the other stays. `quality` scores the inputs it is given with a head that is not refitted.
    """
    silent, left = inputs.x.copy(), list(range(len(names)))
    mean, before = inputs.x.mean(0), quality(inputs)
    worth: dict[str, float] = {}
    while left:
        without = [quality(dataclasses.replace(inputs, x=_with(silent, at, mean))) for at in left]
        best = int(np.argmax(without))
        at = left.pop(best)
        silent[:, at] = mean[at]
        worth[names[at]] = before - without[best]
        before = without[best]
    return worth


def _with(x: Floats, at: int, mean: Floats) -> Floats:
    told = x.copy()
    told[:, at] = mean[at]
    return told
