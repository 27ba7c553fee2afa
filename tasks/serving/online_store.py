"""Packed user histories by view and pseudonym in Valkey, with an in-memory twin that passes the same contract suite.

Keys are `view:<view digest>:<pseudonym>`: another view never reads them, so no history survives a rollback. Views are
written by the controller; the service adds only what a user did since, under the same digest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any, Protocol

from tasks.domain.errors import Unavailable

BATCH = 1_000
RECENT = ":recent"
RECENT_FOR_S = 3 * 86_400  # by then a newer state has counted them


class OnlineStore(Protocol):
    def get(self, view: str, pseudonym: str) -> bytes | None:
        """The packed history, or None when the view has none. Raises Unavailable within the timeout."""
        ...

    def recent(self, view: str, pseudonym: str) -> dict[str, bytes]:
        """What was added to the user's history since the view was counted, by event id; empty for most."""
        ...

    def add_recent(self, view: str, pseudonym: str, entries: Mapping[str, bytes]) -> None:
        """Add entries; one with a known event id changes nothing. They go by themselves after RECENT_FOR_S."""
        ...

    def publish(self, view: str, histories: Iterable[tuple[str, bytes]]) -> int:
        """Write them all, then mark the view as whole; return how many. Publishing again changes nothing."""
        ...

    def published(self, view: str) -> int | None:
        """How many users a whole view has; None while it is absent or half written."""
        ...

    def retire(self, view: str) -> int:
        """Remove every history of the view, the mark first; return how many."""
        ...

    def forget(self, views: Iterable[str], pseudonyms: Collection[str]) -> int:
        """Remove these users from the views; return how many histories went. The marks stay: the views are as whole."""
        ...

    def ping(self) -> None:
        """Raises Unavailable when nobody answers in time."""
        ...


class MemoryOnlineStore:
    def __init__(self) -> None:
        self._histories: dict[tuple[str, str], bytes] = {}
        self._whole: dict[str, int] = {}
        self._recent: dict[tuple[str, str], dict[str, bytes]] = {}

    def get(self, view: str, pseudonym: str) -> bytes | None:
        return self._histories.get((view, pseudonym))

    def recent(self, view: str, pseudonym: str) -> dict[str, bytes]:
        return dict(self._recent.get((view, pseudonym), {}))

    def add_recent(self, view: str, pseudonym: str, entries: Mapping[str, bytes]) -> None:
        kept = self._recent.setdefault((view, pseudonym), {})
        kept.update({event: entry for event, entry in entries.items() if event not in kept})

    def publish(self, view: str, histories: Iterable[tuple[str, bytes]]) -> int:
        written = {(view, pseudonym): packed for pseudonym, packed in histories}
        self._histories.update(written)
        self._whole[view] = len(written)
        return len(written)

    def published(self, view: str) -> int | None:
        return self._whole.get(view)

    def retire(self, view: str) -> int:
        self._whole.pop(view, None)
        gone = [key for key in self._histories if key[0] == view]
        for key in gone:
            del self._histories[key]
        self._recent = {key: entries for key, entries in self._recent.items() if key[0] != view}
        return len(gone)

    def forget(self, views: Iterable[str], pseudonyms: Collection[str]) -> int:
        keys = [(view, one) for view in views for one in pseudonyms]
        for key in keys:
            self._recent.pop(key, None)
        return sum(self._histories.pop(key, None) is not None for key in keys)

    def ping(self) -> None:
        return None


class ValkeyOnlineStore:
    """One connection, one caller at a time. No retries: the caller has a snapshot and no time."""

    def __init__(self, url: str, timeout_s: float = 0.005) -> None:
        from valkey import Valkey
        from valkey.backoff import NoBackoff
        from valkey.retry import Retry

        self._client: Any = Valkey.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )

    def get(self, view: str, pseudonym: str) -> bytes | None:
        packed: bytes | None = self._call(self._client.get, _key(view, pseudonym))
        return packed

    def recent(self, view: str, pseudonym: str) -> dict[str, bytes]:
        entries: dict[bytes, bytes] = self._call(self._client.hgetall, _recent(view, pseudonym))
        return {event.decode(errors="replace"): entry for event, entry in entries.items()}

    def add_recent(self, view: str, pseudonym: str, entries: Mapping[str, bytes]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for event, entry in entries.items():
            pipe.hsetnx(_recent(view, pseudonym), event, entry)
        pipe.expire(_recent(view, pseudonym), RECENT_FOR_S)
        self._call(pipe.execute)

    def publish(self, view: str, histories: Iterable[tuple[str, bytes]]) -> int:
        written, pairs = 0, iter(histories)
        while batch := {_key(view, pseudonym): packed for pseudonym, packed in islice(pairs, BATCH)}:
            self._call(self._client.mset, batch)
            written += len(batch)
        self._call(self._client.set, f"view:{view}", written)
        return written

    def published(self, view: str) -> int | None:
        mark = self._call(self._client.get, f"view:{view}")
        return None if mark is None else int(mark)

    def retire(self, view: str) -> int:
        self._call(self._client.delete, f"view:{view}")
        removed, cursor = 0, None
        while cursor != 0:
            cursor, keys = self._call(self._client.scan, cursor or 0, match=f"view:{view}:*", count=BATCH)
            if keys:
                self._call(self._client.unlink, *keys)
                removed += sum(not key.endswith(RECENT.encode()) for key in keys)
        return removed

    def forget(self, views: Iterable[str], pseudonyms: Collection[str]) -> int:
        named = [(view, one) for view in views for one in pseudonyms]
        removed = 0
        for at in range(0, len(named), BATCH):
            part = named[at : at + BATCH]
            self._call(self._client.unlink, *(_recent(*one) for one in part))
            removed += int(self._call(self._client.unlink, *(_key(*one) for one in part)))
        return removed

    def ping(self) -> None:
        self._call(self._client.ping)

    def close(self) -> None:
        self._client.close()

    def _call(self, operation: Any, *arguments: Any, **named: Any) -> Any:
        from valkey.exceptions import ValkeyError

        try:
            return operation(*arguments, **named)
        except (ValkeyError, OSError) as err:
            raise Unavailable(f"Valkey did not answer: {type(err).__name__}; histories come from the snapshot") from err


def _key(view: str, pseudonym: str) -> str:
    return f"view:{view}:{pseudonym}"


def _recent(view: str, pseudonym: str) -> str:
    return _key(view, pseudonym) + RECENT
