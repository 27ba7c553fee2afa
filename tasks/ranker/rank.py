"""The cascade: stage 1 over all candidates -> stage 2 over the best. Serving and evaluation both call this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.features import columns
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import NOBODY, ItemState, UserHistory
from tasks.ranker.tokens import tokenise

RESCORED = 150
LOWEST = np.float32(-40.0)  # score of an item that the state does not know


@dataclass(frozen=True, slots=True)
class Ranking:
    """Positions into the given candidates, best first; scores in that order never rise. `stage` made the order."""

    order: Ints
    scores: Floats
    stage: str  # full, base or retrieved


def rank(
    scorer: Scorer,
    items: ItemState,
    user: UserHistory | None,
    candidates: Ints,
    *,
    day: int | None = None,
    in_time: Callable[[], bool] = lambda: True,
) -> Ranking:
    """Rank rows `candidates`; -1 stands for an unknown item, which goes last in the order given.

    in_time: asked before each stage; when it says no, the order of the stage before stands.
    """
    profile = Profile(items, user or NOBODY, items.day if day is None else day)
    return rank_profile(scorer, profile, candidates, in_time)


def rank_profile(
    scorer: Scorer, profile: Profile, candidates: Ints, in_time: Callable[[], bool] = lambda: True
) -> Ranking:
    known = np.flatnonzero(candidates >= 0)
    rows = candidates[known]
    scores = np.full(len(candidates), LOWEST, np.float32)
    if not len(rows):
        return Ranking(np.arange(len(candidates), dtype=np.int32), scores, "retrieved")
    if not in_time():
        scores[known] = profile.items.sales28[rows] * np.float32(1e-6)
        return _sorted(scores, "retrieved")

    x, vectors = columns(profile, rows), profile.items.vectors(rows)
    base = scorer.base(x, vectors)
    scores[known] = np.maximum(base, LOWEST + 1)
    if not len(profile.user.rows) or not in_time():
        return _sorted(scores, "base")

    best = np.argsort(-base, kind="stable")[:RESCORED]
    full = scorer.full(x[best], vectors[best], *tokenise(profile, rows[best]))
    rest = np.ones(len(rows), bool)
    rest[best] = False
    # the stages are on one scale but not of one mind: what was not re-scored stays below what was
    scores[known[rest]] = np.minimum(scores[known[rest]], max(float(full.min()), float(LOWEST) + 1))
    scores[known[best]] = np.maximum(full, LOWEST + 1)
    ranking = _sorted(scores, "full", first=known[best])
    return ranking


def recommend(
    scorer: Scorer,
    items: ItemState,
    user: UserHistory | None,
    *,
    day: int | None = None,
    in_time: Callable[[], bool] = lambda: True,
) -> tuple[Ints, Ranking]:
    """Retrieve and rank: the candidate rows, and their ranking."""
    profile = Profile(items, user or NOBODY, items.day if day is None else day)
    candidates = candidates_of(profile)
    return candidates, rank_profile(scorer, profile, candidates, in_time)


def _sorted(scores: Floats, stage: str, first: Ints | None = None) -> Ranking:
    """Best first, ties in the order given; members of `first` win a tie against the others."""
    later = np.ones(len(scores), bool)
    if first is not None:
        later[first] = False
    order = np.lexsort((np.arange(len(scores)), later, -scores)).astype(np.int32)
    return Ranking(order, scores[order], stage)
