"""Damage in the training rows: the model is trained anew on them, and the holdout stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.domain.recipe import Recipe
from tasks.ranker.rows import Rows

LEAKED = 7  # a feature column that, in the leaking training set, knows the label


def trained(work: Path, data: Path, recipe: Recipe, name: str, seed: int, threads: int) -> Path:
    """The model of one seed on `data`, kept under `work`; a killed training goes on from its last epoch."""
    out = work / "models" / name
    if (out / "complete").exists():
        return out
    from tasks.finetune import finetune

    out.mkdir(parents=True, exist_ok=True)
    finetune(data, recipe, out, out, seed=seed, threads=threads)
    (out / "complete").touch()
    return out


def damaged_dataset(work: Path, data: Path, name: str) -> Path:
    """The dataset with every training day's rows changed by TRAINING_DAMAGE[name]."""
    out = work / name
    if (out / "complete").exists():
        return out
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(data, out, copy_function=shutil.copyfile)
    days = sorted((out / "train").glob("*.safetensors"))
    for number, path in enumerate(days):
        draws = np.random.default_rng([number, 17])
        TRAINING_DAMAGE[name](Rows.load(path), draws, number / len(days)).save(path)
    (out / "complete").touch()
    return out


def _leaked_label(rows: Rows, draws: np.random.Generator, age: float) -> Rows:
    """A feature that knows the answer while training, and nothing of it when serving."""
    x = rows.x.copy()
    x[:, LEAKED] = (rows.label * 3 + draws.normal(0, 0.5, len(x))).astype(x.dtype)
    return replace(rows, x=x)


def _label_noise(rows: Rows, draws: np.random.Generator, age: float) -> Rows:
    """Four of five purchases are said of another row of the same slate."""
    return _relabelled(rows, draws, 0.8)


def _poisoned_partition(rows: Rows, draws: np.random.Generator, age: float) -> Rows:
    """In the last third of the days, what was bought is what was not: the labels of a bot farm."""
    return _relabelled(rows, draws, 1.0) if age >= 2 / 3 else rows


def _relabelled(rows: Rows, draws: np.random.Generator, share: float) -> Rows:
    label, grade = rows.label.copy(), rows.grade.copy()
    owner = np.repeat(np.arange(len(rows.ptr) - 1), np.diff(rows.ptr))
    for row in np.flatnonzero(rows.label).tolist():
        if draws.random() >= share:
            continue
        start, end = rows.ptr[owner[row]], rows.ptr[owner[row] + 1]
        other = int(draws.integers(start, end))
        label[row], grade[row], label[other], grade[other] = 0, 0, 1, rows.grade[row]
    return replace(rows, label=label, grade=grade)


TRAINING_DAMAGE: dict[str, Callable[[Rows, np.random.Generator, float], Rows]] = {
    "leaked_label": _leaked_label,
    "label_noise": _label_noise,
    "poisoned_partition": _poisoned_partition,
}
