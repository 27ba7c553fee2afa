"""Candidates for a user: what was bought before, then what several simple rankings agree on. No model involved."""

from __future__ import annotations

import numpy as np

from tasks.ranker.arrays import Floats, Ints, top
from tasks.ranker.profile import Profile
from tasks.ranker.state import NOBODY, ItemState, UserHistory

CANDIDATES = 1_000
PAST = 300
DEPTH = 500  # a ranking has a say about its first 500
DAMPING = 60.0  # of reciprocal ranks


def retrieve(items: ItemState, user: UserHistory | None, k: int = CANDIDATES, day: int | None = None) -> Ints:
    """At most k distinct catalogue rows, likely ones first. Without a history: what sells."""
    return candidates_of(Profile(items, user or NOBODY, items.day if day is None else day), k)


def candidates_of(profile: Profile, k: int = CANDIDATES) -> Ints:
    items, user = profile.items, profile.user
    past = past_items(profile)[: min(PAST, k)]
    votes = items.sales_votes.copy()
    for said in user.cf_scores.T:
        similar = top(said, DEPTH)
        _vote(votes, user.cf_rows[similar], said[similar])
    for scores in _rankings(profile):
        best = top(scores, DEPTH)
        _vote(votes, best, scores[best])
    votes[past] = -1.0
    rest = top(votes, min(k - len(past), items.size - len(past)))
    return np.concatenate([past, rest]).astype(np.int32)


def past_items(profile: Profile) -> Ints:
    """Catalogue rows that the user bought, the habitual and recent ones first."""
    group = profile.by_item
    weight = group.sum(profile.trip_decay) + 0.1 * group.sum(profile.decay(120.0))
    weight = np.where(group.keys < profile.items.size, weight, -1.0)
    order = np.argsort(-weight, kind="stable")
    return group.keys[order[: int((weight >= 0).sum())]]


def similar_to(items: ItemState, vector: Floats, k: int) -> Ints:
    """Catalogue rows whose text is nearest to a query's vector, nearest first; items without text come last."""
    return top(items.similarity(vector), min(k, items.size))


def _rankings(profile: Profile) -> list[Floats]:
    """One score for each catalogue row from each source that knows this user, beside similar users."""
    items, user = profile.items, profile.user
    rankings = []
    if len(user.rows):
        lines = profile.by_type.dense(profile.by_type.sum(profile.decay(120.0)), items.types)
        rankings.append(lines[items.type[: items.size]] * items.type_share)
        share = profile.by_category.dense(profile.by_category.counts, items.categories)
        rankings.append(share[items.category[: items.size]] * items.sales_now)
    if user.store[0] >= 0:
        week, month = items.store_sales(int(user.store[0]))
        rankings.append(week + 0.25 * month + items.sales28 * np.float32(1e-4))
    return rankings


def sales_votes(sales7: Floats, discount7: Floats) -> Floats:
    """What rankings that are the same for everyone say; counted once a morning."""
    votes = np.zeros(len(sales7), np.float32)
    for scores in (sales7, sales7 * discount7):
        best = top(scores, DEPTH)
        _vote(votes, best, scores[best])
    return votes


def _vote(votes: Floats, best: Ints, scores: Floats) -> None:
    """Add what a ranking says of its best rows, best first; those that score nothing get no vote."""
    best = best[scores > 0]
    votes[best] += (1.0 / (DAMPING + 1 + np.arange(len(best)))).astype(np.float32)
