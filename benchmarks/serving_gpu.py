"""What a release for a CUDA device takes: time of 1, 8 and 32 requests of 100 candidates that wait together, and memory.

    make bench NAME=serving_gpu             # trains the demo with `device: cuda` first, where it is not kept
    python -m benchmarks.serving_gpu --dataset DIR --compressed DIR      # outputs of a run, in data/inputs

Whole requests through the engine, features included, one after the other without HTTP. Where there is no CUDA device nothing is
measured and nothing written.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks._demo_days import demo
from benchmarks._table import Row, publish
from benchmarks.runtimes import made
from tasks.device import described
from tasks.domain.requests import RankRequest, convert_rank
from tasks.ranker.arrays import iso_day
from tasks.ranker.cuda import CudaScorer
from tasks.ranker.device import CUDA, is_here
from tasks.ranker.state import ItemState
from tasks.serving.asked import FOREVER, Asked
from tasks.serving.engine import Engine

BATCHES = (1, 8, 32)
ROUNDS = 1_000
CANDIDATES, MOST_PURCHASES = 100, 40


class Taken(NamedTuple):
    """Of a batch: milliseconds, requests a second, MiB that torch holds on the device (None on a CPU)."""

    p50_ms: float
    p99_ms: float
    per_second: float
    device_mib: float | None


def requests_of(items: ItemState, count: int) -> list[RankRequest]:
    """`count` requests: 100 items that sell, in any order, for people who bought 0 to 40 of them on as many days."""
    draws = np.random.default_rng(0)
    sellers = np.argsort(-items.sales28, kind="stable")[:1_000]
    asked = []
    for n in range(count):
        bought = draws.choice(sellers, n % (MOST_PURCHASES + 1)).tolist()
        history = [
            {"item_id": items.ids[row], "event_time": f"{iso_day(items.day - 1 - day)}T12:00:00Z"}
            for day, row in enumerate(bought)
        ]
        slate = draws.permutation(sellers)[:CANDIDATES].tolist()
        body: dict[str, Any] = {"surface": "recommendation", "history": history}
        asked.append(convert_rank(body | {"candidates": [items.ids[row] for row in slate]}))
    return asked


def taken(engine: Engine, requests: Sequence[RankRequest], batch: int, rounds: int, device: str) -> Taken:
    """`rounds` batches after a tenth as many that do not count; each batch takes the next requests in turn."""
    if device == CUDA:
        torch.cuda.reset_peak_memory_stats()
    spent = []
    for turn in range(-(rounds // 10) - 1, rounds):
        asked = [Asked(requests[(turn * batch + n) % len(requests)], None, FOREVER, False) for n in range(batch)]
        began = time.perf_counter()
        told = engine.rank_together(asked)
        if turn >= 0:
            spent.append(time.perf_counter() - began)
        for one in told:
            if isinstance(one, Exception):
                raise one
    p50, p99 = (1e3 * float(np.quantile(spent, q)) for q in (0.5, 0.99))
    held = torch.cuda.max_memory_reserved() / 2**20 if device == CUDA else None
    return Taken(p50, p99, batch * rounds / sum(spent), held)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--compressed", type=Path, help="of a recipe with `device: cuda`")
    asked = parser.parse_args()
    if not is_here(CUDA):
        print("not measured: no CUDA device")
        return 0
    recipe = demo()
    recipe = recipe.model_copy(update={"compression": recipe.compression.model_copy(update={"device": CUDA})})
    data, compressed = (asked.dataset, asked.compressed) if asked.dataset else made(recipe)
    items, scorer = ItemState.load(data / "items"), CudaScorer.load(compressed / "model", CUDA)
    scorer.prepare()
    engine, requests, rows = Engine(items, scorer), requests_of(items, 256), list[Row]()
    for batch in BATCHES:
        told = taken(engine, requests, batch, ROUNDS, CUDA)
        rows += [
            Row(f"{batch} together, p50", told.p50_ms, "ms"),
            Row(f"{batch} together, p99", told.p99_ms, "ms"),
            Row(f"{batch} together, throughput", told.per_second, "requests/s"),
            Row(f"{batch} together, held on the device, without CUDA's own context", told.device_mib or 0.0, "MiB"),
        ]
    publish("serving_gpu", rows, ("torch",), evidence={"device": described("bf16")})
    return 0


if __name__ == "__main__":
    sys.exit(main())
