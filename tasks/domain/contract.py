"""The behaviour contract: which columns an event, a plan and an item have, and what a sound value looks like.

One source of truth. The Parquet schema, the not-null, in-set and range expectations (expectations/) and the page
docs/data-contract.md follow from the tables below; a test holds the page to them. Never touches data itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

CONTRACT_VERSION: Final = 1

Type = Literal["string", "timestamp", "int32", "float64", "float32", "bool"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, what it means, and what a sound value looks like."""

    name: str
    type: Type
    meaning: str
    reason: str  # why a row that breaks this column's limits must not reach training
    required: bool = False  # no nulls, and the column must be there; other columns may be absent or null
    values: tuple[str, ...] = ()
    pattern: str = ""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """The columns of one table, in file order, and the column that no two rows share."""

    name: str
    key: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.required)


# fmt: off
EVENT = Contract("event", "event_id", (
    Column("event_id", "string", "The source's own id of this event, however often it arrives; rows are sorted by it",
           "an event without id cannot be counted once", required=True),
    Column("event_time", "timestamp", "When it happened, UTC, microseconds",
           "time decides what training may read", required=True),
    Column("user_id", "string", "Pseudonym: HMAC-SHA256 of the raw user id, hex",
           "a raw id must never pass ingest", required=True, pattern=r"^[0-9a-f]{64}$"),
    Column("session_id", "string", "Pseudonym of the visit or basket",
           "a raw id must never pass ingest", pattern=r"^[0-9a-f]{64}$"),
    Column("surface", "string", "Where it happened",
           "the two surfaces are trained and judged apart", required=True, values=("recommendation", "search")),
    Column("query", "string", "What the user typed, on surface search",
           "a text without bound stalls the tokenizer", pattern=r"^[\s\S]{1,512}$"),
    Column("item_id", "string", "The item; it must be in the partition's item table",
           "an event without item has no label", required=True),
    Column("event_type", "string", "What the user did",
           "an unknown kind of event has no grade", required=True,
           values=("impression", "click", "add_to_cart", "purchase", "rating")),
    Column("position", "int32", "Place in the shown list, 0 = first",
           "position bias is corrected by it", minimum=0),
    Column("value", "float64", "Money for the line after the shop's own discounts, or the rating",
           "prices and spend are features; a negative one is a return or a fault", minimum=0),
    Column("propensity", "float64", "Probability with which the logging policy showed the item here",
           "its inverse is a weight: zero or more than one is no probability", minimum=1e-9, maximum=1),
    Column("request_id", "string", "The served request that this event answers",
           "joins feedback to what was served"),
    Column("quantity", "float64", "Pieces or weight of the line",
           "unit price = value / quantity", minimum=0),
    Column("discount", "float64", "Money off the line, of every kind",
           "promotion is a feature; a surcharge is not one", minimum=0),
    Column("store_id", "string", "Shop where it happened",
           "the user's shop decides what is on offer"),
))

PLAN = Contract("plan", "item_id", (
    Column("item_id", "string", "The item that will be promoted",
           "a promotion without item says nothing", required=True),
    Column("display_share", "float32", "Share of shops that display the item on the NEXT day, known this evening",
           "a share outside 0..1 is another quantity", required=True, minimum=0, maximum=1),
    Column("mailer_share", "float32", "Share of shops whose mailer shows the item on the NEXT day",
           "a share outside 0..1 is another quantity", required=True, minimum=0, maximum=1),
))

ITEM = Contract("item", "item_id", (
    Column("item_id", "string", "The item",
           "an item without id cannot be ranked", required=True),
    Column("title", "string", "What a person reads in the list",
           "a nameless item cannot be shown", required=True),
    Column("text", "string", "What describes the item, for search and for the text encoder",
           "an item without text has no vector", required=True),
    Column("category_path", "string", "From wide to narrow, as `A > B > C`",
           "categories are features"),
    Column("brand", "string", "Brand",
           "brand is a feature"),
    Column("price", "float64", "List price where the source has one; else prices come from events",
           "money is not negative", minimum=0),
    Column("attributes", "string", "Anything else, as a JSON object",
           "free form, never a feature by itself"),
    Column("available", "bool", "May be shown",
           "an unavailable item must not be retrieved", required=True),
    Column("updated_at", "timestamp", "When this row last changed, UTC",
           "tells a stale table", required=True),
))
# fmt: on
CONTRACTS = (EVENT, PLAN, ITEM)


def arrow_schema(contract: Contract) -> Any:
    """The pyarrow schema of a table that meets `contract`. Imports pyarrow late: serving imports this module too."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "int32": pa.int32(),
        "float64": pa.float64(),
        "float32": pa.float32(),
        "bool": pa.bool_(),
    }
    return pa.schema([pa.field(c.name, types[c.type], nullable=not c.required) for c in contract.columns])
