"""The fp32 ranker -> variants for serving, one chosen: the smallest that validation cannot tell from its parent.

Only the chosen one goes forward; front.json and front.png keep what all of them cost and lost. The query encoder is
quantised beside it. Never reads the holdout.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from tasks.compression.search_encoders import export_search
from tasks.compression.search_student import ship_student
from tasks.compression.text_encoder import query_encoder
from tasks.compression.variants import (
    TOLERANCE,
    Cost,
    batch_dependence,
    cached_variant,
    calibration_inputs,
    kept_costs,
)
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record
from tasks.domain.recipe import Compression, Recipe
from tasks.domain.statistics import paired_difference
from tasks.progress import Progress
from tasks.ranker.arrays import Floats
from tasks.ranker.corpus import Corpus
from tasks.ranker.dataset import Dataset
from tasks.ranker.device import is_here, reference_scorer
from tasks.ranker.judge import Judged, Row, judge, mean_of, prepare
from tasks.ranker.runtime import Scorer, TorchScorer

log = logging.getLogger("freshrank.compress")
QUALITY = "ndcg_at_10[all]"
SLICES = ("ndcg_at_10[all]", "ndcg_at_10[new]", "ndcg_at_10[repeat]", "logloss[all]")
CALIBRATION_DAYS = 7
ABOUT_EQUAL = 1.05


class Variant(Record):
    """One point of the front. `bound` and `upper` are one-sided 95 % bounds of quality against the parent."""

    name: str
    what: str
    quality: dict[str, float]
    parent: dict[str, float]
    bound: float
    upper: float
    batch_dependence: float
    cost: Cost
    reason: str = ""  # why it cannot be chosen; empty for one that can


def compress(model: Path, dataset: Path, recipe: Recipe, cache: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Write model/ (the chosen variant and its parent), text/, front.json and front.png under `out`.

    Where no variant can serve, front.json alone, with `reason`: nothing goes forward, and the gate calls it inconclusive.

    Raises:
        InputRejected: there is nothing to calibrate or judge on.
    """
    torch.set_num_threads(1)  # single slates: more threads only wait for each other
    plan, data = recipe.compression, Dataset.open(dataset)
    calibration = calibration_inputs(Corpus(data, data.split.train_days[-CALIBRATION_DAYS:]), plan.calibration_slates)
    judged = prepare(data.mornings(data.split.validation_days))
    if not judged or not calibration:
        raise InputRejected(f"{dataset} holds no slate to calibrate and judge a compressed model on")
    parent = _judge_all("parent", TorchScorer.load(model), judged)
    told: dict[str, str] = {}
    dropped: dict[str, str] = {}
    directories: dict[str, Path] = {}
    names: tuple[str, ...] = plan.variants
    for name in names:
        try:
            into = out / "variants" / name
            told[name] = cached_variant(name, model, calibration, plan.rank, cache, into, plan.device)
            reference_scorer(into)
        except Exception as err:  # converters and runtimes raise what they like; one variant less is no broken run
            dropped[name] = f"could not be made or loaded here: {_first_line(err)}"
            log.warning("variant=%s dropped: %s", name, dropped[name])
        else:
            directories[name] = into
    if not directories:
        why = f"no variant of the model could be made ({_listed(dropped)}); `freshrank doctor` checks openvino"
        return _nothing_left(why, [], plan, len(judged), dropped, out)
    costs = kept_costs(directories, judged[: min(len(judged), 24)], cache)
    variants = []
    for name, directory in directories.items():
        scorer = reference_scorer(directory)
        rows, mates = _judge_all(name, scorer, judged), batch_dependence(scorer, judged[0])
        variants.append(_variant(name, told[name], rows, parent, judged, mates, costs[name]))
    timed = is_here(plan.device)
    variants = [with_reason(variant, variants, plan, timed=timed) for variant in variants]
    best = choose(variants)
    if best is None:
        whys = _listed({variant.name: variant.reason for variant in variants} | dropped)
        why = f"no variant of the model can serve ({whys}); look at the validation days and the margin"
        return _nothing_left(why, variants, plan, len(judged), dropped, out)
    losses = lost_by_stage(reference_scorer(directories[best.name]), TorchScorer.load(model), judged, parent)
    losses["all"] = {name: best.quality[name] - best.parent[name] for name in best.quality}
    shutil.copytree(directories[best.name], out / "model")
    shutil.rmtree(out / "variants")
    _describe(out / "model" / "config.json", best)
    text = query_encoder(_texts(data), plan.text_calibration, cache, out / "text")
    searched = {}
    if recipe.search and (model / "search").exists():
        searched = export_search(model / "search", recipe.search, plan.text_calibration, out / "search")
        if recipe.search.student:
            with TemporaryDirectory() as work:
                read = model / "search", dataset, recipe.search, plan.text_calibration, seed
                searched |= ship_student(*read, cache / "students", Path(work), out / "search")
    _write_front(best.name, variants, plan, len(judged), dropped, out, lost=losses, text=text)
    draw_front(variants, best.name, out / "front.png")
    for variant in variants:
        log.info(
            "variant=%s ndcg_at_10=%.4f bound=%+.4f cpu_ms_100=%.2f cpu_ms_1000=%.2f bytes=%d load_ms=%.0f %s",
            variant.name, variant.quality[QUALITY], variant.bound, variant.cost.cpu_ms_100, variant.cost.cpu_ms_1000,
            variant.cost.bytes, variant.cost.load_ms, variant.reason or "ok",
        )  # fmt: skip
    return {
        "chosen": best.name,
        "loss": round(best.quality[QUALITY] - best.parent[QUALITY], 5),
        "bound": round(best.bound, 5),
        "quality": {name: round(best.quality[name], 5) for name in SLICES if name in best.quality},
        "variants": {variant.name: variant.reason or "ok" for variant in variants} | dropped,
        **best.cost.model_dump(),
        "text_mean_cosine": text["mean_cosine"],
        "text_bytes": text["bytes"],
        **searched,
    }


def _write_front(
    chosen: str | None,
    variants: list[Variant],
    plan: Compression,
    slates: int,
    dropped: dict[str, str],
    out: Path,
    **more: Any,
) -> None:
    front = {
        "chosen": chosen,
        "metric": QUALITY,
        "margin": plan.margin,
        "slates": slates,
        "variants": [variant.model_dump() for variant in variants],
        "dropped": dropped,
    }
    (out / "front.json").write_text(json.dumps(front | more, indent=1, sort_keys=True))


def _nothing_left(
    why: str, variants: list[Variant], plan: Compression, slates: int, dropped: dict[str, str], out: Path
) -> dict[str, Any]:
    log.warning(why)
    shutil.rmtree(out / "variants", ignore_errors=True)
    _write_front(None, variants, plan, slates, dropped, out, reason=why)
    return {"chosen": "none", "variants": {variant.name: variant.reason for variant in variants} | dropped}


@dataclass(frozen=True)
class _Mixed:
    """Stage 1 by one scorer, stage 2 by another."""

    first: Scorer
    second: Scorer

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self.first.base(x, item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self.second.full(x, item_vec, tokens, mask)


def lost_by_stage(small: Scorer, parent: Scorer, judged: list[Judged], rows: list[Row]) -> dict[str, dict[str, float]]:
    """Metrics with one stage compressed, less those of the parent (`rows`): which stage and slice the loss comes from."""
    before, lost = mean_of(rows), {}
    for stage, scorer in (("stage 1", _Mixed(small, parent)), ("stage 2", _Mixed(parent, small))):
        after = mean_of(_judge_all(f"{stage} alone", scorer, judged))
        lost[stage] = {name: after[name] - before[name] for name in SLICES if name in after}
    return lost


def with_reason(variant: Variant, variants: list[Variant], plan: Compression, *, timed: bool = True) -> Variant:
    """The variant with the first reason that rules it out, if there is one. Not timed on its own device, none is too slow."""
    fastest = min(other.cost.cpu_ms_1000 for other in variants)
    if variant.batch_dependence > TOLERANCE:
        reason = f"a score depends on its batch mates by {variant.batch_dependence:.1e}, allowed {TOLERANCE:.0e}"
    elif variant.bound < -plan.margin:
        reason = f"may lose {-variant.bound:.4f} {QUALITY} against its parent, allowed {plan.margin:.4f}"
    elif variant.cost.cpu_ms_1000 > plan.cpu_limit * fastest and timed:
        reason = (
            f"takes {variant.cost.cpu_ms_1000 / fastest:.1f} times the CPU of the fastest, allowed {plan.cpu_limit:.1f}"
        )
    else:
        reason = ""
    return variant.model_copy(update={"reason": reason})


def choose(variants: list[Variant]) -> Variant | None:
    """The smallest of those without a reason against them, the better one where sizes are about equal; None without any.

    Bytes, not milliseconds: the same choice on every run.
    """
    able = [variant for variant in variants if not variant.reason]
    if not able:
        return None
    smallest = min(variant.cost.bytes for variant in able)
    return max((v for v in able if v.cost.bytes <= ABOUT_EQUAL * smallest), key=lambda v: (v.bound, v.name))


def _first_line(err: Exception) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _judge_all(name: str, scorer: Scorer, judged: list[Judged]) -> list[Row]:
    rows = []
    with Progress(f"validate {name}", len(judged), "slates") as bar:
        for one in judged:
            rows.append(judge(scorer, one))
            bar.advance()
    return rows


def _variant(
    name: str, what: str, rows: list[Row], parent: list[Row], judged: list[Judged], mates: float, cost: Cost
) -> Variant:
    ours, parents = (np.array([row[QUALITY] for row in of]) for of in (rows, parent))
    paired = paired_difference(np.array([one.slate.user for one in judged]), parents, ours, seed=0)
    quality, of_parent = mean_of(rows), mean_of(parent)
    return Variant(
        name=name,
        what=what,
        quality={metric: quality[metric] for metric in SLICES if metric in quality},
        parent={metric: of_parent[metric] for metric in SLICES if metric in of_parent},
        bound=paired.lower,
        upper=paired.upper,
        batch_dependence=mates,
        cost=cost,
    )


def _describe(path: Path, best: Variant) -> None:
    config = json.loads(path.read_bytes())
    config["variant"] = {"name": best.name, "what": best.what, "bound": round(best.bound, 6)}
    path.write_text(json.dumps(config, sort_keys=True))


def _texts(data: Dataset) -> list[str]:
    """Item texts that have a vector, each once, in the order of the table."""
    table = data.builder.texts.row
    _, first = np.unique(table[table >= 0], return_index=True)
    items = np.flatnonzero(table >= 0)[first]
    return [data.builder.log.items.texts[item] for item in items.tolist()]


def draw_front(variants: list[Variant], chosen: str, path: Path) -> None:
    """Quality against size and against CPU; the chosen variant filled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, title, of in (
        (axes[0], "kB of weights", lambda v: v.cost.bytes / 1_000),
        (axes[1], "CPU ms a request of 1,000", lambda v: v.cost.cpu_ms_1000),
    ):
        for variant in variants:
            fill = "full" if variant.name == chosen else "none"
            axis.plot(
                of(variant),
                variant.quality[QUALITY],
                marker="o",
                fillstyle=fill,
                color="C0" if not variant.reason else "C3",
            )
            axis.annotate(
                variant.name, (of(variant), variant.quality[QUALITY]), xytext=(5, 5), textcoords="offset points"
            )
        axis.set_xlabel(title)
        axis.margins(0.25)
    axes[0].set_ylabel("validation NDCG@10")
    axes[0].axhline(variants[0].parent[QUALITY], color="grey", linestyle=":", label="parent")
    axes[0].legend()
    figure.savefig(path, dpi=110)
