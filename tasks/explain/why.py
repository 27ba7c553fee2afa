"""Why an item stands where it stands for a user: Shapley values of groups of features, on the very model that serves.

Every coalition of groups is scored, so nothing is sampled and the parts add up to the score (Lundberg and Lee 2017,
arXiv 1705.07874). The other side of the comparison is the typical candidate of the same user: the median of each feature over
what was retrieved, without a purchase behind it. Reads a release and its view; changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats, iso_day
from tasks.ranker.device import reference_scorer
from tasks.ranker.features import columns, feature_names
from tasks.ranker.profile import Profile
from tasks.ranker.rank import rank_profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import NOBODY, ItemState, UserHistory, View
from tasks.ranker.tokens import tokenise
from tasks.serving.release import Release

NEAREST, SHOWN = 5, 8
SHOWN_DIGITS = 8  # of a pseudonym, as on every page
HISTORY, TEXT, REST = "purchases in order (transformer)", "text", "all else"
# first match wins; what no rule names, and what a recipe adds later, is `all else`
GROUPS = {
    "own purchases of it": (
        "bought", "count", "quantity", "trip_rate", "in_last_5_trips", "decayed_", "share_of_type_bought",
    ),
    "its rhythm": ("days_since", "trips_since", "gap", "due"),
    "own purchases of its kind": ("type_lines", "type_share", "type_d", "type_gap", "category_", "brand_share"),
    "what similar users buy": ("neighbours",),
    "price and promotions": ("price", "discount", "display", "mailer"),
    "popularity": ("sales_", "buyers", "rebuys", "first_time", "age", "type_sales", "share_in_type", "weekday", "store_"),
    TEXT: ("text_",),
}  # fmt: skip
METHOD = (
    "exact Shapley values of groups of features on the serving model (arXiv 1705.07874), against the user's typical candidate: "
    "parts add up to score - typical score; scores are log-odds"
)


@dataclass(frozen=True, slots=True)
class Side:
    """Model input of one candidate."""

    x: Floats  # [features]
    item_vec: Floats  # [width]
    tokens: Floats  # [MAX_TOKENS, TOKEN_WIDTH]
    mask: Floats  # [MAX_TOKENS]


def why(release: Release, view: Path | None, pseudonym: str, item: str) -> dict[str, Any]:
    """Place, score, contributions and nearest purchases of `item` for the user.

    Raises:
        InputRejected: the item cannot be ranked with this release's state.
    """
    items = ItemState.load(release.directory / "items")
    row = int(items.rows([item])[0])
    if row < 0:
        raise InputRejected(
            f"release {release.digest[:12]} cannot rank {item!r}: on {iso_day(items.day - 1)} it was unknown, or not sold five "
            f"times in 90 days"
        )
    user = View(view).get(pseudonym) if view is not None else None
    scorer = reference_scorer(release.directory / "model")
    told = explained(scorer, items, user, row)
    return {
        "release": release.digest,
        "user": pseudonym[:SHOWN_DIGITS],
        "user_known": user is not None,
        "item": item,
        "state_through": iso_day(items.day - 1),
        **told,
        "method": METHOD,
    }


def explained(scorer: Scorer, items: ItemState, user: UserHistory | None, row: int) -> dict[str, Any]:
    """The same of a scorer and a state; `row` is the item's in the catalogue."""
    profile = Profile(items, user or NOBODY, items.day)
    retrieved = candidates_of(profile)
    found = row in retrieved
    candidates = retrieved if found else np.append(retrieved, np.int32(row))
    ranking = rank_profile(scorer, profile, candidates)
    place = int(np.flatnonzero(candidates[ranking.order] == row)[0])
    served = float(ranking.scores[place])
    ours, typical = _sides(profile, row, retrieved)
    full = float(scorer.full(*_batch([ours]))[0])
    in_full = ranking.stage == "full" and math.isclose(full, served, abs_tol=1e-4)

    def score(sides: list[Side]) -> Floats:
        x, item_vec, tokens, mask = _batch(sides)
        return scorer.full(x, item_vec, tokens, mask) if in_full else scorer.base(x, item_vec)

    names = feature_names(items)
    whole, nothing = (float(value) for value in score([ours, typical]))
    return {
        "retrieved": found,
        "place": place + 1,
        "of": len(candidates),
        "stage": "full" if in_full else "base",
        "served_score": served,
        "score": whole,
        "typical_score": nothing,
        "contributions": contributions(score, ours, typical, groups_of(names)),
        "features": _alone(score, ours, typical, names, whole),
        "history": nearest(profile, row),
    }


def groups_of(names: tuple[str, ...]) -> dict[str, list[int]]:
    """Group -> its columns. Every feature is in exactly one."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        group = next((group for group, starts in GROUPS.items() if name.startswith(starts)), REST)
        found.setdefault(group, []).append(column)
    return found


def contributions(
    score: Callable[[list[Side]], Floats], ours: Side, typical: Side, groups: Mapping[str, list[int]]
) -> list[dict[str, Any]]:
    """[{group, contribution}], the largest first; they add up to score(ours) - score(typical)."""
    players = [name for name, at in groups.items() if name != TEXT and not np.array_equal(ours.x[at], typical.x[at])]
    players += [TEXT] + [HISTORY] * bool(ours.mask.any())
    coalitions = range(1 << len(players))
    mixed = [_mix(ours, typical, {p for n, p in enumerate(players) if c >> n & 1}, groups) for c in coalitions]
    value = score(mixed).astype(np.float64)
    n = len(players)
    found = []
    for number, name in enumerate(players):
        bit, total = 1 << number, 0.0
        for coalition in coalitions:
            if not coalition & bit:
                size = coalition.bit_count()
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                total += weight * (value[coalition | bit] - value[coalition])
        found.append({"group": name, "contribution": float(total)})
    return sorted(found, key=lambda one: -abs(one["contribution"]))


def nearest(profile: Profile, row: int) -> list[dict[str, Any]]:
    """The user's purchases that are most like the item: itself, its type, its category, then by text."""
    items, groups = profile.items, profile.by_item
    if not len(groups.keys):
        return []
    bought = groups.keys.astype(np.int32)
    like = items.vectors(bought) @ items.vectors(np.array([row], np.int32))[0]
    same = [bought == row, items.type[bought] == items.type[row], items.category[bought] == items.category[row]]
    closeness = np.select(same, [3, 2, 1], 0)
    since, times = groups.last(profile.age), groups.counts
    order = np.lexsort((since, -like, -closeness))[:NEAREST]
    relation = ("text", "category", "type", "item")
    return [
        {
            "item": items.ids[int(bought[n])],
            "same": relation[int(closeness[n])],
            "text_cosine": float(like[n]),
            "times": int(times[n]),
            "days_since": int(since[n]),
        }
        for n in order
    ]


def _sides(profile: Profile, row: int, retrieved: Any) -> tuple[Side, Side]:
    one = np.array([row], np.int32)
    tokens, mask = tokenise(profile, one)
    vectors = profile.items.vectors(retrieved)
    x = columns(profile, np.append(retrieved, one))
    typical = np.nan_to_num(np.nanmedian(x[:-1], axis=0)).astype(np.float32)
    middle = vectors.mean(0) if len(retrieved) else np.zeros(profile.items.text_vectors.shape[1])
    return (
        Side(x[-1], profile.items.vectors(one)[0], tokens[0], mask[0]),
        Side(typical, middle.astype(np.float32), np.zeros_like(tokens[0]), np.zeros_like(mask[0])),
    )


def _mix(ours: Side, typical: Side, present: set[str], groups: Mapping[str, list[int]]) -> Side:
    """`ours` in the groups that are present, `typical` in the others."""
    x = ours.x.copy()
    for name, at in groups.items():
        if name not in present:
            x[at] = typical.x[at]
    text, history = TEXT in present, HISTORY in present
    return Side(
        x,
        ours.item_vec if text else typical.item_vec,
        ours.tokens if history else typical.tokens,
        ours.mask if history else typical.mask,
    )


def _alone(
    score: Callable[[list[Side]], Floats], ours: Side, typical: Side, names: tuple[str, ...], whole: float
) -> list[dict[str, Any]]:
    """Single features: what the score loses with the typical value instead. They overlap, so they do not add up."""
    swapped = []
    for column in range(len(names)):
        x = ours.x.copy()
        x[column] = typical.x[column]
        swapped.append(Side(x, ours.item_vec, ours.tokens, ours.mask))
    effect = whole - score(swapped)
    order = np.argsort(-np.abs(effect), kind="stable")[:SHOWN]
    return [
        {
            "feature": names[n],
            "value": _known(ours.x[n]),
            "typical": float(typical.x[n]),
            "effect": float(effect[n]),
        }
        for n in order.tolist()
    ]


def _known(value: np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _batch(sides: list[Side]) -> tuple[Floats, Floats, Floats, Floats]:
    x, item_vec, tokens, mask = (
        np.stack([getattr(side, name) for side in sides]).astype(np.float32)
        for name in ("x", "item_vec", "tokens", "mask")
    )
    return x, item_vec, tokens, mask
