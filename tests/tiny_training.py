"""build_dataset and finetune on the made-up shop with the tiny recipe: what conftest.py of the integration tests does once."""

from __future__ import annotations

from pathlib import Path

from tasks.build_dataset import build_dataset
from tasks.domain.recipe import load_recipe
from tasks.finetune import finetune

RECIPE = load_recipe("tiny")
PARTITION, NEXT = "2017-06-16", "2017-06-19"
ROOT = Path(__file__).resolve().parents[1]


def built(shop, home, partition, champion=None):
    out = home / f"dataset-{partition}"
    out.mkdir()
    told = build_dataset(shop.accepted, shop.plans, shop.catalogue, partition, RECIPE, home / "cache", out, champion)
    return out, told


def trained(dataset, folder, seed=1, threads=1):
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir()
    return folder / "out", finetune(dataset, RECIPE, folder / "work", folder / "out", seed=seed, threads=threads)
