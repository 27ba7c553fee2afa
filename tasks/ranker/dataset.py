"""The directory that build_dataset writes: the log, item texts, training rows of each day, and how the days are split.

What happened after the training's end lies in files of its own (holdout.safetensors), which training never opens.
Slates of validation and holdout are not stored: the code that serves makes them from the log when they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record, canonical_json
from tasks.ranker.arrays import Halves, Ints, epoch_day
from tasks.ranker.build import Morning, StateBuilder, TextTable
from tasks.ranker.fitted import Fitted
from tasks.ranker.log import EventLog, Items, Plans
from tasks.ranker.rows import Rows
from tasks.ranker.shown import Shown
from tasks.ranker.slates import Slate, slates_of, slates_on

VERSION = 2
HOLDOUT = "holdout.safetensors"
SHOWN = "shown.safetensors"
ITEM_CODES = ("type", "category", "brand")
EVENTS = ("day", "user", "item", "quantity", "value", "discount", "store")


class Split(Record):
    """dataset.json: which day is for what. Training may read the log up to `train_end`: validation and late labels."""

    version: int = VERSION
    partition: str
    train_days: tuple[str, ...]
    validation_days: tuple[str, ...]
    holdout_days: tuple[str, ...]
    holdout_slates: tuple[int, ...]  # of each holdout day; they decided how many days there are
    label_delay_days: int
    train_end: str
    recipe: str
    seed: int
    slates: int
    rows: int
    log_digest: str


@dataclass(frozen=True)
class Dataset:
    directory: Path

    @classmethod
    def open(cls, directory: Path) -> Dataset:
        if not (directory / "dataset.json").exists():
            raise InputRejected(f"{directory} holds no dataset.json; run build_dataset")
        return cls(directory)

    @cached_property
    def split(self) -> Split:
        return Split.model_validate_json((self.directory / "dataset.json").read_bytes())

    @cached_property
    def builder(self) -> StateBuilder:
        """The log up to the training's end: all that training and compression may know."""
        return load_builder(self.directory)

    @cached_property
    def whole(self) -> StateBuilder:
        """The log with the holdout, for judging and for the state."""
        return load_builder(self.directory, holdout=True)

    @cached_property
    def fitted(self) -> Fitted:
        return Fitted.load(self.directory)

    @cached_property
    def text_digests(self) -> NDArray[np.uint8]:
        return load_file(self.directory / "texts.safetensors")["digests"]

    def training_rows(self, days: tuple[str, ...] | None = None) -> Iterator[Rows]:
        for day in self.split.train_days if days is None else days:
            yield Rows.load(self.directory / "train" / f"{day}.safetensors")

    def mornings(self, days: tuple[str, ...]) -> Iterator[tuple[Morning, list[Slate]]]:
        for day in days:
            yield slates_on(self._builder_for(day), epoch_day(day))

    def digest_of(self, days: tuple[str, ...]) -> str:
        """Names the slates of `days`: which users bought which catalogue items on which of them."""
        digest = hashlib.sha256()
        for day in days:
            digest.update(slates_digest(self._builder_for(day), epoch_day(day)))
        return digest.hexdigest()

    def _builder_for(self, day: str) -> StateBuilder:
        return self.builder if day <= self.split.train_end else self.whole


def slates_digest(builder: StateBuilder, day: int) -> bytes:
    items, row_of = builder.items(day)
    digest = hashlib.sha256(str(day).encode())
    for slate in slates_of(builder, day, row_of, items.size):
        bought = [items.ids[row] for row in slate.positives.tolist()]
        digest.update(canonical_json([builder.log.user_ids[slate.user], bought, slate.new.tolist()]))
    return digest.digest()


def save_builder(
    directory: Path,
    builder: StateBuilder,
    digests: NDArray[np.uint8],
    train_items: Ints,
    train_end: int,
    last_lists: int,
) -> None:
    """What a StateBuilder is made of, so that other processes and later steps can make one.

    Args:
        train_items: the items whose texts training may know.
        train_end: the last day that training may know.
        last_lists: the last day whose lists it may know: what came of later ones may lie behind `train_end`.
    """
    log, plans, items, shown = builder.log, builder.plans, builder.log.items, builder.shown
    arrays = {f.name: np.ascontiguousarray(getattr(log, f.name)) for f in fields(log) if f.name in EVENTS}
    cut = log.before(train_end + 1)
    codes = {f"item_{name}": getattr(items, name) for name in ITEM_CODES}
    save_file(
        {name: values[:cut] for name, values in arrays.items()} | codes | {"selected": builder.users},
        directory / "log.safetensors",
    )
    later = {name: values[cut:] for name, values in arrays.items()} | {"text_row": builder.texts.row}
    if shown is not None:
        lists = {f.name: np.ascontiguousarray(getattr(shown, f.name)) for f in fields(shown)}
        cut = int(np.searchsorted(shown.day, last_lists + 1))
        save_file({name: values[:cut] for name, values in lists.items()}, directory / SHOWN)
        later |= {f"shown_{name}": values[cut:] for name, values in lists.items()}
    save_file(later, directory / HOLDOUT)
    days = sorted(plans.by_day)
    parts = [plans.by_day[day] for day in days] or [plans.on(0)]
    save_file(
        {
            "day": np.array(days, np.int32),
            "ptr": np.cumsum([0, *(len(part[0]) for part in parts)]).astype(np.int32),
            "item": np.concatenate([part[0] for part in parts]).astype(np.int32),
            "display": np.concatenate([part[1] for part in parts]).astype(np.float32),
            "mailer": np.concatenate([part[2] for part in parts]).astype(np.float32),
        },
        directory / "plans.safetensors",
    )
    row = np.full_like(builder.texts.row, -1)
    row[train_items] = builder.texts.row[train_items]
    texts: dict[str, NDArray[Any]] = {"row": row, "vectors": builder.texts.vectors, "digests": digests}
    if builder.texts.views is not None:
        texts["views"] = builder.texts.views
    save_file(texts, directory / "texts.safetensors")
    names = {
        "users": log.user_ids,
        "stores": log.store_ids,
        "items": items.ids,
        "texts": items.texts,
        "paths": items.paths,
        "knowledge": builder.knowledge,
    }
    (directory / "names.json").write_bytes(canonical_json(names))


def load_builder(directory: Path, *, holdout: bool = False) -> StateBuilder:
    """The builder of what training may know; `holdout` adds what happened after."""
    arrays = load_file(directory / "log.safetensors")
    names = json.loads((directory / "names.json").read_bytes())
    codes = {name: arrays.pop(f"item_{name}") for name in ITEM_CODES}
    items = Items(ids=names["items"], texts=names["texts"], paths=names["paths"], **codes)
    users = arrays.pop("selected")
    texts = load_file(directory / "texts.safetensors")
    row = texts["row"]
    lists = load_file(directory / SHOWN) if (directory / SHOWN).exists() else None
    if holdout:
        later = load_file(directory / HOLDOUT)
        row = later.pop("text_row")
        arrays = {name: np.concatenate([values, later[name]]) for name, values in arrays.items()}
        if lists is not None:
            lists = {name: np.concatenate([values, later[f"shown_{name}"]]) for name, values in lists.items()}
    log = EventLog(items=items, user_ids=names["users"], store_ids=names["stores"], **arrays)
    plan = load_file(directory / "plans.safetensors")
    by_day = {}
    for n, day in enumerate(plan["day"].tolist()):
        part = slice(plan["ptr"][n], plan["ptr"][n + 1])
        by_day[day] = (plan["item"][part], plan["display"][part], plan["mailer"][part])
    table = TextTable(row, texts["vectors"], texts.get("views"))
    shown = None if lists is None else Shown(**lists)
    return StateBuilder(log, Plans(by_day), users, table, shown=shown, knowledge=names["knowledge"])


def text_table(
    items: Items, wanted: Ints, rows: dict[bytes, int], vectors: Halves, views: Halves | None = None
) -> TextTable:
    """The vectors of the `wanted` items' texts; every other item of the log has none."""
    from tasks.ranker.text import text_digest

    row = np.full(len(items.ids), -1, np.int32)
    row[wanted] = [rows[text_digest(items.texts[item])] for item in wanted.tolist()]
    return TextTable(row, vectors, views)
