"""What training may read of a dataset: everything before the holdout, nothing of it, and what serving will see."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors import SafetensorError

from tasks.build_dataset import SEED, build_dataset
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Augmentation, Exposure, load_recipe
from tasks.finetune import finetune
from tasks.ranker.corpus import Corpus
from tasks.ranker.dataset import HOLDOUT, Dataset
from tasks.ranker.features import FEATURES, columns
from tasks.ranker.fitted import FILE
from tasks.ranker.judge import judge, mean_of, prepare
from tasks.ranker.knowledge import NULLABLE
from tasks.ranker.parts import Parts
from tasks.ranker.profile import Profile
from tasks.ranker.rank import rank
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.rows import Sampling, training_rows
from tasks.ranker.runtime import TorchScorer
from tasks.ranker.slates import slates_on
from tasks.ranker.state import ItemState, View
from tasks.ranker.tokens import tokenise
from tasks.system_metrics import FILE as SYSTEM
from tests.shop import LAST, Shop, open_shop, with_lists

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
    """What finetune wrote, by name, but pictures and what the machine did meanwhile."""
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True)
    finetune(dataset, RECIPE, folder / "work", folder / "out", seed=1, threads=1)
    return {
        path.name: path.read_bytes()
        for path in (folder / "out").iterdir()
        if path.suffix != ".png" and path.name != SYSTEM
    }


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


def test_what_is_fitted_depends_on_training_days_only(shop, home, dataset):
    split = Dataset.open(dataset).split
    later = split.validation_days + split.holdout_days
    other = Shop([swapped(path, later, home / "other-later") for path in shop.accepted], shop.plans, shop.catalogue)
    changed, _ = built(other, home, "changed-later")
    assert (changed / FILE).read_bytes() == (dataset / FILE).read_bytes()
    earlier = Shop(
        [swapped(path, split.train_days[-1:], home / "other-train") for path in shop.accepted],
        shop.plans,
        shop.catalogue,
    )
    changed, _ = built(earlier, home, "changed-train")
    assert (changed / FILE).read_bytes() != (dataset / FILE).read_bytes()


def test_served_features_are_those_that_are_trained_on(home, dataset):
    """What the service makes of a request with the state and view released on one day is, bit for bit, what a later
    dataset makes training rows of.
    """
    released, view = ItemState.load(home / "first" / "items"), View(home / "first" / "view")
    data = Dataset.open(dataset)
    day = released.day
    rows = training_rows(data.whole, day, data.text_digests, Sampling(1, 1, 0, SEED))
    _, slates = slates_on(data.whole, day)
    assert len(slates) > 5
    for n, slate in enumerate(slates):
        mine = slice(rows.ptr[n], rows.ptr[n + 1])
        served = Profile(released, view.get(data.whole.log.user_ids[slate.user]), released.day)
        candidates = candidates_of(served)
        np.testing.assert_array_equal(rows.x[mine], columns(served, candidates).astype(np.float16))
        tokens, mask = tokenise(served, candidates)
        np.testing.assert_array_equal(rows.lengths[mine], mask.sum(1))
        start = int(rows.lengths[: mine.start].sum())
        packed = tokens[mask > 0].astype(np.float16)
        np.testing.assert_array_equal(rows.tokens[start : start + len(packed)], packed)
        bought = {released.ids[row] for row in candidates[rows.label[mine] > 0]}
        assert bought == {data.whole.log.items.ids[i] for i in lines_of(data, day, slate.user)} & set(
            released.ids[: released.size]
        )


def lines_of(data, day, user):
    log = data.whole.log
    return log.item[(log.day == day) & (log.user == user)].tolist()


def test_parts_are_compared_and_the_training_set_is_judged(dataset):
    told = Parts.model_validate_json((dataset / "parts.json").read_bytes())
    split = Dataset.open(dataset).split
    assert {name: part.days for name, part in told.parts.items()} == {
        "train": len(split.train_days),
        "validation": len(split.validation_days),
        "holdout": len(split.holdout_days),
    }
    assert (told.parts["train"].slates, told.parts["train"].rows) == (split.slates, split.rows)
    assert set(told.drift) == set(FEATURES) and told.worst[1].psi > 0
    assert told.unknown_share == {"department": 0, "category": 0, "type": 0}
    assert "training_set" in (dataset / "data_docs" / "training_set.html").read_text()


def test_rows_that_teach_no_order_are_refused(shop, home):
    recipe = RECIPE.model_copy(
        update={"data": RECIPE.data.model_copy(update={"keep_bought": 1e-9, "keep_other": 1e-9})}
    )
    out = home / "unsound"
    out.mkdir()
    with pytest.raises(InputRejected, match="training set is not sound: .*everything was bought teaches no order"):
        build_dataset(shop.accepted, shop.plans, shop.catalogue, FIRST, recipe, home / "cache", out, None)
    assert "training_set" in (out / "data_docs" / "training_set.html").read_text()


@pytest.mark.parametrize("bias", ["weights", "input"])
def test_a_log_of_lists_is_trained_on_with_every_switch_turned(shop, home, bias):
    recipe = RECIPE.model_copy(
        update={
            "data": RECIPE.data.model_copy(update={"label_delay_days": 1, "hard_negatives": 2, "knowledge": True}),
            "exposure": Exposure(slates="both", keep_unseen=0.05, position_bias=bias),
            "augmentation": Augmentation(views=1, synonyms={"milk": "mlk"}, drop_words=0.2),
        }
    )
    accepted = [with_lists(path, home / f"lists-{bias}") for path in shop.accepted]
    out = home / f"with-lists-{bias}"
    out.mkdir()
    told = build_dataset(accepted, shop.plans, shop.catalogue, FIRST, recipe, home / "cache", out, None)
    data = Dataset.open(out)
    assert told["answers_to_nothing_shown"] == 0
    rows = list(data.training_rows())
    assert any((part.position > 0).any() for part in rows) and {g for part in rows for g in part.grade} == {0, 1, 3}
    fitted = data.fitted
    assert (len(fitted.looked_at) == 8) is (bias == "weights") and fitted.inputs.position is (bias == "input")
    assert set(fitted.inputs.nullable) == set(NULLABLE)
    corpus = Corpus(data)
    plain, drawn = (corpus.batch(np.arange(3), draw).padded()[1] for draw in (None, np.random.default_rng(1)))
    assert 0.3 < (plain == drawn).all(1).numpy().mean() < 0.7, "half of the rows read the other way to write the text"
    if bias == "weights":
        assert fitted.looked_at[0] == 1 and max(fitted.looked_at[3:]) < 0.6
        assert 1 < corpus.inverse.max() <= recipe.exposure.most_weight
    for name in ("work", "out"):
        (home / f"model-{bias}" / name).mkdir(parents=True)
    finetune(out, recipe, home / f"model-{bias}" / "work", home / f"model-{bias}" / "out", seed=1, threads=1)
    scorer = TorchScorer.load(home / f"model-{bias}" / "out")
    judged = prepare(data.mornings(data.split.validation_days))
    assert mean_of(judge(scorer, one) for one in judged)["ndcg_at_10[all]"] > 0.1
    stranger = rank(scorer, judged[0].ranked.profile.items, None, np.arange(20, dtype=np.int32))
    assert np.isfinite(stranger.scores).all(), "nobody has no history: what is unknown is filled in"


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
