"""What taxonomy, co-purchases, this plan's sales and more similar users say about a candidate.

Features that a recipe may add to the others; they cost time where the state is made (EASE) and where lists are ranked.

Where nothing is known the value is NaN, not a number that looks like knowledge: fitted.py fills it in and says so.
"""

from __future__ import annotations

import numpy as np

from tasks.ranker.arrays import Floats, Groups, Ints, ranges, spread
from tasks.ranker.profile import NEVER, Profile, neighbour_scores

# counted once a morning: the columns of ItemState.taxonomy. "This plan" began when the promotions last changed.
OF_ITEM = (
    "category_sales_28d", "share_in_category", "type_rebuys_per_buyer",
    "plan_age", "plan_sales", "plan_discounted", "plan_price", "plan_lift",
)  # fmt: skip
OF_USER = ("department_share", "department_days_since", "bought_together", "bought_together_last_trip", "type_variety")
# what neighbours.py says behind its first score. Named here: that module needs scipy, which the service does not load
MORE = ("similar_widely", "similar_lately", "ease")
KNOWLEDGE = OF_ITEM + OF_USER + MORE
NULLABLE = OF_USER + MORE  # unknown for a user without a history, or one that no one is like


def knowledge_columns(profile: Profile, candidates: Ints) -> Floats:
    """[len(KNOWLEDGE), candidates] of a prepared profile."""
    items, out = profile.items, np.full((len(KNOWLEDGE), len(candidates)), np.nan, np.float32)
    out[: len(OF_ITEM)] = items.taxonomy[candidates].T
    if len(profile.user.rows):
        department = Groups(items.department[profile.user.rows])
        at = department.lookup(items.department[candidates])
        recent, last = profile.decay(45.0), (profile.trips_since == 0).astype(np.float32)
        out[len(OF_ITEM) : -len(MORE)] = (
            np.log1p(100 * spread(department.counts, at) / len(profile.user.rows)),
            spread(np.log1p(department.last(profile.age)), at, np.log1p(NEVER)),
            np.log1p(10 * bought_together(profile, recent)[candidates]),
            np.log1p(10 * bought_together(profile, last)[candidates]),
            type_variety(profile, candidates),
        )
    if profile.user.cf_scores.shape[1] > 1:
        scores = neighbour_scores(profile.user, candidates)[:, 1:]
        out[-len(MORE) :] = (np.sign(scores) * np.log1p(100 * np.abs(scores))).T
    return out


def type_variety(profile: Profile, candidates: Ints) -> Floats:
    """Distinct items of the candidate's type by the user's lines of it; 0 where the type was never bought."""
    of_type = profile.by_type
    distinct = np.bincount(profile.items.type[profile.by_item.keys], minlength=profile.items.types)
    variety = (distinct[of_type.keys] / of_type.counts).astype(np.float32)
    return spread(variety, of_type.lookup(profile.items.type[candidates]))


def bought_together(profile: Profile, weight: Floats) -> Floats:
    """How much each catalogue row is bought in baskets with what the user bought; `weight` is of each event."""
    items, group = profile.items, profile.by_item
    inside = group.keys < items.size
    rows, of_row = group.keys[inside], group.sum(weight)[inside]
    starts, counts = items.graph_ptr[rows], items.graph_ptr[rows + 1] - items.graph_ptr[rows]
    edges = ranges(starts, counts)
    said = items.graph_weight[edges] * np.repeat(of_row, counts)
    return np.bincount(items.graph_row[edges], said, minlength=items.size).astype(np.float32)
