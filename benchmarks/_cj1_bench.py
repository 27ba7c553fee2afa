"""One window of CJ1, what is ranked in it, and the folder where the parts are kept: each is made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import _cj1_ours as ours
from benchmarks._cj1_data import dataset
from benchmarks._cj1_protocol import WINDOWS, Log, day_number, iso
from tasks.domain.behaviour import next_day
from tasks.domain.recipe import Recipe, Trees
from tasks.ranker.dataset import Dataset
from tasks.ranker.model import load_model
from tasks.ranker.runtime import TREES, Scorer, TorchScorer, inputs_of, read_config
from tasks.ranker.trees import Member

# the features of the strongest peer (notes: 43, then ten more), as far as the product has them under its own names
OF_43 = (
    "count", "days_since", "trips_since", "gap", "due", "decayed_15d", "decayed_45d", "decayed_120d", "decayed_trips",
    "in_last_5_trips", "trip_rate", "neighbours", "similar_widely", "ease", "sales_2d", "sales_7d", "sales_28d", "sales_90d",
    "sales_trend", "buyers_90d", "rebuys_per_buyer", "age", "price", "price_in_type", "discounted_7d", "discounted_28d",
    "type_share", "type_days_since", "category_share", "category_days_since", "brand_share", "share_in_type", "trips",
    "trip_gap", "basket", "price_habit", "display", "mailer", "store_sales_28d", "weekday_lift", "type_sales_28d",
    "type_gap", "type_due",
)  # fmt: skip
WIDER = (
    "store_sales_7d", "plan_sales", "plan_discounted", "plan_price", "plan_age", "plan_lift", "category_share_x_sales_7d",
    "discount_habit", "distinct_share", "type_share_x_share_in_type",
)  # fmt: skip
PLAN = Trees(rounds=200)
WIDE = "LambdaMART wide"
TREE_PEERS = {  # features, days: as the notes have them, and at last as many days as ours
    "LambdaMART, 43 features, 21 days": (OF_43, 21),
    WIDE: (OF_43 + WIDER, 42),
    f"{WIDE}, all days": (OF_43 + WIDER, 1_000),
}
SASREC = "SASRec-like"
ONE, BOTH = "one network", "network + trees"
ALL_TREES = "LambdaMART, every feature of ours"  # the trees of the ensemble alone


@dataclass(frozen=True)
class Bench:
    """One window, and where its parts are kept."""

    work: Path
    window: str
    start: str
    days: int
    recipe: Recipe
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        return self.work / "scored" / f"{self.window}-{self.recipe.name}"

    @property
    def of_peers(self) -> Path:
        return self.work / "scored" / f"{self.window}-peers"

    @property
    def of_ablation(self) -> Path:
        return self.work / "scored" / f"{self.window}-{self.recipe.name}-ablation"

    @cached_property
    def log(self) -> Log:
        from tasks.sources import open_source

        return Log.read(open_source("completejourney"), next_day(self.start, self.days - 1))

    @property
    def numbers(self) -> range:
        first = day_number(self.start)
        return range(first, first + self.days)

    @cached_property
    def training(self) -> Dataset:
        """Of dev, whatever the window: what is compared is trained to the same day."""
        return dataset(self.work, self.recipe.name, self.recipe, *WINDOWS["dev"])

    @cached_property
    def judged(self) -> Dataset:
        if (self.start, self.days) == WINDOWS["dev"]:
            return self.training
        return dataset(self.work, self.recipe.name, self.recipe, self.start, self.days, rows=False)

    @property
    def refresh(self) -> Path:
        """What a state refresh took."""
        return self.work / f"refresh-{self.recipe.name}.json"

    @property
    def together(self) -> str:
        """What `members` gives, trained apart."""
        return f"mean of {len(self.seeds)} networks + trees"

    def model(self, seed: int) -> Path:
        return self.work / "models" / f"{self.recipe.name}-seed{seed}"

    @cached_property
    def own(self) -> dict[str, Scorer]:
        """Our systems, and the trees of the ensemble alone."""
        found: dict[str, Scorer] = {}
        for seed in self.seeds:
            path = self.model(seed)
            network = ours.Remembered(TorchScorer(load_model(path), inputs_of(read_config(path))))
            found[f"{ONE}, seed {seed}"] = network
            if self.recipe.trees:  # as TorchScorer.load has it
                found[f"{BOTH}, seed {seed}"] = ours.Mean([network], Member.load(path))
        path = self.model(self.seeds[0])
        first, inputs = found[f"{ONE}, seed {self.seeds[0]}"], inputs_of(read_config(path))
        if self.recipe.trees:
            networks = [found[f"{ONE}, seed {seed}"] for seed in self.seeds]
            found[ALL_TREES] = ours.TreePeer(path / TREES, inputs.features, inputs.features, first)
            found[self.together] = ours.Mean(networks, Member.load(path))
        return found

    @cached_property
    def tree_peers(self) -> dict[str, Scorer]:
        """LambdaMART on fewer features; it orders the best of our first stage. Growing the trees takes minutes."""
        path, found = self.model(self.seeds[0]), dict[str, Scorer]()
        first, inputs = self.own[f"{ONE}, seed {self.seeds[0]}"], inputs_of(read_config(path))
        for name, (columns, days) in TREE_PEERS.items():
            if set(columns) <= set(inputs.features):
                slugged = f"{self.recipe.name}-{slug(name)}"
                grown = ours.tree_peer(self.work, self.training, slugged, columns, days, PLAN, 0)
                found[name] = ours.TreePeer(grown, columns, inputs.features, first)
        return found


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def kept(folder: Path, name: str, day: int) -> Path:
    return folder / slug(name) / f"{iso(day)}.npz"


def keep(folder: Path, name: str, day: int, arrays: Mapping[str, NDArray]) -> None:
    path = kept(folder, name, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.npz")
    np.savez_compressed(draft, **dict(arrays))
    draft.replace(path)


def read(folder: Path, name: str, days: Sequence[int]) -> dict[str, NDArray]:
    """Every slate of the window that was ranked, in the order of day and household."""
    found = []
    for day in days:
        if kept(folder, name, day).exists():
            with np.load(kept(folder, name, day)) as of:
                order = np.argsort(of["household"], kind="stable")
                found.append({metric: of[metric][order] for metric in of.files})
    return {metric: np.concatenate([one[metric] for one in found]) for metric in found[0]} if found else {}
