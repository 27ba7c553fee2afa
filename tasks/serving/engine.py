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

from tasks.domain.merchandising import Revision
from tasks.domain.requests import DEFAULT_K, HistoryEvent, RankRequest, Reason, RequestRefused
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.device import OPENVINO, open_scorer
from tasks.ranker.features import FEATURES
from tasks.ranker.head_parts import PartsScorer
from tasks.ranker.profile import Profile
from tasks.ranker.rank import LOWEST, Slate, rank_profile, rank_together
from tasks.ranker.rank import Ranking as Ordered
from tasks.ranker.retrieve import similar_to
from tasks.ranker.runtime import OpenVinoScorer, Scorer
from tasks.ranker.state import ItemState, UserHistory, history_from_events
from tasks.serving.merchandise import Merchandiser
from tasks.serving.metrics import Metrics
from tasks.serving.prepared import Prepared, PreparedUsers
from tasks.serving.reasons import EXPLAINED, reasons_of, strongest
from tasks.serving.recent import Purchases
from tasks.serving.release import Release
from tasks.serving.stage_budget import Budget, StageTimes
from tasks.serving.user_view import UserView, open_view

if TYPE_CHECKING:
    from tasks.ranker.search.ranker import SearchRanker

KEPT_QUERIES = 4_096
KEPT_LENGTHS = 4  # of a user's recommendation: callers ask for one or two
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
    cut_short: bool = False  # the deadline left a stage out
    reasons: list[list[Reason]] | None = None  # of the items, where the caller asked
    kept: bool = False  # worked out for an earlier request
    explored: bool = False  # near ties changed places


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, who it is of, and by when it is to be answered; `named` says that the caller named a user."""

    request: RankRequest
    pseudonym: str | None
    deadline: float
    named: bool


class Guarded:
    """Refuses non-finite numbers at the scorer's door: int8 operators would turn a NaN into a plausible score."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def prepare(self) -> None:
        """What can be done before the first request."""
        if isinstance(self._scorer, OpenVinoScorer | PartsScorer):
            self._scorer.prepare()

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
        self._parts = scorer.parts_of_items(items) if isinstance(scorer, PartsScorer) else None
        self._encoder = encoder
        self._trained = search
        self._users = users
        self.metrics: Metrics | None = None
        self.merchandiser: Merchandiser | None = None  # replaced whole, by any thread
        self._clock = clock
        self._queries: OrderedDict[str, Floats] = OrderedDict()
        self._prepared = PreparedUsers(items)
        self._times = StageTimes()
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
        users = open_view(view, release.record.view, items, valkey_url) if view is not None else None
        encoder: Encoder | None = None
        if (release.directory / "text" / "encoder.xml").exists():
            from tasks.ranker.text import QueryEncoder

            encoder = QueryEncoder(release.directory / "text", threads)
        search = open_search(release.directory, threads)
        scorer = open_scorer(release.directory / "model", threads, str(release.record.notes.get("runtime", OPENVINO)))
        return cls(items, scorer, encoder, users, search=search)

    def rank(
        self, request: RankRequest, pseudonym: str | None = None, *, deadline: float = FOREVER, named: bool = False
    ) -> Ranking:
        """Order the request's candidates, or retrieve and order; an unknown item goes last, ties by position.

        Args:
            deadline: on this engine's clock; a stage that would not be over by then is not begun, and the order so far
                is the answer.
            named: the caller named a user, known or not.
        """
        told = self.rank_together([Asked(request, pseudonym, deadline, named)])[0]
        if isinstance(told, Exception):
            raise told
        return told

    def rank_together(self, asked: Sequence[Asked]) -> list[Ranking | Exception]:
        """What `rank` answers to each, or raises; recommendations share features and calls of the scorer."""
        told: dict[int, Ranking | Exception] = {}
        open_: list[tuple[int, _Open]] = []
        for n, one in enumerate(asked):
            found: _Open | Ranking | Exception
            try:
                found = self._search_for(one) if one.request.surface == "search" else self._open(one)
            except Exception as err:
                found = err
            if isinstance(found, _Open):
                open_.append((n, found))
            else:
                told[n] = found
        told |= zip((n for n, _ in open_), self._ranked([one for _, one in open_]), strict=True)
        if self.metrics is not None:
            self.metrics.together.labels(_size_class(len(asked))).inc(len(asked))
        return [told[n] for n in range(len(asked))]

    def at_once(self, one: Asked) -> Ranking | None:
        """A recommendation that is ready, for any thread: it needs no turn of the engine. None where there is none."""
        request = one.request
        if one.pseudonym is None or self._users is None or request.candidates or request.explain or request.query:
            return None
        user = self._users.in_memory(one.pseudonym)
        prepared = self._prepared.in_memory(one.pseudonym, user) if user is not None else None
        if prepared is None or prepared.ranking is None:
            return None
        if self.metrics is not None:
            self.metrics.at_once += 1
        limit, rules = request.k or DEFAULT_K, self.merchandiser
        if prepared.told_by is not rules:  # answers by the rules of before
            prepared.told, prepared.told_by = {}, rules
        told: Ranking | None = prepared.told.get(limit)
        if told is None:
            told = self._answer(request, prepared, prepared.candidates(), prepared.ranking, "memory", kept=True)
            if len(prepared.told) < KEPT_LENGTHS:
                prepared.told[limit] = told
        return told

    def warm_up(self, users: int, seconds: float) -> int:
        """Compile what is left, and prepare the users with the longest histories: no first request is slower than the next.

        Returns how many users.
        """
        self._scorer.prepare()
        began = time.perf_counter()
        for n, pseudonym in enumerate(self._users.busiest(users) if self._users is not None else []):
            if time.perf_counter() - began > seconds:
                return n
            self.rank(RankRequest(surface="recommendation"), pseudonym)
        return users

    def obey(self, told: Revision) -> None:
        """Any thread may say so: from the next answer on, lists are arranged by these merchandising rules."""
        self.merchandiser = Merchandiser(told.revision, told.rules, self._items)

    def heard(self, pseudonym: str, purchases: Purchases) -> None:
        """Any thread may say so: the user bought these just now."""
        if self._users is not None:
            self._users.heard(pseudonym, purchases)

    def _open(self, one: Asked) -> _Open | Ranking:
        """A recommendation up to where the model is needed; a kept one is answered at once."""
        prepared, source = self._prepared_for(one)
        request = one.request
        if not request.candidates:
            if self.metrics is not None:
                self.metrics.cached("recommendation", prepared.ranking is not None)
            if prepared.ranking is not None:
                return self._answer(request, prepared, prepared.candidates(), prepared.ranking, source, kept=True)
        rows = self._given(request.candidates) if request.candidates else prepared.candidates()
        budget = Budget(("base", "full"), one.deadline, self._clock, self._times)
        return _Open(request, prepared, Slate(prepared.profile, rows, self._parts), source, budget)

    def _ranked(self, open_: list[_Open]) -> list[Ranking | Exception]:
        try:
            ranked = rank_together(self._scorer, [one.slate for one in open_], [one.budget for one in open_])
        except Exception as err:
            if len(open_) == 1:
                return [err]
            # one of them is at fault, and its neighbours are not
            return [told for one in open_ for told in self._ranked([one])]
        told: list[Ranking | Exception] = []
        for one, ranking in zip(open_, ranked, strict=True):
            one.budget.finish()
            if not one.request.candidates and not one.budget.cut_short:
                one.prepared.ranking = ranking
            rows, cut_short = one.slate.candidates, one.budget.cut_short
            try:
                told.append(self._answer(one.request, one.prepared, rows, ranking, one.source, cut_short=cut_short))
            except Exception as err:
                told.append(err)
        return told

    def _search_for(self, one: Asked) -> Ranking:
        prepared, source = self._prepared_for(one)
        budget = Budget(("personal", "base", "full"), one.deadline, self._clock, self._times)
        rows, scores, stage = self._search(one.request, prepared.profile, budget)
        budget.finish()
        order = np.argsort(-scores, kind="stable").astype(np.int32)
        ordered = Ordered(order, scores[order], stage)
        return self._answer(one.request, prepared, rows, ordered, source, cut_short=budget.cut_short)

    def close(self) -> None:
        if self._users is not None:
            self._users.close()

    def _prepared_for(self, one: Asked) -> tuple[Prepared, str]:
        user, source = self._user(one.request, one.pseudonym)
        if self.metrics is not None:
            if one.named and user is None:
                self.metrics.unknown_users.inc()
            if source and source != "request":
                self.metrics.cached("history", source == "memory")
        return self._prepared.of(one.pseudonym, user, self.metrics), source

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
        if self.metrics is not None:
            self.metrics.cached("query", kept is not None)
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

    def _answer(
        self,
        request: RankRequest,
        prepared: Prepared,
        rows: Ints,
        ranked: Ordered,
        source: str,
        *,
        cut_short: bool = False,
        kept: bool = False,
    ) -> Ranking:
        limit = request.k if request.k is not None else (None if request.candidates else DEFAULT_K)
        if self.merchandiser is not None:
            rows, ranked = self.merchandiser.arranged(request, rows, ranked)
        order, scores = ranked.order[:limit], ranked.scores[:limit]
        if request.candidates:
            items = [request.candidates[position] for position in order.tolist()]
        else:
            items = [self._items.ids[row] for row in rows[order].tolist()]
        known = len(prepared.profile.user.rows) > 0
        stage = "popularity" if ranked.stage == "base" and not known else ranked.stage
        reasons = self._reasons(request, prepared.profile, rows[order], scores, stage) if request.explain else None
        return Ranking(items, scores.tolist(), stage, known, source, cut_short, reasons, kept)

    def _reasons(
        self, request: RankRequest, profile: Profile, rows: Ints, scores: Floats, stage: str
    ) -> list[list[Reason]]:
        if request.surface == "recommendation":
            return reasons_of(self._scorer, profile, rows, scores, stage)
        if self._trained is not None and stage == "search":
            return self._members_of(self._trained, request.query or "", rows)
        match = self._items.vectors(rows) @ self._query_vector(request.query or "")
        told = zip(rows.tolist(), match.tolist(), scores.tolist(), strict=True)
        return [
            strongest({"query_match": near, "beyond_the_query": score - near}) if row >= 0 else []
            for row, near, score in told
        ]

    def _members_of(self, trained: SearchRanker, query: str, rows: Ints) -> list[list[Reason]]:
        """Of the best items alone, as for recommendations: to score the whole list once more would double what it costs."""
        shown = np.flatnonzero(rows >= 0)[:EXPLAINED]
        parts = trained.parts(query, trained.rows([self._items.ids[row] for row in rows[shown].tolist()]))
        reasons: list[list[Reason]] = [[] for _ in rows]
        for n, place in enumerate(shown.tolist()):
            reasons[place] = strongest({name: float(values[n]) for name, values in parts.items()})
        return reasons


@dataclass(frozen=True, slots=True)
class _Open:
    """A recommendation that waits for the model."""

    request: RankRequest
    prepared: Prepared
    slate: Slate
    source: str
    budget: Budget


def _size_class(n: int) -> str:
    return str(n) if n < 3 else "3-8" if n <= 8 else "9-16"


def _purchases(history: Sequence[HistoryEvent]) -> list[dict[str, Any]]:
    """The model reads purchases only; other events of a history are accepted and count for nothing."""
    return [msgspec.structs.asdict(event) for event in history if event.event_type == "purchase"]


def _require_finite(values: Floats, what: str) -> Floats:
    if not np.isfinite(values).all():
        raise ArithmeticError(f"{what} hold a number that is not finite; the request was not answered with it")
    return values
