"""Slates of past days, ready to be ranked by any scorer, and the metrics of what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.domain.ranking_metrics import (
    METRICS,
    K,
    accuracy,
    auc,
    diversity,
    logloss,
    novelty,
    ranked_metrics,
    value_ndcg,
)
from tasks.ranker import rank
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.build import Morning
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.slates import Slate

TASKS = ("all", "new", "repeat")
Row = dict[str, float]  # metric[task] -> value; a task without positives is absent


@dataclass(frozen=True)
class Judged:
    """One slate with its candidates and which of them the user had bought before."""

    slate: Slate
    ranked: rank.Slate
    past: NDArray[np.bool_]  # of each candidate


def prepare(mornings: Iterable[tuple[Morning, list[Slate]]]) -> list[Judged]:
    """Candidates and features of every slate, as the service would make them that morning."""
    judged = []
    for morning, slates in mornings:
        for slate in slates:
            profile = Profile(morning.items, morning.histories[slate.user], slate.day)
            candidates = candidates_of(profile)
            judged.append(Judged(slate, rank.Slate(profile, candidates), np.isin(candidates, profile.by_item.keys)))
    return judged


def judge(scorer: Scorer, one: Judged) -> Row:
    """Metrics of the cascade on one slate: over all candidates, those new to the user, those bought before."""
    return row_of(rank.rank_slate(scorer, one.ranked), one)


def row_of(ranking: rank.Ranking, one: Judged) -> Row:
    """Metrics of a ranking of the slate's own candidates."""
    relevant = np.isin(one.ranked.candidates[ranking.order], one.slate.positives)
    row = metrics_of(relevant, one.past[ranking.order], one.slate)
    row["logloss[all]"] = logloss(ranking.scores, relevant)
    return row


def full_row_of(ranking: rank.Ranking, one: Judged) -> Row:
    """All that can be said of one ranking of the slate's own candidates: for evaluation, not for every epoch."""
    ranked = one.ranked.candidates[ranking.order]
    relevant = np.isin(ranked, one.slate.positives)
    row = row_of(ranking, one) | of_ten(ranked, one)
    row["accuracy[all]"] = accuracy(ranking.scores, relevant)
    area = auc(ranking.scores, relevant)
    return row if area is None else row | {"auc[all]": area}


def of_ten(ranked: Ints, one: Judged) -> Row:
    """Value-weighted NDCG, diversity and novelty of the ten best of `ranked`: catalogue rows of the morning, -1 unknown."""
    items, positives = one.ranked.profile.items, one.slate.positives
    top = ranked[:K]
    known = top[(top >= 0) & (top < items.size)]
    at = np.minimum(np.searchsorted(positives, top), len(positives) - 1)
    paid = one.slate.paid.astype(np.float64)
    described = known[items.text[known] >= 0]
    share = (items.sales28[known].astype(np.float64) + 1) / (float(items.sales28.sum()) + items.size)
    values = {
        "value_ndcg_at_10[all]": value_ndcg(np.where(positives[at] == top, paid[at], 0.0), paid),
        "diversity_at_10[all]": diversity(items.vectors(described)),
        "novelty_at_10[all]": novelty(share),
    }
    return {name: value for name, value in values.items() if value is not None}


def metrics_of(relevant: NDArray[np.bool_], past: NDArray[np.bool_], slate: Slate) -> Row:
    """`relevant` and `past` in ranked order. A slate without new (or repeat) positives has no row for that task."""
    parts = {
        "all": (relevant, len(slate.positives)),
        "new": (relevant[~past], int(slate.new.sum())),
        "repeat": (relevant[past], int((~slate.new).sum())),
    }
    row: Row = {}
    for task, (found, positives) in parts.items():
        if positives:
            values = ranked_metrics(found, positives)
            row.update({f"{metric}[{task}]": values[metric] for metric in METRICS})
    return row


def personal_then_popular(one: Judged) -> Row:
    """Metrics of GP-TopFreq, the peer."""
    order, past = personal_then_popular_order(one)
    return metrics_of(np.isin(order, one.slate.positives), past[order], one.slate)


def personal_then_popular_order(one: Judged) -> tuple[Ints, NDArray[np.bool_]]:
    """GP-TopFreq: what the user bought most often, then what sold most in 28 days; (whole catalogue, bought before)."""
    profile, items = one.ranked.profile, one.ranked.profile.items
    scores: Floats = 0.5 * items.sales28 / (items.sales28.max() + 1)
    past = np.zeros(items.size, bool)
    keys = profile.by_item.keys
    inside = keys < items.size
    past[keys[inside]] = True
    scores[keys[inside]] += profile.by_item.counts[inside]
    order: Ints = np.argsort(-scores, kind="stable").astype(np.int32)
    return order, past


def mean_of(rows: Iterable[Row]) -> Row:
    """Mean of each metric over the slates that have it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(of)) for name, of in sorted(values.items())}
