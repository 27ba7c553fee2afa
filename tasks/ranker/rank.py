"""The cascade: stage 1 over all candidates -> stage 2 over the best. Serving and evaluation both call this."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.crowd import Crowd
from tasks.ranker.features import columns, crowd_columns
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import NOBODY, ItemState, UserHistory
from tasks.ranker.tokens import padded_tokens, tokenise

RESCORED = 150
Ask = tuple[str, tuple[Any, ...]]  # features, tokens (of so many rows), or base or full and what its scorer reads
LOWEST = np.float32(-40.0)  # score of an item that the state does not know


@dataclass(frozen=True, slots=True)
class Ranking:
    """Positions into the given candidates, best first; scores in that order never rise. `stage` made the order."""

    order: Ints
    scores: Floats
    stage: str  # full, base or retrieved


@dataclass(frozen=True)
class Slate:
    """A profile and what is to be ranked for it: rows of the catalogue, -1 for an unknown item."""

    profile: Profile
    candidates: Ints
    parts: Floats | None = None  # of each text, for a scorer that takes them in place of text vectors: head_parts.py

    @cached_property
    def known(self) -> Ints:
        """Positions of the candidates that can be scored."""
        return np.flatnonzero(self.candidates >= 0).astype(np.int32)

    def texts(self, rows: Ints) -> Floats:
        """What the scorer reads of the texts of catalogue rows."""
        items = self.profile.items
        return items.vectors(rows) if self.parts is None else self.parts[items.text[rows]]

    @cached_property
    def x(self) -> Floats:
        """Features of the known candidates; kept, so that several models can rank one slate."""
        return columns(self.profile, self.candidates[self.known])


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
    return rank_slate(scorer, Slate(profile, candidates), in_time)


def rank_slate(scorer: Scorer, slate: Slate, in_time: Callable[[], bool] = lambda: True) -> Ranking:
    return rank_together(scorer, [slate], [in_time])[0]


def rank_together(scorer: Scorer, slates: Sequence[Slate], in_time: Sequence[Callable[[], bool]]) -> list[Ranking]:
    """Rank several slates of one morning, with one pass over features and one call of the scorer a stage for all of them.

    No score depends on the other rows of a call (Scorer), so each is ranked as it would be alone.
    """
    cascades = [_cascade(slate, told) for slate, told in zip(slates, in_time, strict=True)]
    rankings: dict[int, Ranking] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(slates)))
    while answers:
        asked: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
        for n, answer in answers.items():
            try:
                stage, inputs = cascades[n].send(answer)
                asked.setdefault(stage, []).append((n, inputs))
            except StopIteration as done:
                rankings[n] = done.value
        answers = {}
        for stage, group in asked.items():
            members = [n for n, _ in group]
            if stage == "features":
                share_features([slates[n] for n in members])
                answers |= dict.fromkeys(members)
            elif stage == "tokens":
                profiles, rows = [slates[n].profile for n in members], [inputs[0] for _, inputs in group]
                answers |= dict(zip(members, _shared_tokens(profiles, rows), strict=True))
            else:
                answers |= dict(zip(members, _scored(scorer, stage, [inputs for _, inputs in group]), strict=True))
    return [rankings[n] for n in range(len(slates))]


def _scored(scorer: Scorer, stage: str, inputs: list[tuple[Floats, ...]]) -> list[Floats]:
    score = scorer.base if stage == "base" else scorer.full
    if len(inputs) == 1:
        return [score(*inputs[0])]
    ends = np.cumsum([len(parts[0]) for parts in inputs])
    return np.split(score(*(np.concatenate(parts) for parts in zip(*inputs, strict=True))), ends[:-1])


def share_features(slates: Sequence[Slate]) -> None:
    """Make the features of several slates of one morning at once and leave each its own: numpy is called once for all."""
    open_ = [slate for slate in slates if "x" not in slate.__dict__ and len(slate.known)]
    if len(open_) < 2:
        return
    rows = [slate.candidates[slate.known] for slate in open_]
    sizes = [len(part) for part in rows]
    crowd = Crowd(tuple(slate.profile for slate in open_))
    x = crowd_columns(crowd, np.concatenate(rows), np.repeat(np.arange(len(open_)), sizes))
    for slate, part in zip(open_, np.split(x, np.cumsum(sizes)[:-1]), strict=True):
        slate.__dict__["x"] = part  # what the cached property would hold


def _shared_tokens(profiles: Sequence[Profile], rows: Sequence[Ints]) -> list[tuple[Floats, Floats]]:
    """What `tokenise` makes of each profile and its rows, counted once for all."""
    if len(profiles) == 1:
        return [tokenise(profiles[0], rows[0])]
    sizes = [len(part) for part in rows]
    owner = np.repeat(np.arange(len(rows)), sizes)
    tokens, mask = padded_tokens(Crowd(tuple(profiles)), np.concatenate(rows), owner)
    ends = np.cumsum(sizes)[:-1]
    return list(zip(np.split(tokens, ends), np.split(mask, ends), strict=True))


def _cascade(slate: Slate, in_time: Callable[[], bool]) -> Generator[Ask, Any, Ranking]:
    """Asks for scores, one stage after the other, and returns the ranking: who answers may ask for many at once."""
    profile, known = slate.profile, slate.known
    rows = slate.candidates[known]
    scores = np.full(len(slate.candidates), LOWEST, np.float32)
    if not len(rows):
        return Ranking(np.arange(len(scores), dtype=np.int32), scores, "retrieved")
    if not in_time():
        scores[known] = LOWEST + 1 + profile.items.sales28[rows] * np.float32(1e-6)
        return _sorted(scores, "retrieved")

    yield "features", ()
    vectors = slate.texts(rows)
    if not len(profile.user.rows) or len(rows) > RESCORED or not in_time():
        base = np.maximum((yield "base", (slate.x, vectors)), LOWEST + 1)
        scores[known] = base
        if not len(profile.user.rows) or len(rows) <= RESCORED or not in_time():
            return _sorted(scores, "base")
        best = np.argsort(-base, kind="stable")[:RESCORED]
        tokens, mask = yield "tokens", (rows[best],)
        told = yield "full", (slate.x[best], vectors[best], tokens, mask)
    else:  # all of them are re-scored, whatever stage 1 would say
        tokens, mask = yield "tokens", (rows,)
        told = yield "full", (slate.x, vectors, tokens, mask)
        scores[known] = np.maximum(told, LOWEST + 1)
        return _sorted(scores, "full")

    full = np.maximum(told, LOWEST + 1)
    # the stages are on one scale but not of one mind: what was not re-scored stays below what was
    scores[known] = np.minimum(base, full.min())
    scores[known[best]] = full
    return _sorted(scores, "full", first=known[best], tie=base, known=known)


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


def _sorted(
    scores: Floats, stage: str, first: Ints | None = None, tie: Floats | None = None, known: Ints | None = None
) -> Ranking:
    """Best first. Ties: members of `first`, then the higher `tie`, then the order given."""
    later, base = np.ones(len(scores), bool), np.full(len(scores), LOWEST, np.float32)
    if first is not None and tie is not None and known is not None:
        later[first] = False
        base[known] = tie
        base[first] = 0
    order = np.lexsort((np.arange(len(scores)), -base, later, -scores)).astype(np.int32)
    return Ranking(order, scores[order], stage)
