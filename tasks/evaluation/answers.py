"""Everything that one system answered on a holdout, and the report that no single slate can give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.domain.list_metrics import calibration_error, coverage, gini, grouped_auc, reliability, total_auc
from tasks.domain.ranking_metrics import K
from tasks.ranker.arrays import Floats


class Answers:
    """Gathers the ten best of each slate and, of systems that give probabilities, all scores with their labels."""

    def __init__(self) -> None:
        self._shown: Counter[str] = Counter()
        self._catalogue: set[str] = set()
        self._scores: list[Floats] = []
        self._relevant: list[NDArray[np.bool_]] = []
        self._users: list[int] = []

    def stock(self, item_ids: Iterable[str]) -> None:
        """Items that could have been shown."""
        self._catalogue.update(item_ids)

    def add(
        self,
        user: int,
        best: Sequence[str],
        scores: Floats | None = None,
        relevant: NDArray[np.bool_] | None = None,
    ) -> None:
        """`best` has item ids, best first; `scores`, as logits, and `relevant` are of all candidates in one order."""
        self._shown.update(best[:K])
        if scores is not None and relevant is not None:
            self._scores.append(scores)
            self._relevant.append(relevant)
            self._users.append(user)

    def report(self) -> dict[str, Any]:
        """List-level metrics by name; a system without probabilities has those of exposure only."""
        exposure = np.array([self._shown[item] for item in sorted(self._catalogue | set(self._shown))], np.int64)
        told: dict[str, Any] = {"coverage_at_10": coverage(exposure), "gini_at_10": gini(exposure)}
        if not self._scores:
            return told
        scores, relevant = np.concatenate(self._scores), np.concatenate(self._relevant)
        users = np.repeat(np.array(self._users, np.int64), [len(part) for part in self._scores])
        bins, within = reliability(scores, relevant), grouped_auc(scores, relevant, users)
        count = sum(one.count for one in bins)
        told |= {
            "predicted_ctr": sum(one.predicted * one.count for one in bins) / count,
            "observed_ctr": float(relevant.mean()),
            "calibration_error": calibration_error(bins),
            "reliability": [asdict(one) for one in bins],
            "auc": total_auc(scores, relevant),
            "gauc": within[0] if within else None,
            "gauc_users": within[1] if within else 0,
        }
        return told
