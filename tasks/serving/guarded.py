"""A scorer that refuses numbers that are not finite, on their way in and out: nothing that is no number becomes a score."""

from __future__ import annotations

import numpy as np

from tasks.ranker.arrays import Floats
from tasks.ranker.features import FEATURES
from tasks.ranker.runtime import Prepares, Scorer


class Guarded:
    """Refuses non-finite numbers at the scorer's door: int8 operators would turn a NaN into a plausible score."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def prepare(self) -> None:
        """What can be done before the first request."""
        if isinstance(self._scorer, Prepares):
            self._scorer.prepare()

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        # an optional feature may be unknown: the scorer fills in its NaN, and nothing else's
        require_finite(x[:, : len(FEATURES)], "features")
        require_finite(np.nan_to_num(x[:, len(FEATURES) :], nan=0, posinf=np.inf, neginf=-np.inf), "features")
        return require_finite(self._scorer.base(x, item_vec), "base scores")

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        require_finite(tokens, "tokens")
        return require_finite(self._scorer.full(x, item_vec, tokens, mask), "full scores")


def require_finite(values: Floats, what: str) -> Floats:
    """The values themselves. Raises ArithmeticError where one is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ArithmeticError(f"{what} hold a number that is not finite; the request was not answered with it")
    return values
