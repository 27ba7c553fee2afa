"""A checked request in, an ordered and scored list out: user view -> candidates -> the cascade of tasks.ranker.

The cascade is the one that evaluation ran; nothing here changes a score except for search, whose formula is below.
Used by one thread. Never raises for what a caller sent, except to say that it cannot be answered (400).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from tasks.domain.requests import DEFAULT_K, HistoryEvent, RankRequest, RequestRefused
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.features import FEATURES
from tasks.ranker.profile import Profile
from tasks.ranker.rank import LOWEST, rank_profile
from tasks.ranker.retrieve import candidates_of, similar_to
from tasks.ranker.runtime import OpenVinoScorer, Scorer
from tasks.ranker.state import NOBODY, ItemState, UserHistory, history_from_events
from tasks.serving.metrics import Metrics
from tasks.serving.release import Release
from tasks.serving.user_view import UserView, open_view

if TYPE_CHECKING:
    from tasks.ranker.search.ranker import SearchRanker

KEPT_QUERIES = 4_096
NEAREST = 300  # items that a query retrieves before they are ranked
PERSONAL_WEIGHT = 0.1
FOREVER = float("inf")


class Encoder(Protocol):
    def encode(self, text: str) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items best first; scores finite and never rising. `view_source` is empty where no user was named."""

    items: list[str]
    scores: list[float]
    stage: str
    user_known: bool
    view_source: str


class Guarded:
    """Refuses non-finite numbers at the scorer's door: int8 operators would turn a NaN into a plausible score."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        # an optional feature may be unknown: the scorer fills in its NaN, and nothing else's
        _require_finite(x[:, : len(FEATURES)], "features")
        _require_finite(np.nan_to_num(x[:, len(FEATURES) :], nan=0, posinf=np.inf, neginf=-np.inf), "features")
        return _require_finite(self._scorer.base(x, item_vec), "base scores")

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        _require_finite(tokens, "tokens")
        return _require_finite(self._scorer.full(x, item_vec, tokens, mask), "full scores")


def open_search(release: Path, threads: int = 1) -> SearchRanker | None:
    """The trained search ranker of a release directory; None where its recipe trained none."""
    if not (release / "search" / "config.json").exists():
        return None
    from tasks.ranker.search.ranker import SearchRanker

    return SearchRanker.open(release / "search", threads)


class Engine:
    def __init__(
        self,
        items: ItemState,
        scorer: Scorer,
        encoder: Encoder | None = None,
        users: UserView | None = None,
        clock: Callable[[], float] = time.perf_counter,
        search: SearchRanker | None = None,
    ) -> None:
        self._items = items
        self._scorer = Guarded(scorer)
        self._encoder = encoder
        self._trained = search
        self._users = users
        self.metrics: Metrics | None = None
        self._clock = clock
        self._queries: OrderedDict[str, Floats] = OrderedDict()
        items.row_of  # noqa: B018  # counted now, not in the first request

    @classmethod
    def open(
        cls,
        release: Release,
        view: Path | None,
        *,
        valkey_url: str | None = None,
        threads: int = 1,
    ) -> Engine:
        """Load a checked release. Raises InputRejected where its parts, or the view, do not belong together."""
        items = ItemState.load(release.directory / "items")
        users = open_view(view, release.record.view, items.digest, valkey_url) if view is not None else None
        encoder: Encoder | None = None
        if (release.directory / "text" / "encoder.xml").exists():
            from tasks.ranker.text import QueryEncoder

            encoder = QueryEncoder(release.directory / "text", threads)
        search = open_search(release.directory, threads)
        return cls(items, OpenVinoScorer(release.directory / "model", threads), encoder, users, search=search)

    def rank(
        self, request: RankRequest, pseudonym: str | None = None, *, deadline: float = FOREVER, named: bool = False
    ) -> Ranking:
        """Order the request's candidates, or retrieve and order; an unknown item goes last, ties by position.

        Args:
            deadline: on this engine's clock; past it, no further stage is begun and the order so far is the answer.
            named: the caller named a user, known or not.
        """
        user, source = self._user(request, pseudonym)
        if named and user is None and self.metrics is not None:
            self.metrics.unknown_users.inc()
        profile = Profile(self._items, user or NOBODY, self._items.day)
        known = len(profile.user.rows) > 0

        def in_time() -> bool:
            return self._clock() < deadline

        if request.surface == "search":
            rows, scores, stage = self._search(request, profile, in_time)
        else:
            rows = self._given(request.candidates) if request.candidates else candidates_of(profile)
            ranked = rank_profile(self._scorer, profile, rows, in_time)
            scores = np.empty(len(rows), np.float32)
            scores[ranked.order] = ranked.scores
            stage = "popularity" if ranked.stage == "base" and not known else ranked.stage
            return self._ranking(request, rows, ranked.order, scores, stage, known, source)
        order = np.argsort(-scores, kind="stable").astype(np.int32)
        return self._ranking(request, rows, order, scores, stage, known, source)

    def close(self) -> None:
        if self._users is not None:
            self._users.close()

    def _user(self, request: RankRequest, pseudonym: str | None) -> tuple[UserHistory | None, str]:
        if request.history is not None:
            return history_from_events(self._items, _purchases(request.history)), "request"
        if pseudonym is None or self._users is None:
            return None, ""
        user, source = self._users.find(pseudonym)
        if self.metrics is not None:
            self.metrics.views.labels(source).inc()
        return user, source

    def _given(self, candidates: Sequence[str]) -> Ints:
        rows = self._items.rows(candidates)
        unknown = int((rows < 0).sum())
        if unknown and self.metrics is not None:
            self.metrics.unknown_items.inc(unknown)
        return rows

    def _search(self, request: RankRequest, profile: Profile, in_time: Callable[[], bool]) -> tuple[Ints, Floats, str]:
        """By the trained ranker where the release holds one: then evaluation judged exactly this score.

        Otherwise, and past the deadline: score = cosine(query, item text) + 0.1 x sigmoid(score of the recommendation cascade).

        The second part is below 0.1 and tells near equals apart by what this user buys; past the deadline it is left
        out, and the stage says `cosine`.
        """
        if self._trained is not None and in_time():
            return self._search_trained(self._trained, request)
        vector = self._query_vector(request.query or "")
        if request.candidates:
            rows = self._given(request.candidates)
        else:
            rows = similar_to(self._items, vector, max(request.k or DEFAULT_K, NEAREST))
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

    def _search_trained(self, trained: SearchRanker, request: RankRequest) -> tuple[Ints, Floats, str]:
        """An item that neither the state nor the ranker's documents know goes last."""
        query = request.query or ""
        if request.candidates:
            rows, documents = self._given(request.candidates), trained.rows(request.candidates)
        else:
            found = trained.nearest(query, max(request.k or DEFAULT_K, NEAREST))
            rows = self._items.rows([trained.documents.ids[row] for row in found.tolist()])
            rows, documents = rows[rows >= 0], found[rows >= 0]
        scores = np.full(len(rows), LOWEST, np.float32)
        known = (rows >= 0) | (documents >= 0)
        if known.any():
            told = _require_finite(trained.scores(query, documents[known]), "search scores")
            scores[known] = np.maximum(told, LOWEST + 1)
        return rows, scores, "search"

    def _query_vector(self, query: str) -> Floats:
        kept = self._queries.get(query)
        if kept is None:
            if self._encoder is None:
                raise RequestRefused(400, "this release answers no search; send surface recommendation")
            kept = _require_finite(self._encoder.encode(query), "query vector")
            self._queries[query] = kept
            if len(self._queries) > KEPT_QUERIES:
                self._queries.popitem(last=False)
        else:
            self._queries.move_to_end(query)
        return kept

    def _ranking(
        self, request: RankRequest, rows: Ints, order: Ints, scores: Floats, stage: str, known: bool, source: str
    ) -> Ranking:
        limit = request.k if request.k is not None else (None if request.candidates else DEFAULT_K)
        order = order[:limit]
        ids: Sequence[str] = self._items.ids
        if request.candidates:
            items = [request.candidates[position] for position in order.tolist()]
        else:
            items = [ids[row] for row in rows[order].tolist()]
        return Ranking(items, scores[order].tolist(), stage, known, source)


def _purchases(history: Sequence[HistoryEvent]) -> list[dict[str, Any]]:
    """The model reads purchases only; other events of a history are accepted and count for nothing."""
    return [msgspec.structs.asdict(event) for event in history if event.event_type == "purchase"]


def _require_finite(values: Floats, what: str) -> Floats:
    if not np.isfinite(values).all():
        raise ArithmeticError(f"{what} hold a number that is not finite; the request was not answered with it")
    return values
