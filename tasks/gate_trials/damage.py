"""Ways for a candidate to be bad, planted in its weights, its inputs, its state or its training rows.

Each damaged model ranks the same real holdout slates as the sound ones. What is left to choose is how many users get it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.judge import Judged, Row, metrics_of, personal_then_popular, row_of
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Slate, rank_slate
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer, TorchScorer
from tasks.ranker.state import NOBODY, ItemState, UserHistory

CLOCK_DAYS = 90
BITS = 2
Score = Callable[[Judged, "Day"], Row]


@dataclass(frozen=True)
class Day:
    """What damage may need to know beside the slate: the day's slates, the state of four weeks ago, departments."""

    judged: list[Judged]
    stale_items: ItemState
    stale_histories: Mapping[int, UserHistory]
    department: Ints  # of each catalogue row


@dataclass(frozen=True)
class Through:
    """A scorer with something wrong on the way in or out."""

    scorer: Scorer
    x: Callable[[Floats], Floats] = lambda x: x
    vectors: Callable[[Floats], Floats] = lambda vectors: vectors
    tokens: Callable[[Floats], Floats] = lambda tokens: tokens
    scores: Callable[[Floats], Floats] = lambda scores: scores

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self.scores(self.scorer.base(self.x(x), self.vectors(item_vec)))

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self.scores(self.scorer.full(self.x(x), self.vectors(item_vec), self.tokens(tokens), mask))


def scored_by(scorer: Scorer) -> Score:
    return lambda one, day: row_of(rank_slate(scorer, one.ranked), one)


def _profiled(scorer: Scorer, profile_of: Callable[[Judged, Day], Profile], kept: Any = None) -> Score:
    """Another profile, or fewer candidates, of the same morning's catalogue; judged by the user's true purchases."""

    def score(one: Judged, day: Day) -> Row:
        profile = profile_of(one, day)
        candidates = candidates_of(profile)
        if kept is not None:
            candidates = candidates[kept(candidates, day)]
        ranking = rank_slate(scorer, Slate(profile, candidates))
        ranked = candidates[ranking.order]
        past = np.isin(ranked, one.ranked.profile.by_item.keys)
        row = metrics_of(np.isin(ranked, one.slate.positives), past, one.slate)
        return row | _logloss(ranking.scores, np.isin(ranked, one.slate.positives))

    return score


def _logloss(scores: Floats, relevant: Any) -> Row:
    from tasks.domain.ranking_metrics import logloss

    return {"logloss[all]": logloss(scores, relevant)}


def _stale_state(scorer: Scorer) -> Score:
    def score(one: Judged, day: Day) -> Row:
        old, today = day.stale_items, one.ranked.profile.items
        profile = Profile(old, day.stale_histories.get(one.slate.user, NOBODY), old.day)
        candidates = candidates_of(profile)
        ranking = rank_slate(scorer, Slate(profile, candidates))
        rows = today.rows(old.ids[row] for row in candidates[ranking.order].tolist())
        relevant = np.isin(rows, one.slate.positives)
        row = metrics_of(relevant, np.isin(rows, one.ranked.profile.by_item.keys), one.slate)
        return row | _logloss(ranking.scores, relevant)

    return score


def _mine(one: Judged, day: Day) -> Profile:
    return one.ranked.profile


def _last_trip(one: Judged, day: Day) -> Profile:
    user = one.ranked.profile.user
    kept = user.days >= (user.days.max() if len(user.days) else 0)
    cut = {name: getattr(user, name)[kept] for name in ("rows", "days", "quantity", "price", "discounted")}
    return Profile(one.ranked.profile.items, replace(user, **cut), one.slate.day)


def _neighbours_history(one: Judged, day: Day) -> Profile:
    number = next(n for n, other in enumerate(day.judged) if other is one)
    other = day.judged[(number + 1) % len(day.judged)]
    return Profile(one.ranked.profile.items, other.ranked.profile.user, one.slate.day)


def _shifted_clock(one: Judged, day: Day) -> Profile:
    return Profile(one.ranked.profile.items, one.ranked.profile.user, one.slate.day + CLOCK_DAYS)


def _half(candidates: Ints, day: Day) -> Any:
    return (candidates.astype(np.int64) * 2_654_435_761 >> 7) % 2 == 0


def _without_largest_department(candidates: Ints, day: Day) -> Any:
    return day.department[candidates] != np.bincount(day.department).argmax()


def _rounded(folder: Path) -> TorchScorer:
    """Every weight matrix on three levels of one scale: what int8 would be with the wrong bit width."""
    import torch

    from tasks.ranker.model import load_model
    from tasks.ranker.runtime import inputs_of, read_config

    model = load_model(folder)
    with torch.no_grad():
        for weights in model.parameters():
            scale = weights.abs().max() / (2 ** (BITS - 1) - 1)
            weights.copy_((weights / scale).round() * scale)
    return TorchScorer(model, inputs_of(read_config(folder)))


def _unscaled(folder: Path) -> TorchScorer:
    """Features enter as they are: mean 0 and scale 1 in place of what was fitted."""
    from tasks.ranker.model import load_model
    from tasks.ranker.runtime import inputs_of, read_config

    model = load_model(folder)
    model.mean.zero_()
    model.scale.fill_(1.0)
    return TorchScorer(model, inputs_of(read_config(folder)))


def damaged(sound: Path, trained: Mapping[str, Path]) -> dict[str, Score]:
    """name -> how that candidate scores a slate; all of them would be the model `sound`, had nothing gone wrong.

    trained: models of the same recipe on damaged rows, by what was done to the rows.
    """
    model = TorchScorer.load(sound)
    draws = np.random.default_rng(5)
    columns = draws.permutation(512)
    fields = draws.permutation(64)

    def permuted(values: Floats) -> Floats:
        order = columns[columns < values.shape[1]]
        return np.ascontiguousarray(values[:, order])

    def other_fields(tokens: Floats) -> Floats:
        return np.ascontiguousarray(tokens[..., fields[fields < tokens.shape[-1]]])

    def moved_down(vectors: Floats) -> Floats:
        return np.roll(vectors, 1, axis=0)

    return {
        "shuffled_features": scored_by(Through(model, x=permuted)),
        "wrong_normalisation": scored_by(_unscaled(sound)),
        "wrong_tokenizer": scored_by(Through(model, tokens=other_fields)),
        "item_vectors_of_others": scored_by(Through(model, vectors=moved_down)),
        "sign_flipped_head": scored_by(Through(model, scores=lambda scores: -scores)),
        "bad_quantisation": scored_by(_rounded(sound)),
        "constant_scores": scored_by(Through(model, scores=np.zeros_like)),
        "transformers_silent": scored_by(TorchScorer.load(sound, zeroed=True)),
        "truncated_history": _profiled(model, _last_trip),
        "swapped_users": _profiled(model, _neighbours_history),
        "clock_shifted": _profiled(model, _shifted_clock),
        "stale_state": _stale_state(model),
        "half_the_catalogue_missing": _profiled(model, _mine, _half),
        "dropped_department": _profiled(model, _mine, _without_largest_department),
        "counting_only": lambda one, day: personal_then_popular(one),
        **{name: scored_by(TorchScorer.load(folder)) for name, folder in trained.items()},
    }
