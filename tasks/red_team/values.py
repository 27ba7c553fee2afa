"""What stands in the columns: units, swaps, nothing, infinity, other alphabets, other shops."""

from __future__ import annotations

import math

import polars as pl

from tasks.red_team.scene import Kind, Scene

SHARE_OF_DAY = "share of the day's rows"
ANY = "any number above 0"
PURCHASE = pl.col("event_type") == "purchase"


def _cents(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.col("value") * 100, pl.col("discount") * 100)


def _currency(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """One of the five stores that sell most."""
    large = scene.largest(events.filter(PURCHASE).drop_nulls("store_id"), "store_id", 5)
    there = pl.col("store_id") == scene.one_of(large)
    money = pl.col("value", "discount")
    return events.with_columns(pl.when(there).then(money * (1 + strength)).otherwise(money))


def _swapped_numbers(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.col("quantity").alias("value"), pl.col("value").alias("quantity"))


def _swapped_ids(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.col("item_id").alias("user_id"), pl.col("user_id").alias("item_id"))


def _nan(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.lit(math.nan).alias("value"))


def _infinite(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.lit(math.inf).alias("value"))


def _null(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.lit(None, pl.Float64).alias("value"))


def _negative(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, -pl.col("value") - 0.01)


def _text(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return events.with_columns(pl.col("value").cast(pl.String)) if strength > 0 else events


def _renamed(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return events.rename({"item_id": "product_id"}) if strength > 0 else events


def _renamed_optional(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return events.rename({"store_id": "shop"}) if strength > 0 else events


def _unknown_items(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, ("other-" + pl.col("item_id")).alias("item_id"))


# UTF-8 read as Latin-1, a NUL, an accent without a letter, a byte that was no text, a line break
GARBAGE = ("Ã©", "\0", "\u0301", "\ufffd", "\n")


def _garbled_items(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    rubbish = pl.lit(pl.Series([GARBAGE[n] for n in scene.draws.integers(0, len(GARBAGE), len(events))]))
    return scene.change(events, strength, pl.col("item_id") + rubbish)


def _new_event_type(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.lit("hover").alias("event_type"))


def _other_catalogue(items: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(items, strength, ("old-" + pl.col("item_id")).alias("item_id"))


def _doubled_catalogue(items: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return pl.concat([items, scene.some(items, strength)])


def _plan_in_percent(plan: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Shares of 0 stay 0 in any unit: only what is promoted changes."""
    percent = pl.when(pl.col("display_share") > 0).then(pl.col("display_share") * 100).otherwise("display_share")
    return scene.change(plan, strength, percent.cast(pl.Float32).alias("display_share"))


# fmt: off
KINDS = (
    Kind("cents", "Tills begin to send money in cents.",
         SHARE_OF_DAY, 0.1, ("price_outlier", "drift"), "refused", events=_cents),
    Kind("currency", "One store sends its prices in another currency.",
         "how much dearer everything there seems: 1 is twice as dear", 1.0, ("store_prices",), "quarantined",
         events=_currency),
    Kind("swapped_numbers", "A new export swaps the columns value and quantity.",
         SHARE_OF_DAY, 0.2, ("price_outlier", "drift"), "held", events=_swapped_numbers),
    Kind("swapped_ids", "A new export swaps the columns user_id and item_id.",
         SHARE_OF_DAY, 0.03, ("unknown_item",), "quarantined", events=_swapped_ids),
    Kind("nan_column", "A division by zero upstream fills the column value with NaN.",
         SHARE_OF_DAY, 1.0, ("not_finite", "all_null", "contract", "missing", "drift"), "refused", events=_nan),
    Kind("null_column", "A field is renamed in the app and arrives empty: value has nothing in it.",
         SHARE_OF_DAY, 1.0, ("all_null", "missing", "drift"), "refused", events=_null),
    Kind("infinite_values", "A free item divides by its price of zero: some values are infinite.",
         SHARE_OF_DAY, 0.005, ("not_finite", "contract"), "quarantined", events=_infinite),
    Kind("negative_prices", "Returns are booked as purchases with a negative value.",
         SHARE_OF_DAY, 0.01, ("contract",), "quarantined", events=_negative),
    Kind("wrong_type", "A spreadsheet saved the column value as text.",
         ANY, 1.0, ("ingest",), "rejected", events=_text),
    Kind("renamed_column", "A team renames item_id to product_id without telling anybody.",
         ANY, 1.0, ("ingest",), "rejected", events=_renamed),
    Kind("renamed_optional", "A team renames store_id, which may be absent: the file is sound, the column is gone.",
         ANY, 1.0, ("missing", "drift"), "held", events=_renamed_optional),
    Kind("unknown_items", "Rows of another shop are mixed in: the item table does not know their items.",
         SHARE_OF_DAY, 0.03, ("unknown_item",), "quarantined", events=_unknown_items),
    Kind("garbled_items", "Item ids pass through a wrong encoding: double UTF-8, NUL bytes, accents without a letter.",
         SHARE_OF_DAY, 0.03, ("unknown_item",), "quarantined", events=_garbled_items),
    Kind("new_event_type", "The app begins to log hovers, which nothing downstream knows.",
         SHARE_OF_DAY, 0.01, ("contract",), "quarantined", events=_new_event_type),
    Kind("other_catalogue", "The item table of another shop, or of last year, is delivered with the day.",
         "share of the items that it does not have", 0.5, ("unknown_item",), "held", items=_other_catalogue),
    Kind("doubled_catalogue", "The item table holds some items twice.",
         "share of the items", 0.01, ("items",), "refused", items=_doubled_catalogue),
    Kind("plan_in_percent", "Tomorrow's promotions are sent in percent instead of shares.",
         "share of the planned items", 0.5, ("plan",), "refused", plan=_plan_in_percent),
)
# fmt: on
