"""What is written down when a person is erased: who, by whom, why, where the rows were, and what was built from them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from tasks.domain.behaviour import Sha256
from tasks.domain.manifest import Record


class HeldDay(Record):
    """One landed day with rows of the user, before they were taken out."""

    rows: int
    landed: int  # revision
    accepted: int | None
    digest: str


class ErasedDay(Record):
    """The same day afterwards."""

    landed: int
    accepted: int | None
    digest: str


class Tainted(Record):
    """What was built from days that held the user: manifest keys of steps, digests of releases, views and weights."""

    datasets: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()  # of later steps, which read those datasets
    releases: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()

    def joined(self, other: Tainted) -> Tainted:
        def both(name: str) -> tuple[str, ...]:
            return tuple(sorted({*getattr(self, name), *getattr(other, name)}))

        return Tainted(**{name: both(name) for name in type(self).model_fields})


class Erasure(Record):
    """control/erased/ID.json: written before anything changes, so that a crash is resumed and ingest leaves rows out."""

    version: Literal[1] = 1
    pseudonym: Sha256
    when: str
    actor: str
    reason: str
    days: dict[str, HeldDay]
    tainted: Tainted


class Erased(Record):
    """control/erased/ID.done.json: how the latest run of the command left everything."""

    version: Literal[1] = 1
    when: str
    days: dict[str, ErasedDay]
    tainted: Tainted
    remains: tuple[str, ...]  # what still holds the user, and when that goes


def erasure_id(pseudonym: str) -> str:
    return hashlib.sha256(pseudonym.encode()).hexdigest()[:16]


def descendants(parents: Mapping[str, Collection[str]], roots: Iterable[str]) -> list[str]:
    """Everything that has one of `roots` among its ancestors, in order of names; the roots themselves are not."""
    start = set(roots)
    found = set(start)
    while grown := {child for child, of in parents.items() if child not in found and not found.isdisjoint(of)}:
        found |= grown
    return sorted(found - start)
