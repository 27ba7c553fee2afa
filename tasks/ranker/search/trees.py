"""LambdaMART (LightGBM) over the same features: an optional member of the mix, kept in LightGBM's own text format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.ranker.arrays import Floats
from tasks.ranker.search.lists import Lists

if TYPE_CHECKING:
    import lightgbm

LEAST_TREES, MOST_TREES, PATIENCE = 100, 600, 40
OPTIONS = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "ndcg_eval_at": [10],
    "learning_rate": 0.05,
    "num_leaves": 31,
    "lambdarank_truncation_level": 10,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


def fit_trees(train: Lists, x: Floats, validation: Lists, x_validation: Floats, seed: int) -> lightgbm.Booster:
    """Boosted until validation NDCG@10 has not risen for 40 trees, but never cut below 100: a few would stop by chance."""
    import lightgbm

    parts = [
        lightgbm.Dataset(of, (lists.grade > 0).astype(np.int32), group=np.diff(lists.ptr), free_raw_data=True)
        for lists, of in ((train, x), (validation, x_validation))
    ]
    curve: dict[str, dict[str, list[float]]] = {}
    options = OPTIONS | {
        "seed": seed,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction": 0.8,
        "num_threads": 1,
    }
    model = lightgbm.train(
        options,
        parts[0],
        MOST_TREES,
        valid_sets=[parts[1]],
        valid_names=["validation"],
        callbacks=[
            lightgbm.record_evaluation(curve),
            lightgbm.early_stopping(PATIENCE + LEAST_TREES, verbose=False, first_metric_only=True),
        ],
    )
    found = np.array(curve["validation"]["ndcg@10"])
    model.best_iteration = max(int(found.argmax()) + 1, min(LEAST_TREES, len(found)))
    return model


def tree_scores(model: lightgbm.Booster, x: Floats) -> Floats:
    """[pairs]"""
    return np.asarray(model.predict(x, num_iteration=model.best_iteration), np.float32)
