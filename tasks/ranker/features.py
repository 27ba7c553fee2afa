"""Profile and candidates -> the numbers the model reads. The only code that makes features, for training and serving.

Features are cheap and made for every candidate; the history behind a candidate (tokens.py) only for the few that the
transformer re-scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Ints, spread, spread_together
from tasks.ranker.crowd import Crowd, Owners
from tasks.ranker.knowledge import KNOWLEDGE, knowledge_columns
from tasks.ranker.profile import NEVER, Profile, neighbour_scores
from tasks.ranker.state import NOBODY, ItemState, UserHistory
from tasks.ranker.tokens import tokenise

# counted once a morning, see build.py: the columns of ItemState.static
STATIC = (
    "sales_2d", "sales_7d", "sales_28d", "sales_90d", "sales_trend", "sales_trend_2d", "buyers_90d", "rebuys_per_buyer",
    "first_time_sales_7d", "first_time_share_28d", "age", "price", "price_in_type", "price_change", "discounted_7d",
    "discounted_28d", "display", "mailer", "display_change", "mailer_change", "type_sales_28d", "share_in_type",
    "weekday_lift",
)  # fmt: skip
PERSONAL = (
    "bought", "count", "days_since", "trips_since", "gap", "gap_unknown", "due", "decayed_15d", "decayed_45d",
    "decayed_120d", "decayed_trips", "in_last_5_trips", "quantity", "trip_rate", "share_of_type_bought",
    "type_lines", "type_share", "type_days_since", "type_decayed_45d", "type_gap", "type_gap_unknown", "type_due",
    "category_share", "category_days_since", "category_decayed_45d", "brand_share", "neighbours", "neighbours_known",
    "type_share_x_share_in_type", "category_share_x_sales_7d", "store_sales_7d", "store_sales_28d", "store_lift",
    "text_similarity", "price_against_habit", "discount_x_habit", "mailer_x_habit",
)  # fmt: skip
HOUSEHOLD = (
    "trips", "trip_gap", "trip_due", "basket", "price_habit", "discount_habit", "distinct_share", "recently_new_share",
)  # fmt: skip
FEATURES = STATIC + PERSONAL + HOUSEHOLD
COLUMN = {name: number for number, name in enumerate(FEATURES)}
FROM_TEXT = (FEATURES.index("text_similarity"),)  # silenced together with the transformer
# what stands where a value is unknown, and the feature that says so: no unknown looks like a measured number
UNKNOWN = {
    "days_since": (float(np.log1p(NEVER)), "bought"),
    "trips_since": (float(np.log1p(NEVER)), "bought"),
    "gap": (0.0, "gap_unknown"),
    "due": (0.0, "gap_unknown"),
    "type_days_since": (float(np.log1p(NEVER)), "type_lines"),
    "type_gap": (0.0, "type_gap_unknown"),
    "type_due": (0.0, "type_gap_unknown"),
    "category_days_since": (float(np.log1p(NEVER)), "category_share"),
    "neighbours": (0.0, "neighbours_known"),
    "trip_gap": (0.0, "trips"),
    "trip_due": (0.0, "trips"),
    "price_habit": (0.0, "trips"),
    "discount_habit": (0.0, "trips"),
}


def feature_names(items: ItemState) -> tuple[str, ...]:
    """The columns that this state can fill. Optional ones come last: a model without them reads the first."""
    return FEATURES + KNOWLEDGE if items.knowledge else FEATURES


@dataclass(frozen=True, slots=True)
class Features:
    """Model input for n candidates. Tokens are packed to the front; `mask` is 1 for the valid ones."""

    x: Floats  # [n, len(feature_names(items))]
    item_vec: Floats  # [n, width]: text vectors of the candidates, zeros where there is no text
    tokens: Floats  # [n, MAX_TOKENS, TOKEN_WIDTH]
    mask: Floats  # [n, MAX_TOKENS]


def featurise(items: ItemState, user: UserHistory | None, candidates: Ints, day: int | None = None) -> Features:
    """All model input of catalogue rows `candidates` for `user` (None: nobody we know) on the morning of `day`."""
    profile = Profile(items, user or NOBODY, items.day if day is None else day)
    return Features(columns(profile, candidates), items.vectors(candidates), *tokenise(profile, candidates))


def columns(profile: Profile, candidates: Ints) -> Floats:
    """[n, len(feature_names(items))] of a prepared profile."""
    return crowd_columns(Crowd((profile,)), candidates, np.zeros(len(candidates), np.intp))


def crowd_columns(crowd: Crowd, candidates: Ints, owner: Owners) -> Floats:
    """The same for candidates of several profiles, those of one member after those of the one before."""
    out = np.empty((len(feature_names(crowd.items)), len(candidates)), np.float32)
    out[: len(STATIC)] = crowd.items.static[candidates].T
    bought = crowd.by_item.lookup(crowd.key(candidates, owner))
    of_item = _of_item(crowd, bought)
    lines = spread(crowd.by_item.counts, bought)
    for name, values in (of_item | _of_type(crowd, candidates, owner, lines)).items():
        out[COLUMN[name]] = values
    ends = np.searchsorted(owner, np.arange(len(crowd.members) + 1))
    for member, first, end in zip(crowd.members, ends[:-1], ends[1:], strict=True):
        if end > first:
            _of_member(member, candidates[first:end], out[:, first:end])
    return np.ascontiguousarray(out.T)


def _of_member(profile: Profile, candidates: Ints, out: Floats) -> None:
    """Fill in what needs a look at one user alone."""
    for name, values in _of_market(profile, candidates).items():
        out[COLUMN[name]] = values
    out[len(STATIC) + len(PERSONAL) : len(FEATURES)] = _household(profile)[:, None]
    if profile.items.knowledge:
        out[len(FEATURES) :] = knowledge_columns(profile, candidates)


def _of_item(crowd: Crowd, at: NDArray[np.intp]) -> dict[str, Floats]:
    """How often, how recently and how regularly the user bought the very item; `at` is its place among the groups."""
    group, age, back = crowd.by_item, crowd.age, crowd.trips_since
    since, back_last = group.last(age), group.last(back)
    repeated = group.counts > 1
    gap = np.where(repeated, (group.first(age) - since) / np.maximum(group.counts - 1, 1), 0).astype(np.float32)
    due = np.where(repeated, np.log((since + 0.5) / (gap + 0.5)), 0).astype(np.float32)
    of_group = {
        "bought": (1.0, 0.0),
        "count": (np.log1p(group.counts), 0.0),
        "days_since": (np.log1p(since), np.log1p(NEVER)),
        "trips_since": (np.log1p(back_last), np.log1p(NEVER)),
        "gap": (np.log1p(gap), 0.0),
        "gap_unknown": (~repeated, 1.0),
        "due": (due, 0.0),
        "decayed_15d": (np.log1p(group.sum(crowd.decay(15.0))), 0.0),
        "decayed_45d": (np.log1p(group.sum(crowd.decay(45.0))), 0.0),
        "decayed_120d": (np.log1p(group.sum(crowd.decay(120.0))), 0.0),
        "decayed_trips": (np.log1p(group.sum(crowd.trip_decay)), 0.0),
        "in_last_5_trips": (group.sum((back < 5).astype(np.float32)), 0.0),
        "quantity": (np.log1p(group.sum(crowd.quantity) / group.counts), 0.0),
        "trip_rate": (group.counts / (group.first(back) + 1), 0.0),
    }
    return spread_together(of_group, at, len(group.keys))


def _of_type(crowd: Crowd, candidates: Ints, owner: Owners, item_lines: Floats) -> dict[str, Floats]:
    """The same for the kinds of thing that the item belongs to: type, category, brand."""
    items, age = crowd.items, crowd.age
    lines = np.maximum(np.array(crowd.sizes, np.float32), 1)[owner]
    group, category, brand = crowd.by_type, crowd.by_category, crowd.by_brand
    at = group.lookup(crowd.key(items.type[candidates], owner))
    at_category = category.lookup(crowd.key(items.category[candidates], owner))
    days, decayed = crowd.type_days, crowd.decay(45.0)
    since = group.last(age)
    gap = np.where(days > 1, (group.first(age) - since) / np.maximum(days - 1, 1), 0).astype(np.float32)
    due = np.where(days > 1, np.log((since + 0.5) / (gap + 0.5)), 0).astype(np.float32)
    of_type = {
        "type_lines": (group.counts, 0.0),
        "type_days_since": (np.log1p(since), np.log1p(NEVER)),
        "type_decayed_45d": (np.log1p(group.sum(decayed)), 0.0),
        "type_gap": (np.log1p(gap), 0.0),
        "type_gap_unknown": (days <= 1, 1.0),
        "type_due": (due, 0.0),
    }
    of_category = {
        "category_share": (category.counts, 0.0),
        "category_days_since": (np.log1p(category.last(age)), np.log1p(NEVER)),
        "category_decayed_45d": (np.log1p(category.sum(decayed)), 0.0),
    }
    told = spread_together(of_type, at, len(group.keys))
    told |= spread_together(of_category, at_category, len(category.keys))
    type_lines, category_lines = told["type_lines"], told["category_share"]
    brand_lines = spread(brand.counts, brand.lookup(crowd.key(items.brand[candidates], owner)))
    return told | {
        "share_of_type_bought": item_lines / np.maximum(type_lines, 1),
        "type_lines": np.log1p(type_lines),
        "type_share": np.log1p(100 * type_lines / lines),
        "category_share": np.log1p(100 * category_lines / lines),
        "brand_share": np.log1p(100 * brand_lines / lines),
        "type_share_x_share_in_type": np.log1p(1000 * type_lines / lines * items.type_share[candidates]),
        "category_share_x_sales_7d": np.log1p(10 * category_lines / lines * items.sales7[candidates]),
    }


def _of_market(profile: Profile, candidates: Ints) -> dict[str, Floats]:
    """Neighbours, the user's store, prices and promotions against the user's habits, and text."""
    items, user = profile.items, profile.user
    neighbours = neighbour_scores(user, candidates)[:, 0]
    week, month, share = items.sold_at(int(user.store[0]), candidates)
    return {
        "neighbours": np.log1p(100 * neighbours),
        "neighbours_known": (neighbours > 0).astype(np.float32),
        "store_sales_7d": np.log1p(week),
        "store_sales_28d": np.log1p(month),
        "store_lift": np.log((month + 0.2) / (items.sales28[candidates] * np.float32(share) + 0.2)),
        "text_similarity": items.vectors(candidates) @ profile.text_profile,
        "price_against_habit": np.abs(items.price_level[candidates] - np.float32(profile.price_habit)),
        "discount_x_habit": items.discount7[candidates] * np.float32(profile.discount_habit),
        "mailer_x_habit": items.mailer[candidates] * np.float32(profile.discount_habit),
    }


def _household(profile: Profile) -> Floats:
    """The same for every candidate: what kind of shopper this is."""
    days, lines = profile.trip_days, len(profile.user.rows)
    if not lines:
        return np.zeros(len(HOUSEHOLD), np.float32)
    gap = (days[-1] - days[0]) / max(len(days) - 1, 1)
    since = max(profile.day - days[-1], 1)
    first = profile.by_item.order[profile.by_item.starts]
    new = np.zeros(lines, bool)
    new[first] = True
    return np.array(
        [
            np.log1p(len(days)),
            np.log1p(gap),
            np.log((since + 0.5) / (gap + 0.5)) if len(days) > 1 else 0.0,
            np.log1p(lines / len(days)),
            profile.price_habit,
            profile.discount_habit,
            len(first) / lines,
            new[profile.trips_since < 10].mean(),
        ],
        np.float32,
    )
