"""The behaviour contract: which columns an event, a plan, an item and a user have, and what a sound value looks like.

One source of truth. The Parquet schema, the expectations (expectations/), the tables of docs/data-contract.md and the
JSON Schemas in docs/contract/ follow from the tables below; tests hold them to it. Never touches data itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks.domain.errors import InputRejected

if TYPE_CHECKING:
    import pyarrow as pa

CONTRACT_VERSION: Final = 1

Type = Literal["string", "timestamp", "int32", "float64", "float32", "bool"]
# what no clock of a shop says: before it, a zero or a default; after it, milliseconds read as seconds
EARLIEST, LATEST = "2000-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$"  # in JSON: with its offset, always


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, what it means, and what a sound value looks like. Required text is never blank."""

    name: str
    type: Type
    meaning: str
    reason: str  # why a row that breaks this column's limits must not reach training
    required: bool = False  # no nulls, and the column must be there; other columns may be absent or null
    values: tuple[str, ...] = ()
    pattern: str = ""
    longest: int | None = None  # characters
    minimum: float | None = None
    maximum: float | None = None
    pseudonym: bool = False  # a raw id until ingest replaces it: `pattern` holds from then on


@dataclass(frozen=True, slots=True)
class Contract:
    """The columns of one table, in file order, and the column that no two rows share."""

    name: str
    key: str
    columns: tuple[Column, ...]
    open: bool = False  # further columns are kept: text and bool are categories, numbers are numbers

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.required)


PSEUDONYM = r"^[0-9a-f]{64}$"
# fmt: off
EVENT = Contract("event", "event_id", (
    Column("event_id", "string", "The source's own id of this event, however often it arrives; rows are sorted by it",
           "an event without id cannot be counted once", required=True),
    Column("event_time", "timestamp", "When it happened, UTC, microseconds",
           "time decides what training may read", required=True),
    Column("user_id", "string", "Pseudonym: HMAC-SHA256 of the raw user id, hex",
           "a raw id must never pass ingest", required=True, pattern=PSEUDONYM, pseudonym=True),
    Column("session_id", "string", "Pseudonym of the visit or basket",
           "a raw id must never pass ingest", pattern=PSEUDONYM, pseudonym=True),
    Column("surface", "string", "Where it happened",
           "the two surfaces are trained and judged apart", required=True, values=("recommendation", "search")),
    Column("query", "string", "What the user typed, on surface search",
           "a text without bound stalls the tokenizer; control characters and U+FFFD are what a wrong encoding leaves",
           pattern=r"^[^\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]{1,512}$"),
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
           "an item without id cannot be ranked, and the service takes no longer one", required=True, longest=128),
    Column("title", "string", "What a person reads in the list",
           "a nameless item cannot be shown", required=True, longest=500),
    Column("text", "string", "What describes the item, for search and for the text encoder",
           "an item without text has no vector, an endless one stalls the tokenizer", required=True, longest=20_000),
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

USER = Contract("user", "user_id", (
    Column("user_id", "string", "Pseudonym, as in the events",
           "a raw id must never pass ingest", required=True, pattern=PSEUDONYM, pseudonym=True),
), open=True)
# fmt: on
CONTRACTS = (EVENT, PLAN, ITEM, USER)


def as_sent(contract: Contract) -> Contract:
    """What a source sends: raw ids where ingest will put pseudonyms."""
    sent = (replace(column, pattern="") if column.pseudonym else column for column in contract.columns)
    return replace(contract, columns=tuple(sent))


def arrow_schema(contract: Contract, found: pa.Schema | None = None) -> Any:
    """The pyarrow schema of a table that meets `contract`. Imports pyarrow late: serving imports this module too.

    The further columns of an open contract are taken from `found`, by name.

    Raises:
        InputRejected: a further column is neither text nor bool nor a number.
    """
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "int32": pa.int32(),
        "float64": pa.float64(),
        "float32": pa.float32(),
        "bool": pa.bool_(),
    }
    fields = [pa.field(c.name, types[c.type], nullable=not c.required) for c in contract.columns]
    if contract.open and found is not None:
        further = sorted(set(found.names) - set(contract.names))
        fields += [pa.field(name, _further(contract, found.field(name))) for name in further]
    return pa.schema(fields, metadata={"contract": contract.name, "contract_version": str(CONTRACT_VERSION)})


def _further(contract: Contract, field: pa.Field) -> pa.DataType:
    import pyarrow as pa

    of = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_null(of):
        return pa.string()
    if pa.types.is_boolean(of):
        return pa.bool_()
    if pa.types.is_integer(of) or pa.types.is_floating(of):
        return pa.float64()
    raise InputRejected(
        f"the column {field.name} of the {contract.name} table is {of}; further columns are text, bool or numbers"
    )
