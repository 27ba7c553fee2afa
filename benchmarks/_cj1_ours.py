"""Our ranker under CJ1: trained by finetune, ranked by the cascade that serves; what retrieval leaves out comes last.

Nothing here knows how a model is made: it calls what the DAG calls.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks._cj1_data import KEY
from benchmarks._cj1_protocol import Log, Longs, iso, slate_metrics
from tasks.domain.behaviour import pseudonym
from tasks.domain.recipe import Recipe, Trees
from tasks.ranker.arrays import Floats, Ints, epoch_day
from tasks.ranker.build import StateBuilder
from tasks.ranker.corpus import Corpus
from tasks.ranker.dataset import Dataset, load_builder
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Slate as Ranked
from tasks.ranker.rank import rank_slate
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import NOBODY, UserHistory, save_view
from tasks.ranker.trees import Member, fit_trees, load_trees, save_trees, tree_scores


def trained(work: Path, data: Dataset, recipe: Recipe, seed: int) -> Path:
    """The model directory of one seed."""
    out = work / "models" / f"{recipe.name}-seed{seed}"
    if not (out / "summary.json").exists():
        from tasks.finetune import finetune

        out.mkdir(parents=True, exist_ok=True)
        began, cpu, cores = time.monotonic(), time.process_time(), len(os.sched_getaffinity(0))
        summary = finetune(data.directory, recipe, out, out, seed=seed, threads=cores)
        summary |= {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu, "cores": cores}
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
    out = work / "models" / f"{name}-seed{seed}.json"
    if not out.exists():
        corpus = Corpus(data, data.split.train_days[-days:])
        at = [corpus.fitted.inputs.features.index(column) for column in columns]
        booster = fit_trees(corpus.x[:, at], corpus.label, np.diff(corpus.ptr).tolist(), plan, seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        save_trees(booster, out)
    return out


def state_refresh(data: Dataset, out: Path) -> dict[str, float]:
    """Seconds to make and save the state of all households on the morning after the dataset's last day."""
    began, cpu = time.monotonic(), time.process_time()
    builder = load_builder(data.directory, holdout=True)  # anew: nothing solved for an earlier morning is at hand
    morning = builder.morning(epoch_day(data.split.partition) + 1)
    morning.items.save(out / "items")
    save_view(out / "view", morning.items, {builder.log.user_ids[user]: of for user, of in morning.histories.items()})
    told = {
        "wall_s": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
        "households": len(morning.histories),
    }
    return told | {"cores": len(os.sched_getaffinity(0))}


class Remembered:
    """A scorer that remembers its last answers: several systems ask the same network about the same slate."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._last = scorer, dict[str, tuple[tuple[Floats, ...], Floats]]()

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._asked("base", x, item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self._asked("full", x, item_vec, tokens, mask)

    def _asked(self, stage: str, *inputs: Floats) -> Floats:
        before, answer = self._last.get(stage, ((), np.zeros(0, np.float32)))
        if not before or not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, inputs, strict=True)):
            answer = getattr(self._scorer, stage)(*inputs)
            self._last[stage] = inputs, answer
        return answer


class TreePeer:
    """Trees in place of our second stage: they order the best of our first, as the notes' peer does."""

    def __init__(self, path: Path, columns: Sequence[str], features: Sequence[str], first: Scorer) -> None:
        self._booster, self._first = load_trees(path), first
        self._at = [list(features).index(column) for column in columns]

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._first.base(x, item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return tree_scores(self._booster, x[:, self._at])


class Mean:
    """The mean of several networks, and trees."""

    def __init__(self, networks: Sequence[Scorer], trees: Member | None) -> None:
        self._networks, self._trees = networks, trees

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return np.mean([network.base(x, item_vec) for network in self._networks], axis=0)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        scores = np.mean([network.full(x, item_vec, tokens, mask) for network in self._networks], axis=0)
        return self._trees.added_to(scores, x) if self._trees else scores


class WithoutText:
    """A scorer that is shown no text."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._scorer.base(x, np.zeros_like(item_vec))

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self._scorer.full(x, np.zeros_like(item_vec), tokens, mask)


class Day:
    """One morning of the product, asked about the slates of the protocol.

    The two agree but for a few lines that validate_data caught: the product has not seen them, the protocol asks for them
    all the same. A product that ours does not rank comes last.
    """

    def __init__(self, log: Log, builder: StateBuilder, day: int) -> None:
        self.log, self.day, self.slates = log, day, log.slates(day)
        self.items, row_of = builder.items(epoch_day(iso(day)))
        number = {name: user for user, name in enumerate(builder.log.user_ids)}
        users = [number.get(pseudonym(str(log.household_ids[one.household]), KEY), -1) for one in self.slates]
        known = np.array([user for user in users if user >= 0], np.int32)
        histories = builder.with_histories(self.items, row_of, known).histories
        self.users = [histories.get(user, NOBODY) for user in users]
        ids = np.array([int(item) for item in self.items.ids[: self.items.size]])
        self.products = np.searchsorted(log.product_ids, ids)  # of each catalogue row
        self.row_of = np.full(len(log.product_ids), -1, np.int32)
        self.row_of[self.products] = np.arange(len(self.products))
        catalogue = log.catalogue(day)
        self.wanted = np.zeros(len(log.product_ids), bool)
        self.wanted[catalogue] = True
        self.unknown = catalogue[self.row_of[catalogue] < 0]
        self.by_sales = np.argsort(-self.items.sales_now, kind="stable")

    def profile(self, user: UserHistory) -> Profile:
        return Profile(self.items, user, self.items.day)

    def whole(self, ranked: Ints, candidates: Ints) -> Longs:
        """The protocol's catalogue: `ranked` rows, then what was not retrieved by sales, then what ours does not know."""
        left_out = np.ones(self.items.size, bool)
        left_out[candidates] = False
        order = self.products[np.concatenate([ranked, self.by_sales[left_out[self.by_sales]]])]
        return np.concatenate([order[self.wanted[order]], self.unknown])


def score_day(
    log: Log, builder: StateBuilder, day: int, scorers: Mapping[str, Scorer]
) -> dict[str, dict[str, NDArray]]:
    """For each scorer its metrics on every slate, and how many positives retrieval caught."""
    morning = Day(log, builder, day)
    told: dict[str, dict[str, list]] = {name: {} for name in scorers}
    for slate, user in zip(morning.slates, morning.users, strict=True):
        profile = morning.profile(user)
        candidates = candidates_of(profile)
        ranked, past = Ranked(profile, candidates), log.past(slate.household, day)
        caught = np.isin(slate.positives, morning.products[candidates])
        for name, scorer in scorers.items():
            ranking = rank_slate(scorer, ranked)
            order = morning.whole(candidates[ranking.order], candidates)
            row = slate_metrics(order, past, slate) | {
                "household": slate.household,
                "caught_new": int(caught[slate.new].sum()),
                "caught_repeat": int(caught[~slate.new].sum()),
                "new": int(slate.new.sum()),
                "repeat": int((~slate.new).sum()),
            }
            for metric, value in row.items():
                told[name].setdefault(metric, []).append(value)
    return {name: {metric: np.array(values) for metric, values in of.items()} for name, of in told.items()}


def score_lists(log: Log, builder: StateBuilder, day: int, scorer: Scorer) -> dict[str, NDArray]:
    """The list task: our score and features of each hundred, and what was bought; NaN features where ours knows nothing."""
    morning, scores, label, x = Day(log, builder, day), [], [], []
    for (_, products, bought), user in zip(log.lists(day), morning.users, strict=True):
        listed = Ranked(morning.profile(user), morning.row_of[products])
        ranking = rank_slate(scorer, listed)
        of_product = np.empty(len(products), np.float32)
        of_product[ranking.order] = ranking.scores
        features = np.full((len(products), listed.x.shape[1]), np.nan, np.float16)
        features[listed.known] = listed.x
        scores.append(of_product)
        label.append(bought)
        x.append(features)
    return {"scores": np.stack(scores), "label": np.stack(label), "x": np.stack(x)}
