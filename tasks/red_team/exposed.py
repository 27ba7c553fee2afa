"""A click log around real purchases: lists, clicks and carts are planted, what was bought is real.

**Synthetic by design.** Complete Journey says what was bought, never what was shown. For each basket one recommended
list, and for half of them one search, is drawn with a known policy and a known position bias, so that rules and training
that need impressions have a base whose truth is known. No number measured on it says anything about real clicks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tasks.domain.contract import EVENT
from tasks.domain.manifest import partition_date
from tasks.sources import Source, Trip

if TYPE_CHECKING:
    import pyarrow as pa

Draws = np.random.Generator
KINDS = ("impression", "click", "add_to_cart")


@dataclass(frozen=True, slots=True)
class Exposure:
    """How lists are shown and read. Every number is an assumption, none is measured."""

    eta: float = 0.8  # place k is looked at with probability 1 / (1 + k) ** eta
    list_length: int = 20  # of a recommendation; a search shows half of it
    searches: float = 0.5  # baskets that also come from a search
    own: int = 8  # bought items in a recommended list, at most
    explored: float = 0.2  # lists in uniformly random order; the others are ordered by the policy's score
    click_if_bought: float = 0.85
    click_otherwise: float = 0.06
    cart_if_clicked: float = 0.6  # of clicked items that were bought
    # A basket of the first minutes was filled the evening before: its list belongs to another day and is not planted.
    lead_minutes: tuple[int, int] = (10, 45)


class Exposed:
    """A Source that adds impressions, clicks, carts, positions, propensities and request ids to another's purchases.

    The same day and seed give the same rows, whichever days were asked for before.
    """

    def __init__(self, source: Source, seed: int = 20170701, exposure: Exposure | None = None) -> None:
        self._source, self._seed, self._exposure = source, seed, exposure or Exposure()
        self.name, self.title = f"{source.name}-exposed", f"{source.title} with planted exposure"
        self.first_day, self.last_day = source.first_day, source.last_day
        self._queries: pl.DataFrame | None = None

    def days(self) -> list[str]:
        return self._source.days()

    def events(self, day: str) -> pa.Table:
        bought = pl.DataFrame(self._source.events(day)).sort("event_id")
        draws = np.random.default_rng([self._seed, partition_date(day).toordinal()])
        shown = _shown(bought, self._with_queries(bought), day, draws, self._exposure)
        planted = [_planted(shown, kind) for kind in KINDS]
        return pl.concat([_answered(bought, shown), *planted]).to_arrow()

    def plan(self, day: str) -> pa.Table:
        return self._source.plan(day)

    def items(self) -> pa.Table:
        return self._source.items()

    def users(self) -> pa.Table | None:
        return self._source.users()

    def trips(self, day: str) -> list[Trip]:
        return self._source.trips(day)

    def _with_queries(self, bought: pl.DataFrame) -> pl.DataFrame:
        """Each item of the day once, with what a person would type to find it: its title up to the first comma."""
        if self._queries is None:
            items = pl.DataFrame(self._source.items()).select("item_id", "title")
            typed = pl.col("title").str.split(",").list.first().str.to_lowercase()
            self._queries = items.select("item_id", query=typed.str.slice(0, 80))
        counted = bought.group_by("item_id").agg(pl.len().alias("lines")).sort("item_id")
        return counted.join(self._queries, on="item_id", how="left", maintain_order="left")


def _shown(bought: pl.DataFrame, items: pl.DataFrame, day: str, draws: Draws, how: Exposure) -> pl.DataFrame:
    """One row for each item of each list: place, propensity, when, and whether it was clicked and put in the cart."""
    low, high = how.lead_minutes
    midnight = pl.lit(partition_date(day)).cast(pl.Datetime("us", "UTC"))
    visits = (
        bought.filter(pl.col("session_id").is_not_null())
        .group_by("session_id", maintain_order=True)
        .agg(pl.col("user_id", "store_id", "event_time").first())
        .with_columns(since=(pl.col("event_time") - midnight).dt.total_seconds() / 60)
        .filter(pl.col("since") > low)
    )
    count = len(visits)
    searched = draws.random(count) < how.searches
    visits = visits.with_columns(
        visit=pl.int_range(pl.len(), dtype=pl.UInt32),
        lead=low + pl.Series(draws.random(count)) * (pl.min_horizontal("since", pl.lit(float(high))) - low),
    )
    own = (
        bought.select("session_id", "item_id")
        .unique(maintain_order=True)
        .join(visits.select("session_id", "visit"), on="session_id", maintain_order="left")
        .select("visit", "item_id", bought=pl.lit(True))
    )
    recommended = _recommended(bought, own, count, draws, how).with_columns(surface=pl.lit("recommendation"))
    found = _found(own, items, searched, draws, how).with_columns(surface=pl.lit("search"))
    lists = pl.concat([recommended, found]).join(items.select("item_id", "lines"), on="item_id", maintain_order="left")
    return _read(_placed(lists, draws, how).join(visits, on="visit", maintain_order="left"), day, draws, how)


def _recommended(bought: pl.DataFrame, own: pl.DataFrame, count: int, draws: Draws, how: Exposure) -> pl.DataFrame:
    """Some of what the visit bought, filled up with what others bought that day."""
    mine = _first(own, draws, how.own)
    drawn = draws.integers(0, max(len(bought), 1), count * how.list_length)
    others = pl.DataFrame(
        {
            "visit": np.repeat(np.arange(count, dtype=np.uint32), how.list_length),
            "item_id": bought["item_id"].gather(drawn) if count else pl.Series(dtype=pl.String),
        }
    )
    others = others.join(own, on=["visit", "item_id"], how="anti").with_columns(bought=pl.lit(False))
    both = pl.concat([mine, others]).unique(["visit", "item_id"], keep="first", maintain_order=True)
    return both.filter(pl.int_range(pl.len()).over("visit") < how.list_length).with_columns(
        query=pl.lit(None, pl.String)
    )


def _found(own: pl.DataFrame, items: pl.DataFrame, searched: np.ndarray, draws: Draws, how: Exposure) -> pl.DataFrame:
    """For each visit with a search: one bought item's words as the query, and the day's items that they find."""
    visits = pl.DataFrame({"visit": np.flatnonzero(searched).astype(np.uint32)})
    sought = _first(own.join(visits, on="visit", maintain_order="left"), draws, 1)
    typed = sought.join(items.select("item_id", "query"), on="item_id", maintain_order="left").drop("bought")
    hits = (
        typed.select("visit", "query")
        .join(items.select("item_id", "query"), on="query", maintain_order="left_right")
        .join(own, on=["visit", "item_id"], how="left", maintain_order="left")
        .with_columns(pl.col("bought").fill_null(False))
        .select("visit", "item_id", "bought", "query")
    )
    return _first(hits, draws, how.list_length // 2)


def _first(rows: pl.DataFrame, draws: Draws, count: int) -> pl.DataFrame:
    """`count` random rows of each visit."""
    shuffled = rows.with_columns(luck=pl.Series(draws.random(len(rows)))).sort("visit", "luck")
    return shuffled.filter(pl.int_range(pl.len()).over("visit") < count).drop("luck")


def _placed(lists: pl.DataFrame, draws: Draws, how: Exposure) -> pl.DataFrame:
    """Order each list by the policy's score, or at random, and say how probable each place was."""
    of = ("surface", "visit")
    score = pl.col("lines").log1p() * 0.5 + pl.col("bought") * 1.0 + pl.Series(draws.gumbel(size=len(lists)))
    ranked = lists.with_columns(
        score=score, luck=pl.Series(draws.random(len(lists))), coin=pl.Series(draws.random(len(lists)))
    ).with_columns(
        best=pl.col("score").rank("ordinal", descending=True).over(of) - 1,
        random=pl.col("luck").rank("ordinal").over(of) - 1,
        explores=pl.col("coin").first().over(of) < how.explored,
        length=pl.len().over(of),
    )
    place = pl.when("explores").then("random").otherwise("best")
    return ranked.with_columns(position=place.cast(pl.Int32)).select(
        *of,
        "item_id",
        "query",
        "bought",
        "position",
        propensity=(pl.col("position") == pl.col("best")) * (1 - how.explored) + how.explored / pl.col("length"),
    )


def _read(lists: pl.DataFrame, day: str, draws: Draws, how: Exposure) -> pl.DataFrame:
    """Who looked, clicked and put in the cart, and when: all of it between the list and the till."""
    rows = len(lists)
    looked = pl.Series(draws.random(rows)) < (1 + pl.col("position")).cast(pl.Float64).pow(-how.eta)
    likes = pl.when("bought").then(how.click_if_bought).otherwise(how.click_otherwise)
    clicked = looked & (pl.Series(draws.random(rows)) < likes)
    carted = clicked & pl.col("bought") & (pl.Series(draws.random(rows)) < how.cart_if_clicked)
    read = lists.with_columns(clicked=clicked, carted=carted).sort("visit", "surface", "position")
    of = ("surface", "visit")
    # a search comes after the recommended list was read: the first half of the lead is for one, the second for the other
    start = pl.col("lead") * pl.when(pl.col("surface") == "search").then(0.5).otherwise(1.0)
    step = pl.col("lead") * 0.5 / (pl.col("clicked").sum().over(of) + 1)
    turn = pl.col("clicked").cum_sum().over(of)
    asked = pl.col("event_time") - pl.duration(seconds=(start * 60).floor())
    return read.with_columns(
        impression_at=asked,
        click_at=asked + pl.duration(seconds=(turn * step * 60).floor()),
        request_id=pl.format("{}-{}-{}", pl.lit(day), pl.col("surface").str.slice(0, 3), "visit"),
    ).with_columns(add_to_cart_at=pl.col("click_at") + pl.duration(seconds=2))


def _planted(shown: pl.DataFrame, kind: str) -> pl.DataFrame:
    rows = {"impression": shown, "click": shown.filter("clicked"), "add_to_cart": shown.filter("carted")}[kind]
    return rows.with_columns(
        event_id=pl.format("{}-{}-{}", "request_id", "position", pl.lit(kind)),
        event_time=pl.col(f"{kind}_at"),
        event_type=pl.lit(kind),
        value=pl.lit(None, pl.Float64),
        quantity=pl.lit(None, pl.Float64),
        discount=pl.lit(None, pl.Float64),
    ).select(EVENT.names)


def _answered(bought: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """The purchases, unchanged but for the list that led to them where a click did."""
    of = ["session_id", "item_id"]
    led = shown.filter("clicked").unique(of, keep="last", maintain_order=True)
    led = led.select(*of, led_by="request_id", led_on="surface", typed="query")
    return (
        bought.join(led, on=of, how="left", maintain_order="left")
        .with_columns(
            request_id=pl.coalesce("led_by", "request_id"),
            surface=pl.coalesce("led_on", "surface"),
            query=pl.coalesce("typed", "query"),
        )
        .select(EVENT.names)
    )
