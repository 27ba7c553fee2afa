"""Bounds that hold at every look at once, so that a rollout may be judged after each request and stopped at any time.

Beta-binomial mixture with Jeffreys' prior: Robbins, "Statistical methods related to the law of the iterated logarithm",
Annals of Mathematical Statistics 1970; as a confidence sequence: Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021 (arXiv 1810.08240), proposition 7. Quantiles by
their ranks: Howard and Ramdas, Bernoulli 2022 (arXiv 1906.09712). Buckets of equal relative width: Masson, Rim and Lee,
"DDSketch", VLDB 2019.

The mixture of likelihood ratios is a non-negative martingale under the true mean, so by Ville's inequality it passes 1/alpha
at any time with probability alpha at most. Exact, for any sample size; observations must be independent. Two samples that
are compared share their evidence as e-processes do, which may be multiplied and averaged: Ramdas, Grünwald, Vovk and
Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 2023 (arXiv 2210.01948).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

HALVINGS = 28  # of the unit interval: bounds are exact to 4e-9
GROWTH = 1.02
TINY = 1e-6
ODDS = (1.3, 1.8, 3.0, 8.0)  # how many times more often (or less) a rate may really happen than is asked about


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


def quantile_exceeds(ours: Sketch, theirs: Sketch, q: float, allowed: Callable[[float], float], alpha: float) -> bool:
    """Whether the q-quantile of `ours` surely lies above `allowed` of that of `theirs`; wrong at any of all looks with
    probability alpha at most.

    Were it not above, then at the place where their quantile is, at least a share 1 - q of theirs would lie at or above it,
    and at most that share of ours above `allowed` of it. So every place must be refused, by either sample alone or by both
    together: the mean of the first alone, the second alone, and twice their product. Two bounds that have to
    clear each other ask for more observations (docs/adr/0049: how many). What slows both samples at once makes the product
    smaller, so it needs no more independence than the rest.

    Args:
        allowed: never falls as its argument grows.
    """
    wanted, tail = -math.log(alpha), 1 - q
    if not ours.count or not theirs.count:
        return False
    places, above = theirs.tails()
    slow_places, slow_above = ours.tails()

    def refused(number: int) -> bool:
        limit = allowed(_upper(places[number])) if number < len(places) else math.inf
        first = bisect_left(slow_places, limit, key=_lower)
        more = _evidence(slow_above[first], ours.count, tail, rarer=False)
        fewer = _evidence(above[number], theirs.count, tail, rarer=True)
        return _log_mean(_log_mean(more, fewer), more + fewer) >= wanted

    start = bisect_left(above, -tail * theirs.count, key=lambda count: -count)  # where it most likely is: refused last
    return all(refused(number) for number in (*range(start, len(above)), *range(start)))


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

    def tails(self) -> tuple[list[int], list[int]]:
        """Buckets in order, and how many values lie in each or above it; one number more, 0, for above them all."""
        places = sorted(self.buckets)
        above = [0]
        for place in reversed(places):
            above.append(above[-1] + self.buckets[place])
        return places, above[::-1]

    def _edges(self, rank: int) -> tuple[float, float]:
        seen = 0
        for place in sorted(self.buckets):
            seen += self.buckets[place]
            if seen >= rank:
                return _lower(place), _upper(place)
        return math.nan, math.nan


def _lower(place: int) -> float:
    return _edge_of(place - 1 if place > 0 else place)


def _upper(place: int) -> float:
    return _edge_of(place if place > 0 else place + 1)


def _edge_of(place: int) -> float:
    """Outer edge of a bucket on the side away from zero; of bucket 0, and of the first ones' inner side, zero."""
    if place == 0:
        return 0.0
    return math.copysign(TINY * GROWTH ** abs(place), place)


def _evidence(hits: int, count: int, p: float, *, rarer: bool) -> float:
    """log of the mean likelihood ratio of rates on one side of p against p: a supermartingale for all rates on its other."""
    logs = [hits * hit + (count - hits) * miss for hit, miss in _ratios(p, rarer)]
    most = max(logs)
    return most + math.log(sum(math.exp(one - most) for one in logs) / len(logs))


@cache
def _ratios(p: float, rarer: bool) -> tuple[tuple[float, float], ...]:
    """What a hit and a miss say for each of the rates in `ODDS`, as logs."""
    found = []
    for times in ODDS:
        odds = p / (1 - p) * (1 / times if rarer else times)
        found.append((math.log(odds / (1 + odds) / p), -math.log1p(odds) - math.log1p(-p)))
    return tuple(found)


def _log_mean(one: float, other: float) -> float:
    most = max(one, other)
    return most + math.log((math.exp(one - most) + math.exp(other - most)) / 2)


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
