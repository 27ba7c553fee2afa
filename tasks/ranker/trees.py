"""The optional ensemble member: LightGBM's LambdaMART (Burges 2010) on the features the network reads, without text.

Stored as LightGBM's own text in a JSON file, never pickled. In serving it adds to the network's score of the few that
are re-scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.domain.manifest import Record, canonical_json
from tasks.domain.ranking_metrics import ranked_metrics
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
HALVINGS = 20  # of one step
PRIOR = 1e-3  # pull towards one deviation of the scores for one of the log-odds: what was found may tell nothing


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
        blend = Blend.model_validate_json((directory / BLEND).read_bytes())
        return cls(load_trees(directory / TREES), blend)

    def save(self, directory: Path) -> None:
        save_trees(self.booster, directory / TREES)
        (directory / BLEND).write_bytes(canonical_json(self.blend.model_dump(mode="json")))

    def added_to(self, network: Floats, x: Floats) -> Floats:
        """The blended scores [n] of rows that the network scored."""
        blend, mixed = self.blend, network + np.float32(self.blend.share) * tree_scores(self.booster, x)
        return (np.float32(blend.temperature) * mixed + np.float32(blend.bias)).astype(np.float32)


def save_trees(booster: lightgbm.Booster, path: Path) -> None:
    path.write_bytes(canonical_json({"lightgbm": booster.model_to_string()}))


def load_trees(path: Path) -> lightgbm.Booster:
    import lightgbm  # only who serves trees pays for it

    return lightgbm.Booster(model_str=json.loads(path.read_bytes())["lightgbm"])


def tree_scores(booster: lightgbm.Booster, x: Floats) -> Floats:
    """Raw scores [n] of feature rows; columns behind those that the trees know are left out."""
    scores = booster.predict(x[:, : booster.num_feature()], raw_score=True, num_threads=1)
    return np.asarray(scores, np.float32)


def fit_member(scorer: Scorer, booster: lightgbm.Booster, validation: Sequence[Judged]) -> Member:
    """The share with the best NDCG@10 of what is re-scored, then the scale of a probability.

    The likelihood of the positives is no guide to the share: the network is trained on it and the trees are not.
    """
    from tasks.ranker.rank import RESCORED
    from tasks.ranker.tokens import tokenise

    network, trees, label = [], [], []
    for one in validation:
        slate = one.ranked
        vectors = slate.profile.items.vectors(slate.candidates)
        best = np.argsort(-scorer.base(slate.x, vectors), kind="stable")[:RESCORED]
        x, rows = slate.x[best], slate.candidates[best]
        network.append(scorer.full(x, vectors[best], *tokenise(slate.profile, rows)))
        trees.append(tree_scores(booster, x))
        label.append(np.isin(rows, one.slate.positives))
    net, tree, found = (np.concatenate(part).astype(np.float64) for part in (network, trees, label))
    unit = net.std() / max(tree.std(), 1e-9)
    positives = [len(one.slate.positives) for one in validation]
    ends = np.cumsum([len(part) for part in label])[:-1]

    def quality(share: float) -> float:
        mixed = np.split(net + share * unit * tree, ends)
        ranked = (of[np.argsort(-scores, kind="stable")] for of, scores in zip(label, mixed, strict=True))
        return float(np.mean([ranked_metrics(of, n)["ndcg_at_10"] for of, n in zip(ranked, positives, strict=True)]))

    share = max(SHARES, key=quality) * unit
    temperature, bias = calibrate(net + share * tree, found)
    return Member(booster, Blend(share=float(share), temperature=temperature, bias=bias))


def calibrate(scores: NDArray[Any], found: NDArray[Any]) -> tuple[float, float]:
    """(temperature, bias) of Platt scaling (1999): the logistic regression of what was found on the scores."""
    mean, deviation = scores.mean(), max(float(scores.std()), 1e-9)
    design = np.stack([(scores - mean) / deviation, np.ones(len(scores))], axis=1)
    share = np.clip(found.mean(), 1e-4, 1 - 1e-4)
    prior = np.array([1.0, np.log(share / (1 - share))])

    def loss(weights: NDArray[Any]) -> float:
        odds = design @ weights
        return float((np.logaddexp(0, odds) - found * odds).sum() + PRIOR / 2 * ((weights - prior) ** 2).sum())

    weights, least = prior, loss(prior)
    for _ in range(STEPS):
        p = 0.5 * (1 + np.tanh(design @ weights / 2))
        gradient = design.T @ (p - found) + PRIOR * (weights - prior)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + PRIOR * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        # far from the answer a whole step can leave the valley for good, so it is halved until it helps
        tried = next((step / 2**n for n in range(HALVINGS) if loss(weights - step / 2**n) <= least), np.zeros(2))
        weights = weights - tried
        least = loss(weights)
        if np.abs(tried).max() < 1e-8:
            break
    temperature, bias = weights[0] / deviation, weights[1] - weights[0] * mean / deviation
    return float(temperature), float(bias)
