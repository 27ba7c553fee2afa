"""What the slices of tasks/domain/slices.py may know about each slate of a morning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from tasks.domain.slices import SlateFacts
from tasks.ranker.arrays import Floats
from tasks.ranker.build import Morning, StateBuilder
from tasks.ranker.features import STATIC
from tasks.ranker.judge import Judged

Groups = Mapping[str, Mapping[str, str]]  # user -> attribute -> value
_AGE = STATIC.index("age")


class MorningFacts:
    """Counted once for a morning, asked for each of its slates."""

    def __init__(self, morning: Morning, builder: StateBuilder, groups: Groups) -> None:
        items, self._users, self._groups = morning.items, builder.log.user_ids, groups
        self._age: Floats = np.expm1(items.static[:, _AGE])
        best_first = np.argsort(-items.sales28, kind="stable")
        sales = items.sales28[best_first].astype(np.float64)
        self._place = np.empty(items.size)
        self._place[best_first] = (np.cumsum(sales) - sales) / max(sales.sum(), 1.0)
        item_of = np.full(len(items.ids), -1, np.int64)
        known = np.flatnonzero(morning.row_of >= 0)
        item_of[morning.row_of[known]] = known
        levels = builder.log.items.level(1)
        self._department = [levels[item] for item in item_of[: items.size].tolist()]

    def of(self, one: Judged) -> SlateFacts:
        rows = one.slate.positives
        departments = Counter(sorted(self._department[row] for row in rows.tolist()))
        return SlateFacts(
            trips=one.ranked.profile.trips,
            surface="recommendation",
            newest_item_days=float(self._age[rows].min()),
            sales_place=float(np.median(self._place[rows])),
            department=departments.most_common(1)[0][0],
            groups=self._groups.get(self._users[one.slate.user], {}),
        )
