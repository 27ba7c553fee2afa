"""What training may read of a dataset: everything before the holdout, and nothing of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from safetensors import SafetensorError

from tasks.build_dataset import build_dataset
from tasks.domain.recipe import load_recipe
from tasks.finetune import finetune
from tasks.ranker.dataset import HOLDOUT, Dataset
from tests.shop import LAST, Shop, open_shop

RECIPE = load_recipe("tiny")
FIRST, NEXT = "2017-06-16", "2017-06-20"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("dataset")


@pytest.fixture(scope="module")
def shop(home):
    return open_shop(home / "shop", last=LAST + 4)


def built(shop, home, name, partition=NEXT, champion=True):
    out = home / name
    out.mkdir()
    view = home / "first" / "view" if champion else None
    told = build_dataset(shop.accepted, shop.plans, shop.catalogue, partition, RECIPE, home / "cache", out, view)
    return out, told


def trained(dataset, folder):
    """(what finetune wrote, by name; the directory)"""
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True)
    finetune(dataset, RECIPE, folder / "work", folder / "out", seed=1, threads=1)
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.suffix != ".png"}


@pytest.fixture(scope="module")
def dataset(shop, home):
    built(shop, home, "first", FIRST, champion=False)
    return built(shop, home, "next")[0]


@pytest.fixture(scope="module")
def model(dataset, home):
    return trained(dataset, home / "model")


def test_training_does_the_same_where_the_holdout_cannot_be_read(dataset, model, home):
    poisoned = home / "poisoned"
    shutil.copytree(dataset, poisoned)
    (poisoned / HOLDOUT).write_bytes(b"not a file of tensors")
    assert trained(poisoned, home / "model-poisoned") == model
    with pytest.raises(SafetensorError):
        list(Dataset.open(poisoned).mornings(Dataset.open(poisoned).split.holdout_days))


def test_the_weights_do_not_depend_on_what_the_holdout_days_hold(shop, home, dataset, model):
    """Other purchases, of other people, on every holdout day: the same weights, from the same rows."""
    held_out = Dataset.open(dataset).split.holdout_days
    assert len(held_out) == RECIPE.data.holdout_days
    other = Shop([swapped(path, held_out, home / "other") for path in shop.accepted], shop.plans, shop.catalogue)
    changed, _ = built(other, home, "changed")
    assert (changed / HOLDOUT).read_bytes() != (dataset / HOLDOUT).read_bytes()
    for path in sorted((dataset / "train").iterdir()):
        assert (changed / "train" / path.name).read_bytes() == path.read_bytes()
    weights = trained(changed, home / "model-changed")
    assert weights["parent.safetensors"] == model["parent.safetensors"]


def swapped(path: Path, days: tuple[str, ...], folder: Path) -> Path:
    if not any(f"dt={day}" in path.as_posix() for day in days):
        return path
    target = folder / path.parent.name / path.name
    target.parent.mkdir(parents=True)
    events = pl.read_parquet(path)
    items = events["item_id"].str.slice(5).cast(pl.Int32)
    events.with_columns(
        user_id=events["user_id"].reverse(),
        item_id=pl.lit("item-") + ((items + 71) % 150).cast(pl.String).str.zfill(3),
    ).write_parquet(target)
    return target
