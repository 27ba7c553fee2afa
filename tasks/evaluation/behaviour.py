"""What must hold of a ranker whatever its metrics say: the same answer to the same question, and habits that count.

The idea of invariance and directional tests is CheckList's (Ribeiro et al., ACL 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tasks.domain.gate import Check
from tasks.ranker.arrays import Ints
from tasks.ranker.judge import Judged
from tasks.ranker.profile import Profile
from tasks.ranker.rank import RESCORED, Slate, rank_slate
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import UserHistory
from tasks.ranker.tokens import tokenise

TOLERANCE = 1e-5
SLATES = 40  # looked at, evenly spread over the holdout
TRIPS = 3  # on so many of the last trips the item is put into the basket
LEAST_RISES = 0.95


def behaviour_checks(scorer: Scorer, judged: Sequence[Judged]) -> list[Check]:
    """Each check over a spread of `judged`, slates of users with a history first of all.

    Raises:
        ValueError: there is no slate to look at.
    """
    if not judged:
        raise ValueError("there is no slate to check the behaviour on")
    chosen = [judged[n] for n in np.unique(np.linspace(0, len(judged) - 1, SLATES).astype(int))]
    # numpy's maximum, not Python's: a NaN must stay one
    order = float(np.max([_other_order(scorer, one, seed) for seed, one in enumerate(chosen)]))
    batch = float(np.max([_other_batch(scorer, one) for one in chosen]))
    regular = [one for one in chosen if one.ranked.profile.trips > TRIPS and not one.past.all()]
    moves = [_habit(scorer, one) for one in regular]
    rises = sum(move >= 0 for move in moves) / len(moves) if moves else 1.0
    median = float(np.median(moves)) if moves else 0.0
    return [
        _check("same_items_in_another_order", order, f"scores of {len(chosen)} slates differ by at most {order:.1e}"),
        _check("same_items_in_another_batch", batch, f"scores of {len(chosen)} slates differ by at most {batch:.1e}"),
        Check(
            name="a_habit_does_not_lower_an_item",
            value=rises,
            limit=LEAST_RISES,
            ok=rises >= LEAST_RISES,
            sentence=f"an item put into the last {TRIPS} baskets keeps or gains its place for {rises:.0%} of {len(moves)} "
            f"users, by {median:.0f} places at the median; at least {LEAST_RISES:.0%} must",
        ),
    ]


def _check(name: str, value: float, sentence: str) -> Check:
    ok = value <= TOLERANCE  # of NaN this is false
    value = value if np.isfinite(value) else np.finfo(np.float32).max.item()
    return Check(name=name, value=value, limit=TOLERANCE, ok=ok, sentence=f"{sentence}, allowed {TOLERANCE:g}")


def _other_order(scorer: Scorer, one: Judged, seed: int) -> float:
    """Largest difference of an item's score; where two items tie for the last re-scored place, of stage 1 alone."""
    slate = one.ranked
    shuffled = np.random.default_rng(seed).permutation(len(slate.candidates))
    other = Slate(slate.profile, slate.candidates[shuffled])
    vectors = slate.profile.items.vectors
    first = scorer.base(slate.x, vectors(slate.candidates[slate.known]))
    again = scorer.base(other.x, vectors(other.candidates[other.known]))
    worst = float(np.abs(first[shuffled] - again).max())
    best = -np.sort(-first)
    if len(best) > RESCORED and best[RESCORED - 1] - best[RESCORED] <= TOLERANCE:
        return worst
    return float(np.maximum(worst, np.abs(_scores(scorer, slate)[shuffled] - _scores(scorer, other)).max()))


def _other_batch(scorer: Scorer, one: Judged) -> float:
    """Largest difference of a candidate's score in company of all and of a few, in both stages."""
    profile, rows, x = one.ranked.profile, one.ranked.candidates, one.ranked.x
    vectors, n = profile.items.vectors(rows), min(RESCORED, len(rows))
    tokens, mask = tokenise(profile, rows[:n])
    base, full = scorer.base(x, vectors), scorer.full(x[:n], vectors[:n], tokens, mask)
    differences = []
    for part in (slice(0, 1), slice(0, 5), slice(n // 3, n)):
        differences.append(np.abs(scorer.base(x[part], vectors[part]) - base[part]).max())
        few = scorer.full(x[:n][part], vectors[:n][part], tokens[part], mask[part])
        differences.append(np.abs(few - full[part]).max())
    return float(np.max(differences))


def _habit(scorer: Scorer, one: Judged) -> int:
    """Places that an item gains that the user never bought, once it was in each of the last baskets."""
    profile, candidates = one.ranked.profile, one.ranked.candidates
    strange = np.flatnonzero(~one.past)
    item = int(strange[len(strange) // 2])  # neither what is offered first nor what comes last
    history = with_purchases(profile.user, int(candidates[item]), profile.trip_days[-TRIPS:])
    after = Slate(Profile(profile.items, history, profile.day), candidates)
    return _place(scorer, one.ranked, item) - _place(scorer, after, item)


def with_purchases(user: UserHistory, row: int, days: Ints) -> UserHistory:
    """The history with one piece of `row` on each of `days`, at full price."""
    n = len(days)
    rows, when = np.append(user.rows, np.full(n, row, np.int32)), np.append(user.days, days).astype(np.int32)
    order = np.lexsort((rows, when))
    typical = float(np.median(user.price)) if len(user.price) else 1.0
    return replace(
        user,
        rows=rows[order],
        days=when[order],
        quantity=np.append(user.quantity, np.ones(n, np.float32))[order],
        price=np.append(user.price, np.full(n, typical, np.float32))[order],
        discounted=np.append(user.discounted, np.zeros(n, np.float32))[order],
    )


def _scores(scorer: Scorer, slate: Slate) -> np.ndarray:
    """In the order of the slate's candidates."""
    ranking = rank_slate(scorer, slate)
    scores = np.empty(len(slate.candidates), np.float32)
    scores[ranking.order] = ranking.scores
    return scores


def _place(scorer: Scorer, slate: Slate, item: int) -> int:
    return int(np.flatnonzero(rank_slate(scorer, slate).order == item)[0])
