"""A store over a store: reads fall through, writes and deletions stay in memory, some keys are out of sight."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tasks.adapters.store import MemoryStore, Store, Stored, checked_key
from tasks.domain.errors import InputRejected


class Overlay:
    """What happens here leaves no trace in `base`, which is only ever read."""

    def __init__(self, base: Store, hidden: Callable[[str], bool] = lambda key: False) -> None:
        self._base, self._hidden = base, hidden
        self._written, self._gone = MemoryStore(), set[str]()

    def uri(self, key: str) -> str:
        return self._base.uri(key)

    def key(self, uri: str) -> str:
        return self._base.key(uri)

    def put_new(self, key: str, content: bytes | Path) -> None:
        if not self._written.exists(key) and self._below(key):
            self._written.replace(key, self._base.get(key))
        self._written.put_new(key, content)
        self._gone.discard(key)

    def replace(self, key: str, content: bytes) -> None:
        self._written.replace(key, content)
        self._gone.discard(key)

    def get(self, key: str) -> bytes:
        if self._written.exists(key):
            return self._written.get(key)
        if not self._below(key):
            raise InputRejected(f"{self.uri(key)} does not exist")
        return self._base.get(key)

    def download(self, key: str, path: Path) -> None:
        if self._written.exists(key):
            self._written.download(key, path)
        elif self._below(key):
            self._base.download(key, path)
        else:
            raise InputRejected(f"{self.uri(key)} does not exist")

    def exists(self, key: str) -> bool:
        return self._written.exists(key) or self._below(key)

    def list(self, prefix: str) -> list[str]:
        return [found.key for found in self.stat(prefix)]

    def stat(self, prefix: str) -> builtins.list[Stored]:
        below = {
            one.key: one for one in self._base.stat(prefix) if not self._hidden(one.key) and one.key not in self._gone
        }
        here = {one.key: one for one in self._written.stat(prefix)}
        return [one for _, one in sorted((below | here).items())]

    def clock(self) -> datetime:
        return self._base.clock()

    def delete(self, key: str) -> None:
        self._written.delete(key)
        self._gone.add(key)

    def _below(self, key: str) -> bool:
        return checked_key(key) not in self._gone and not self._hidden(key) and self._base.exists(key)
