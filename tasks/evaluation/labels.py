"""Another definition of success: which labels two models both know, and the holdout with these labels alone.

Where a log has several kinds of success, build_dataset writes down which kinds stand behind each one of the holdout, so
that a champion is never judged by labels that it did not learn, nor a candidate spared those that both did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Ints
from tasks.ranker.build import Morning
from tasks.ranker.log import EventLog, of_goal
from tasks.ranker.slates import Slate
from tasks.ranker.tables import POLARS, Columns, Lazy, Tables

FILE = "label_kinds.safetensors"
EVENTS: Columns = {"user_id": pl.String, "item_id": pl.String, "event_type": pl.String, "value": pl.Float64}


def save_label_kinds(
    accepted: Sequence[Path], log: EventLog, users: Ints, goal: Sequence[str], out: Path, tables: Tables = POLARS
) -> None:
    """Write day, user, item and the kinds of success of each event of these days; nothing where there is one kind only.

    Args:
        accepted: one file a day of the holdout.
        users: numbers of the selected users.
    """
    if len(goal) < 2 or not accepted:
        return
    items = pl.DataFrame({"item_id": log.items.ids, "item": np.arange(len(log.items.ids), dtype=np.int32)})
    chosen = pl.DataFrame({"user_id": [log.user_ids[user] for user in users.tolist()], "user": users.astype(np.int32)})
    kinds = _kinds(tables.events(accepted, EVENTS), goal)
    known = kinds.join(tables.frame(items), on="item_id").join(tables.frame(chosen), on="user_id")
    table = tables.collected(known).sort("day", "user", "item")
    arrays = {name: table[name].to_numpy().astype(np.int32) for name in ("day", "user", "item")}
    save_file(
        arrays | {"kinds": table["kinds"].to_numpy().astype(np.uint8)}, out / FILE, {"goal": json.dumps(list(goal))}
    )


def _kinds(events: Lazy, goal: Sequence[str]) -> Lazy:
    """day, user_id, item_id, kinds: bit n is set where there was an event of kind goal[n]."""
    bits = ((nw.col("event_type") == name).cast(nw.Int32) * (1 << n) for n, name in enumerate(goal))
    kinds = of_goal(events, goal).select("day", "user_id", "item_id", kind=nw.sum_horizontal(bits))
    return kinds.unique().group_by("day", "user_id", "item_id").agg(kinds=nw.col("kind").sum())


@dataclass(frozen=True)
class Shared:
    """The labels that both models learned, and where in the holdout they are."""

    labels: tuple[str, ...]
    _key: NDArray[np.int64]  # sorted, of the events that have one of them
    _items: int

    def of(self, morning: Morning, slates: Sequence[Slate]) -> list[Slate]:
        """The slates with these labels alone; one that has none of them is no slate."""
        item_of = np.full(len(morning.items.ids), -1, np.int64)
        known = np.flatnonzero(morning.row_of >= 0)
        item_of[morning.row_of[known]] = known
        kept = []
        for slate in slates:
            inside = np.isin(_key(slate.day, slate.user, item_of[slate.positives], self._items), self._key)
            if inside.any():
                positives, new, paid = slate.positives[inside], slate.new[inside], slate.paid[inside]
                kept.append(replace(slate, positives=positives, new=new, paid=paid))
        return kept

    def digest(self, holdout: str) -> str:
        """Names the slates as they are counted here."""
        return hashlib.sha256(f"{holdout} {' '.join(self.labels)}".encode()).hexdigest()


def shared_labels(dataset: Path, candidate: Path, champion: Path, items: int) -> Shared | None:
    """What to count where the candidate learned other labels than the champion; None where all of its own are right.

    So it is for a champion that knows them all, for one that knows none of them (then nothing is comparable, and the gate
    says so), and for one from before labels were written.

    Args:
        candidate, champion: directories with config.json.
        items: of the log.

    Raises:
        InputRejected: the dataset does not say which labels its holdout has.
    """
    theirs, ours = goal_of(champion), goal_of(candidate)
    both = tuple(label for label in ours if label in theirs)
    if not both or both == ours:
        return None
    if not (dataset / FILE).exists():
        raise InputRejected(
            f"the champion learned {', '.join(theirs)} and the candidate {', '.join(ours)}, and the dataset does not say "
            f"which is which in its holdout; run build_dataset again"
        )
    with safe_open(dataset / FILE, framework="numpy") as file:
        goal: list[str] = json.loads(file.metadata()["goal"])
        day, user, item, kinds = (file.get_tensor(name) for name in ("day", "user", "item", "kinds"))
    wanted = sum(1 << n for n, name in enumerate(goal) if name in both)
    return Shared(both, np.unique(_key(day, user, item, items)[(kinds & wanted) > 0]), items)


def goal_of(model: Path) -> tuple[str, ...]:
    """Labels that a model learned; none where its config does not say."""
    told = json.loads((model / "config.json").read_bytes()).get("labels") or {}
    return tuple(told.get("goal", ()))


def _key(day: Ints | int, user: Ints | int, item: NDArray[np.int64] | Ints, items: int) -> NDArray[np.int64]:
    """One number for (day, user, item): 2^26 users and 2^21 items fit beside the day in 63 bits."""
    return (np.int64(day) * (1 << 26) + np.int64(user)) * items + np.asarray(item, np.int64)
