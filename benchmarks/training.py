"""How fast the training loop is beside the Hugging Face Trainer, and that a killed training ends as if it had not been.

    make bench NAME=training

Speed: one network, one set of slates of the demo's households (Complete Journey, the 500 most active), one loss. A sample is a
slate. CPU time of the process, one thread, rounds of ours and the Trainer's in turn, the median of the rounds' ratios. The Trainer
runs with its defaults (8 slates a step, histories padded to the longest, fp32, no deterministic algorithms) on the network as it is
exported; and, to tell the loop from the batch size, with the recipe's slates a step.

Resume: one training of twelve days by SIGKILL at ten random steps, resumed each time by the same call; then the same
training without a kill. The digests of the weights must be equal.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks._demo_days import dataset, demo
from benchmarks._table import Row, at_least, publish
from tasks.domain.recipe import Recipe
from tasks.finetune import prepare_torch
from tasks.progress import Progress
from tasks.ranker.corpus import Corpus
from tasks.ranker.course import Course
from tasks.ranker.dataset import Dataset
from tasks.ranker.model import Ranker
from tasks.ranker.training import Run

WORK = Path(".freshrank/bench/training")
PARTITION, DAYS, ROUNDS, SLATES, SEED = "2017-07-01", 12, 5, 800, 1
KILLS = 10
TRAINER_TIMES = 3.0


def main() -> int:
    rows = [*speed(), *resume()]
    return 0 if publish("training", rows, ("torch", "transformers", "accelerate")) else 1


def speed() -> list[Row]:
    torch.set_num_threads(1)
    recipe = small()
    data = Dataset.open(dataset(WORK, recipe, PARTITION))
    corpus = Corpus(data)
    rows_a_slate = len(corpus.label) / corpus.slates
    size = recipe.training.slates_a_step
    peers = {"HF Trainer, its defaults (8 slates a step)": None, f"HF Trainer, {size} slates a step": size}
    found: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for _ in range(ROUNDS):
        found["ours"].append(_ours(data, corpus, recipe))
        for name, slates_a_step in peers.items():
            found[name].append(_trainer(data, corpus, recipe, slates_a_step))
    median = {name: statistics.median(values) for name, values in found.items()}
    ours = median.pop("ours")
    rows = [
        Row("slates a CPU second, demo recipe, fp32", ours, "slates/s", peers=median),
        Row("rows a CPU second", ours * rows_a_slate, "rows/s"),
        Row("rows a slate", rows_a_slate, ""),
    ]
    for name, slates_a_step in peers.items():
        bar = f"training samples a CPU second, ours / {name}"
        ratio = statistics.median(np.divide(found["ours"], found[name]).tolist())
        rows.append(at_least(bar, ratio, "x", TRAINER_TIMES) if slates_a_step is None else Row(bar, ratio, "x"))
    return rows


def small() -> Recipe:
    """The demo on twelve days, with one to validate on."""
    return demo(train_days=DAYS, validation_days=1)


def _model(data: Dataset, recipe: Recipe) -> Ranker:
    torch.manual_seed(SEED)
    model = Ranker(recipe.network, len(data.fitted.inputs.columns))
    model.standardise(np.array(data.fitted.mean, np.float32), np.array(data.fitted.scale, np.float32))
    return model


def _ours(data: Dataset, corpus: Corpus, recipe: Recipe) -> float:
    course = Course(recipe.training, SEED, np.arange(SLATES), 1, recipe.training.learning_rate)
    prepare_torch()
    with tempfile.TemporaryDirectory() as folder, Progress("ours", course.steps, "steps") as bar:
        run = Run(
            _model(data, recipe), corpus, course, torch.device("cpu"), 1, Path(folder) / "checkpoint", "benchmark"
        )
        began = time.process_time()
        run.train_epoch(bar)
        return SLATES / (time.process_time() - began)


def _trainer(data: Dataset, corpus: Corpus, recipe: Recipe, slates_a_step: int | None) -> float:
    from benchmarks._hf_peer import slates_a_cpu_second

    return slates_a_cpu_second(_model(data, recipe), corpus, recipe.training, slates_a_step, SLATES)


def resume() -> list[Row]:
    """Kills by SIGKILL, sent by the process to itself in the middle of a step that was drawn; the timer of checkpoints runs."""
    recipe = small()
    folder = dataset(WORK, recipe, PARTITION)
    slates = Dataset.open(folder).split.slates
    steps = recipe.training.epochs * -(-slates // recipe.training.slates_a_step)
    at = sorted(np.random.default_rng(SEED).choice(np.arange(2, steps), KILLS, replace=False).tolist())
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lost = []
        for step in at:
            began = _train(folder, work / "killed", step)
            lost.append(step - 1 - began)
        _train(folder, work / "killed", 0)
        _train(folder, work / "whole", 0)
        told = [json.loads((work / one / "told.json").read_text())["weights_digest"] for one in ("killed", "whole")]
    print(f"killed at steps {at} of {steps}; steps that a kill threw away: {lost}; weights {told}")
    same = float(told[0] == told[1])
    return [
        at_least(
            f"killed at {KILLS} random steps of {steps}, resumed: same weights as without a kill", same, "of 1", 1
        ),
        Row("steps that a kill threw away, mean", float(np.mean(lost)), "steps"),
    ]


def _train(folder: Path, out: Path, kill_at: int) -> int:
    """Run the training until its end, or until it dies in step `kill_at`; the steps that were already done when it began."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.training", str(folder), str(out), str(kill_at)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    if done.returncode != (-signal.SIGKILL if kill_at else 0):
        raise SystemExit(f"the training ended with {done.returncode}: {done.stderr[-2000:]}")
    return int((out / "began").read_text())


def _child(folder: Path, out: Path, kill_at: int) -> None:
    from tasks.finetune import finetune
    from tasks.ranker import training

    loss = training.Run._loss
    began: list[int] = []

    def dying(run: Run, model: Ranker, batch: object) -> torch.Tensor:
        if not began:
            began.append(run.steps_done)
            (out / "began").write_text(str(run.steps_done))
        if kill_at and run.steps_done == kill_at - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(run, model, batch)  # type: ignore[arg-type]

    training.Run._loss = dying  # type: ignore[method-assign, assignment]
    training.SAVED_EVERY_S = 1.0  # the training is short
    told = finetune(folder, small(), out, out, seed=SEED, threads=1)
    (out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
