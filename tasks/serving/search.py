"""A query in, scored items out: by the trained search ranker, or by the text and what this user buys. Used by one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tasks.domain.requests import DEFAULT_K, RankRequest, Reason, RequestRefused
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.profile import Profile
from tasks.ranker.rank import LOWEST, rank_profile
from tasks.ranker.retrieve import similar_to
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import ItemState
from tasks.serving.guarded import require_finite
from tasks.serving.metrics import Metrics
from tasks.serving.reasons import EXPLAINED, strongest

if TYPE_CHECKING:
    from tasks.ranker.search.ranker import SearchRanker

KEPT_QUERIES = 4_096
NEAREST = 300  # items that a query retrieves before they are ranked
PERSONAL_WEIGHT = 0.1


class Encoder(Protocol):
    def encode(self, text: str) -> Floats: ...


def open_encoder(release: Path, threads: int = 1) -> Encoder | None:
    """The text encoder of a release directory; None where it holds none, and then no search is answered."""
    if not (release / "text" / "encoder.xml").exists():
        return None
    from tasks.ranker.text import QueryEncoder

    return QueryEncoder(release / "text", threads)


def open_search(release: Path, threads: int = 1) -> SearchRanker | None:
    """The trained search ranker of a release directory; None where its recipe trained none."""
    if not (release / "search" / "config.json").exists():
        return None
    from tasks.ranker.search.ranker import SearchRanker

    return SearchRanker.open(release / "search", threads)


class Search:
    """Scores the items of a query; the latest query vectors are kept."""

    def __init__(self, items: ItemState, scorer: Scorer, encoder: Encoder | None, trained: SearchRanker | None) -> None:
        self._items, self._scorer, self._encoder, self._trained = items, scorer, encoder, trained
        self.metrics: Metrics | None = None
        self._vectors: OrderedDict[str, Floats] = OrderedDict()

    def scored(
        self, request: RankRequest, given: Ints | None, profile: Profile, in_time: Callable[[], bool]
    ) -> tuple[Ints, Floats, str]:
        """(catalogue rows, a score for each, stage). By the trained ranker where the release holds one: then evaluation
        judged exactly this score.

        Otherwise, and past the deadline: score = cosine(query, item text) + 0.1 x sigmoid(score of the recommendation cascade).

        The second part is below 0.1 and tells near equals apart by what this user buys; past the deadline it is left
        out, and the stage says `cosine`.

        Args:
            given: rows of the request's candidates, -1 for an unknown one; None where it sent none.
        """
        if self._trained is not None and in_time():
            return self._by_trained(self._trained, request, given)
        vector = self._vector(request.query or "")
        rows = similar_to(self._items, vector, max(request.k or DEFAULT_K, NEAREST)) if given is None else given
        scores = np.full(len(rows), LOWEST, np.float32)
        found = np.flatnonzero(rows >= 0)
        scores[found] = self._items.vectors(rows[found]) @ vector
        if not len(found) or not in_time():
            return rows, scores, "cosine"
        ranked = rank_profile(self._scorer, profile, rows[found], in_time)
        if ranked.stage == "retrieved":
            return rows, scores, "cosine"
        scores[found[ranked.order]] += np.float32(PERSONAL_WEIGHT) / (1 + np.exp(-np.clip(ranked.scores, -40, 40)))
        return rows, scores, "search"

    def reasons(self, query: str, rows: Ints, scores: Floats, stage: str) -> list[list[Reason]]:
        """For each row of a ranked list, -1 for an unknown item: what of its score the query made."""
        if self._trained is not None and stage == "search":
            return self._members_of(self._trained, query, rows)
        match = self._items.vectors(rows) @ self._vector(query)
        told = zip(rows.tolist(), match.tolist(), scores.tolist(), strict=True)
        return [
            strongest({"query_match": near, "beyond_the_query": score - near}) if row >= 0 else []
            for row, near, score in told
        ]

    def _by_trained(self, trained: SearchRanker, request: RankRequest, given: Ints | None) -> tuple[Ints, Floats, str]:
        """An item that neither the state nor the ranker's documents know goes last."""
        query = request.query or ""
        if given is not None:
            rows, documents = given, trained.rows(request.candidates or [])
        else:
            found = trained.nearest(query, max(request.k or DEFAULT_K, NEAREST))
            rows = self._items.rows([trained.documents.ids[row] for row in found.tolist()])
            rows, documents = rows[rows >= 0], found[rows >= 0]
        scores = np.full(len(rows), LOWEST, np.float32)
        known = (rows >= 0) | (documents >= 0)
        if known.any():
            told = require_finite(trained.scores(query, documents[known]), "search scores")
            scores[known] = np.maximum(told, LOWEST + 1)
        return rows, scores, "search"

    def _members_of(self, trained: SearchRanker, query: str, rows: Ints) -> list[list[Reason]]:
        """Of the best items alone, as for recommendations: to score the whole list once more would double what it costs."""
        shown = np.flatnonzero(rows >= 0)[:EXPLAINED]
        parts = trained.parts(query, trained.rows([self._items.ids[row] for row in rows[shown].tolist()]))
        reasons: list[list[Reason]] = [[] for _ in rows]
        for n, place in enumerate(shown.tolist()):
            reasons[place] = strongest({name: float(values[n]) for name, values in parts.items()})
        return reasons

    def _vector(self, query: str) -> Floats:
        kept = self._vectors.get(query)
        if self.metrics is not None:
            self.metrics.cached("query", kept is not None)
        if kept is None:
            if self._encoder is None:
                raise RequestRefused(400, "this release answers no search; send surface recommendation")
            kept = require_finite(self._encoder.encode(query), "query vector")
            self._vectors[query] = kept
            if len(self._vectors) > KEPT_QUERIES:
                self._vectors.popitem(last=False)
        else:
            self._vectors.move_to_end(query)
        return kept
