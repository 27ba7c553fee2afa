"""CJ1: which slates there are, what is to be found in them, and how a ranking of the whole catalogue is scored.

A temporal next-trip protocol for Complete Journey. An event is one distinct (day, household, product); day 0 is 2017-01-01.
Everything used for a slate of day D comes from earlier days. The catalogue of D holds the products with five events or
more in the 90 days before. Ties are broken by a fixed pseudo-random order of products.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.domain.behaviour import next_day
from tasks.domain.manifest import partition_date
from tasks.domain.ranking_metrics import ranked_metrics
from tasks.sources import Source

DAY_0 = "2017-01-01"
WINDOWS = {"dev": ("2017-07-01", 14), "second": ("2017-09-01", 14)}
CATALOGUE_DAYS, CATALOGUE_EVENTS = 90, 5
SEED, LIST, LIST_POSITIVES, LIST_PAST = 20170701, 100, 20, 40
TASKS = ("all", "new", "repeat")
METRICS = ("ndcg_at_10", "recall_at_10", "hit_rate_at_10", "mrr")
Longs = NDArray[np.int64]
M1, M2, STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)


def mix(values: object) -> NDArray[np.uint64]:
    """splitmix64 (Steele et al., OOPSLA 2014) of whole numbers."""
    with np.errstate(over="ignore"):
        z = np.asarray(values).astype(np.uint64) + STEP
        z = (z ^ (z >> np.uint64(30))) * M1
        z = (z ^ (z >> np.uint64(27))) * M2
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def day_number(day: str) -> int:
    return (partition_date(day) - partition_date(DAY_0)).days


def iso(day: int) -> str:
    return next_day(DAY_0, day)


@dataclass(frozen=True, slots=True)
class Slate:
    """`household` and `positives` (ascending) index the log's ids; `new` marks products not bought before."""

    day: int
    household: int
    positives: Longs
    new: NDArray[np.bool_]


@dataclass(frozen=True)
class Log:
    """All events, sorted by (day, household, product). Households and products are numbered by their raw ids."""

    household_ids: Longs
    product_ids: Longs
    day: Longs
    household: Longs
    product: Longs

    @classmethod
    def read(cls, source: Source, through: str) -> Log:
        import polars as pl

        days = [day for day in source.days() if day <= through]
        tables = [pl.from_arrow(source.events(day)) for day in days]
        lines = pl.concat(
            table.select(pl.col("user_id", "item_id").cast(pl.Int64), day=pl.lit(day_number(day), pl.Int64))
            for day, table in zip(days, tables, strict=True)
            if isinstance(table, pl.DataFrame)
        ).unique()
        households, household = np.unique(lines["user_id"].to_numpy(), return_inverse=True)
        products, product = np.unique(lines["item_id"].to_numpy(), return_inverse=True)
        day = lines["day"].to_numpy()
        order = np.lexsort((product, household, day))
        return cls(households, products, day[order], household[order], product[order])

    @cached_property
    def ptr(self) -> Longs:
        return np.searchsorted(self.day, np.arange(int(self.day.max()) + 2))

    @cached_property
    def tie(self) -> NDArray[np.uint64]:
        return mix(self.product_ids)

    @cached_property
    def _pairs(self) -> tuple[Longs, Longs, Longs]:
        """(distinct household x product, number of each event's, day of each one's first event)."""
        pairs, number = np.unique(self.household * len(self.product_ids) + self.product, return_inverse=True)
        first = np.full(len(pairs), np.iinfo(np.int64).max)
        np.minimum.at(first, number, self.day)
        return pairs, number, first

    def catalogue(self, day: int) -> Longs:
        part = self.product[self.ptr[max(0, day - CATALOGUE_DAYS)] : self.ptr[day]]
        return np.flatnonzero(np.bincount(part, minlength=len(self.product_ids)) >= CATALOGUE_EVENTS)

    def ranked(self, day: int, scores: NDArray[np.floating]) -> Iterator[Longs]:
        """The whole catalogue for each row of [slates, catalogue] scores, best first."""
        catalogue = self.catalogue(day)
        by_tie = np.argsort(self.tie[catalogue])
        for of in scores[:, by_tie]:
            yield catalogue[by_tie][np.argsort(-of, kind="stable")]

    def past(self, household: int, day: int) -> Longs:
        """Products that the household bought before `day`, ascending."""
        pairs, _, first = self._pairs
        a, b = np.searchsorted(pairs, [household * len(self.product_ids), (household + 1) * len(self.product_ids)])
        bought: Longs = (pairs[a:b] % len(self.product_ids))[first[a:b] < day]
        return bought

    def slates(self, day: int) -> list[Slate]:
        part = slice(self.ptr[day], self.ptr[day + 1])
        _, number, first = self._pairs
        listed = np.isin(self.product[part], self.catalogue(day))
        household, product = self.household[part][listed], self.product[part][listed]
        new = first[number[part][listed]] >= day
        starts = np.flatnonzero(np.diff(household, prepend=-1))
        ends = np.append(starts[1:], len(household))
        return [Slate(day, int(household[a]), product[a:b], new[a:b]) for a, b in zip(starts, ends, strict=True)]

    def lists(self, day: int) -> Iterator[tuple[Slate, Longs, NDArray[np.int8]]]:
        """The list task: a hundred products of each slate in list order, and which of them were bought."""
        catalogue = np.zeros(len(self.product_ids), bool)
        catalogue[self.catalogue(day)] = True
        recent = self.product[self.ptr[max(0, day - CATALOGUE_DAYS)] : self.ptr[day]]
        for slate in self.slates(day):
            listed, positives = self._listed(slate, catalogue, recent)
            order = np.argsort(self.tie[listed], kind="stable")
            yield slate, listed[order], (order < positives).astype(np.int8)

    def _listed(self, slate: Slate, catalogue: NDArray[np.bool_], recent: Longs) -> tuple[Longs, int]:
        past = self.past(slate.household, slate.day)
        past = past[catalogue[past] & ~np.isin(past, slate.positives)]
        bought = self._smallest(slate, slate.positives, LIST_POSITIVES)
        listed = [*bought.tolist(), *self._smallest(slate, past, LIST_PAST).tolist()]
        seen = set(slate.positives.tolist()) | set(listed)
        start = np.uint64(int(self._key(slate, np.uint64(0xFFFFFFFF)))) >> np.uint64(1)
        drawn = 0
        while len(listed) < LIST:  # products of random recent events: in proportion to popularity
            events = mix(start + np.arange(drawn, drawn + 256, dtype=np.uint64)) % np.uint64(len(recent))
            for product in recent[events.astype(np.int64)].tolist():
                if product not in seen and catalogue[product] and len(listed) < LIST:
                    seen.add(product)
                    listed.append(product)
            drawn += 256
        return np.array(listed), len(bought)

    def _smallest(self, slate: Slate, products: Longs, most: int) -> Longs:
        return products[np.argsort(self._key(slate, self.product_ids[products]), kind="stable")][:most]

    def _key(self, slate: Slate, product_ids: object) -> NDArray[np.uint64]:
        with np.errstate(over="ignore"):
            household = np.uint64(SEED) + np.asarray(self.household_ids[slate.household]).astype(np.uint64)
            return mix(mix(mix(household) + np.uint64(slate.day)) + np.asarray(product_ids).astype(np.uint64))


@dataclass(frozen=True, slots=True)
class Counts:
    """What identifies a window: two reproductions of the protocol must agree on all of it."""

    slates: int
    with_new: int
    with_repeat: int
    positives: int
    new: int
    events: int
    digest: str  # of the lists


def counts(log: Log, days: range) -> Counts:
    slates = [slate for day in days for slate in log.slates(day)]
    digest = hashlib.sha256()
    for day in days:
        lists = list(log.lists(day))
        for ids in (
            log.household_ids[[slate.household for slate, _, _ in lists]].astype("<i8"),
            log.product_ids[np.stack([products for _, products, _ in lists])].astype("<i8"),
            np.stack([bought for _, _, bought in lists]),
        ):
            digest.update(ids.tobytes())
    return Counts(
        slates=len(slates),
        with_new=sum(bool(slate.new.any()) for slate in slates),
        with_repeat=sum(not slate.new.all() for slate in slates),
        positives=sum(len(slate.positives) for slate in slates),
        new=sum(int(slate.new.sum()) for slate in slates),
        events=int(log.ptr[days[-1] + 1] - log.ptr[days[0]]),
        digest=digest.hexdigest()[:16],
    )


def slate_metrics(ranked: Longs, past: Longs, slate: Slate) -> dict[str, float]:
    """METRICS of each task; `ranked` is the whole catalogue, best first. A task with nothing to find is NaN."""
    relevant, bought = np.isin(ranked, slate.positives), np.isin(ranked, past)
    found = {
        "all": (relevant, len(slate.positives)),
        "new": (relevant[~bought], int(slate.new.sum())),
        "repeat": (relevant[bought], int((~slate.new).sum())),
    }
    told = {}
    for task, (flags, positives) in found.items():
        values = ranked_metrics(flags, positives) if positives else {}
        told.update({f"{metric}[{task}]": values.get(metric, np.nan) for metric in METRICS})
    return told


@lru_cache(8)
def _drawn(households: int, resamples: int) -> NDArray[np.int64]:
    """How often each household is drawn in each resample; the same for every metric with as many households."""
    return np.random.RandomState(0).multinomial(households, np.full(households, 1 / households), size=resamples)


def interval(household: Longs, values: NDArray[np.float64], resamples: int = 1_000) -> tuple[float, float]:
    """95 % percentile interval of the mean, households drawn with replacement. NaN values are left out."""
    known = ~np.isnan(values)
    _, number = np.unique(household[known], return_inverse=True)
    total, count = np.bincount(number, values[known]), np.bincount(number)
    weight = _drawn(len(count), resamples)
    low, high = np.percentile((weight @ total) / (weight @ count), [2.5, 97.5])
    return float(low), float(high)
