"""Who the user is: history from Valkey under the release's view, else from the snapshot, else unknown.

A view belongs to one release, so model and histories roll back together. A Valkey that is dead or hangs costs a few
short timeouts and then nothing: the snapshot answers. What the user bought since the view was counted is added to either.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.domain.errors import InputRejected, Unavailable
from tasks.ranker.state import ItemState, UserHistory, pack_user, unpack_user
from tasks.ranker.state import View as Snapshot
from tasks.serving.breaker import Breaker
from tasks.serving.online_store import OnlineStore, ValkeyOnlineStore
from tasks.serving.recent import MOST, Purchase, Purchases, unpacked, with_purchases
from tasks.serving.release import VIEW_JSON, file_digests, verify_view

KEPT_USERS = 4_096
KEPT_FOR_S = 30.0
OWN_FOR_S = 3_600.0  # what this replica heard itself; the online store keeps it for longer
PUBLISH_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A history in memory. `mark` says what it was made of: made of the same again, it stays the same object."""

    at: float
    user: UserHistory | None
    source: str
    mark: tuple[bytes, tuple[str, ...]]


class UserView:
    """Histories by pseudonym. Used by one thread, `heard` by any; nothing it does waits longer than the store's timeout."""

    def __init__(
        self,
        view: str,
        snapshot: Snapshot | None,
        online: OnlineStore | None,
        clock: Callable[[], float] = time.monotonic,
        probe_every_s: float = 2.0,
        items: ItemState | None = None,
    ) -> None:
        self._view = view
        self._snapshot = snapshot
        self._online = online
        self._clock = clock
        self._items = items  # without it, what was bought since the view is not counted
        self._breaker = Breaker("valkey", online.ping, interval_s=probe_every_s) if online is not None else None
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._news: deque[tuple[str, Purchases]] = deque(maxlen=KEPT_USERS)
        self._own: OrderedDict[str, tuple[float, dict[str, Purchase]]] = OrderedDict()

    def find(self, pseudonym: str) -> tuple[UserHistory | None, str]:
        """(history or None, where it came from: memory | valkey | snapshot | recent | unknown)."""
        self._read_news()
        kept = self._kept.get(pseudonym)
        if kept is not None and self._clock() - kept.at < KEPT_FOR_S:
            return kept.user, "memory" if kept.user is not None else "unknown"
        found = self._look_up(pseudonym, kept)
        self._kept[pseudonym] = found
        self._kept.move_to_end(pseudonym)
        if len(self._kept) > KEPT_USERS:
            self._kept.popitem(last=False)
        return found.user, found.source

    def in_memory(self, pseudonym: str) -> UserHistory | None:
        """The history if it is at hand and up to date, for any thread; None says nothing: `find` does."""
        kept = self._kept.get(pseudonym)
        return kept.user if kept is not None and not self._news and self._clock() - kept.at < KEPT_FOR_S else None

    def heard(self, pseudonym: str, purchases: Purchases) -> None:
        """The user bought something just now: the next request counts it."""
        self._news.append((pseudonym, purchases))

    def busiest(self, n: int) -> list[str]:
        """The n users with the longest histories, for warming up."""
        return self._snapshot.busiest(n) if self._snapshot is not None else []

    def close(self) -> None:
        if self._breaker is not None:
            self._breaker.stop()

    def _read_news(self) -> None:
        while self._news:
            pseudonym, purchases = self._news.popleft()
            _, own = self._own.pop(pseudonym, (0.0, {}))
            self._own[pseudonym] = (self._clock(), dict(list({**own, **purchases}.items())[-MOST:]))
            if len(self._own) > KEPT_USERS:
                self._own.popitem(last=False)
            kept = self._kept.get(pseudonym)
            if kept is not None:
                self._kept[pseudonym] = replace(kept, at=-KEPT_FOR_S)

    def _look_up(self, pseudonym: str, kept: Kept | None) -> Kept:
        packed, recent = self._ask(pseudonym)
        told, own = self._own.get(pseudonym, (0.0, {}))
        if self._clock() - told < OWN_FOR_S:
            recent = {**recent, **own}
        digest = hashlib.blake2b(packed, digest_size=16).digest() if packed is not None else b""
        mark = (digest, tuple(sorted(recent)))
        if kept is not None and kept.mark == mark:
            return replace(kept, at=self._clock())
        user, source = self._counted(pseudonym, packed)
        if recent and self._items is not None:
            user = with_purchases(self._items, user, recent)
            source = source if source != "unknown" or user is None else "recent"
        return Kept(self._clock(), user, source, mark)

    def _counted(self, pseudonym: str, packed: bytes | None) -> tuple[UserHistory | None, str]:
        if packed is not None:
            try:
                return unpack_user(packed), "valkey"
            except Exception:  # bytes that are no history: somebody else's write, or damage; the snapshot is verified
                pass
        user = self._snapshot.get(pseudonym) if self._snapshot is not None else None
        return user, "snapshot" if user is not None else "unknown"

    def _ask(self, pseudonym: str) -> tuple[bytes | None, dict[str, Purchase]]:
        if self._online is None or self._breaker is None or not self._breaker.closed:
            return None, {}
        try:
            packed = self._online.get(self._view, pseudonym)
            recent = self._online.recent(self._view, pseudonym) if self._items is not None else {}
        except Unavailable:
            self._breaker.failed()
            return None, {}
        self._breaker.succeeded()
        return packed, unpacked(recent)


def open_view(directory: Path, expected: str, items: ItemState, valkey_url: str | None) -> UserView:
    """Check the snapshot and open it, with Valkey in front when there is one.

    Raises:
        InputRejected: the snapshot is damaged, is another view, or counts its items differently from the release.
    """
    verify_view(directory, expected)
    snapshot = Snapshot(directory)
    if snapshot.items_digest != items.digest:
        raise InputRejected(
            f"view {expected[:12]} numbers items as {snapshot.items_digest[:12]}, the release as {items.digest[:12]}; "
            f"histories would mean other items. Pull the view that the release names"
        )
    return UserView(expected, snapshot, ValkeyOnlineStore(valkey_url) if valkey_url else None, items=items)


def publish(view_dir: Path, valkey_url: str, online: OnlineStore | None = None) -> int:
    """Put a snapshot's histories into Valkey under its digest; return how many users. Again is a no-op.

    Raises:
        Unavailable: Valkey did not take them; serving goes on from the snapshot.
    """
    view = _digest_named(view_dir)
    online = online or ValkeyOnlineStore(valkey_url, PUBLISH_TIMEOUT_S)
    snapshot = Snapshot(view_dir)
    present = online.published(view)
    if present == len(snapshot):
        return present
    found = ((user, snapshot.get(user)) for user in snapshot.user_ids)
    return online.publish(view, ((user, pack_user(history)) for user, history in found if history is not None))


def retire(view: str, valkey_url: str, online: OnlineStore | None = None) -> int:
    """Remove a view that no kept release names from Valkey; return how many histories went."""
    return (online or ValkeyOnlineStore(valkey_url, PUBLISH_TIMEOUT_S)).retire(view)


def _digest_named(view_dir: Path) -> str:
    import json

    if VIEW_JSON not in file_digests(view_dir):
        raise InputRejected(f"{view_dir.name} has no {VIEW_JSON}; it is not a packaged view")
    view = str(json.loads((view_dir / VIEW_JSON).read_bytes())["view"])
    verify_view(view_dir, view)
    return view
