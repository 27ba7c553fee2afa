"""Bounds that hold at every look at once, so that a rollout may be judged after each request and stopped at any time.

Beta-binomial mixture with Jeffreys' prior: Robbins, "Statistical methods related to the law of the iterated logarithm",
Annals of Mathematical Statistics 1970; as a confidence sequence: Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021 (arXiv 1810.08240), proposition 7. Quantiles by
their ranks: Howard and Ramdas, Bernoulli 2022 (arXiv 1906.09712). Buckets of equal relative width: Masson, Rim and Lee,
"DDSketch", VLDB 2019.

The mixture of likelihood ratios is a non-negative martingale under the true mean, so by Ville's inequality it passes 1/alpha
at any time with probability alpha at most. Exact, for any sample size; observations must be independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

HALVINGS = 28  # of the unit interval: bounds are exact to 4e-9
GROWTH = 1.02
TINY = 1e-6


def mean_bounds(total: float, count: int, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of the mean of values between 0 and 1, valid at all sample sizes together.

    Args:
        total: their sum; for a rate, how often it happened. Values that are not 0 or 1 are allowed: the mixture is then a
            supermartingale (the likelihood ratio is convex in the value), and the bounds are wider than needed.
        count: how many; 0 gives (0, 1).
        alpha: the probability, over all looks, that the mean is ever outside.
    """
    if count == 0:
        return 0.0, 1.0
    total = min(max(total, 0.0), float(count))
    wanted = _log_mixture(total, count) + math.log(alpha)  # inside: log-likelihood at least this
    middle = total / count

    def inside(p: float) -> bool:
        return _log_likelihood(total, count, p) >= wanted

    lower = 0.0 if total == 0 else _edge(0.0, middle, inside)
    upper = 1.0 if total == count else 1.0 - _edge(0.0, 1.0 - middle, lambda p: inside(1.0 - p))
    return lower, upper


def rank_bounds(count: int, q: float, alpha: float) -> tuple[int, int]:
    """Ranks (1 is the smallest value) between which the q-quantile lies at all sample sizes together.

    0 and count + 1 mean that the sample is too small for a bound on that side.
    """
    wanted = -math.log(alpha)

    def too_unlikely(below: int) -> bool:
        return _log_mixture(below, count) - _log_likelihood(below, count, q) >= wanted

    low, high = -1, math.floor(count * q)  # too unlikely at `low` (or nothing is), not so at `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if too_unlikely(middle) else (low, middle)
    lower = low + 1
    low, high = math.floor(count * q), count + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if too_unlikely(middle) else (middle, high)
    return lower, high


@dataclass(slots=True)
class Sketch:
    """A distribution in buckets of 2 % relative width: small, however many values; bounds take a bucket's outer edge."""

    buckets: dict[int, int] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def of(cls, values: Iterable[float]) -> Sketch:
        sketch = cls()
        for value in values:
            sketch.add(value)
        return sketch

    def add(self, value: float) -> None:
        """A finite number."""
        size = abs(value)
        place = 0 if size < TINY else 1 + math.floor(math.log(size / TINY) / math.log(GROWTH))
        place = place if value >= 0 else -place
        self.buckets[place] = self.buckets.get(place, 0) + 1
        self.count += 1

    def quantile(self, q: float) -> float:
        """The value that a share `q` does not exceed, in the middle of its bucket; nan when empty."""
        edges = self._edges(max(1, math.ceil(q * self.count)))
        return (edges[0] + edges[1]) / 2

    def quantile_bounds(self, q: float, alpha: float) -> tuple[float, float]:
        """Lower and upper bound of the true q-quantile, valid at all sample sizes together; infinite where unknown."""
        low, high = rank_bounds(self.count, q, alpha)
        lower = self._edges(low)[0] if low >= 1 else -math.inf
        upper = self._edges(high)[1] if high <= self.count else math.inf
        return lower, upper

    def _edges(self, rank: int) -> tuple[float, float]:
        seen = 0
        for place in sorted(self.buckets):
            seen += self.buckets[place]
            if seen >= rank:
                return _edge_of(place - 1 if place > 0 else place), _edge_of(place if place > 0 else place + 1)
        return math.nan, math.nan


def _edge_of(place: int) -> float:
    """Outer edge of a bucket on the side away from zero; of bucket 0, and of the first ones' inner side, zero."""
    if place == 0:
        return 0.0
    return math.copysign(TINY * GROWTH ** abs(place), place)


def _log_mixture(total: float, count: int) -> float:
    """log of the integral of p^total (1-p)^(count-total) under Beta(1/2, 1/2)."""
    below, above = math.lgamma(total + 0.5), math.lgamma(count - total + 0.5)
    return below + above - math.lgamma(count + 1.0) - math.log(math.pi)


def _log_likelihood(total: float, count: int, p: float) -> float:
    if p <= 0.0 or p >= 1.0:
        return 0.0 if total == (0.0 if p <= 0.0 else count) else -math.inf
    return total * math.log(p) + (count - total) * math.log1p(-p)


def _edge(outside: float, middle: float, inside: Callable[[float], bool]) -> float:
    """Where `inside` begins to hold on the way from `outside` to `middle`; on the outer side of the true edge."""
    low, high = outside, middle
    for _ in range(HALVINGS):
        half = (low + high) / 2
        low, high = (low, half) if inside(half) else (half, high)
    return low
