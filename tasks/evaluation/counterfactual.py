"""What a model would have earned with the lists that were really shown, where the log gives the chances of showing them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from tasks.domain.counterfactual import doubly_robust, snips
from tasks.ranker.arrays import epoch_day
from tasks.ranker.dataset import Dataset
from tasks.ranker.rank import recommend
from tasks.ranker.runtime import Scorer


def counterfactual(data: Dataset, days: tuple[str, ...], scorer: Scorer) -> dict[str, Any] | None:
    """SNIPS of the share of shown places that were answered, had this model chosen the item of each place; and the same
    doubly robust, with the model's own probabilities as what it predicts.

    The model's choice is one item a place, so only places where the log shows that very item count. Lists that nobody
    answered count as well. None where no list of `days` has propensities.
    """
    builder = data.whole
    if builder.shown is None:
        return None
    parts: list[tuple[np.ndarray, ...]] = []
    for day in map(epoch_day, days):
        lists = builder.shown.during(day, day)
        usable = np.isin(lists.user, builder.users) & np.isfinite(lists.propensity) & (lists.position >= 0)
        if not usable.any():
            continue
        users = np.unique(lists.user[usable])
        morning = builder.morning(day, users)
        for user in users.tolist():
            mine = usable & (lists.user == user)
            rows, ranking = recommend(scorer, morning.items, morning.histories[user], day=day)
            ordered = rows[ranking.order]
            place = lists.position[mine].astype(np.int64)
            wanted = np.where(place < len(ordered), ordered[np.minimum(place, len(ordered) - 1)], -1)
            shown = morning.row_of[lists.item[mine]]
            chance = np.zeros(
                len(morning.items.ids) + 1
            )  # of each catalogue row; 0 where it is no candidate, and at -1
            chance[ordered] = 1 / (1 + np.exp(-ranking.scores.astype(np.float64)))
            same = (shown == wanted) & (wanted >= 0)
            parts.append((lists.grade[mine] > 0, same, lists.propensity[mine], chance[shown], chance[wanted]))
    if not parts:
        return None
    reward, target, propensity, of_shown, of_wanted = (
        np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True)
    )
    robust = doubly_robust(reward, target, propensity, of_shown, of_wanted)
    return asdict(snips(reward, target, propensity)) | {"doubly_robust": asdict(robust)}
