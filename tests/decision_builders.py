"""A run that came to its gate, in a memory store: what the steps before it leave is made up, the gate is the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.adapters.store import MemoryStore
from tasks.benchmark import compare
from tasks.domain.champion import Champion
from tasks.run import SEED, Call, Step, run
from tasks.settings import Settings
from tasks.steps import step_named

DAY, FIRST_DAY = "2017-07-01", "2017-06-25"
METRIC = "ndcg_at_10"
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
    step("compress", lambda out: _json(out / "front.json", a_front()), "finetune", "build_dataset")
    scored = ("build_dataset", "compress", *(("resolve_champion",) if "resolve_champion" in uris else ()))
    step("evaluate", lambda out: _evaluated(out, kinds, gain or {}, draws), *scored)
    if timed and "resolve_champion" in uris:
        step("benchmark", lambda out: _timed(out, slower, draws), "build_dataset", "resolve_champion", "compress")
    given = {name: uris[name] for name in ("evaluate", "benchmark", "resolve_champion") if name in uris}
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
            "batch_dependence": 0.0,
            "cost": {"bytes": size, "cpu_ms_100": cpu / 5, "cpu_ms_1000": cpu, "load_ms": 80.0},
            "reason": reason,
        }

    variants = [variant("fp32", 900_000, 4.1, 0.31), variant("int8", 260_000, 3.2, 0.3095)]
    return {"chosen": "int8", "variants": [*variants, variant("int8-low-rank", 190_000, 3.0, 0.29, "may lose .02")]}


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
        release="c" * 64, view="d" * 64, train_end="2017-06-16", state_through="2017-06-30", weights_digest="e" * 64
    )
    (out / "champion.json").write_text(pinned.model_dump_json())
    return pinned.model_dump()


def _evaluated(out: Path, kinds: tuple[str, ...], gain: dict[str, float], draws: np.random.Generator) -> dict[str, Any]:
    tables, facts = [], {}
    for kind in kinds:
        user, base = draws.integers(0, USERS, SLATES), draws.uniform(0.1, 0.6, SLATES)
        better = base + gain.get(kind, 0.0) + draws.normal(0, 0.01, SLATES)
        new = np.where(np.arange(SLATES) % 3 == 0, None, base), np.where(np.arange(SLATES) % 3 == 0, None, better)
        tables.append(
            pa.table(
                {
                    "kind": [kind] * SLATES,
                    "day": [DAY] * SLATES,
                    "user": pa.array(user, pa.int64()),
                    "heavy": pa.array(user % 2 == 0),
                    f"champion.{METRIC}[all]": base,
                    f"candidate.{METRIC}[all]": better,
                    f"champion.{METRIC}[new]": pa.array(new[0].tolist(), pa.float64()),
                    f"candidate.{METRIC}[new]": pa.array(new[1].tolist(), pa.float64()),
                }
            )
        )
        checks = [{"name": "state_size", "value": 1.02, "limit": 1.5, "ok": True, "sentence": "1.02 times, limit 1.5"}]
        facts[kind] = {
            "holdout_digest": "a" * 64,
            "champion_holdout_digest": "a" * 64,
            "first_day": FIRST_DAY,
            "last_day": DAY,
            "slates": SLATES,
            "candidate": {f"{METRIC}[all]": float(better.mean())},
            "champion": {f"{METRIC}[all]": float(base.mean())},
            "checks": checks if kind == "state" else [],
        }
    pq.write_table(pa.concat_tables(tables), out / "slates.parquet")
    (out / "evaluation.json").write_text(json.dumps({"candidates": facts}))
    return {"slates": SLATES}


def _timed(out: Path, slower: float, draws: np.random.Generator) -> dict[str, Any]:
    champion = draws.lognormal(1.4, 0.2, 300)
    wall = {"champion": champion}
    for name, times in (("state", 1.0), ("weights", slower)):
        wall[name] = champion * times * draws.lognormal(0, 0.02, 300)
    wall = {name: ms.round(4) for name, ms in wall.items()}
    compared = {name: [row.model_dump() for row in rows] for name, rows in compare(wall, wall, SEED).items()}
    told = {"requests": 300, "repeats": 3, "threads": 1, "candidates": compared}
    told["wall_ms"] = told["cpu_ms"] = {name: ms.tolist() for name, ms in wall.items()}
    return _json(out / "benchmark.json", told)


def _json(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    path.write_text(json.dumps(value))
    return {"sentence": path.name}
