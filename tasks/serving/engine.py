"""A checked request in, an ordered and scored list out: user view -> candidates -> the cascade of tasks.ranker.

The cascade is the one that evaluation ran; nothing here changes a score except for search (tasks.serving.search).
Used by one thread. Never raises for what a caller sent, except to say that it cannot be answered (400).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.domain.merchandising import Revision
from tasks.domain.requests import DEFAULT_K, RankRequest, Reason
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.device import OPENVINO, open_scorer
from tasks.ranker.head_parts import PartsScorer
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Ranking as Ordered
from tasks.ranker.rank import Slate, rank_together
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import ItemState
from tasks.serving.asked import FOREVER, Asked, Ranking
from tasks.serving.guarded import Guarded
from tasks.serving.merchandise import Merchandiser
from tasks.serving.metrics import Metrics
from tasks.serving.prepared import Prepared
from tasks.serving.reasons import reasons_of
from tasks.serving.recent import Purchases
from tasks.serving.release import Release
from tasks.serving.search import Encoder, Search, open_encoder, open_search
from tasks.serving.stage_budget import Budget, StageTimes
from tasks.serving.user_view import UserView, open_view
from tasks.serving.users import Users

if TYPE_CHECKING:
    from tasks.ranker.search.ranker import SearchRanker

KEPT_LENGTHS = 4  # of a user's recommendation: callers ask for one or two


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
        self._search = Search(items, self._scorer, encoder, search)
        self._users = Users(items, users)
        self.metrics: Metrics | None = None
        self.merchandiser: Merchandiser | None = None  # replaced whole, by any thread
        self._clock = clock
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
        encoder = open_encoder(release.directory, threads)
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
        if one.pseudonym is None or request.candidates or request.explain or request.query:
            return None
        prepared = self._users.in_memory(one.pseudonym)
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
        for n, pseudonym in enumerate(self._users.busiest(users)):
            if time.perf_counter() - began > seconds:
                return n
            self.rank(RankRequest(surface="recommendation"), pseudonym)
        return users

    def count_in(self, metrics: Metrics) -> None:
        """From here on what is answered counts."""
        self.metrics = self._search.metrics = self._users.metrics = metrics

    def obey(self, told: Revision) -> None:
        """Any thread may say so: from the next answer on, lists are arranged by these merchandising rules."""
        self.merchandiser = Merchandiser(told.revision, told.rules, self._items)

    def heard(self, pseudonym: str, purchases: Purchases) -> None:
        """Any thread may say so: the user bought these just now."""
        self._users.heard(pseudonym, purchases)

    def _open(self, one: Asked) -> _Open | Ranking:
        """A recommendation up to where the model is needed; a kept one is answered at once."""
        prepared, source = self._users.of(one)
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
        prepared, source = self._users.of(one)
        budget = Budget(("personal", "base", "full"), one.deadline, self._clock, self._times)
        given = self._given(one.request.candidates) if one.request.candidates else None
        rows, scores, stage = self._search.scored(one.request, given, prepared.profile, budget)
        budget.finish()
        order = np.argsort(-scores, kind="stable").astype(np.int32)
        ordered = Ordered(order, scores[order], stage)
        return self._answer(one.request, prepared, rows, ordered, source, cut_short=budget.cut_short)

    def close(self) -> None:
        self._users.close()

    def _given(self, candidates: Sequence[str]) -> Ints:
        rows = self._items.rows(candidates)
        unknown = int((rows < 0).sum())
        if unknown and self.metrics is not None:
            self.metrics.unknown_items.inc(unknown)
        return rows

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
        return self._search.reasons(request.query or "", rows, scores, stage)


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
