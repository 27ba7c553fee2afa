"""What is known on the morning of a day: item counters (released with the model) and user histories (kept beside it).

Saved as safetensors and JSON only. A view belongs to one ItemState: its rows are that state's item rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_bytes
from safetensors.numpy import load_file, save, save_file

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json, digest_of
from tasks.ranker.arrays import Floats, Halves, Ints, epoch_day, iso_day

VIEW_VERSION = 2  # 2: several scores for each row of similar users


def _no_rows() -> Ints:
    return np.zeros(0, np.int32)


def _no_floats() -> Floats:
    return np.zeros(0, np.float32)


def _no_scores() -> Floats:
    return np.zeros((0, 1), np.float32)


@dataclass(frozen=True)
class ItemState:
    """All items ever bought before the morning of `day`. Rows 0..size-1 are the catalogue: only they can be ranked."""

    day: int
    size: int
    ids: list[str]
    type: Ints
    category: Ints
    brand: Ints
    text: Ints  # row of text_vectors, -1 where the item has none
    text_vectors: Halves  # one row for each distinct item text, unit length
    static: Floats  # [size, len(STATIC)]: counters, prices and promotions in the form the model reads
    sales7: Floats
    sales28: Floats
    price: Floats  # paid for one unit in the last 28 days
    price_level: Floats  # log of the price against the item's type; 0 is average
    mailer: Floats  # share of stores that promote the item today
    discount7: Floats  # share of the last week's sales that had money off
    type_share: Floats  # of its type's 28-day sales
    sales_votes: Floats  # what the rankings that are the same for everyone say, see retrieve.py
    store_ids: list[str]
    store_ptr: Ints  # store s sold store_item[store_ptr[s]:store_ptr[s + 1]] in the last 28 days
    store_item: Ints
    store_sales7: Floats
    store_sales28: Floats
    # what a recipe's `knowledge` adds, empty without it
    department: Ints = field(default_factory=_no_rows)  # first level of the category path
    taxonomy: Floats = field(default_factory=_no_floats)  # [size, len(OF_ITEM)]
    graph_ptr: Ints = field(default_factory=_no_rows)  # row r is bought with graph_row[graph_ptr[r]:graph_ptr[r + 1]]
    graph_row: Ints = field(default_factory=_no_rows)
    graph_weight: Floats = field(default_factory=_no_floats)

    @property
    def knowledge(self) -> bool:
        return len(self.graph_ptr) > 0

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    @cached_property
    def digest(self) -> str:
        """Names this numbering of items; a view says which one its rows mean."""
        return digest_of({"ids": self.ids, "size": self.size, "day": self.day})

    @cached_property
    def _vectors(self) -> Floats:
        """Text vectors and, last, the zeros that row -1 means."""
        empty = np.zeros((1, self.text_vectors.shape[1]), np.float32)
        return np.vstack([self.text_vectors.astype(np.float32), empty])

    def texts(self, text: Ints) -> Floats:
        """Vectors of text rows; -1 means the zeros of no text."""
        return self._vectors[text]

    def vectors(self, candidates: Ints) -> Floats:
        """Text vector of each row; zeros where an item has no text."""
        return self.texts(self.text[candidates])

    def similarity(self, vector: Floats) -> Floats:
        """Of the text of each catalogue row to a vector; 0 without text. Each text is read once, where it lies."""
        found: Floats = (self._vectors @ vector)[self.text[: self.size]]
        return found

    def rows(self, item_ids: Iterable[str]) -> Ints:
        """Row of each item in the catalogue, -1 for an item that cannot be ranked."""
        row_of = self.row_of.get
        rows = np.array([row_of(item, -1) for item in item_ids], np.int32)
        rows[rows >= self.size] = -1
        return rows

    def sold_at(self, store: int, candidates: Ints) -> tuple[Floats, Floats, float]:
        """7-day and 28-day sales of the candidates in one store, and its share of all sales; zeros for store -1."""
        known = 0 <= store < len(self.store_ids)
        part = slice(self.store_ptr[store], self.store_ptr[store + 1]) if known else slice(0)
        sold, month = self.store_item[part], self.store_sales28[part]  # ascending within a store
        if not len(sold):
            none = np.zeros(len(candidates), np.float32)
            return none, none, 0.0
        share = float(month.sum()) / max(self._total_sales, 1.0)
        at = np.minimum(np.searchsorted(sold, candidates), len(sold) - 1)
        here = sold[at] == candidates
        return np.where(here, self.store_sales7[part][at], 0), np.where(here, month[at], 0), share

    def store_sales(self, store: int) -> tuple[Floats, Floats]:
        """7-day and 28-day sales of the whole catalogue in one store; zeros for store -1."""
        week, month = np.zeros(self.size, np.float32), np.zeros(self.size, np.float32)
        if 0 <= store < len(self.store_ids):
            part = slice(self.store_ptr[store], self.store_ptr[store + 1])
            week[self.store_item[part]] = self.store_sales7[part]
            month[self.store_item[part]] = self.store_sales28[part]
        return week, month

    @cached_property
    def types(self) -> int:
        """Number of types: every code is below it."""
        return int(self.type.max(initial=-1)) + 1

    @cached_property
    def categories(self) -> int:
        return int(self.category.max(initial=-1)) + 1

    @cached_property
    def sales_now(self) -> Floats:
        """What sells, the last week above the three before."""
        return self.sales7 + 0.25 * self.sales28

    @cached_property
    def _total_sales(self) -> float:
        return float(self.sales28.sum())

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        meta = {name: arrays.pop(name) for name in ("day", "size", "ids", "store_ids")}
        save_file(
            {name: np.ascontiguousarray(value) for name, value in arrays.items()}, directory / "items.safetensors"
        )
        (directory / "items.json").write_bytes(canonical_json({**meta, "morning_of": iso_day(self.day)}))

    @classmethod
    def load(cls, directory: Path) -> ItemState:
        meta: dict[str, Any] = json.loads((directory / "items.json").read_bytes())
        meta.pop("morning_of")
        return cls(**meta | load_file(directory / "items.safetensors"))


@dataclass(frozen=True)
class UserHistory:
    """One user's purchases, sorted by (day, row), and what similar users buy. Rows are those of one ItemState."""

    rows: Ints = field(default_factory=_no_rows)
    days: Ints = field(default_factory=_no_rows)
    quantity: Floats = field(default_factory=_no_floats)
    price: Floats = field(default_factory=_no_floats)  # paid for one unit; 0 where unknown
    discounted: Floats = field(default_factory=_no_floats)  # 1 where there was money off
    store: Ints = field(default_factory=lambda: np.full(1, -1, np.int32))  # the store of most recent trips, -1 unknown
    cf_rows: Ints = field(default_factory=_no_rows)  # catalogue rows that similar users buy, ascending
    cf_scores: Floats = field(default_factory=_no_scores)  # [rows, columns], see neighbours.py


HISTORY_FIELDS = tuple(f.name for f in fields(UserHistory))
NOBODY = UserHistory()


def pack_user(user: UserHistory) -> bytes:
    """A history as bytes, for an online store; the inverse of `unpack_user`."""
    return save({name: np.ascontiguousarray(getattr(user, name)) for name in HISTORY_FIELDS})


def unpack_user(packed: bytes) -> UserHistory:
    return UserHistory(**load_bytes(packed))


def history_from_events(items: ItemState, events: Iterable[Mapping[str, Any]]) -> UserHistory:
    """An ad-hoc history from a request: {item_id, event_time?, quantity?, value?}. Unknown items are left out.

    Without a time an event counts as of the last day before the state's morning; later times count as that day too.
    """
    merged: dict[tuple[int, int], list[float]] = {}
    for event in events:
        row = items.row_of.get(event["item_id"])
        if row is None:
            continue
        day = min(_event_day(event.get("event_time"), items.day - 1), items.day - 1)
        line = merged.setdefault((day, row), [0.0, 0.0, 0.0])
        quantity = event.get("quantity")
        line[0] += 1.0 if quantity is None else quantity  # a log has lines of quantity 0, and training reads them so
        line[1] += event.get("value") or 0.0
        line[2] = max(line[2], float((event.get("discount") or 0.0) > 0))
    keys = sorted(merged)
    lines = np.array([merged[key] for key in keys], np.float32).reshape(-1, 3)
    return UserHistory(
        rows=np.array([row for _, row in keys], np.int32),
        days=np.array([day for day, _ in keys], np.int32),
        quantity=lines[:, 0].copy(),
        price=np.divide(lines[:, 1], np.maximum(lines[:, 0], 1e-6), dtype=np.float32),
        discounted=lines[:, 2].copy(),
    )


def _event_day(time: Any, default: int) -> int:
    if time is None:
        return default
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return int(time.timestamp() // 86_400) if isinstance(time, datetime) else epoch_day(time)


class View:
    """Histories of all known users in one file that is mapped, not read: opening is quick and memory stays small."""

    def __init__(self, directory: Path) -> None:
        meta = json.loads((directory / "users.json").read_bytes())
        if meta["version"] != VIEW_VERSION:
            raise InputRejected(f"{directory} is a view of version {meta['version']}; this code reads {VIEW_VERSION}")
        self.items_digest: str = meta["items"]
        self.user_ids: list[str] = meta["users"]
        self._position = {user: n for n, user in enumerate(self.user_ids)}
        self._arrays = _mapped(directory / "histories.safetensors")
        self._events, self._neighbours = self._arrays["event_ptr"], self._arrays["neighbour_ptr"]

    def __len__(self) -> int:
        return len(self.user_ids)

    def get(self, user_id: str) -> UserHistory | None:
        n = self._position.get(user_id)
        if n is None:
            return None
        bounds = {name: self._bounds(name, n) for name in HISTORY_FIELDS}
        return UserHistory(**{name: self._arrays[name][a:b].copy() for name, (a, b) in bounds.items()})

    def busiest(self, n: int) -> list[str]:
        """The n users with the most events, the most first."""
        return [self.user_ids[at] for at in np.argsort(-np.diff(self._events), kind="stable")[:n].tolist()]

    def lines(self, users: Iterable[str]) -> int:
        """Lines of the histories of these users, all of whom the view knows."""
        return int(np.diff(self._events)[[self._position[user] for user in users]].sum())

    def _bounds(self, name: str, n: int) -> tuple[int, int]:
        if name == "store":
            return n, n + 1
        ptr = self._neighbours if name.startswith("cf_") else self._events
        return int(ptr[n]), int(ptr[n + 1])


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, mapped: cutting a user's part out takes a microsecond, by its own reader ten."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    body = np.asarray(np.memmap(path, np.uint8, "r"))[8 + size :]
    header.pop("__metadata__", None)
    types = {"I32": np.int32, "I64": np.int64, "F32": np.float32}
    return {
        name: body[slice(*told["data_offsets"])].view(types[told["dtype"]]).reshape(told["shape"])
        for name, told in header.items()
    }


def save_view(directory: Path, items: ItemState, histories: Mapping[str, UserHistory]) -> None:
    """Write the histories of `histories`, keyed by pseudonym, as the view that belongs to `items`."""
    write_view(directory, items.digest, histories)


def write_view(directory: Path, items_digest: str, histories: Mapping[str, UserHistory]) -> None:
    """The same, where only the digest of the item state is at hand."""
    directory.mkdir(parents=True, exist_ok=True)
    users = list(histories.values()) or [NOBODY]
    arrays = {name: np.concatenate([getattr(user, name) for user in users]) for name in HISTORY_FIELDS}
    arrays["event_ptr"] = np.cumsum([0, *(len(user.rows) for user in users)]).astype(np.int64)
    arrays["neighbour_ptr"] = np.cumsum([0, *(len(user.cf_rows) for user in users)]).astype(np.int64)
    save_file(arrays, directory / "histories.safetensors")
    meta = {"version": VIEW_VERSION, "items": items_digest, "users": list(histories)}
    (directory / "users.json").write_bytes(canonical_json(meta))
