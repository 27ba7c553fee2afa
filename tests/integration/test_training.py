"""build_dataset -> finetune -> compress -> evaluate on a made-up shop, with the tiny recipe."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tasks.build_dataset import build_dataset
from tasks.compress import compress, lost_by_stage
from tasks.compression.variants import batch_dependence
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import load_recipe
from tasks.evaluate import evaluate
from tasks.finetune import CHECKPOINT, finetune
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import judge, mean_of, personal_then_popular, prepare
from tasks.ranker.rank import recommend
from tasks.ranker.rows import Rows
from tasks.ranker.runtime import PARENT, OpenVinoScorer, TorchScorer
from tasks.ranker.state import View
from tasks.ranker.text import QueryEncoder
from tasks.ranker.training import Run
from tests.shop import LAST, USERS, open_shop

RECIPE = load_recipe("tiny")
PARTITION, NEXT = "2017-06-16", "2017-06-19"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def shop(home):
    return open_shop(home / "shop", last=LAST + 3)


def built(shop, home, partition, champion=None):
    out = home / f"dataset-{partition}"
    out.mkdir()
    told = build_dataset(shop.accepted, shop.plans, shop.catalogue, partition, RECIPE, home / "cache", out, champion)
    return out, told


@pytest.fixture(scope="module")
def dataset(shop, home):
    return built(shop, home, PARTITION)[0]


def trained(dataset, folder, seed=1, threads=1):
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir()
    return folder / "out", finetune(dataset, RECIPE, folder / "work", folder / "out", seed=seed, threads=threads)


@pytest.fixture(scope="module")
def model(dataset, home):
    return trained(dataset, home / "model")


@pytest.fixture(scope="module")
def compressed(model, dataset, home):
    out = home / "compressed"
    out.mkdir()
    return out, compress(model[0], dataset, RECIPE, home / "cache", out)


@pytest.fixture(scope="module")
def slates(dataset):
    data = Dataset.open(dataset)
    return prepare(data.mornings(data.split.validation_days))


def test_it_learns_to_beat_counting(model, slates):
    scorer = TorchScorer.load(model[0])
    ours = mean_of(judge(scorer, one) for one in slates)["ndcg_at_10[all]"]
    counting = mean_of(personal_then_popular(one) for one in slates)["ndcg_at_10[all]"]
    assert ours > counting + 0.02
    curve = json.loads((model[0] / "curves.json").read_text())
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert len(curve) == RECIPE.training.epochs


def test_the_same_seed_gives_the_same_weights_on_any_number_of_threads_and_another_does_not(model, dataset, home):
    again = trained(dataset, home / "again", threads=2)[1]
    other = trained(dataset, home / "other", seed=2)[1]
    assert again["weights_digest"] == model[1]["weights_digest"] != other["weights_digest"]


def killed_at(step, dataset, folder):
    """A training that dies by SIGKILL in the middle of this step (1 for the first), with a checkpoint after each."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tasks.domain.recipe import load_recipe; from tasks.finetune import finetune\n"
        "from tasks.ranker import training\n"
        "loss = training.Run._loss\n"
        "def dying(self, model, batch):\n"
        "    if self.steps_done == int(sys.argv[3]) - 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return loss(self, model, batch)\n"
        "training.Run._loss, training.SAVED_EVERY_S = dying, 0\n"
        "data, work = map(Path, sys.argv[1:3])\n"
        "finetune(data, load_recipe('tiny'), work, work, seed=1, threads=1)\n"
    )
    command = [sys.executable, "-c", program, str(dataset), str(folder / "work"), str(step)]
    died = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    return died.stderr


def test_a_training_killed_twice_in_the_middle_of_an_epoch_ends_as_if_it_had_not_been(model, dataset, home):
    folder = home / "killed"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / f".{CHECKPOINT}.{socket.gethostname()}-999999999-abc.draft").write_bytes(
        b"what a writer that was killed leaves behind"
    )
    killed_at(4, dataset, folder)
    assert [path.name for path in (folder / "work").iterdir()] == [CHECKPOINT]
    steps = model[1]["train_slates"] // RECIPE.training.slates_a_step + 1
    killed_at(steps + 3, dataset, folder)  # in the second epoch
    resumed = trained(dataset, folder)[1]
    assert resumed["weights_digest"] == model[1]["weights_digest"]
    assert (folder / "out" / "curves.json").read_text() == (model[0] / "curves.json").read_text()


def test_altered_histories_and_adversarial_steps_are_drawn_anew_after_a_crash_and_once_for_each_seed(
    dataset, home, monkeypatch, caplog
):
    caplog.set_level("INFO", "freshrank.finetune")
    augmentation = RECIPE.augmentation.model_copy(
        update={"crop_history": 0.3, "mask_history": 0.2, "reorder_history": 0.3}
    )
    training = RECIPE.training.model_copy(update={"epochs": 1, "adversarial": 0.2})
    switched = RECIPE.model_copy(update={"augmentation": augmentation, "training": training})
    backward = Run._backward

    def crashing(self, step, slates):
        if step == 4:
            raise MemoryError
        return backward(self, step, slates)

    digests = []
    for name, crashes in (("switched", False), ("switched-crashed", True)):
        folder = home / name
        folder.mkdir()
        if crashes:
            with monkeypatch.context() as patched, pytest.raises(MemoryError):
                patched.setattr(Run, "_backward", crashing)
                patched.setattr("tasks.ranker.training.SAVED_EVERY_S", 0)
                finetune(dataset, switched, folder, folder, seed=1, threads=1)
            assert (folder / CHECKPOINT).exists()
        digests.append(finetune(dataset, switched, folder, folder, seed=1, threads=2)["weights_digest"])
    assert digests[0] == digests[1] and "outcome=resumed epoch=0 step=4" in caplog.text
    plain = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"epochs": 1})})
    (home / "one-epoch").mkdir()
    assert (
        finetune(dataset, plain, home / "one-epoch", home / "one-epoch", seed=1, threads=1)["weights_digest"]
        != digests[0]
    )


def test_a_damaged_checkpoint_is_not_resumed(model, dataset, home):
    folder = home / "damaged"
    (folder / "work").mkdir(parents=True)
    whole = (home / "model" / "work" / CHECKPOINT).read_bytes()
    (folder / "work" / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    assert trained(dataset, folder)[1]["weights_digest"] == model[1]["weights_digest"]


def test_a_training_from_the_champions_weights_is_one_short_epoch_that_begins_lower(model, dataset, home):
    training = RECIPE.training.model_copy(update={"start": "champion"})
    warm = RECIPE.model_copy(update={"training": training})
    for name in ("warm", "alone"):
        (home / name).mkdir()
    told = finetune(dataset, warm, home / "warm", home / "warm", seed=2, threads=1, champion=model[0])
    assert told["started_from"] == model[1]["weights_digest"] != told["weights_digest"]
    assert told["best_epoch"] == len(json.loads((home / "warm" / "curves.json").read_text())) == 1
    first = json.loads((model[0] / "curves.json").read_text())[0]
    assert told["loss"] < first["loss"], "it begins where the champion ended"
    alone = finetune(dataset, warm, home / "alone", home / "alone", seed=1, threads=1)
    assert alone["weights_digest"] == model[1]["weights_digest"], "without a champion it starts afresh"


def test_system_metrics_and_the_recipe_are_written_beside_the_curves(model):
    points = json.loads((model[0] / "system.json").read_text())
    assert points and all(name.startswith("system/") for name in points[0])
    assert points[-1]["system/process_memory_usage_megabytes"] > 50
    assert json.loads((model[0] / "recipe.json").read_text())["training"]["epochs"] == RECIPE.training.epochs


def test_a_checkpoint_of_another_run_is_not_resumed(model, dataset, home):
    folder = home / "foreign"
    shutil.copytree(home / "model" / "work", folder / "work")
    assert trained(dataset, folder, seed=2)[1]["weights_digest"] != model[1]["weights_digest"]


def test_a_loss_that_is_not_a_number_stops_the_training_with_a_sentence(dataset, home, monkeypatch):
    original = Run._loss

    def poisoned(self, model, batch):
        return original(self, model, batch) * (float("nan") if self.epoch == 1 else 1.0)

    monkeypatch.setattr(Run, "_loss", poisoned)
    with pytest.raises(InputRejected, match=r"loss became nan in step \d+ \(epoch 2.*nothing was published"):
        trained(dataset, home / "poisoned")
    assert not list((home / "poisoned" / "out").iterdir())


def test_a_stranger_is_offered_what_sells(model, slates):
    """Every selected user has a history; without the barely known among the rows, strangers would get anything."""
    items = slates[0].ranked.profile.items
    rows, ranking = recommend(TorchScorer.load(model[0]), items, None)
    sales = items.sales28[rows[ranking.order]]
    assert ranking.stage == "base"
    assert sales[:20].mean() > 1.45 * items.sales28.mean()


def test_int8_stays_close_to_its_parent(compressed, model, slates):
    out, told = compressed
    assert told["chosen"] in ("int8", "int8-low-rank"), told["variants"]
    small, parent = OpenVinoScorer(out / "model"), TorchScorer.load(model[0])
    x, rows = slates[0].ranked.x, slates[0].ranked.candidates
    vectors = slates[0].ranked.profile.items.vectors(rows)
    assert np.corrcoef(small.base(x, vectors), parent.base(x, vectors))[0, 1] > 0.99
    assert mean_of(judge(small, one) for one in slates)["ndcg_at_10[all]"] == pytest.approx(
        mean_of(judge(parent, one) for one in slates)["ndcg_at_10[all]"], abs=0.03
    )


def test_no_score_depends_on_its_batch_mates(compressed, slates):
    scorer = OpenVinoScorer(compressed[0] / "model")
    assert batch_dependence(scorer, slates[0]) <= 1e-5


def test_a_variant_whose_scores_depend_on_their_mates_is_seen(slates):
    class Centred:
        def base(self, x, item_vec):
            return x[:, 0] - x[:, 0].mean()

        def full(self, x, item_vec, tokens, mask):
            return self.base(x, item_vec)

    assert batch_dependence(Centred(), slates[0]) > 1e-5


def test_the_front_names_every_variant_and_its_price(compressed):
    front = json.loads((compressed[0] / "front.json").read_text())
    assert [one["name"] for one in front["variants"]] == list(RECIPE.compression.variants)
    assert all(one["cost"]["bytes"] > 0 and one["cost"]["cpu_ms_1000"] > 0 for one in front["variants"])
    assert (compressed[0] / "front.png").stat().st_size > 1_000
    assert front["text"]["mean_cosine"] > 0.98 and front["text"]["bytes"] < front["text"]["original_bytes"] / 3


def test_the_front_says_where_the_loss_comes_from_and_what_a_process_takes(compressed):
    front = json.loads((compressed[0] / "front.json").read_text())
    assert set(front["lost"]) == {"all", "stage 1", "stage 2"} and not front["dropped"]
    chosen = next(one for one in front["variants"] if one["name"] == front["chosen"])
    for metric, lost in front["lost"]["all"].items():
        assert lost == pytest.approx(chosen["quality"][metric] - chosen["parent"][metric])
    for one in front["variants"]:
        assert 0 < one["cost"]["p50_ms"] <= one["cost"]["p95_ms"] <= one["cost"]["p99_ms"]
        assert one["cost"]["peak_bytes"] > 0


def test_the_loss_of_a_stage_is_what_that_stage_alone_changes(model, slates):
    parent = TorchScorer.load(model[0])
    rows = [judge(parent, one) for one in slates]

    class Turned:
        """Stage 2 upside down, stage 1 as it was."""

        def full(self, *inputs):
            return -parent.full(*inputs)

        base = staticmethod(parent.base)

    lost = lost_by_stage(Turned(), parent, slates, rows)
    assert lost["stage 2"]["ndcg_at_10[all]"] < -0.01
    assert lost["stage 1"]["ndcg_at_10[all]"] == 0


def test_unchanged_variants_are_not_made_again_and_one_that_cannot_be_made_is_left_out(
    compressed, model, dataset, home, tmp_path, monkeypatch
):
    def unsupported(name, *others):
        raise RuntimeError(f"No conversion rule found for operations: aten::frobnicate\nin {name}")

    monkeypatch.setattr("tasks.compression.variants.make_variant", unsupported)
    other_rank = RECIPE.model_copy(update={"compression": RECIPE.compression.model_copy(update={"rank": 4})})
    # what does not change with the rank is known already
    told = compress(model[0], dataset, other_rank, home / "cache", tmp_path)
    front = json.loads((tmp_path / "front.json").read_text())
    assert list(front["dropped"]) == ["int8-low-rank"] and "aten::frobnicate" in told["variants"]["int8-low-rank"]
    assert front["chosen"] in ("fp32", "int8")


def test_without_any_variant_nothing_goes_forward_and_the_reasons_are_told(model, dataset, tmp_path, monkeypatch):
    def missing(*args):
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr("tasks.compress.cached_variant", missing)
    told = compress(model[0], dataset, RECIPE, tmp_path / "cache", tmp_path)
    assert told["chosen"] == "none" and {path.name for path in tmp_path.iterdir() if path.name != "cache"} == {
        "front.json"
    }
    front = json.loads((tmp_path / "front.json").read_bytes())
    assert front["chosen"] is None and "(fp32: could not be made or loaded here: No module named" in front["reason"]


def test_what_goes_forward_serves_without_torch_and_keeps_the_parent(compressed, model):
    out = compressed[0]
    assert (out / "model" / PARENT).read_bytes() == (model[0] / PARENT).read_bytes()
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["train_end"] == PARTITION and config["variant"]["name"] == compressed[1]["chosen"]
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from tasks.ranker.rank import recommend; from tasks.ranker.runtime import OpenVinoScorer\n"
        "from tasks.ranker.state import ItemState, View; from tasks.ranker.text import QueryEncoder\n"
        "out, data = map(Path, sys.argv[1:]); items, view = ItemState.load(data / 'items'), View(data / 'view')\n"
        "rows, ranking = recommend(OpenVinoScorer(out / 'model'), items, view.get(view.user_ids[0]))\n"
        "assert ranking.stage == 'full' and np.isfinite(ranking.scores).all()\n"
        "assert abs(np.linalg.norm(QueryEncoder(out / 'text').encode('fresh milk')) - 1) < 1e-3\n"
        "heavy = {'torch', 'transformers', 'nncf', 'polars', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    dataset = out.parent / f"dataset-{PARTITION}"
    command = [sys.executable, "-c", program, str(out), str(dataset)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_query_finds_what_it_names(compressed, dataset):
    from tasks.ranker.retrieve import similar_to
    from tasks.ranker.state import ItemState

    items = ItemState.load(dataset / "items")
    found = similar_to(items, QueryEncoder(compressed[0] / "text").encode("coffee"), 5)
    assert all(int(items.ids[row][-3:]) % 5 == 3 for row in found), "item numbers of coffee"


def test_the_next_day_keeps_users_and_days_and_compares_on_days_nobody_saw(
    shop, home, dataset, model, compressed, monkeypatch
):
    champion = home / "champion"
    shutil.copytree(compressed[0], champion / "release")
    shutil.copytree(dataset / "items", champion / "release" / "items")
    made_before = {path.name for path in (home / "cache" / "days").iterdir()}
    out, told = built(shop, home, NEXT, dataset / "view")
    split = Dataset.open(out).split
    assert split.holdout_days == ("2017-06-17", "2017-06-18", "2017-06-19")
    assert told["holdout_first_day"] > json.loads((compressed[0] / "model" / "config.json").read_text())["train_end"]
    assert set(View(out / "view").user_ids) == set(View(dataset / "view").user_ids)
    assert len(View(out / "view")) == min(USERS, RECIPE.data.users)
    new_days = {path.name for path in (home / "cache" / "days").iterdir()} - made_before
    before = Dataset.open(dataset).split
    wanted = {*split.train_days, *split.validation_days, *split.holdout_days}
    assert len(new_days) == len(wanted - {*before.train_days, *before.validation_days})

    target = home / "evaluated"
    target.mkdir()
    groups = {user: {"age": "65+"} for user in View(dataset / "view").user_ids}
    summary = evaluate(out, compressed[0], champion, dataset / "view", target, groups, previous=champion)
    told = json.loads((target / "evaluation.json").read_text())["candidates"]
    assert told["weights"]["candidate"] == told["weights"]["champion"], "the same model is its own equal"
    assert told["weights"]["transformer_zeroed"]["ndcg_at_10[all]"] != told["weights"]["candidate"]["ndcg_at_10[all]"]
    assert told["state"]["first_day"] == NEXT
    assert told["state"]["candidate"]["ndcg_at_10[all]"] > told["state"]["champion"]["ndcg_at_10[all]"], (
        "fresh state pays"
    )
    assert summary["weights.gp_topfreq"] < summary["weights.candidate.ndcg_at_10[all]"]
    assert told["weights"]["previous_champion"]["ndcg_at_10[all]"] == told["weights"]["champion"]["ndcg_at_10[all]"]
    simpler = {
        name: told["weights"][name]["ndcg_at_10[all]"] for name in ("lightgbm", "own_frequency", "global_frequency")
    }
    assert simpler["lightgbm"] > simpler["own_frequency"] > simpler["global_frequency"] > 0, "trees learn habits, too"
    assert told["weights"]["lightgbm_trained_on"]["trees"] > 10
    assert told["weights"]["slices"]["group_age_65"]["slates"] == told["weights"]["slates"]
    slates = pq.read_table(target / "slates.parquet")
    of_weights = slates.filter(np.array(slates["kind"].to_pylist()) == "weights")
    assert of_weights["slate"].to_pylist() == list(range(told["weights"]["slates"]))
    for name, one in told["weights"]["slices"].items():
        assert sum(of_weights[f"slice.{name}"].to_pylist()) == one["slates"], name
    assert told["weights"]["slices"]["head_items"]["slates"] > 0
    assert np.mean(of_weights["rival.lightgbm.ndcg_at_10[all]"].to_numpy()) == pytest.approx(simpler["lightgbm"])
    means = {name.removeprefix("candidate."): slates[name] for name in slates.column_names if "candidate." in name}
    assert {"auc[all]", "accuracy[all]", "logloss[all]", "value_ndcg_at_10[all]", "f1_at_10[new]"} <= set(means)
    report = told["weights"]["report"]
    assert report["candidate"] == report["champion"], "the same model is its own equal"
    assert 0.5 < report["candidate"]["gauc"] < 1 and 0 < report["candidate"]["coverage_at_10"] <= 1
    assert sum(one["count"] for one in report["candidate"]["reliability"]) > 100 * told["weights"]["slates"]


def test_a_first_champion_is_compared_with_counting_and_its_behaviour_is_checked(dataset, compressed, home):
    target = home / "evaluated-first"
    target.mkdir()
    evaluate(dataset, compressed[0], None, None, target)
    told = json.loads((target / "evaluation.json").read_text())["candidates"]["bootstrap"]
    assert told["champion"] == told["gp_topfreq"] and "skipped" in told["previous_champion"]
    assert set(told["report"]["champion"]) == {"coverage_at_10", "gini_at_10"}, "counting gives no probabilities"
    assert [one["name"] for one in told["checks"] if not one["ok"]] == []
    assert len(told["checks"]) == 6
    asked = told["queries"]["ndcg_at_10"]
    assert asked["plain"] >= asked["typo"] and asked["plain"] > asked["stuffed_titles"]
    assert told["counterfactual"] is None, "a log of purchases says nothing about what was shown"


def test_rows_of_a_day_hold_every_retrieved_positive_and_stand_for_all_candidates(dataset):
    data = Dataset.open(dataset)
    rows = Rows.load(dataset / "train" / f"{data.split.train_days[-1]}.safetensors")
    (_, slates), *_ = list(data.mornings(data.split.train_days[-1:]))
    assert len(slates) <= len(rows.ptr) - 1 <= 2 * len(slates), "some slates come twice, as of a stranger"
    assert rows.lengths.sum() == len(rows.tokens)
    assert 0 < rows.label.sum() <= 2 * sum(len(slate.positives) for slate in slates)
    assert (rows.weight[rows.label == 1] == 1).all()
    # every slate's rows stand for the whole catalogue here: it is smaller than what is retrieved
    stands_for = np.add.reduceat(rows.weight, rows.ptr[:-1])
    assert stands_for.mean() == pytest.approx(150, rel=0.25)


def test_only_safe_files_are_written(model, compressed, dataset):
    kinds = {
        path.suffix for folder in (model[0], compressed[0], dataset) for path in folder.rglob("*") if path.is_file()
    }
    assert kinds <= {".safetensors", ".json", ".png", ".xml", ".bin", ".html"}
    assert set(load_file(model[0] / PARENT))
