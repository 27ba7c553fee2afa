"""Purchases made since the view was counted: heard by /feedback, counted in the user's next request.

They lie beside the view that the replica serves, under its digest, so a rollback leaves them behind with the model that
they were told to. Writing to Valkey is done by a thread of its own; no request waits for it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from tasks.domain.errors import Unavailable
from tasks.ranker.state import NOBODY, ItemState, UserHistory, history_from_events
from tasks.serving.metrics import Metrics
from tasks.serving.online_store import OnlineStore

log = logging.getLogger("freshrank.serving")
MOST = 200  # purchases of one user that are remembered beside the view
WAITING = 1_000


class Purchase(msgspec.Struct, frozen=True):
    """One line of the contract, as much of it as a history keeps. `event_time` is ISO 8601 with its offset."""

    item_id: str
    event_time: str
    value: float | None = None


Purchases = Mapping[str, Purchase]  # by event id: the same event again is the same purchase
_decoder = msgspec.json.Decoder(Purchase)


def purchases_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Purchase]]:
    """Rows of /feedback -> the purchases of each pseudonym."""
    told: dict[str, dict[str, Purchase]] = {}
    for row in rows:
        if row["event_type"] == "purchase" and row["user_id"]:
            line = Purchase(row["item_id"], row["event_time"], row["value"])
            told.setdefault(row["user_id"], {})[row["event_id"]] = line
    return told


def packed(purchases: Purchases) -> dict[str, bytes]:
    return {event: msgspec.json.encode(line) for event, line in purchases.items()}


def unpacked(entries: Mapping[str, bytes]) -> dict[str, Purchase]:
    """What can be read of them: bytes that are no purchase are somebody else's write, and count for nothing."""
    lines = {}
    for event, entry in list(entries.items())[:MOST]:
        try:
            lines[event] = _decoder.decode(entry)
        except msgspec.DecodeError:
            continue
    return lines


def with_purchases(items: ItemState, user: UserHistory | None, purchases: Purchases) -> UserHistory | None:
    """The history with what was bought since; None where nothing is known at all. Days after the morning are yesterday."""
    lines = [msgspec.structs.asdict(line) for _, line in sorted(purchases.items())]
    added = history_from_events(items, lines)
    if not len(added.rows):
        return user
    return _merged(user or NOBODY, added)


def _merged(one: UserHistory, other: UserHistory) -> UserHistory:
    """Both, sorted by (day, row), with the lines of one item on one day as one: as a view holds them."""
    days, rows = np.concatenate([one.days, other.days]), np.concatenate([one.rows, other.rows])
    quantity = np.concatenate([one.quantity, other.quantity])
    spent = np.concatenate([one.quantity * one.price, other.quantity * other.price])
    discounted = np.concatenate([one.discounted, other.discounted])
    order = np.lexsort((rows, days))
    days, rows = days[order], rows[order]
    starts = np.flatnonzero(np.append(True, (days[1:] != days[:-1]) | (rows[1:] != rows[:-1])))
    total = np.add.reduceat(quantity[order], starts)
    return replace(
        one,
        rows=rows[starts].astype(np.int32),
        days=days[starts].astype(np.int32),
        quantity=total.astype(np.float32),
        price=(np.add.reduceat(spent[order], starts) / np.maximum(total, 1e-6)).astype(np.float32),
        discounted=np.maximum.reduceat(discounted[order], starts).astype(np.float32),
    )


class Recorder:
    """Writes purchases to the online store behind the requests' backs. What it cannot write is counted, and lost there."""

    def __init__(self, view: str, online: OnlineStore, metrics: Metrics) -> None:
        self._view, self._online, self._metrics = view, online, metrics
        self._waiting: queue.Queue[tuple[str, Purchases] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="recent", daemon=True)
        self._thread.start()

    def put(self, pseudonym: str, purchases: Purchases) -> None:
        try:
            self._waiting.put_nowait((pseudonym, purchases))
        except queue.Full:
            self._metrics.recent.labels("refused").inc()

    def close(self) -> None:
        """Write what waits, then end."""
        self._waiting.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            try:
                self._online.add_recent(self._view, entry[0], packed(entry[1]))
                outcome = "written"
            except Unavailable:
                outcome = "failed"
            self._metrics.recent.labels(outcome).inc()
