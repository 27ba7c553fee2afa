"""Dataset -> the fp32 ranker: item text and purchase-history transformer fused with features, trained end to end.

The epoch with the best validation NDCG@10 is kept. Never reads the holdout. A killed run goes on from its last
checkpoint, a few seconds back, and ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json, digest_of
from tasks.domain.recipe import Recipe, Search, Training
from tasks.domain.warm_start import why_not
from tasks.progress import Progress
from tasks.ranker.arrays import epoch_day
from tasks.ranker.corpus import Corpus
from tasks.ranker.course import Course
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import Judged, judge, mean_of, prepare
from tasks.ranker.model import Ranker
from tasks.ranker.runtime import PARENT, TorchScorer
from tasks.ranker.search.fit import fit_search
from tasks.ranker.tokens import MAX_TOKENS, TOKEN
from tasks.ranker.training import QUALITY, Run
from tasks.ranker.trees import fit_member, trees_of
from tasks.ranker.warm_start import start_from
from tasks.system_metrics import FILE as SYSTEM
from tasks.system_metrics import SystemMetrics

log = logging.getLogger("freshrank.finetune")
CHECKPOINT = "checkpoint.safetensors"
RECIPE = "recipe.json"  # as it was when it was followed


def finetune(
    dataset: Path, recipe: Recipe, workdir: Path, out: Path, seed: int, threads: int, champion: Path | None = None
) -> dict[str, Any]:
    """Train by `recipe` and write parent.safetensors, config.json and the learning curves under `out`.

    Args:
        workdir: holds the checkpoint; survives a crash, so that the same call resumes.
        champion: model directory of the release that serves; read only where the recipe starts from it, and it fits.

    Raises:
        InputRejected: the loss became NaN, or the dataset holds nothing to train on.
    """
    device = prepare_torch()
    data = Dataset.open(dataset)
    corpus = Corpus(data, value_weight=recipe.training.value_weight, augmentation=recipe.augmentation)
    validation = prepare(data.mornings(data.split.validation_days))
    if not validation:
        raise InputRejected(f"the validation days {', '.join(data.split.validation_days)} hold no slate")
    log.info("device=%s threads=%d slates=%d rows=%d", device, threads, corpus.slates, len(corpus.label))

    torch.manual_seed(seed)
    fitted, training = data.fitted, recipe.training
    model = Ranker(recipe.network, len(fitted.inputs.columns))
    model.standardise(np.array(fitted.mean, np.float32), np.array(fitted.scale, np.float32))
    config = _config(data, recipe, seed)
    before = _champion_to_start_from(champion, config, data, training)
    if before is None or champion is None:
        course = Course.fresh(training, corpus.slates, seed)
    else:
        start_from(model, champion, training.warm)
        course = Course.warm(training, corpus.days > epoch_day(before.train_through), seed)
    model.to(device)
    started_from = before.weights if before else None
    identity = digest_of([recipe.digest, data.split.log_digest, seed, started_from])
    run = Run(model, corpus, course, device, threads, workdir / CHECKPOINT, identity)
    run.resume()
    with SystemMetrics(out / SYSTEM), Progress("train", course.steps, "steps") as bar:
        bar.advance(run.steps_done)
        while not run.is_over:
            loss, began = run.train_epoch(bar), time.monotonic()
            with run.gathered():
                quality = run.group.agreed(partial(_judged, TorchScorer(model, fitted.inputs), validation))
            run.finish_epoch(loss, quality)
            told = " ".join(f"{task}={quality.get(f'ndcg_at_10[{task}]', 0):.4f}" for task in ("all", "new", "repeat"))
            log.info("epoch=%d loss=%.4f ndcg_at_10 %s judged_s=%.1f", run.epoch, loss, told, time.monotonic() - began)
    if not run.group.leads:
        return {}  # what follows is one process's work
    if recipe.trees:
        if run.is_sharded:  # the others are gone, with their shares
            model = Ranker(recipe.network, len(fitted.inputs.columns)).to(device)
        model.load_state_dict(run.best)
        member = fit_member(TorchScorer(model, fitted.inputs), trees_of(corpus, recipe.trees, seed), validation)
        member.save(out)
        log.info("trees=%d share=%.3f temperature=%.3f bias=%.3f", recipe.trees.rounds, *dict(member.blend).values())
    facts = _write(out, run, config, recipe, len(validation)) | ({"started_from": started_from} if started_from else {})
    return facts | (_finetune_search(dataset, recipe.search, workdir, out, seed) if recipe.search else {})


def _judged(scorer: TorchScorer, validation: list[Judged]) -> dict[str, float]:
    return mean_of(judge(scorer, one) for one in validation)


def _finetune_search(dataset: Path, plan: Search, workdir: Path, out: Path, seed: int) -> dict[str, Any]:
    with Progress("train search", 0, "steps") as bar:

        def progress(step: int, steps: int, told: str) -> None:
            bar.total = steps
            bar.advance(step - bar.done, told)

        return fit_search(dataset, plan, workdir, out / "search", seed, progress)


def prepare_torch() -> torch.device:
    """One thread an operation, no operation that adds up in an order of its own; where to train."""
    torch.set_num_threads(1)  # inside one operation; a step runs its halves side by side
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # else every new tensor is written twice
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True)
class Before:
    """The champion that a training goes on from."""

    weights: str  # sha256 of its parent
    train_through: str  # the last day whose slates it was trained on


def _champion_to_start_from(
    champion: Path | None, ours: dict[str, Any], data: Dataset, training: Training
) -> Before | None:
    """None, and a line that says why, where training starts afresh although the recipe would start from the champion."""
    if training.start == "fresh":
        return None
    reason: str | None = "no release serves yet"
    if champion is not None:
        theirs = json.loads((champion / "config.json").read_bytes())
        reason = why_not(theirs, ours, data.split.validation_days[0])
        if reason is None:
            through = str(theirs.get("train_through") or theirs["train_end"])
            return Before(str(theirs["parent"]["sha256"]), through)
    log.warning("start=fresh reason=%r", reason)
    return None


def _config(data: Dataset, recipe: Recipe, seed: int) -> dict[str, Any]:
    return {
        "features": list(data.fitted.inputs.features),
        "inputs": data.fitted.inputs.model_dump(mode="json"),
        "token": list(TOKEN),
        "max_tokens": MAX_TOKENS,
        "network": recipe.network.model_dump(mode="json"),
        "partition": data.split.partition,
        "train_end": data.split.train_end,
        "train_through": data.split.train_days[-1],
        "labels": recipe.labels,
        "recipe": recipe.name,
        "recipe_digest": recipe.digest,
        "data_digest": data.split.log_digest,
        "seed": seed,
    }


def _write(out: Path, run: Run, config: dict[str, Any], recipe: Recipe, slates: int) -> dict[str, Any]:
    save_file({name: value.contiguous() for name, value in run.best.items()}, out / PARENT)
    digest = hashlib.sha256((out / PARENT).read_bytes()).hexdigest()
    best = run.curve[run.best_epoch - 1]
    parent = {"sha256": digest, "epoch": run.best_epoch, "validation": best}
    (out / "config.json").write_bytes(canonical_json(config | {"parent": parent}))
    (out / RECIPE).write_bytes(canonical_json(recipe.model_dump(mode="json")))
    (out / "curves.json").write_text(json.dumps(run.curve, indent=1))
    draw_curves(run.curve, run.best_epoch, out / "curves.png")
    return {
        "device": run.device.type,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "train_slates": run.corpus.slates,
        "train_rows": len(run.corpus.label),
        "validation_slates": slates,
        "best_epoch": run.best_epoch,
        "loss": best["loss"],
        "validation": {name: value for name, value in best.items() if name.startswith(("ndcg", "logloss"))},
        "weights_digest": digest,
        "train_end": config["train_end"],
    }


def draw_curves(curve: list[dict[str, float]], best: int, path: Path) -> None:
    """Loss and validation NDCG@10 by epoch, the kept epoch marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in curve]
    left.plot(epochs, [row["loss"] for row in curve], marker="o")
    left.set(title="training loss", xlabel="epoch")
    for task in ("all", "new", "repeat"):
        right.plot(epochs, [row.get(f"ndcg_at_10[{task}]", float("nan")) for row in curve], marker="o", label=task)
    right.axvline(best, color="grey", linestyle=":", label="kept")
    right.set(title="validation NDCG@10", xlabel="epoch")
    right.legend()
    figure.savefig(path, dpi=110)


__all__ = ["CHECKPOINT", "QUALITY", "draw_curves", "finetune"]
