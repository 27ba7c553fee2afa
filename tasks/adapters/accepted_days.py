"""Local copies of the accepted days, for the steps that read many of them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tasks.adapters.partitions import (
    accepted_key,
    accepted_revisions,
    accepted_rows,
    catalogue_key,
    landed_key,
    read_accepted_manifest,
)
from tasks.adapters.store import Store
from tasks.adapters.tables import READERS, parquet_bytes, verify
from tasks.atomic import write_atomically
from tasks.copies import in_use
from tasks.domain.behaviour import AcceptedManifest
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import digest_of


@dataclass(frozen=True, slots=True)
class Accepted:
    """Local copies of every accepted day through one partition, in day order, and the newest day's item table."""

    days: list[str]
    events: list[Path]
    plans: list[Path]  # of accepted days; the plan in dt=D speaks of the day after D
    catalogue: Path
    digests: dict[str, str]  # day -> which accepted rows, by content


def fetch_accepted(store: Store, through: str, target: Path) -> Accepted:
    """Put the accepted rows of every day up to `through` under `target`; what is there is not fetched again."""
    revisions = {day: revision for day, revision in accepted_revisions(store).items() if day <= through}
    if not revisions:
        raise InputRejected(f"no accepted day up to {through}; run validate_data for it first")
    days = sorted(revisions)
    with ThreadPoolExecutor(READERS) as pool:
        manifests = list(pool.map(lambda day: read_accepted_manifest(store, day, revisions[day]), days))
        events = list(pool.map(lambda manifest: _accepted_file(store, manifest, target), manifests))
        wanted = [(landed_key(m.partition, m.plan.name), m.plan.sha256) for m in manifests]
        wanted += [(catalogue_key(manifests[-1].catalogue), manifests[-1].catalogue)]
        paths = list(pool.map(lambda item: _fetched(store, item[0], item[1], target), wanted))
    digests = {manifest.partition: _rows_digest(manifest) for manifest in manifests}
    return Accepted(days=days, events=events, plans=paths[:-1], catalogue=paths[-1], digests=digests)


def _rows_digest(manifest: AcceptedManifest) -> str:
    """The landed day, and which of its rows are left out: releasing some gives another digest."""
    return digest_of([manifest.partition_digest, manifest.file("caught").sha256 if manifest.quarantined else None])


def _accepted_file(store: Store, manifest: AcceptedManifest, target: Path) -> Path:
    """A local file of one day's accepted rows: the landed file itself where nothing is quarantined."""
    caught, key = manifest.file("caught"), landed_key(manifest.partition, manifest.events.name)
    if not manifest.quarantined:
        return _fetched(store, key, manifest.events.sha256, target)
    path = target / accepted_key(
        manifest.partition, f"accepted-{manifest.events.sha256[:16]}-{caught.sha256[:16]}.parquet"
    )
    if not in_use(path, target):
        write_atomically(path, parquet_bytes(accepted_rows(store, manifest)))
    return path


def _fetched(store: Store, key: str, sha256: str, target: Path) -> Path:
    path = target / key
    if not (in_use(path, target) and hashlib.sha256(path.read_bytes()).hexdigest() == sha256):
        store.download(key, path)
        try:
            verify(store.uri(key), path.read_bytes(), sha256)
        except InputRejected:
            path.unlink()
            raise
    return path
