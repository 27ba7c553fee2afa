"""What taxonomy and co-purchases say about a candidate: features that a recipe may add to the others.

Where nothing is known the value is NaN, not a number that looks like knowledge: fitted.py fills it in and says so.
"""

from __future__ import annotations

import numpy as np

from tasks.ranker.arrays import Floats, Groups, Ints, ranges, spread
from tasks.ranker.profile import NEVER, Profile

# counted once a morning: the columns of ItemState.taxonomy
OF_TAXONOMY = ("category_sales_28d", "share_in_category", "type_rebuys_per_buyer")
OF_USER = ("department_share", "department_days_since", "bought_together", "bought_together_last_trip")
KNOWLEDGE = OF_TAXONOMY + OF_USER
NULLABLE = OF_USER  # unknown for a user without a history


def knowledge_columns(profile: Profile, candidates: Ints) -> Floats:
    """[len(KNOWLEDGE), candidates] of a prepared profile."""
    items, out = profile.items, np.full((len(KNOWLEDGE), len(candidates)), np.nan, np.float32)
    out[: len(OF_TAXONOMY)] = items.taxonomy[candidates].T
    if len(profile.user.rows):
        department = Groups(items.department[profile.user.rows])
        at = department.lookup(items.department[candidates])
        recent, last = profile.decay(45.0), (profile.trips_since == 0).astype(np.float32)
        out[len(OF_TAXONOMY) :] = (
            np.log1p(100 * spread(department.counts, at) / len(profile.user.rows)),
            spread(np.log1p(department.last(profile.age)), at, np.log1p(NEVER)),
            np.log1p(10 * bought_together(profile, recent)[candidates]),
            np.log1p(10 * bought_together(profile, last)[candidates]),
        )
    return out


def bought_together(profile: Profile, weight: Floats) -> Floats:
    """How much each catalogue row is bought in baskets with what the user bought; `weight` is of each event."""
    items, group = profile.items, profile.by_item
    inside = group.keys < items.size
    rows, of_row = group.keys[inside], group.sum(weight)[inside]
    starts, counts = items.graph_ptr[rows], items.graph_ptr[rows + 1] - items.graph_ptr[rows]
    edges = ranges(starts, counts)
    said = items.graph_weight[edges] * np.repeat(of_row, counts)
    return np.bincount(items.graph_row[edges], said, minlength=items.size).astype(np.float32)
