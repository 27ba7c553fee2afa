"""A run's training, made again from what the run recorded, gives the same weights; and says so when it does not."""

from __future__ import annotations

import json

import pytest

from tasks.adapters.store import MemoryStore
from tasks.build_dataset import build_dataset
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import load_recipe
from tasks.explain.reproduce import reproduce
from tasks.run import Step, run
from tasks.settings import Settings
from tasks.steps import step_named
from tests.shop import open_shop

DAY = "2017-06-16"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with a dataset of the made-up shop and the training of the tiny recipe on it, by the real step."""
    home = tmp_path_factory.mktemp("reproduce")
    shop, settings, store = open_shop(home / "shop"), Settings(home=home / "home", recipe="tiny"), MemoryStore()

    def build(call):
        return build_dataset(
            shop.accepted, shop.plans, shop.catalogue, DAY, load_recipe("tiny"), home / "cache", call.out, None
        )

    dataset = run(Step("build_dataset", (), build), DAY, {}, settings, store=store)
    return store, settings, run(step_named("finetune"), DAY, {"build_dataset": dataset}, settings, store=store)


def test_the_same_dataset_recipe_and_seed_give_the_same_bytes(trained):
    store, settings, uri = trained
    before = store.list("")
    told = reproduce(store, uri, settings)
    assert told["reproduced"] and told["differs"] == {} and told["recorded"] == told["again"]
    assert store.list("") == before and not list(settings.data.glob("reproduce-*")), "nothing is published or left"


def test_weights_that_came_of_another_seed_are_not_reproduced_and_the_code_that_differs_is_named(trained):
    store, settings, uri = trained
    forged = json.loads(store.get(store.key(uri))) | {"seed": 5, "code_version": "0th3r"}
    store.put_new("runs/finetune/2017-06-16/forged.json", json.dumps(forged).encode())
    told = reproduce(store, store.uri("runs/finetune/2017-06-16/forged.json"), settings)
    assert not told["reproduced"] and list(told["differs"]) == ["code"]
    assert "other weights" in told["sentence"] and "0th3r -> " in told["sentence"]


def test_a_changed_recipe_and_a_run_without_a_training_are_refused(trained):
    store, settings, uri = trained
    manifest = json.loads(store.get(store.key(uri)))
    manifest["params"]["recipe_digest"] = "f" * 16
    store.put_new("runs/finetune/2017-06-16/recipe.json", json.dumps(manifest).encode())
    with pytest.raises(InputRejected, match="recipe tiny is .* now and was ffff"):
        reproduce(store, store.uri("runs/finetune/2017-06-16/recipe.json"), settings)
    with pytest.raises(InputRejected, match="rests on no training"):
        reproduce(store, manifest["inputs"]["build_dataset"], settings)
