"""How far looking at every item goes: candidates of a user and items near a query, by the size of the catalogue.

    make bench NAME=nearest_items          # a minute of one core, 5 GiB of memory

Made-up items, whose number is all that the times depend on: retrieval reads each of them once. What an index of neighbours
(HNSW) would save is at most these times, less its own.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks._table import Row, publish
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of, similar_to
from tasks.ranker.state import ItemState
from tests.ranker_builders import DAY, WIDTH, a_builder, a_log, stocked

SIZES, LARGEST = (10_000, 100_000), 1_000_000
LINES, FOUND = 300, 300  # purchases of the user; items that a query retrieves before they are ranked
TIMES = 15


def main() -> int:
    rows = []
    for size in SIZES:
        bought = np.random.default_rng(0).integers(size, size=LINES)
        lines = [(DAY - 1 - n // 5, 0, int(item)) for n, item in enumerate(bought)]
        morning = a_builder(a_log(stocked(lines, items=size), items=size)).morning(DAY)
        assert morning.items.size == size
        user = morning.histories[0]
        told = _ms(lambda m=morning, u=user: candidates_of(Profile(m.items, u, DAY)))
        rows.append(Row(f"candidates of a user with {LINES} purchases, {size:,} items", told, "ms"))
        rows.append(_near_a_query(morning.items))
    rows.append(_near_a_query(_with_texts(morning.items, LARGEST)))
    return 0 if publish("nearest_items", rows, ("numpy",)) else 1


def _near_a_query(items: ItemState) -> Row:
    told = _ms(lambda: similar_to(items, items.text_vectors[0].astype(np.float32), FOUND))
    return Row(f"the {FOUND} items nearest to a query, {items.size:,} items", told, "ms")


def _with_texts(items: ItemState, size: int) -> ItemState:
    """Another catalogue as far as its texts go."""
    rng = np.random.default_rng(1)
    vectors = np.empty((size, WIDTH), np.float16)
    for at in range(0, size, 50_000):
        drawn = rng.standard_normal((min(50_000, size - at), WIDTH), np.float32)
        vectors[at : at + len(drawn)] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return replace(items, size=size, text=np.arange(size, dtype=np.int32), text_vectors=vectors)


def _ms(do: Callable[[], object]) -> float:
    """Median of the elapsed time, the first call left out."""
    do()
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        do()
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
