"""Searches of a made-up shop through build_dataset, finetune, the export for serving, and the comparison of evaluate."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from search_builders import tiny_bert

from tasks.build_dataset import build_dataset
from tasks.compression.search_encoders import export_search
from tasks.domain.recipe import Recipe, SearchFields, load_recipe
from tasks.domain.slices import members
from tasks.evaluation.compared import require_each_once
from tasks.evaluation.searches import searches
from tasks.finetune import finetune
from tasks.ranker.dataset import Dataset
from tasks.ranker.search.dataset import load_lists
from tasks.ranker.tables import partition_day
from tests.shop import ITEMS, KINDS, open_shop

PARTITION = "2017-06-16"
FIELDS = SearchFields(matched=("title", "brand"), written=(("title", 1), ("brand", 1)), numbers=())


def with_searches(path: Path, rng: np.random.Generator) -> Path:
    """The day again, with ten searches for a title: the six items of a list are of all kinds, what was named is clicked."""
    day, rows = partition_day(path), []
    noon = datetime(1970, 1, 1, 13, tzinfo=UTC) + timedelta(days=day)
    for n in range(10):
        wanted = int(rng.integers(ITEMS))
        shown = [
            *rng.choice(np.setdiff1d(np.arange(ITEMS), np.arange(wanted % 10, ITEMS, 10)), 5, replace=False),
            wanted,
        ]
        for place, item in enumerate(rng.permutation(shown).tolist()):
            for kind in ("impression", "click") if item == wanted else ("impression",):
                rows.append((n, place, item, kind, f"{KINDS[wanted % 5]} {wanted % 10}"))
    searched = pl.DataFrame(
        {
            "event_id": [f"s{day}-{n}-{place}-{kind}" for n, place, _, kind, _ in rows],
            "event_time": [noon + timedelta(seconds=10 * n + place) for n, place, *_ in rows],
            "user_id": [f"{n:064x}" for n, *_ in rows],
            "item_id": [f"item-{item:03d}" for _, _, item, *_ in rows],
            "event_type": [kind for *_, kind, _ in rows],
            "surface": ["search"] * len(rows),
            "query": [query for *_, query in rows],
            "request_id": [f"r{day}-{n}" for n, *_ in rows],
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC")},
    )
    pl.concat([pl.read_parquet(path), searched], how="diagonal").write_parquet(path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="module")
def recipe(home):
    torch.manual_seed(0)
    plan = {
        "encoder": str(tiny_bert(home / "bert")), "fields": FIELDS.model_dump(), "learning_rate": 1e-3, "passes": 4,
        "queries_a_step": 8, "warmup_steps": 2, "head_epochs": 16, "joint": True,
    }  # fmt: skip
    tiny = load_recipe("tiny")
    return Recipe(**{**tiny.model_dump(), "search": plan, "training": {**tiny.training.model_dump(), "epochs": 1}})


@pytest.fixture(scope="module")
def dataset(home, recipe):
    rng, shop = np.random.default_rng(0), open_shop(home / "shop")
    shop = replace(shop, accepted=[with_searches(path, rng) for path in shop.accepted])
    out = home / "dataset"
    out.mkdir()
    told = build_dataset(shop.accepted, shop.plans, shop.catalogue, PARTITION, recipe, home / "cache", out, None)
    return out, told


@pytest.fixture(scope="module")
def served(home, recipe, dataset):
    for name in ("work", "model", "out"):
        (home / name).mkdir()
    told = finetune(dataset[0], recipe, home / "work", home / "model", seed=1, threads=1)
    export_search(home / "model" / "search", recipe.search, 4, home / "out" / "search")
    return home / "out", told


def test_a_searchs_lists_lie_in_the_part_of_their_day(dataset):
    out, told = dataset
    split = Dataset.open(out).split
    assert told["search_train_lists"] == 10 * len(split.train_days)
    assert told["search_validation_lists"] == 10 * len(split.validation_days)
    searched = json.loads((out / "search" / "users.json").read_bytes())["users"]
    assert searched == sorted(f"{n:064x}" for n in range(10)), "an erasure finds the dataset by these"
    days = {int(name.split("-")[0][1:]) for name in load_lists(out, "train").names}
    assert max(days) < min(int(name.split("-")[0][1:]) for name in load_lists(out, "validation").names)


def test_finetune_trains_search_beside_recommendation(served):
    told = served[1]
    assert told["weights_digest"] and told["search_validation.all"] > 0.9
    assert told["search_validation.all"] > told["search_validation.untrained"]


def test_evaluate_holds_both_systems_against_each_other_on_the_same_lists(served, dataset, monkeypatch):
    data = Dataset.open(dataset[0])
    # the untrained encoder of a first champion is MiniLM in int8; here it is the tiny one, which the release holds
    (served[0] / "text").symlink_to(served[0] / "search" / "base")
    monkeypatch.setattr("tasks.ranker.state.ItemState.vectors", lambda self, rows: np.ones((len(rows), 16), np.float32))
    compared = searches(data, "validation", served[0], None)
    assert len(compared) == dataset[1]["search_validation_lists"]
    require_each_once("bootstrap", compared)
    inside = members([one.facts for one in compared])
    assert {name for name, told in inside.items() if any(told)} == {"surface_search"} and all(inside["surface_search"])
    ours, theirs = (
        np.mean([getattr(one, side)["ndcg_at_10[all]"] for one in compared]) for side in ("candidate", "champion")
    )
    assert ours > 0.9 > theirs
    both = searches(data, "validation", served[0], served[0])
    assert all(one.candidate == one.champion for one in both)


def test_a_dataset_without_searches_has_none_to_judge(tmp_path, dataset, served):
    assert load_lists(tmp_path, "holdout").queries == [] and len(load_lists(dataset[0], "holdout")) == 0
    assert searches(Dataset.open(dataset[0]), "holdout", served[0], None) == []
