"""Where behaviour data comes from: an adapter maps an outside data set to the contract of tasks/domain/contract.py.

Raw user ids exist here and in tasks/ingest.py only. A source with a natural end says so in one sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


class Trip(NamedTuple):
    """What one user bought on one day, for the replayer: raw user id, and (item id, money) of each distinct item."""

    user_id: str
    lines: list[tuple[str, float]]


class Source(Protocol):
    """A behaviour log by day. Days are partition keys; one outside first_day..last_day raises InputRejected."""

    name: str
    title: str  # for people
    first_day: str
    last_day: str

    def days(self) -> list[str]:
        """Every calendar day from first to last, those without events included."""
        ...

    def events(self, day: str) -> pa.Table:
        """What arrived on `day`: the event contract's columns, raw ids in user_id and session_id, rows in any order."""
        ...

    def plan(self, day: str) -> pa.Table:
        """What is planned for the day after `day`, as known on the evening of `day`."""
        ...

    def items(self) -> pa.Table: ...

    def users(self) -> pa.Table | None:
        """What is known of users, raw ids in user_id; None where the source knows nothing of them."""
        ...

    def trips(self, day: str) -> list[Trip]:
        """What each user bought on `day` itself, in the order of the users' first purchase."""
        ...


def require_day(source: Source, day: str) -> None:
    """Raise InputRejected, in one sentence, for a day that the source does not have."""
    partition_date(day)
    if day > source.last_day:
        raise InputRejected(
            f"{source.title} ends on {source.last_day}; there is no {day} to land, the replay is complete"
        )
    if day < source.first_day:
        raise InputRejected(f"{source.title} begins on {source.first_day}; there is no {day} to land")


def open_source(name: str) -> Source:
    """The source that settings.source names. Opening is cheap: data is read when first asked for."""
    kind, colon, where = name.partition(":")
    if name == "completejourney":
        from tasks.sources.completejourney import CompleteJourney

        return CompleteJourney()
    if kind == "files" and colon:
        from tasks.sources.files import Files

        return Files(_folder(name, where))
    if kind == "msrd" and colon:
        from tasks.sources.msrd import Msrd

        return Msrd(_folder(name, where))
    raise InputRejected(
        f"source {name!r} is not known; known: completejourney, files:/absolute/path, msrd:/absolute/path"
    )


def _folder(source: str, where: str) -> Path:
    path = Path(where)
    if not path.is_absolute() or ".." in path.parts or "\0" in where:
        raise InputRejected(f"source {source!r} needs an absolute path without `..`, as in files:/data/shop")
    if not path.is_dir():
        raise InputRejected(f"source {source!r}: {where} is no folder")
    return path


def trips_of(lines: pl.DataFrame) -> list[Trip]:
    """Trips from a day's purchases, in the order of the users' first one; a line without value counts as 0."""
    import polars as pl

    paid = pl.col("value").sum() if "value" in lines.columns else pl.lit(0.0).alias("value")
    each = (
        lines.filter(pl.col("event_type") == "purchase")
        .group_by("user_id", "item_id")
        .agg(pl.col("event_time").min(), paid)
        .sort("event_time", "item_id")
    )
    trips: dict[str, list[tuple[str, float]]] = {}
    for user, item, _, value in each.iter_rows():
        trips.setdefault(user, []).append((item, round(value, 2)))
    return [Trip(user, bought) for user, bought in trips.items()]
