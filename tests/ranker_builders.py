"""A small made-up shop for tests of the ranker: a log written down event by event, or drawn with habits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tasks.ranker.arrays import epoch_day
from tasks.ranker.build import StateBuilder, TextTable
from tasks.ranker.log import EventLog, Items, Plans

DAY = epoch_day("2017-06-20")
WIDTH = 384
Line = tuple[int, int, int]  # day, user, item


def a_log(lines: Sequence[Line], items: int = 12, users: int = 4, **columns: np.ndarray) -> EventLog:
    """Purchases of one piece for 2.00 in store 0, unless a column says otherwise. Three items a type, six a
    category and department."""
    order = sorted(range(len(lines)), key=lambda n: lines[n])
    day, user, item = (np.array([lines[n][part] for n in order], np.int32) for part in range(3))
    n = len(lines)
    defaults = {
        "quantity": np.ones(n, np.float32),
        "value": np.full(n, 2.0, np.float32),
        "discount": np.zeros(n, np.float32),
        "store": np.zeros(n, np.int32),
    }
    given = {name: np.asarray(values)[order] for name, values in columns.items()}
    numbers = np.arange(items, dtype=np.int32)
    return EventLog(
        items=Items(
            ids=[f"item-{number:02d}" for number in range(items)],
            type=numbers // 3,
            category=numbers // 6,
            brand=numbers % 2,
            texts=[f"thing {number}" for number in range(items)],
            paths=[f"D{number // 6} > C{number // 6} > T{number // 3}" for number in range(items)],
        ),
        user_ids=[f"{number:064x}" for number in range(users)],
        day=day,
        user=user,
        item=item,
        store_ids=["s0", "s1"],
        **{**defaults, **given},
    )


def stocked(lines: Sequence[Line], items: int = 12, user: int = 3) -> list[Line]:
    """The same lines, and five sales of every item long ago by someone else, so that all are in the catalogue."""
    return [*lines, *((DAY - 60 - n, user, item) for item in range(items) for n in range(5))]


def texts_of(log: EventLog) -> TextTable:
    vectors = np.random.default_rng(3).normal(size=(len(log.items.ids), WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TextTable(np.arange(len(log.items.ids), dtype=np.int32), vectors.astype(np.float16))


def a_builder(
    log: EventLog, plans: Plans | None = None, users: Sequence[int] | None = None, *, knowledge: bool = False
) -> StateBuilder:
    chosen = np.arange(len(log.user_ids), dtype=np.int32) if users is None else np.array(users, np.int32)
    return StateBuilder(log, plans or Plans({}), chosen, texts_of(log), knowledge=knowledge)


def without(log: EventLog, keep: np.ndarray) -> EventLog:
    names = ("day", "user", "item", "quantity", "value", "discount", "store")
    return replace(log, **{name: getattr(log, name)[keep] for name in names})
