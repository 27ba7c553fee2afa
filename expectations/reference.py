"""What a day looked like, in numbers small enough to keep, and how far a day lies from the days before it.

Counts of days add up, so the reference of a day needs no event of an earlier day to be read again, only event ids.
Population stability index: Siddiqi, Credit Risk Scorecards (2006). Jensen-Shannon divergence: Lin (1991), in bits, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expectations.coded import Coded
from tasks.domain.data_policy import DayCounts, Distance

Ints = NDArray[np.integer]
Counts = Mapping[str, int]
DIMENSIONS = ("event_type", "surface", "store", "price", "quantity", "discount")
SLICES = ("surface", "store", "position")
POSITIONS, QUANTITIES = 30, 10  # the last bucket of each is "and more"
ACTS = ("click", "add_to_cart", "purchase")
SMALLEST_SHARE = 0.01  # of the reference; rarer buckets are compared as one
EPSILON = 1e-4  # share of an empty bucket in the index, which has a logarithm
ITEM_COLUMNS = {"item_id": pl.String, "rows": pl.UInt32, "lines": pl.UInt32, "price": pl.Float64}


def unit_price() -> pl.Expr:
    paid = (
        pl.col("value").is_finite() & (pl.col("value") > 0) & pl.col("quantity").is_finite() & (pl.col("quantity") > 0)
    )
    return pl.when(paid & (pl.col("event_type") == "purchase")).then(pl.col("value") / pl.col("quantity"))


def item_counts(events: pl.DataFrame) -> pl.DataFrame:
    """item_id, rows, lines that have a unit price, and their median unit price."""
    price = unit_price()
    counted = (
        events.lazy()
        .group_by("item_id")
        .agg(pl.len().alias("rows"), price.count().alias("lines"), price.median().alias("price"))
        .select(pl.col(name).cast(kind) for name, kind in ITEM_COLUMNS.items())
        .sort("item_id", nulls_last=True)
    )
    return counted.collect()


def day_counts(events: pl.DataFrame, items: pl.DataFrame, by_user: Ints, categories: pl.DataFrame) -> DayCounts:
    """What the sound rows of a day say by themselves; distances and strangers need the days before.

    Args:
        items: item_counts(events).
        by_user: [users] how many rows each has.
        categories: item_id, category.
    """
    discounted = pl.col("discount") / (pl.col("value") + pl.col("discount"))
    time, hour_us = pl.col("event_time"), 3_600_000_000
    buckets = events.select(
        price=(unit_price().log(2) * 2).floor().clip(-8, 24).cast(pl.Int8),
        quantity=pl.col("quantity").floor().clip(0, QUANTITIES).cast(pl.Int8, strict=False),
        discount=(discounted * 10).floor().cast(pl.Int8, strict=False),
        hour=time.to_physical() // hour_us % 24,  # of UTC; dt.hour() asks a time zone for each row
        position=pl.col("position").clip(0, POSITIONS),
    )
    coded = {name: Coded.column(events[name]) for name in ("event_type", "surface", "store_id")}
    coded |= {column.name: Coded.numbers(column) for column in buckets}
    coded["store"] = coded.pop("store_id")
    visit = Coded.column(events["session_id" if events["session_id"].null_count() < len(events) else "user_id"])
    counts = {name: coded[name].counts() for name in DIMENSIONS}
    category = items.join(categories, on="item_id", how="left").group_by("category").agg(pl.col("rows").sum())
    counts["category"] = dict(category.drop_nulls().sort("category").iter_rows())
    first, last = events.select(first=time.min().dt.time(), last=time.max().dt.time()).row(0)
    acts, by_item = _acts(events, coded["event_type"]), items["rows"].to_numpy()
    return DayCounts(
        rows=len(events),
        first_second=_second(first),
        last_second=_second(last),
        counts=counts,
        visits=coded["hour"].different(visit),
        rates={name: coded[name].by(acts) for name in SLICES},
        top_item_share=float(by_item.max(initial=0) / max(len(events), 1)),
        top_user_share=float(by_user.max(initial=0) / max(len(events), 1)),
        item_evenness=evenness(by_item),
        user_evenness=evenness(by_user),
        nulls={name: count for name, count in events.null_count().row(0, named=True).items() if name != "row"},
        stranger_share=0.0,
        distances={},
    )


def _acts(events: pl.DataFrame, kinds: Coded) -> Coded:
    """What was done, but for purchases that no request led to: they answer nothing that was shown."""
    unasked = (kinds.values == "purchase").arg_true().to_list()
    if not unasked:
        return kinds
    asked = events["request_id"].is_not_null().to_numpy()
    return Coded(kinds.values, np.where(asked | (kinds.of != unasked[0]), kinds.of, np.uint32(len(kinds.values))))


def distances(today: DayCounts, reference: Sequence[DayCounts]) -> dict[str, Distance]:
    """For each dimension that the reference has, how far today is from the sum of its days."""
    return {
        name: distance(today.counts.get(name, {}), summed(day.counts.get(name, {}) for day in reference))
        for name in sorted({name for day in reference for name in day.counts})
    }


def distance(today: Counts, reference: Counts) -> Distance:
    """Both divergences over the buckets of the reference that are not rare; the rest is one bucket."""
    total = sum(reference.values())
    kept = sorted(bucket for bucket, rows in reference.items() if rows >= SMALLEST_SHARE * total)
    p = _shares(today, kept)
    q = _shares(reference, kept)
    if not p.sum() or not q.sum():
        return Distance(js=0.0 if p.sum() == q.sum() else 1.0, psi=0.0 if p.sum() == q.sum() else 10.0, most="")
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    a, b = np.maximum(p, EPSILON), np.maximum(q, EPSILON)
    index = (a - b) * np.log(a / b)
    worst = int(np.argmax(np.abs(p - q)))
    bucket = (*kept, "any other")[worst]
    most = f"{bucket}: {q[worst]:.1%} -> {p[worst]:.1%}"
    return Distance(js=float(bits.sum() / 2), psi=float(index.sum()), most=most)


def summed(days: Iterable[Counts]) -> dict[str, int]:
    total: dict[str, int] = {}
    for day in days:
        for bucket, rows in day.items():
            total[bucket] = total.get(bucket, 0) + rows
    return total


def evenness(counts: Ints) -> float:
    """Entropy over its maximum: 1 where all have the same share, 0 where one has everything (Pielou, 1966)."""
    if len(counts) < 2:
        return 0.0
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(counts)))


def shift_hours(today: Counts, reference: Counts) -> tuple[int, float, float]:
    """(hours that today's clock is ahead by the best fit, its divergence as it is, its divergence moved back)."""
    p = [today.get(str(hour), 0) for hour in range(24)]
    fits = {ahead: distance({str(h): p[(h + ahead) % 24] for h in range(24)}, reference).js for ahead in range(-6, 7)}
    best = min(fits, key=lambda ahead: (fits[ahead], abs(ahead)))
    return best, fits[0], fits[best]


def _shares(counts: Counts, kept: Sequence[str]) -> NDArray[np.float64]:
    rows = np.array([counts.get(bucket, 0) for bucket in kept], float)
    everything = float(sum(counts.values()))
    rows = np.append(rows, everything - rows.sum())
    return rows / everything if everything else rows


def _second(time: object) -> int | None:
    from datetime import time as Clock

    return time.hour * 3600 + time.minute * 60 + time.second if isinstance(time, Clock) else None
