"""Protocol MS1 on MSRD: which query is for training, validation and the final number, and how the number is made.

dev (20 %) is reported and never tuned on, validation (10 %) chooses, train (70 %) teaches; by a hash of the query id. The
lists are the judged films of a query, 6 to 24; a film that the catalogue does not know stays in its list. NDCG@10 with
gain = grade; equal scores are ordered by a hash of the film id. Intervals: 1,000 resamples of dev queries, 2.5 and 97.5 %.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.domain.recipe import SearchFields
from tasks.ranker.search.documents import Documents, read_documents
from tasks.ranker.search.judge import ndcg, tie_order
from tasks.ranker.search.lists import Lists, lists_of
from tasks.sources.msrd import Msrd

TRAIN, DEV, VALIDATION = 0, 1, 2
DIGEST = "c85de449849b8f12"  # of the parts of all queries in the order of their ids, as MS1 states it
QUERIES = (9_706, 2_802, 1_414)
FIELDS = SearchFields(
    matched=("title", "overview", "actors", "characters", "director", "genres", "tags"),
    written=(("title", 1), ("year", 1), ("genres", 3), ("actors", 3), ("characters", 2), ("tags", 2)),
    numbers=("year", "votes", "rating", "popularity"),
)


@dataclass(frozen=True)
class Ms1:
    """All queries in the order of their ids, as the product reads them from the source."""

    documents: Documents
    lists: Lists
    items: list[str]  # of each pair; the catalogue does not know all of them

    @cached_property
    def part(self) -> NDArray[np.int64]:
        """[lists] TRAIN, DEV or VALIDATION."""
        numbers = [name.removeprefix("msrd-") for name in self.lists.names]
        drawn = np.array(
            [int(hashlib.sha256(f"ms1:{number}".encode()).hexdigest()[:8], 16) % 100 for number in numbers]
        )
        return np.where(drawn < 20, DEV, np.where(drawn >= 90, VALIDATION, TRAIN))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.part.astype("i1").tobytes()).hexdigest()[:16]

    @cached_property
    def _tie(self) -> NDArray[np.uint64]:
        return tie_order(self.items)

    def ndcg(self, scores: NDArray[np.floating], part: int) -> NDArray[np.float64]:
        """[queries of the part]; scores are of all pairs."""
        told: NDArray[np.float64] = ndcg(self.lists, scores, self._tie)[self.part == part]
        return told


def read_ms1(folder: Path) -> Ms1:
    source = Msrd(folder)
    events = pl.concat([pl.from_arrow(source.events(day)) for day in source.days()])
    documents = read_documents(source.items().to_pylist(), FIELDS)
    # the contract's order is that of time, which MSRD does not have; MS1 numbers queries by their ids
    unknown = sorted(set(events["item_id"].cast(pl.String)) - set(documents.ids))
    lists = lists_of(events, [*documents.ids, *unknown])
    order = np.argsort([int(name.removeprefix("msrd-")) for name in lists.names], kind="stable")
    lists = lists.take(order)
    items = [*documents.ids, *unknown]
    named = [items[row] for row in lists.rows.tolist()]
    rows = np.where(lists.rows < len(documents), lists.rows, -1).astype(np.int32)
    return Ms1(documents, Lists(lists.names, lists.queries, lists.ptr, rows, lists.grade), named)


def bootstrap(values: NDArray[np.float64]) -> tuple[float, float]:
    """2.5 and 97.5 % of the mean over resampled queries; MS1's own draws."""
    draws = np.random.RandomState(0).multinomial(len(values), np.full(len(values), 1 / len(values)), size=1000)
    low, high = np.percentile(draws @ values / len(values), [2.5, 97.5])
    return float(low), float(high)
