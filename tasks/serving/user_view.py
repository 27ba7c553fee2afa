"""Who the user is: history from Valkey under the release's view, else from the snapshot, else unknown.

A view belongs to one release, so model and histories roll back together. A Valkey that is dead or hangs costs a few
short timeouts and then nothing: the snapshot answers.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from tasks.domain.errors import InputRejected, Unavailable
from tasks.ranker.state import UserHistory, pack_user, unpack_user
from tasks.ranker.state import View as Snapshot
from tasks.serving.breaker import Breaker
from tasks.serving.online_store import OnlineStore, ValkeyOnlineStore
from tasks.serving.release import VIEW_JSON, file_digests, verify_view

KEPT_USERS = 4_096
KEPT_FOR_S = 30.0
PUBLISH_TIMEOUT_S = 10.0


class UserView:
    """Histories by pseudonym. Used by one thread; nothing it does waits longer than the store's timeout."""

    def __init__(
        self,
        view: str,
        snapshot: Snapshot | None,
        online: OnlineStore | None,
        clock: Callable[[], float] = time.monotonic,
        probe_every_s: float = 2.0,
    ) -> None:
        self._view = view
        self._snapshot = snapshot
        self._online = online
        self._clock = clock
        self._breaker = Breaker("valkey", online.ping, interval_s=probe_every_s) if online is not None else None
        self._kept: OrderedDict[str, tuple[float, UserHistory | None]] = OrderedDict()

    def find(self, pseudonym: str) -> tuple[UserHistory | None, str]:
        """(history or None, where it came from: memory | valkey | snapshot | unknown)."""
        kept = self._kept.get(pseudonym)
        if kept is not None and self._clock() - kept[0] < KEPT_FOR_S:
            return kept[1], "memory" if kept[1] is not None else "unknown"
        user, source = self._look_up(pseudonym)
        self._kept[pseudonym] = (self._clock(), user)
        self._kept.move_to_end(pseudonym)
        if len(self._kept) > KEPT_USERS:
            self._kept.popitem(last=False)
        return user, source

    def close(self) -> None:
        if self._breaker is not None:
            self._breaker.stop()

    def _look_up(self, pseudonym: str) -> tuple[UserHistory | None, str]:
        packed = self._ask(pseudonym)
        if packed is not None:
            try:
                return unpack_user(packed), "valkey"
            except Exception:  # bytes that are no history: somebody else's write, or damage; the snapshot is verified
                pass
        user = self._snapshot.get(pseudonym) if self._snapshot is not None else None
        return user, "snapshot" if user is not None else "unknown"

    def _ask(self, pseudonym: str) -> bytes | None:
        if self._online is None or self._breaker is None or not self._breaker.closed:
            return None
        try:
            packed = self._online.get(self._view, pseudonym)
        except Unavailable:
            self._breaker.failed()
            return None
        self._breaker.succeeded()
        return packed


def open_view(directory: Path, expected: str, items_digest: str, valkey_url: str | None) -> UserView:
    """Check the snapshot and open it, with Valkey in front when there is one.

    Raises:
        InputRejected: the snapshot is damaged, is another view, or counts its items differently from the release.
    """
    verify_view(directory, expected)
    snapshot = Snapshot(directory)
    if snapshot.items_digest != items_digest:
        raise InputRejected(
            f"view {expected[:12]} numbers items as {snapshot.items_digest[:12]}, the release as {items_digest[:12]}; "
            f"histories would mean other items. Pull the view that the release names"
        )
    return UserView(expected, snapshot, ValkeyOnlineStore(valkey_url) if valkey_url else None)


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
