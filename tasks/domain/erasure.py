"""What is written down when a person is erased: who, by whom, why, where the rows were, and what was built from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.domain.behaviour import Sha256
from tasks.domain.manifest import Manifest, Record


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
    """What was built from days that held the user: manifest keys of steps, digests of releases and views."""

    datasets: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()  # of later steps, which read those datasets
    releases: tuple[str, ...] = ()
    views: tuple[str, ...] = ()

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
    """control/erased/ID.done.json: what the latest run of the command left behind. Made again by running it again."""

    version: Literal[1] = 1
    when: str
    days: dict[str, ErasedDay]
    views: tuple[str, ...]  # written again without the user
    deleted: int  # objects of the store
    local: int  # files of the machine it ran on
    online: int | None  # histories taken out of Valkey; None: it did not answer
    tainted: Tainted
    remains: tuple[str, ...]  # what still holds the user, and when that goes


def erasure_id(pseudonym: str) -> str:
    return hashlib.sha256(pseudonym.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Step manifests by their keys, and the key that a URI names."""

    manifests: Mapping[str, Manifest]
    key_of: Mapping[str, str]

    def after(self, roots: Iterable[str]) -> list[str]:
        """Every run that read one of `roots`, directly or through others, in order of their names."""
        tainted = set(roots)
        grown = True
        while grown:
            read = {
                key
                for key, manifest in self.manifests.items()
                if key not in tainted and tainted & {self.key_of.get(uri, uri) for uri in manifest.inputs.values()}
            }
            tainted |= read
            grown = bool(read)
        return sorted(tainted - set(roots))
