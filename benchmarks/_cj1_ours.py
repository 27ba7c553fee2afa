"""Our ranker under CJ1: trained by finetune, ranked by the cascade that serves; what retrieval leaves out comes last.

Nothing here knows how a model is made: it calls what the DAG calls.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks._cj1_data import KEY
from benchmarks._cj1_protocol import Log, Longs, Slate, iso, slate_metrics
from tasks.domain.behaviour import pseudonym
from tasks.domain.recipe import Recipe, Trees
from tasks.ranker.arrays import Floats, epoch_day
from tasks.ranker.build import Morning, StateBuilder
from tasks.ranker.corpus import Corpus
from tasks.ranker.dataset import Dataset
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Slate as Ranked
from tasks.ranker.rank import rank_slate
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.slates import slates_on
from tasks.ranker.trees import fit_trees, tree_scores


def trained(work: Path, data: Dataset, recipe: Recipe, seed: int) -> Path:
    """The model directory of one seed."""
    out = work / "models" / f"{recipe.name}-seed{seed}"
    if not (out / "summary.json").exists():
        from tasks.finetune import finetune

        out.mkdir(parents=True, exist_ok=True)
        summary = finetune(data.directory, recipe, out, out, seed=seed, threads=len(os.sched_getaffinity(0)))
        (out / "summary.json").write_text(json.dumps(summary, indent=1))
    return out


def silenced(
    work: Path, data: Dataset, name: str, columns: Sequence[str], *, text: bool = True, days: int | None = None
) -> Dataset:
    """The same dataset with some features (and, without `text`, every item text) left out of the model's input.

    days: keep only the last ones to train on.
    """
    out = work / "datasets" / name
    if not (out / "dataset.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(data.directory, out, copy_function=os.link)
        told = json.loads((out / "fitted.json").read_bytes())
        names = [*data.fitted.inputs.columns]
        told["scale"] = [
            0.0 if column.removesuffix("_unknown") in columns or column in columns else scale
            for column, scale in zip(names, told["scale"], strict=True)
        ]
        (out / "fitted.json").unlink()
        (out / "fitted.json").write_text(json.dumps(told))
        if days is not None:
            split = json.loads((out / "dataset.json").read_bytes())
            split["train_days"] = split["train_days"][-days:]
            (out / "dataset.json").unlink()
            (out / "dataset.json").write_text(json.dumps(split))
        if not text:
            texts = load_file(out / "texts.safetensors")
            (out / "texts.safetensors").unlink()
            save_file(texts | {"vectors": np.zeros_like(texts["vectors"])}, out / "texts.safetensors")
    return Dataset.open(out)


def tree_peer(work: Path, data: Dataset, name: str, columns: Sequence[str], days: int, plan: Trees, seed: int) -> Path:
    """LambdaMART on some of the features, over the last `days` training days."""
    out = work / "models" / f"{name}-seed{seed}.txt"
    if not out.exists():
        corpus = Corpus(data, data.split.train_days[-days:])
        at = [corpus.fitted.inputs.features.index(column) for column in columns]
        booster = fit_trees(corpus.x[:, at], corpus.label, np.diff(corpus.ptr).tolist(), plan, seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(booster.model_to_string())
    return out


class TreePeer:
    """Trees in place of our second stage: they order the best of our first, as the notes' peer does."""

    def __init__(self, path: Path, columns: Sequence[str], features: Sequence[str], first: Scorer) -> None:
        import lightgbm

        self._booster, self._first = lightgbm.Booster(model_file=str(path)), first
        self._at = [list(features).index(column) for column in columns]

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._first.base(x, item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return tree_scores(self._booster, x[:, self._at])


class WithoutText:
    """A scorer that is shown no text."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._scorer.base(x, np.zeros_like(item_vec))

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self._scorer.full(x, np.zeros_like(item_vec), tokens, mask)


@dataclass(frozen=True)
class Names:
    """What the protocol calls the rows of a morning and the users of a log."""

    products: Longs  # of each catalogue row
    households: Mapping[int, int]  # builder's user -> protocol's household

    @classmethod
    def of(cls, log: Log, builder: StateBuilder, morning: Morning) -> Names:
        ids = np.array([int(item) for item in morning.items.ids[: morning.items.size]])
        products = np.searchsorted(log.product_ids, ids)
        number = {name: user for user, name in enumerate(builder.log.user_ids)}
        hashed = (number.get(pseudonym(str(raw), KEY)) for raw in log.household_ids.tolist())
        return cls(products, {user: household for household, user in enumerate(hashed) if user is not None})


def score_day(
    log: Log, builder: StateBuilder, day: int, scorers: Mapping[str, Scorer]
) -> dict[str, dict[str, NDArray]]:
    """For each scorer its metrics, its scores of all candidates, and how many positives were among those.

    Raises:
        ValueError: the product's slates are not the protocol's.
    """
    morning, slates = slates_on(builder, epoch_day(iso(day)))
    names, items = Names.of(log, builder, morning), morning.items
    if not np.array_equal(np.sort(names.products), log.catalogue(day)):
        raise ValueError(f"the catalogue of {iso(day)} has {items.size} rows, the protocol's {len(log.catalogue(day))}")
    wanted = {slate.household: slate for slate in log.slates(day)}
    by_sales = np.argsort(-items.sales_now, kind="stable")
    told: dict[str, dict[str, list]] = {name: {} for name in scorers}
    for slate in slates:
        household = names.households[slate.user]
        asked: Slate = wanted.pop(household)
        if not np.array_equal(np.sort(names.products[slate.positives]), asked.positives):
            raise ValueError(f"household {household} of {iso(day)} bought other things than the protocol says")
        profile = Profile(items, morning.histories[slate.user], slate.day)
        candidates = candidates_of(profile)
        left_out = np.ones(items.size, bool)
        left_out[candidates] = False
        behind = by_sales[left_out[by_sales]]
        ranked, past = Ranked(profile, candidates), log.past(household, day)
        caught = np.isin(asked.positives, names.products[candidates])
        for name, scorer in scorers.items():
            ranking = rank_slate(scorer, ranked)
            order = np.concatenate([candidates[ranking.order], behind])
            row = slate_metrics(names.products[order], past, asked) | {
                "household": household,
                "caught_new": int(caught[asked.new].sum()),
                "caught_repeat": int(caught[~asked.new].sum()),
                "new": int(asked.new.sum()),
                "repeat": int((~asked.new).sum()),
            }
            for metric, value in row.items():
                told[name].setdefault(metric, []).append(value)
    if wanted:
        raise ValueError(f"the product makes no slate for {len(wanted)} of the protocol's on {iso(day)}")
    return {name: {metric: np.array(values) for metric, values in of.items()} for name, of in told.items()}


def score_lists(log: Log, builder: StateBuilder, day: int, scorer: Scorer) -> dict[str, NDArray]:
    """The list task: our score and features of each hundred, and what was bought."""
    morning, slates = slates_on(builder, epoch_day(iso(day)))
    names, user_of = Names.of(log, builder, morning), {}
    row_of = np.full(len(log.product_ids), -1)
    row_of[names.products] = np.arange(len(names.products))
    user_of = {names.households[slate.user]: slate.user for slate in slates}
    scores, label, x = [], [], []
    for slate, products, bought in log.lists(day):
        profile = Profile(morning.items, morning.histories[user_of[slate.household]], epoch_day(iso(day)))
        listed = Ranked(profile, row_of[products].astype(np.int32))
        ranking = rank_slate(scorer, listed)
        ordered = np.empty(len(products), np.float32)
        ordered[ranking.order] = ranking.scores
        scores.append(ordered)
        label.append(bought)
        x.append(listed.x.astype(np.float16))
    return {"scores": np.stack(scores), "label": np.stack(label), "x": np.stack(x)}
