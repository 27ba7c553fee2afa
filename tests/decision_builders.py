"""A run that came to its gate, in a memory store: what the steps before it leave is made up, the gate is the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks import steps
from tasks.adapters.store import MemoryStore
from tasks.benchmark import compare
from tasks.domain.champion import Champion
from tasks.policies import load_policy
from tasks.run import SEED, Call, Step, run
from tasks.settings import Settings
from tasks.steps import step_named

DAY, FIRST_DAY = "2017-07-01", "2017-06-25"
METRIC, RELEASE = "ndcg_at_10", "c" * 64
MODEL = {"network": {"width": 16}, "features": ["price"], "token": ["item"], "max_tokens": 20}
USERS, SLATES = 60, 400


def a_run(
    home: Path,
    store: MemoryStore | None = None,
    *,
    gain: dict[str, float] | None = None,
    slower: float = 1.0,
    kinds: tuple[str, ...] = ("state", "weights"),
    timed: bool = True,
    seed: int = 3,
    history: dict[str, Any] | None = None,
) -> tuple[MemoryStore, Settings, dict[str, str]]:
    """Every step's manifest URI by name. `gain`: kind -> what its candidate is better by; `slower`: times the champion."""
    store, settings = store or MemoryStore(), Settings(home=home, policy="tiny")
    draws = np.random.default_rng(seed)
    uris: dict[str, str] = {}

    def step(name: str, write: Callable[[Path], dict[str, Any]], *inputs: str) -> None:
        made = Step(name, inputs, lambda call: write(call.out))
        uris[name] = run(made, DAY, {one: uris[one] for one in inputs}, settings, store=store)

    step("ingest", lambda out: _json(out / "ingest.json", {"days": 181}))
    step("validate_data", lambda out: _validated(out), "ingest")
    if "bootstrap" not in kinds:
        step("resolve_champion", lambda out: _champion(out), "validate_data")
    step("build_dataset", lambda out: {"train_end": "2017-06-24", "holdout_slates": SLATES}, "validate_data")
    step("finetune", lambda out: {"epochs": 3}, "build_dataset")
    step("compress", lambda out: _compressed(out), "finetune", "build_dataset")
    _serve_release(store, settings)
    scored = ("build_dataset", "compress", *(("resolve_champion",) if "resolve_champion" in uris else ()))
    step("evaluate", lambda out: _evaluated(out, kinds, gain or {}, draws), *scored)
    if timed and "resolve_champion" in uris:
        step(
            "benchmark",
            lambda out: _timed(out, slower, draws, history),
            "build_dataset",
            "resolve_champion",
            "compress",
        )
    given = {name: uris[name] for name in ("evaluate", "benchmark", "resolve_champion", "compress") if name in uris}
    # fetching and trusting the champion's release has tests of its own: here it lies there already
    with patch.object(steps, "_champion_release", lambda call: call.settings.data / "releases" / RELEASE):
        uris["gate"] = run(step_named("gate"), DAY, given, settings, store=store)
    return store, settings, uris


def a_stopped_day(home: Path, verdict: str, reasons: tuple[str, ...] = ()) -> tuple[MemoryStore, str]:
    """A run that ended after validate_data, and the URI of that step."""
    store, settings = MemoryStore(), Settings(home=home)

    def write(call: Call) -> dict[str, Any]:
        (call.out / "report.html").write_text("<p>the report")
        return {**_validated(call.out), "verdict": verdict, "reasons": {DAY: list(reasons)}, "not_accepted": [DAY]}

    return store, run(Step("validate_data", (), write), DAY, {}, settings, store=store)


def a_front() -> dict[str, Any]:
    def variant(name: str, size: int, cpu: float, quality: float, reason: str = "") -> dict[str, Any]:
        return {
            "name": name,
            "what": name,
            "quality": {"ndcg_at_10[all]": quality},
            "parent": {"ndcg_at_10[all]": 0.31},
            "bound": quality - 0.312,
            "upper": quality - 0.308,
            "batch_dependence": 0.0,
            "cost": {"bytes": size, "cpu_ms_100": cpu / 5, "cpu_ms_1000": cpu, "load_ms": 80.0},
            "reason": reason,
        }

    variants = [variant("fp32", 900_000, 4.1, 0.31), variant("int8", 260_000, 3.2, 0.3095)]
    variants.append(variant("int8-low-rank", 190_000, 3.0, 0.29, "may lose .02"))
    return {"chosen": "int8", "metric": f"{METRIC}[all]", "margin": 0.05, "slates": 150, "variants": variants}


def _compressed(out: Path) -> dict[str, Any]:
    (out / "model").mkdir()
    (out / "model" / "config.json").write_text(json.dumps(MODEL))
    return _json(out / "front.json", a_front())


def _serve_release(store: MemoryStore, settings: Settings) -> None:
    """The champion's release, as far as the gate reads it: the kind of model, already fetched."""
    key = f"releases/{RELEASE}/release/model/config.json"
    store.put_new(key, json.dumps(MODEL).encode())
    store.download(key, settings.data / key)


def _validated(out: Path) -> dict[str, Any]:
    (out / "report.html").write_text("<p>the report")
    return {
        "verdict": "pass",
        "partition": DAY,
        "days": {DAY: {"verdict": "pass", "rows": 3900, "accepted": 3890}},
        "already_accepted": 180,
        "not_accepted": [],
        "reasons": {},
        "rows": 3900,
        "accepted": 3890,
        "quarantined": 10,
        "quarantined_by_rule": {"retry": 10},
        "marked_by_rule": {},
        "seconds": 1.5,
    }


def _champion(out: Path) -> dict[str, Any]:
    pinned = Champion(
        release=RELEASE, view="d" * 64, train_end="2017-06-16", state_through="2017-06-30", weights_digest="e" * 64
    )
    (out / "champion.json").write_text(pinned.model_dump_json())
    return pinned.model_dump()


def _evaluated(out: Path, kinds: tuple[str, ...], gain: dict[str, float], draws: np.random.Generator) -> dict[str, Any]:
    """One slate a user and day. A third of them holds no new product, another third nothing bought before."""
    nth, tables, facts = np.arange(SLATES), [], {}
    first = date.fromisoformat(FIRST_DAY)
    for kind in kinds:
        base = draws.uniform(0.1, 0.6, SLATES)
        better = base + gain.get(kind, 0.0) + draws.normal(0, 0.01, SLATES)
        columns: dict[str, Any] = {
            "kind": [kind] * SLATES,
            "day": [(first + timedelta(int(n))).isoformat() for n in nth // USERS],
            "user": pa.array(nth % USERS, pa.int64()),
            "heavy": pa.array(nth % 2 == 0),
        }
        for metric, scale in (("ndcg_at_10", 1.0), ("mrr", 1.5)):
            for task, inside in (("all", nth >= 0), ("new", nth % 3 > 0), ("repeat", nth % 3 < 2)):
                for side, values in (("champion", base), ("candidate", better)):
                    columns[f"{side}.{metric}[{task}]"] = pa.array(values * scale, pa.float64(), mask=~inside)
        tables.append(pa.table(columns))
        facts[kind] = {
            "holdout_digest": "a" * 64,
            "champion_holdout_digest": "a" * 64,
            "first_day": FIRST_DAY,
            "last_day": DAY,
            "slates": SLATES,
            "candidate": {f"{METRIC}[all]": float(better.mean())},
            "champion": {f"{METRIC}[all]": float(base.mean())},
            "report": {side: _report(draws) for side in ("champion", "candidate")},
            "checks": [
                {
                    "name": f"state_{name}",
                    "value": 1.0,
                    "limit": 0.9,
                    "ok": True,
                    "sentence": f"all of the {name}, limit 0.9",
                }
                for name in ("coverage", "size", "users", "text", "finite")
                if kind == "state"
            ],
        }
    pq.write_table(pa.concat_tables(tables), out / "slates.parquet")
    (out / "evaluation.json").write_text(json.dumps({"candidates": facts}))
    return {"slates": SLATES}


def _report(draws: np.random.Generator) -> dict[str, Any]:
    predicted = np.sort(draws.beta(0.4, 8, 15))
    bins = [{"predicted": float(p), "observed": float(p * 0.9), "count": 1000} for p in predicted]
    return {"coverage": 0.41, "gini": 0.83, "ece": 0.004, "reliability": bins}


def _timed(out: Path, slower: float, draws: np.random.Generator, history: dict[str, Any] | None) -> dict[str, Any]:
    champion = draws.lognormal(1.4, 0.2, 1025)
    wall = {"champion": champion}
    for name, times in (("state", 1.0), ("weights", slower)):
        wall[name] = champion * times * draws.lognormal(0, 0.02, 1025)
    wall = {name: ms.round(4) for name, ms in wall.items()}
    limits = load_policy("tiny").gate.latency_ratio
    compared = {name: [row.model_dump() for row in rows] for name, rows in compare(wall, wall, SEED, limits).items()}
    told: dict[str, Any] = {"requests": 1025, "threads": 1, "limits": limits, "candidates": compared}
    told["resources"] = {name: [_resource("size", 3.1), _resource("memory", 310.0)] for name in compared}
    told["wall_ms"] = told["cpu_ms"] = {name: ms.tolist() for name, ms in wall.items()}
    told |= {"history": history} if history else {}
    return _json(out / "benchmark.json", told)


def _resource(name: str, mib: float) -> dict[str, Any]:
    ratio = {"ratio": 1.0, "lower": 0.98, "upper": 1.02, "runs": 2}
    return {"name": name, "champion_mib": mib, "candidate_mib": mib} | ratio


def _json(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    path.write_text(json.dumps(value))
    return {"sentence": path.name}
