"""What the slices of tasks/domain/slices.py may know about each slate of a morning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.domain.slices import SlateFacts
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.build import Morning, StateBuilder
from tasks.ranker.features import STATIC
from tasks.ranker.judge import Judged
from tasks.ranker.state import ItemState

Groups = Mapping[str, Mapping[str, str]]  # user -> attribute -> value
_AGE = STATIC.index("age")


class ItemFacts:
    """What a state alone says of its catalogue."""

    def __init__(self, items: ItemState, departments: Sequence[str] = ()) -> None:
        self._age: Floats = np.expm1(items.static[:, _AGE])
        best_first = np.argsort(-items.sales28, kind="stable")
        sales = items.sales28[best_first].astype(np.float64)
        self._place = np.empty(items.size)
        self._place[best_first] = (np.cumsum(sales) - sales) / max(float(sales.sum()), 1.0)
        self._departments = departments

    def of(
        self, bought: Ints, trips: int, surface: str = "recommendation", groups: Mapping[str, str] | None = None
    ) -> SlateFacts:
        """bought: catalogue rows, at least one."""
        rows = bought.tolist() if self._departments else []
        departments = Counter(sorted(self._departments[row] for row in rows))
        return SlateFacts(
            trips=trips,
            surface=surface,
            newest_item_days=float(self._age[bought].min()),
            sales_place=float(np.median(self._place[bought])),
            department=departments.most_common(1)[0][0] if departments else "",
            groups=groups or {},
        )


class MorningFacts:
    """Counted once for a morning, asked for each of its slates."""

    def __init__(self, morning: Morning, builder: StateBuilder, groups: Groups) -> None:
        items, self._users, self._groups = morning.items, builder.log.user_ids, groups
        item_of = np.full(len(items.ids), -1, np.int64)
        known = np.flatnonzero(morning.row_of >= 0)
        item_of[morning.row_of[known]] = known
        levels = builder.log.items.level(1)
        self._items = ItemFacts(items, [levels[item] for item in item_of[: items.size].tolist()])

    def of(self, one: Judged) -> SlateFacts:
        groups = self._groups.get(self._users[one.slate.user])
        return self._items.of(one.slate.positives, one.ranked.profile.trips, groups=groups)
