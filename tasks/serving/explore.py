"""Exploration at work: the list that is shown in place of the model's, and the chance of each of its places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.domain.exploration import drawn, near_ties
from tasks.ranker.rank import LOWEST

if TYPE_CHECKING:
    from tasks.serving.asked import Ranking


def explored(ranking: Ranking, request_id: str, share: float, kept: Sequence[int]) -> tuple[Ranking, list[float]]:
    """(the list to show, propensities of its places); `kept` as in `near_ties`.

    Scores of items that moved are levelled with their neighbours', as merchandising rules do: along a list they never rise.
    """
    order, chance, moved = drawn(request_id, share, near_ties(ranking.scores, float(LOWEST), kept))
    propensities = chance[: len(ranking.items)].tolist()  # an empty list has no place
    if not moved:
        return ranking, propensities
    places = order.tolist()
    shown = replace(
        ranking,
        items=[ranking.items[place] for place in places],
        scores=np.minimum.accumulate([ranking.scores[place] for place in places]).tolist(),
        reasons=[ranking.reasons[place] for place in places] if ranking.reasons else None,
        explored=True,
    )
    return shown, propensities
