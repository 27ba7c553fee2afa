"""Train/serve skew: the same users scored by the evaluator's own path and by whatever answers requests.

The evaluator reads histories as arrays; a request carries them as JSON. Where both end at one score, parsing, features,
graph and runtime of the packaged service are those that were judged. Nothing is stored: these histories are people's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tasks.domain.gate import Check
from tasks.ranker.arrays import Ints, iso_day
from tasks.ranker.profile import Profile
from tasks.ranker.rank import rank_profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import NOBODY, ItemState, UserHistory, View

REQUESTS, CANDIDATES, EVENTS = 20, 100, 800  # a longer history does not fit into a request's body
LEAST_QUANTITY = 1e-6  # what the histories divide by where a log has quantity 0: tasks/ranker/state.py
TOLERANCE = 0.01  # of a logit, as for golden requests: int8 kernels differ a little between processors
Ask = Callable[[dict[str, Any]], tuple[list[str], list[float]]]  # a request -> items, scores


@dataclass(frozen=True, slots=True)
class Scored:
    """A request as the service takes it, and what the evaluator says."""

    request: dict[str, Any]
    scores: dict[str, float]


def evaluator_scores(scorer: Scorer, items: ItemState, view: View, count: int = REQUESTS) -> list[Scored]:
    """Requests made of `count` users of the view, evenly spread, with the scores of the evaluator's own path."""
    users = [view.user_ids[n] for n in np.unique(np.linspace(0, len(view) - 1, count).astype(int))] if len(view) else []
    found = []
    for user in users:
        known = view.get(user) or NOBODY
        # a request says neither the usual store nor similar users
        history = replace(
            NOBODY,
            **{name: getattr(known, name)[-EVENTS:] for name in ("rows", "days", "quantity", "price", "discounted")},
        )
        profile = Profile(items, history, items.day)
        rows = candidates_of(profile, CANDIDATES)
        ranking = rank_profile(scorer, profile, rows)
        ids = [items.ids[row] for row in rows.tolist()]
        scores = {
            ids[at]: float(score) for at, score in zip(ranking.order.tolist(), ranking.scores.tolist(), strict=True)
        }
        found.append(Scored(request_of(items, history, rows), scores))
    return found


def skew_check(scored: list[Scored], ask: Ask, tolerance: float = TOLERANCE) -> Check:
    """Largest difference of a score between the two; no request at all is no proof, so it is not ok."""
    worst, compared = 0.0, 0
    for one in scored:
        answered, scores = ask(one.request)
        if sorted(answered) != sorted(one.scores):
            worst = float(np.finfo(np.float32).max)
            break
        differences = np.array([score - one.scores[item] for item, score in zip(answered, scores, strict=True)])
        worst = float(np.maximum(worst, np.abs(differences).max()))  # a NaN stays one
        compared += len(answered)
    said = f"{compared} scores of {len(scored)} users differ by at most {worst:.2g} between evaluator and service"
    ok = bool(compared) and worst <= tolerance
    worst = worst if np.isfinite(worst) else float(np.finfo(np.float32).max)
    return Check(
        name="train_serve_skew", value=worst, limit=tolerance, ok=ok, sentence=f"{said}, allowed {tolerance:g}"
    )


def request_of(items: ItemState, history: UserHistory, rows: Ints) -> dict[str, Any]:
    events = [
        {
            "item_id": items.ids[row],
            "event_time": f"{iso_day(day)}T12:00:00Z",
            "quantity": quantity,
            "value": price * max(quantity, LEAST_QUANTITY),
            "discount": discounted,
        }
        for row, day, quantity, price, discounted in zip(
            *(getattr(history, name).tolist() for name in ("rows", "days", "quantity", "price", "discounted")),
            strict=True,
        )
    ]
    candidates = [items.ids[row] for row in rows.tolist()]
    return {"surface": "recommendation", "history": events, "candidates": candidates}
