"""finetune on the made-up shop with the tiny recipe: what it learns, and that it ends the same however often it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks.domain.errors import InputRejected
from tasks.finetune import CHECKPOINT, finetune
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import judge, mean_of, personal_then_popular
from tasks.ranker.rank import recommend
from tasks.ranker.rows import Rows
from tasks.ranker.runtime import PARENT, TorchScorer
from tasks.ranker.training import Run
from tests.tiny_training import RECIPE, ROOT, trained


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
    whole = (model[0].parent / "work" / CHECKPOINT).read_bytes()
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
    shutil.copytree(model[0].parent / "work", folder / "work")
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
