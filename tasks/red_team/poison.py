"""Sources around a source: some of its days, or one of its days damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tasks.red_team.scene import Bend, Kind, Scene
from tasks.sources import Source, Trip

if TYPE_CHECKING:
    import pyarrow as pa


class Window:
    """A source that has only the days `first` to `last`."""

    def __init__(self, source: Source, first: str, last: str) -> None:
        self._source = source
        self.name, self.title = source.name, source.title
        self.first_day, self.last_day = first, last

    def days(self) -> list[str]:
        return [day for day in self._source.days() if self.first_day <= day <= self.last_day]

    def events(self, day: str) -> pa.Table:
        return self._source.events(day)

    def plan(self, day: str) -> pa.Table:
        return self._source.plan(day)

    def items(self) -> pa.Table:
        return self._source.items()

    def users(self) -> pa.Table | None:
        return self._source.users()

    def trips(self, day: str) -> list[Trip]:
        return self._source.trips(day)


class Poisoned(Window):
    """A source with one day, and that one damaged: the same damage however often it is asked for."""

    def __init__(self, source: Source, day: str, kind: Kind, strength: float, seed: int) -> None:
        super().__init__(source, day, day)
        self._day, self._kind, self._strength, self._seed = day, kind, strength, seed

    def scene(self) -> Scene:
        return Scene(self._day, self._source, np.random.default_rng(self._seed))

    def events(self, day: str) -> pa.Table:
        return self._bent(self._kind.events, super().events(day))

    def plan(self, day: str) -> pa.Table:
        return self._bent(self._kind.plan, super().plan(day))

    def items(self) -> pa.Table:
        return self._bent(self._kind.items, super().items())

    def changed(self) -> int:
        """How many of the day's rows were not there before; a row that comes twice was there once."""
        if self._kind.events is None:
            return 0
        clean, poisoned = pl.DataFrame(self._source.events(self._day)), pl.DataFrame(self.events(self._day))
        if clean.schema != poisoned.schema:
            return len(poisoned)
        both = pl.concat([poisoned.with_columns(sign=1), clean.with_columns(sign=-1)])
        left = both.group_by(clean.columns).agg(pl.col("sign").sum())["sign"]
        return int(left.filter(left > 0).sum())

    def _bent(self, bend: Bend | None, table: pa.Table) -> pa.Table:
        return table if bend is None else bend(pl.DataFrame(table), self.scene(), self._strength).to_arrow()
