"""What stands beside a candidate on the same slates: counting, LightGBM, its own head alone, the champion before.

A transformer that loses to a simpler model is not worth its cost; that the champion it is compared with loses too is no
excuse. LambdaMART: Burges, Microsoft Research TR-2010-82. LightGBM: Ke et al., NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.dataset import Dataset
from tasks.ranker.device import reference_scorer
from tasks.ranker.fitted import Inputs
from tasks.ranker.judge import (
    Judged,
    Row,
    judge,
    mean_of,
    metrics_of,
    of_ten,
    personal_then_popular_order,
)
from tasks.ranker.runtime import Scorer, TorchScorer

MOST_ROWS = 200_000  # of the newest training days: seconds, on any recipe
TREES = 60
LAMBDAMART = {
    "objective": "lambdarank",
    "num_leaves": 31,
    "learning_rate": 0.1,
    "min_data_in_leaf": 20,
    "lambdarank_truncation_level": 20,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": 7,
    "verbosity": -1,
}


class Boosted:
    """LambdaMART on the training rows and features of the ranker itself. Lives as long as one evaluation: never stored.

    Raises:
        InputRejected: the training days hold no slate.
    """

    def __init__(self, data: Dataset) -> None:
        import lightgbm

        self._inputs: Inputs = data.fitted.inputs
        x, grade, weight, sizes = _newest_rows(data, self._inputs)
        rows = lightgbm.Dataset(x, grade, weight=weight, group=sizes, params={"verbosity": -1})
        self._trees = lightgbm.train(LAMBDAMART, rows, TREES)
        self.facts = {"rows": len(grade), "slates": len(sizes), "trees": self._trees.num_trees()}

    def rank(self, one: Judged) -> Row:
        """Every candidate is scored: trees are cheap enough to need no cascade."""
        scores = np.full(len(one.ranked.candidates), -np.inf)
        if len(one.ranked.known):
            x = self._inputs.complete(one.ranked.x)
            scores[one.ranked.known] = self._trees.predict(x, num_threads=1)
        order = np.argsort(-scores, kind="stable")
        relevant = np.isin(one.ranked.candidates[order], one.slate.positives)
        return metrics_of(relevant, one.past[order], one.slate)


class Rivals:
    """All of them, on one slate after another."""

    def __init__(self, data: Dataset, candidate: Path, previous: Path | str) -> None:
        """previous: src directory of the release that served before the champion, or why it is not compared."""
        self._boosted = Boosted(data)
        self._silenced = TorchScorer.load(candidate / "model", zeroed=True)
        self._before, self._skipped = _scorer_before(previous)

    def of(self, one: Judged) -> dict[str, Row]:
        """name -> metrics of the slate."""
        order, past = personal_then_popular_order(one)
        rows = {
            "gp_topfreq": counted_row(one, order, past),
            "own_frequency": counted_row(one, own_order(one), past),
            "global_frequency": counted_row(one, popular_order(one), past),
            "lightgbm": self._boosted.rank(one),
            "transformer_zeroed": judge(self._silenced, one),
        }
        return rows | ({"previous_champion": judge(self._before, one)} if self._before else {})

    def facts(self, compared: Iterable[Mapping[str, Row]]) -> dict[str, Any]:
        """Means of each over the slates; why the champion before is missing where it is."""
        of: dict[str, list[Row]] = {}
        for rows in compared:
            for name, row in rows.items():
                of.setdefault(name, []).append(row)
        told: dict[str, Any] = {name: mean_of(rows) for name, rows in of.items()}
        return {"previous_champion": {"skipped": self._skipped}, **told, "lightgbm_trained_on": self._boosted.facts}


def own_order(one: Judged) -> Ints:
    """The whole catalogue by how often the user bought each thing; what was never bought follows in no special order."""
    items, by_item = one.ranked.profile.items, one.ranked.profile.by_item
    counts = np.zeros(items.size, np.float64)
    inside = by_item.keys < items.size
    counts[by_item.keys[inside]] = by_item.counts[inside]
    return np.argsort(-counts, kind="stable").astype(np.int32)


def popular_order(one: Judged) -> Ints:
    """The whole catalogue by sales of the last 28 days."""
    return np.argsort(-one.ranked.profile.items.sales28, kind="stable").astype(np.int32)


def counted_row(one: Judged, order: Ints, past: np.ndarray) -> Row:
    """Metrics of an order of the whole catalogue, which gives no probabilities."""
    return metrics_of(np.isin(order, one.slate.positives), past[order], one.slate) | of_ten(order, one)


def _newest_rows(data: Dataset, inputs: Inputs) -> tuple[Floats, np.ndarray, Floats, np.ndarray]:
    """(features, grade, weight, rows of each slate) of the newest training days: at most MOST_ROWS, or one day."""
    x, grade, weight, sizes, total = [], [], [], [], 0
    for rows in data.training_rows(data.split.train_days[::-1]):
        if total and total + len(rows.label) > MOST_ROWS:
            break
        x.append(inputs.complete(rows.x.astype(np.float32), rows.position))
        grade.append(rows.grade)
        weight.append(rows.weight)
        sizes.append(np.diff(rows.ptr))
        total += len(rows.label)
    if not total:
        raise InputRejected("the training days hold no slate, so no simpler model can be trained beside the candidate")
    return np.concatenate(x), np.concatenate(grade), np.concatenate(weight), np.concatenate(sizes)


def _scorer_before(previous: Path | str) -> tuple[Scorer | None, str]:
    """The model that served before the champion, or why it is not compared."""
    if isinstance(previous, str):
        return None, previous
    try:
        return reference_scorer(previous / "release" / "model"), ""
    except InputRejected as err:  # other features than this code makes: it stands for nothing today
        return None, str(err)
