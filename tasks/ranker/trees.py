"""The optional ensemble member: LightGBM's LambdaMART (Burges 2010) on the features the network reads, without text.

Stored as LightGBM's own text, never pickled. In serving it adds to the network's score of the few that are re-scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.domain.manifest import Record, canonical_json
from tasks.domain.recipe import Trees
from tasks.ranker.arrays import Floats
from tasks.ranker.runtime import BLEND, TREES, Scorer

if TYPE_CHECKING:
    import lightgbm

    from tasks.ranker.corpus import Corpus
    from tasks.ranker.judge import Judged

BINS = 63  # a feature is cut into; twice as many take a third more time
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the trees' spread beside the network's
STEPS = 30  # of Newton; the problem has two unknowns


def fit_trees(
    x: NDArray[Any], label: NDArray[Any], sizes: Sequence[int], plan: Trees, seed: int, weight: Floats | None = None
) -> lightgbm.Booster:
    """Trees on rows of whole slates that lie behind each other.

    Args:
        x: [rows, features], NaN where unknown. label: 1 where something came of it. sizes: rows of each slate.
        weight: of each row, for the binary objective; LambdaMART has no use for it.
    """
    import lightgbm

    options = {
        "objective": plan.objective,
        "num_leaves": plan.leaves,
        "learning_rate": plan.learning_rate,
        "feature_fraction": plan.features,
        "bagging_fraction": plan.rows,
        "bagging_freq": 1,
        "min_data_in_leaf": plan.least_rows,
        "lambdarank_truncation_level": plan.truncation,
        "max_bin": BINS,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": plan.threads,
        "verbosity": -1,
    }
    ranking = plan.objective != "binary"
    data = lightgbm.Dataset(
        x.astype(np.float32),
        label.astype(np.int8),
        group=sizes if ranking else None,
        weight=None if ranking else weight,
    )
    return lightgbm.train(options, data, num_boost_round=plan.rounds)


def trees_of(corpus: Corpus, plan: Trees, seed: int) -> lightgbm.Booster:
    """Trees on the rows that the network is trained on."""
    x = corpus.x[:, : len(corpus.fitted.inputs.features)]
    return fit_trees(x, corpus.label, np.diff(corpus.ptr).tolist(), plan, seed, corpus.weight)


class Blend(Record):
    """score = temperature * (network + share * trees) + bias, fitted on the validation slates."""

    share: float
    temperature: float
    bias: float


@dataclass(frozen=True, slots=True)
class Member:
    """The trees of a model directory and how they are mixed in."""

    booster: lightgbm.Booster
    blend: Blend

    @classmethod
    def load(cls, directory: Path) -> Member | None:
        """None where the directory holds no trees."""
        if not (directory / TREES).exists():
            return None
        import lightgbm

        blend = Blend.model_validate_json((directory / BLEND).read_bytes())
        return cls(lightgbm.Booster(model_file=str(directory / TREES)), blend)

    def save(self, directory: Path) -> None:
        (directory / TREES).write_text(self.booster.model_to_string())
        (directory / BLEND).write_bytes(canonical_json(self.blend.model_dump(mode="json")))

    def added_to(self, network: Floats, x: Floats) -> Floats:
        """The blended scores [n] of rows that the network scored."""
        blend, mixed = self.blend, network + np.float32(self.blend.share) * tree_scores(self.booster, x)
        return (np.float32(blend.temperature) * mixed + np.float32(blend.bias)).astype(np.float32)


def tree_scores(booster: lightgbm.Booster, x: Floats) -> Floats:
    """Raw scores [n] of feature rows; columns behind those that the trees know are left out."""
    scores = booster.predict(x[:, : booster.num_feature()], raw_score=True, num_threads=1)
    return np.asarray(scores, np.float32)


def fit_member(scorer: Scorer, booster: lightgbm.Booster, validation: Sequence[Judged]) -> Member:
    """The share that puts most weight on the positives among what is re-scored, then the scale of a probability."""
    from tasks.ranker.rank import RESCORED
    from tasks.ranker.tokens import tokenise

    network, trees, label, sizes = [], [], [], []
    for one in validation:
        slate = one.ranked
        vectors = slate.profile.items.vectors(slate.candidates)
        best = np.argsort(-scorer.base(slate.x, vectors), kind="stable")[:RESCORED]
        x, rows = slate.x[best], slate.candidates[best]
        network.append(scorer.full(x, vectors[best], *tokenise(slate.profile, rows)))
        trees.append(tree_scores(booster, x))
        label.append(np.isin(rows, one.slate.positives))
        sizes.append(len(best))
    net, tree, found = (np.concatenate(part).astype(np.float64) for part in (network, trees, label))
    starts = np.cumsum([0, *sizes[:-1]])
    unit = net.std() / max(tree.std(), 1e-9)
    share = min(SHARES, key=lambda share: _softmax_loss(net + share * unit * tree, found, starts, sizes)) * unit
    temperature, bias = calibrate(net + share * tree, found)
    return Member(booster, Blend(share=float(share), temperature=temperature, bias=bias))


def _softmax_loss(scores: NDArray[Any], found: NDArray[Any], starts: NDArray[Any], sizes: Sequence[int]) -> float:
    """Mean negative log-share of the positives at the temperature that suits these scores best."""

    def loss(scale: float) -> float:
        scaled = scores * scale
        top = np.maximum.reduceat(scaled, starts)
        total = np.log(np.add.reduceat(np.exp(scaled - np.repeat(top, sizes)), starts)) + top
        return float((found * (np.repeat(total, sizes) - scaled)).sum() / max(found.sum(), 1))

    return min(loss(scale) for scale in np.geomspace(0.3, 1.5, 9))


def calibrate(scores: NDArray[Any], found: NDArray[Any]) -> tuple[float, float]:
    """(temperature, bias) of Platt scaling (1999): the logistic regression of what was found on the scores."""
    design = np.stack([scores, np.ones(len(scores))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - found) + 1e-3 * (weights - [1.0, 0.0])
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return float(weights[0]), float(weights[1])
