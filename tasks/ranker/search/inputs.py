"""What every search model reads of (query, list): text match, cosines of the untrained encoder, and its vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.search.lists import Lists
from tasks.ranker.search.match import TextMatch

COSINES = ("cosine_title", "cosine_written")
TITLE_WEIGHT = 0.05  # of BM25 beside a cosine, for choosing hard negatives


@dataclass(frozen=True)
class Inputs:
    """What a head reads of a set of lists. `query` and `item` index the vector tables."""

    lists: Lists
    x: Floats  # [pairs, features]
    query_vec: Floats  # [lists, width]
    item_vec: Floats  # [items + 1, width]; the last row, zeros, is the unknown item

    @property
    def features(self) -> int:
        return self.x.shape[1]


def features_of(match: TextMatch, query: str, rows: Ints, query_vec: Floats, title: Floats, written: Floats) -> Floats:
    """[items, features] of one list, finite; none depends on who else is in the list.

    title, written: vector tables whose last row, zeros, is the unknown item.
    """
    cosines = np.stack([title[rows] @ query_vec, written[rows] @ query_vec], axis=1)
    return np.concatenate([match.features(query, rows), cosines], axis=1, dtype=np.float32)


def make_inputs(match: TextMatch, lists: Lists, query_vec: Floats, title: Floats, written: Floats) -> Inputs:
    """Inputs of all lists; serving makes those of one request by the same `features_of`."""
    parts = [
        features_of(match, lists.queries[n], lists.rows[a:b], query_vec[n], title, written)
        for n, (a, b) in enumerate(zip(lists.ptr[:-1], lists.ptr[1:], strict=True))
    ]
    width = len(match.columns) + len(COSINES)
    return Inputs(lists, np.concatenate([*parts, np.zeros((0, width), np.float32)]), query_vec, written)


def hardness(match: TextMatch, inputs: Inputs) -> Floats:
    """[pairs] how much an item looks like an answer before anything was learnt."""
    columns = (*match.columns, *COSINES)
    bm25 = inputs.x[:, columns.index("bm25_title")] if "bm25_title" in columns else 0
    told: Floats = inputs.x[:, columns.index("cosine_title")] + np.float32(TITLE_WEIGHT) * bm25
    return told
