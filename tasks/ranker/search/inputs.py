"""What every search model reads of (query, list): text match, cosines of the untrained encoder and its vectors, the past."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.search.lists import Lists
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.past import PAST_COLUMNS, Past

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


def columns_of(match: TextMatch, past: Past | None) -> tuple[str, ...]:
    """Names of the features, in their order."""
    return (*match.columns, *COSINES, *(PAST_COLUMNS if past is not None else ()))


def features_of(
    match: TextMatch,
    query: str,
    rows: Ints,
    query_vec: Floats,
    title: Floats,
    written: Floats,
    past: Past | None = None,
) -> Floats:
    """[items, features] of one list, finite; none depends on who else is in the list.

    title, written: vector tables whose last row, zeros, is the unknown item.
    """
    cosines = np.stack([title[rows] @ query_vec, written[rows] @ query_vec], axis=1)
    told = [match.features(query, rows), cosines]
    if past is not None:
        told.append(past.features(match.weights(query), rows))
    return np.concatenate(told, axis=1, dtype=np.float32)


def make_inputs(
    match: TextMatch,
    lists: Lists,
    query_vec: Floats,
    title: Floats,
    written: Floats,
    past: Past | None = None,
    *,
    own: bool = False,
) -> Inputs:
    """Inputs of all lists; serving makes those of one request by the same `features_of`. own: the past is these lists."""
    parts = [
        features_of(match, lists.queries[n], lists.rows[a:b], query_vec[n], title, written)
        for n, (a, b) in enumerate(zip(lists.ptr[:-1], lists.ptr[1:], strict=True))
    ]
    x = np.concatenate([*parts, np.zeros((0, len(columns_of(match, None))), np.float32)])
    if past is not None:
        x = np.concatenate([x, past.of_lists([match.weights(of) for of in lists.queries], lists, own=own)], 1)
    return Inputs(lists, x, query_vec, written)


def hardness(match: TextMatch, inputs: Inputs) -> Floats:
    """[pairs] how much an item looks like an answer before anything was learnt."""
    columns = columns_of(match, None)
    bm25 = inputs.x[:, columns.index("bm25_title")] if "bm25_title" in columns else 0
    told: Floats = inputs.x[:, columns.index("cosine_title")] + np.float32(TITLE_WEIGHT) * bm25
    return told
