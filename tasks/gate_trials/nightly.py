"""The gate's error rates on what the last runs left: their data, recipe, policy and timings, and models trained for this.

    freshrank gate-error-rates            # as dags/gate_error_rates.py does every night

The run's own model is the sound one. The same recipe is trained with other seeds, and anew on damaged rows; every system
ranks the run's holdout once; then hundreds of trials are judged by the run's policy. Nothing that serves is touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tasks.adapters.store import Store, open_store
from tasks.domain.errors import InputRejected
from tasks.domain.gate import GatePolicy
from tasks.domain.recipe import Recipe, load_recipe
from tasks.explain.story import POLICY, Made, made_by
from tasks.gate_trials.damage import damaged, scored_by
from tasks.gate_trials.error_rates import HEAD, as_json, rows_of, run_trials
from tasks.gate_trials.rows import TRAINING_DAMAGE, damaged_dataset, trained
from tasks.gate_trials.scoring import score_days
from tasks.gate_trials.trials import SEED, SOUND, Times, for_trials, load
from tasks.page import document, mark, table
from tasks.progress import Progress
from tasks.ranker.dataset import Dataset
from tasks.ranker.runtime import PARENT, TorchScorer
from tasks.record import record_end, record_step
from tasks.run import Call, Step, read_manifest, run
from tasks.settings import Settings

SEEDS = 3  # trained beside the run's own; six pairs of sound models
ITSELF, EACH = 200, 12  # trials of sound models, and of each kind of damage
STEP = "gate_error_rates"
REPORT = "error_rates.json"


def measure(settings: Settings, partition: str | None = None, run_key: str | None = None) -> tuple[str, dict[str, Any]]:
    """Measure on the latest run (of that day), once; (manifest URI, summary). Mirrored to MLflow as a run of its own.

    run_key: names that run; None: one for each day that is measured.

    Raises:
        InputRejected: no run has trained weights and come to its gate, or its recipe has changed since.
    """
    store = open_store(settings)
    made = latest_training(store, partition)
    inputs: dict[str, str] = {
        name: made[name][0] for name in ("gate", "build_dataset", "finetune", "benchmark") if name in made
    }
    day = made["gate"][1].partition
    uri = run(GATE_ERROR_RATES, day, inputs, settings, store=store)
    key = run_key or f"{STEP} {day}"
    record_step(uri, key, settings)
    record_end(key, "FINISHED", settings, partition=day)
    return uri, read_manifest(store, uri).summary


def require_bars(summary: Mapping[str, Any]) -> None:
    """Raise InputRejected where an error rate is shown to be above its bar: the red task is the alert."""
    if summary["broken"]:
        raise InputRejected(
            f"{summary['sentence']}. What shipped stays; no policy change and no promotion by hand before the cause is known: "
            f"docs/runbooks/gate_error_rates.md"
        )


def latest_training(store: Store, partition: str | None) -> Made:
    """The steps of the latest gate that judged newly trained weights."""
    prefix = f"runs/gate/{partition}/" if partition else "runs/gate/"
    uris = [store.uri(key) for key in store.list(prefix) if key.endswith(".json") and key.count("/") == 3]
    found = sorted(((read_manifest(store, uri).started_at, uri) for uri in uris), reverse=True)
    for _, uri in found:
        made = made_by(store, uri)
        if {"build_dataset", "finetune"} <= set(made):
            return made
    raise InputRejected(
        f"none of {len(found)} gate runs{' of ' + partition if partition else ''} judged newly trained weights whose dataset "
        f"is still there; run `freshrank refresh --partition DAY` first"
    )


def error_rates(
    dataset: Path,
    model: Path,
    recipe: Recipe,
    policy: GatePolicy,
    times: Times,
    work: Path,
    out: Path,
    *,
    seed: int,
    threads: int,
    seeds: int = SEEDS,
    itself: int = ITSELF,
    each: int = EACH,
) -> dict[str, Any]:
    """Train, score, try and write error_rates.json and error_rates.html under `out`.

    Args:
        model: directory of the run's fp32 weights, trained with `seed` on `dataset`.
        work: what is made on the way; a killed night goes on where it was.
    """
    data = Dataset.open(dataset)
    spoilt, others = {}, []
    with Progress("models", seeds + len(TRAINING_DAMAGE), "models") as bar:
        for n in range(1, seeds + 1):
            others.append(trained(work, dataset, recipe, f"{SEED}{seed + n}", seed + n, threads))
            bar.advance(1, others[-1].name)
        for name in TRAINING_DAMAGE:
            spoilt[name] = trained(work, damaged_dataset(work, dataset, name), recipe, name, seed, threads)
            bar.advance(1, name)
    sound = {SOUND: model} | {folder.name: folder for folder in others}
    systems = {name: scored_by(TorchScorer.load(folder)) for name, folder in sound.items()} | damaged(model, spoilt)
    score_days(data, systems, work / "scores", data.split.holdout_days or data.split.validation_days)
    scores = load(work / "scores")
    found = run_trials(scores, for_trials(policy, times), times, itself=itself, each=each)
    told = as_json(found) | {"policy": policy.name, "recipe": recipe.name, "slates": len(scores.user)}
    (out / REPORT).write_text(json.dumps(told, indent=1, sort_keys=True))
    (out / "error_rates.html").write_text(page(told, rows_of(found)))
    return {name: value for name, value in told.items() if isinstance(value, int | float | str)}


def page(told: Mapping[str, Any], rows: list[tuple[str, ...]]) -> str:
    outcome = "fail" if told["broken"] else "pass" if told["shown"] else "inconclusive"
    about = (
        f"Policy {told['policy']}, recipe {told['recipe']}, {told['slates']:,} slates. Per cent of trials with exact 95 % "
        "intervals; trials share models and slates, so true ones are wider. Bars: 5 % of sound candidates may fail, 5 % of "
        "those that lose twice the margin may be promoted. Higher mean and threshold: what simpler rules would promote."
    )
    weak = ", ".join(told["weaker_than_twice_the_margin"]) or "none"
    parts = [
        f"<h1>The gate's error rates {mark(outcome)}</h1>",
        f"<p>{escape(told['sentence'])}.</p><p>{escape(about)}</p>",
        table(HEAD, rows),
        f"<p>Left out, because even for all users they lose less than twice a margin: {escape(weak)}.</p>",
    ]
    return document("The gate's error rates", parts)


def _execute(call: Call) -> dict[str, Any]:
    params = call.manifests["finetune"].params
    recipe = load_recipe(str(params["recipe"]))
    if not recipe.digest.startswith(str(params["recipe_digest"])):
        raise InputRejected(
            f"recipe {recipe.name} is {recipe.digest[:16]} now and was {params['recipe_digest']} in the run; other seeds of it "
            f"cannot be trained. Wait for the next refresh, or put it back"
        )
    model = call.inputs["finetune"]
    if not (model / PARENT).exists():
        raise InputRejected(
            f"the finetune step of this run left no {PARENT}; run the refresh of {call.partition} again"
        )
    return error_rates(
        call.inputs["build_dataset"],
        model,
        recipe,
        GatePolicy.model_validate_json((call.inputs["gate"] / POLICY).read_bytes()),
        equal_timings(call.inputs.get("benchmark")),
        call.work,
        call.out,
        seed=call.manifests["finetune"].seed,
        threads=call.settings.threads,
    )


def equal_timings(measured: Path | None) -> Times:
    """Interleaved timings of two systems that are as fast: the champion, and its weights on the new state."""
    if measured is None:
        return {}
    told = json.loads((measured / "benchmark.json").read_bytes())
    if "state" not in told["wall_ms"]:
        return {}
    sides = {"champion": "champion", "candidate": "state"}
    return {
        f"{what}.{side}": np.asarray(told[f"{what}_ms"][system], float)
        for what in ("wall", "cpu")
        for side, system in sides.items()
    }


GATE_ERROR_RATES = Step(STEP, ("gate", "build_dataset", "finetune"), _execute, optional=("benchmark",))
