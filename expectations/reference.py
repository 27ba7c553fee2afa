"""What a day looked like, in numbers small enough to keep, and how far a day lies from the days before it.

Counts of days add up, so the reference of a day needs no event of an earlier day to be read again, only event ids.
Population stability index: Siddiqi, Credit Risk Scorecards (2006). Jensen-Shannon divergence: Lin (1991), in bits, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.domain.data_policy import DayCounts, Distance

Counts = Mapping[str, int]
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


def day_counts(events: pl.DataFrame, items: pl.DataFrame, user_rows: pl.Series, categories: pl.DataFrame) -> DayCounts:
    """What the sound rows of a day say by themselves; distances and strangers need the days before.

    Args:
        items: item_counts(events).
        user_rows: how many rows each user has.
        categories: item_id, category.
    """
    discounted = pl.col("discount") / (pl.col("value") + pl.col("discount"))
    unasked = (pl.col("event_type") == "purchase") & pl.col("request_id").is_null()
    buckets = events.select(
        "event_type",
        "surface",
        act=pl.when(~unasked).then(pl.col("event_type").cast(pl.String)),  # an answer to something that was shown
        store="store_id",
        hour=pl.col("event_time").dt.hour(),
        position=pl.col("position").clip(0, POSITIONS),
        visit="session_id" if events["session_id"].null_count() < len(events) else "user_id",
        price=(unit_price().log(2) * 2).floor().clip(-8, 24).cast(pl.Int8),
        quantity=pl.col("quantity").floor().clip(0, QUANTITIES).cast(pl.Int8, strict=False),
        discount=(discounted * 10).floor().cast(pl.Int8, strict=False),
    ).lazy()
    dimensions = ("event_type", "surface", "store", "price", "quantity", "discount")
    slices = ("surface", "store", "position")
    plans = [buckets.group_by(bucket=pl.col(name)).len() for name in dimensions]
    plans += [buckets.group_by(bucket=pl.col(name), type=pl.col("act")).len() for name in slices]
    plans.append(buckets.group_by(bucket="hour").agg(len=pl.col("visit").n_unique()))
    time = pl.col("event_time")
    plans.append(events.lazy().select(first=time.min().dt.time(), last=time.max().dt.time()))
    *tables, visits, ends = pl.collect_all(plans)
    counts = {name: _counted(table) for name, table in zip(dimensions, tables, strict=False)}
    counts["category"] = _counted(
        items.join(categories, on="item_id", how="left").group_by(bucket="category").agg(len=pl.col("rows").sum())
    )
    rates: dict[str, dict[str, dict[str, int]]] = {}
    for name, table in zip(slices, tables[len(dimensions) :], strict=True):
        rates[name] = {}
        named = table.drop_nulls().select(pl.col("bucket", "type").cast(pl.String), "len").sort("bucket", "type")
        for bucket, kind, rows in named.iter_rows():
            rates[name].setdefault(bucket, {})[kind] = rows
    by_item, by_user = items["rows"].to_numpy(), user_rows.to_numpy()
    first, last = ends.row(0)
    return DayCounts(
        rows=len(events),
        first_second=_second(first),
        last_second=_second(last),
        counts=counts,
        visits=_counted(visits),
        rates=rates,
        top_item_share=float(by_item.max(initial=0) / max(len(events), 1)),
        top_user_share=float(by_user.max(initial=0) / max(len(events), 1)),
        item_evenness=evenness(by_item),
        user_evenness=evenness(by_user),
        nulls={name: count for name, count in events.null_count().row(0, named=True).items() if name != "row"},
        stranger_share=0.0,
        distances={},
    )


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


def evenness(counts: NDArray[np.unsignedinteger]) -> float:
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


def _counted(table: pl.DataFrame) -> dict[str, int]:
    named = table.select(pl.col("bucket").cast(pl.String), "len").drop_nulls("bucket").sort("bucket")
    return dict(named.iter_rows())


def _shares(counts: Counts, kept: Sequence[str]) -> NDArray[np.float64]:
    rows = np.array([counts.get(bucket, 0) for bucket in kept], float)
    everything = float(sum(counts.values()))
    rows = np.append(rows, everything - rows.sum())
    return rows / everything if everything else rows


def _second(time: object) -> int | None:
    from datetime import time as Clock

    return time.hour * 3600 + time.minute * 60 + time.second if isinstance(time, Clock) else None
