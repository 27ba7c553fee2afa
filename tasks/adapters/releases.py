"""Releases and user views in the object store: write-once, every file named with its sha256, the manifest written last."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record, canonical_json
from tasks.run import sha256_of

Kind = Literal["releases", "views"]


class StoredFile(Record):
    sha256: str
    bytes: int


class DirectoryManifest(Record):
    """What a published directory holds: path -> sha256 and size."""

    digest: str
    files: dict[str, StoredFile]


def publish(store: Store, kind: Kind, digest: str, directory: Path) -> str:
    """Upload `directory` under its digest and return the manifest's URI. Publishing it again is a no-op."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    files = {
        p.relative_to(directory).as_posix(): StoredFile(sha256=sha256_of(p), bytes=p.stat().st_size) for p in paths
    }
    key = f"{kind}/{digest}.json"
    if not store.exists(key):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.put_new(f"{kind}/{digest}/{name}", directory / name), files))
        store.put_new(key, canonical_json(DirectoryManifest(digest=digest, files=files).model_dump()))
    return store.uri(key)


def fetch(store: Store, kind: Kind, digest: str, target: Path) -> Path:
    """Download a published directory to `target`, each file verified. A crash leaves no `target`; a rerun is quick.

    Raises:
        InputRejected: no such release, or a file whose bytes are not those of the manifest.
    """
    if target.exists():
        return target
    try:
        manifest = DirectoryManifest.model_validate_json(store.get(f"{kind}/{digest}.json"))
    except ValidationError as err:
        raise InputRejected(f"{kind}/{digest}.json is not a release manifest: {err}") from err
    draft = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(3)}")
    try:
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda item: _fetch_file(store, f"{kind}/{digest}/{item[0]}", draft / item[0], item[1]),
                    manifest.files.items(),
                )
            )
        try:
            draft.rename(target)
        except OSError:  # another process was first; both hold the same verified bytes
            if not target.exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _fetch_file(store: Store, key: str, path: Path, expected: StoredFile) -> None:
    store.download(key, path)  # the store refuses a key with `..`, so that `path` stays inside
    found = sha256_of(path)
    if found != expected.sha256:
        raise InputRejected(
            f"{store.uri(key)} has sha256 {found[:12]}, its manifest says {expected.sha256[:12]}: the release is damaged and was "
            f"not used. Serving is not affected; package it again"
        )


def release_description(store: Store, digest: str) -> dict[str, Any]:
    """release.json of a published release: what it holds, what it was trained on, which view it needs."""
    description: dict[str, Any] = json.loads(store.get(f"releases/{digest}/release/release.json"))
    return description
