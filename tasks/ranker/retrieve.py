"""Candidates for a user: what was bought before, then what several simple rankings agree on. No model involved."""

from __future__ import annotations

import numpy as np

from tasks.ranker.arrays import Floats, Ints, spread, top
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
    items = profile.items
    past = past_items(profile)[: min(PAST, k)]
    votes = items.sales_votes.copy()
    for scores in _rankings(profile):
        _vote(votes, scores)
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
    return top(items.vectors(np.arange(items.size, dtype=np.int32)) @ vector, min(k, items.size))


def _rankings(profile: Profile) -> list[Floats]:
    """One score for each catalogue row from each source that knows this user."""
    items, user = profile.items, profile.user
    rankings = []
    if len(user.cf_rows):
        similar = np.zeros(items.size, np.float32)
        similar[user.cf_rows] = user.cf_scores
        rankings.append(similar)
    if len(user.rows):
        lines = spread(profile.by_type.sum(profile.decay(120.0)), profile.by_type.lookup(items.type[: items.size]))
        rankings.append(lines * items.type_share)
        share = spread(profile.by_category.counts, profile.by_category.lookup(items.category[: items.size]))
        rankings.append(share * items.sales_now)
    if user.store[0] >= 0:
        week, month = items.store_sales(int(user.store[0]))
        rankings.append(week + 0.25 * month + items.sales28 * np.float32(1e-4))
    return rankings


def sales_votes(sales7: Floats, discount7: Floats) -> Floats:
    """What rankings that are the same for everyone say; counted once a morning."""
    votes = np.zeros(len(sales7), np.float32)
    _vote(votes, sales7)
    _vote(votes, sales7 * discount7)
    return votes


def _vote(votes: Floats, scores: Floats) -> None:
    best = top(scores, DEPTH)
    best = best[scores[best] > 0]
    votes[best] += (1.0 / (DAMPING + 1 + np.arange(len(best)))).astype(np.float32)
