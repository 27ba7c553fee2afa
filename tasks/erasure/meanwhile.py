"""Somebody is erased while a step runs, maybe on another machine: what it made of the old rows must not outlive the erasure.

A step writes its outputs and then looks for erasures, erasing writes its record and then looks for outputs: one sees the other.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tasks.adapters.erasures import DONE, ERASED, erasures
from tasks.adapters.store import Store
from tasks.erasure.local_copies import name_anybody


def ended(store: Store) -> frozenset[str]:
    """Ids of the erasures that have ended: no day that is read from now on holds these users."""
    return frozenset(key.removeprefix(ERASED).removesuffix(DONE) for key in store.list(ERASED) if key.endswith(DONE))


def name_erased(store: Store, out: Path, before: Collection[str]) -> bool:
    """Whether files under `out` name a user whose erasure is not among those that had ended `before`."""
    records = {key.removeprefix(ERASED).removesuffix(".json") for key in store.list(ERASED) if not key.endswith(DONE)}
    if not records.difference(before):
        return False
    users = {erasure.pseudonym for name, erasure in erasures(store).items() if name not in before}
    return name_anybody(out, users)
