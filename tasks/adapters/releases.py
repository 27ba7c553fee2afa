"""Releases and user views in the object store: write-once, every file named with its sha256, the manifest written last.

A view may be published again without an erased user: the next revision of its manifest names other files. The highest
revision counts, and those before it stay as tombstones.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tasks.adapters.store import Store
from tasks.atomic import write_atomically
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.manifest import Record, canonical_json, digest_of
from tasks.domain.prune import GOING, mark_of
from tasks.run import sha256_of
from tasks.serving.release import verify
from tasks.serving.signature import PublicKeys, check_signature, signature_of, unsigned

Kind = Literal["releases", "views"]
AGAIN = "published-again"  # a name beside the files; no manifest names it


class StoredFile(Record):
    sha256: str
    bytes: int


class DirectoryManifest(Record):
    """What a published directory holds: path -> sha256 and size."""

    digest: str
    files: dict[str, StoredFile]
    folder: str | None = None  # where they lie; KIND/DIGEST unless a later revision says otherwise

    def key_of(self, name: str) -> str:
        return f"{self.folder}/{name}"


REVISION = re.compile(r"-(\d{6})\.json$")


def publish(store: Store, kind: Kind, digest: str, directory: Path) -> str:
    """Upload `directory` under its digest and return the manifest's URI. Publishing it again is a no-op.

    Raises:
        Unavailable: it is being pruned at this moment.
    """
    _keep_from_pruning(store, kind, digest)
    return _upload(store, kind, digest, directory)


def _keep_from_pruning(store: Store, kind: Kind, digest: str) -> None:
    """Where it is marked to go: write something beside its files, then see whether it goes already. Who deletes says so first and
    then looks for what was written since (tasks.prune.store), so that one of the two sees the other."""
    one = f"{kind}/{digest}"
    if store.exists(mark_of(one)):
        store.replace(f"{one}/{AGAIN}", b"")  # none of its own files: those of an erased view must not come back
    if going := store.list(f"{GOING}{one}/"):
        raise Unavailable(
            f"{store.uri(f'{one}.json')} is being pruned at this moment, so it is published once that has ended. If no "
            f"`freshrank prune` runs, one was killed: the next takes {going[0]} away a day later, or delete it"
        )


def publish_release(store: Store, digest: str, src: Path, key_id: str) -> str:
    """Publish a signed release, its signature first. Each key has a signature of its own, so that keys can change."""
    _keep_from_pruning(store, "releases", digest)  # before the signature: one that was found there could still go
    try:
        store.put_new(_signature_key(digest, key_id), signature_of(src))
    except Conflict:
        pass  # a retry: another signature of the same key, as good as this one
    return _upload(store, "releases", digest, src)


def _upload(store: Store, kind: Kind, digest: str, directory: Path) -> str:
    files = _files(directory)
    key = f"{kind}/{digest}.json"
    if not store.exists(key):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.put_new(f"{kind}/{digest}/{name}", directory / name), files))
        store.put_new(key, canonical_json(DirectoryManifest(digest=digest, files=files).model_dump()))
    return store.uri(key)


def fetch_release(store: Store, digest: str, target: Path, keys: PublicKeys) -> Path:
    """Download a release and its signature, and verify both. What is not good is not kept.

    Raises:
        InputRejected: no such release, a file that was changed, or no signature of a key that is trusted here.
    """
    if target.exists() and not _is_intact(target, digest):
        shutil.rmtree(target)
    fresh = not target.exists()
    fetch(store, "releases", digest, target)
    try:
        release = verify(target, digest)
        body = _signature(store, digest, keys)
        check_signature(body, release, keys)
    except InputRejected:
        if fresh:  # else it was trusted before: which keys are trusted is no reason to delete what serves
            shutil.rmtree(target, ignore_errors=True)
        raise
    write_atomically(signature_of(target), body)
    return target


def _signature(store: Store, digest: str, keys: PublicKeys) -> bytes:
    for key in (_signature_key(digest, key_id) for key_id in keys):
        if store.exists(key):
            return store.get(key)
    raise unsigned(digest, keys)


def _is_intact(target: Path, digest: str) -> bool:
    try:
        return bool(verify(target, digest))
    except InputRejected:
        return False


def _signature_key(digest: str, key_id: str) -> str:
    return f"releases/{digest}.{key_id[:16]}.sig.json"


def newest_manifest(store: Store, kind: Kind, digest: str) -> tuple[int, DirectoryManifest]:
    """(revision, manifest) of what readers get."""
    later = store.list(f"{kind}/{digest}-") if kind == "views" else []
    revision = max((int(found[1]) for key in later if (found := REVISION.search(key))), default=1)
    return revision, _manifest(store, kind, digest, revision)


def publish_again(store: Store, digest: str, directory: Path, revision: int) -> None:
    """Make `directory` the view's next revision.

    Raises:
        Conflict: somebody else wrote that revision first.
    """
    files = _files(directory)
    content = digest_of({name: file.sha256 for name, file in files.items()})
    manifest = DirectoryManifest(digest=digest, files=files, folder=f"views/{digest}/{content[:16]}")
    for name in files:
        store.put_new(f"{manifest.folder}/{name}", directory / name)
    store.put_new(_manifest_key("views", digest, revision), canonical_json(manifest.model_dump()))


def delete_before(store: Store, digest: str) -> list[str]:
    """Delete the files of a view's earlier revisions; their manifests stay. The keys that went."""
    revision, newest = newest_manifest(store, "views", digest)
    named = {newest.key_of(name) for name in newest.files}
    before = [_manifest(store, "views", digest, one) for one in range(1, revision)]
    wanted = {manifest.key_of(name) for manifest in before for name in manifest.files} - named
    gone = sorted(wanted & set(store.list(f"views/{digest}/")))
    for key in gone:
        store.delete(key)
    return gone


def _manifest(store: Store, kind: Kind, digest: str, revision: int) -> DirectoryManifest:
    key = _manifest_key(kind, digest, revision)
    try:
        manifest = DirectoryManifest.model_validate_json(store.get(key))
    except ValidationError as err:
        raise InputRejected(f"{key} is not a release manifest: {err}") from err
    return manifest if manifest.folder else manifest.model_copy(update={"folder": f"{kind}/{digest}"})


def _files(directory: Path) -> dict[str, StoredFile]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {p.relative_to(directory).as_posix(): StoredFile(sha256=sha256_of(p), bytes=p.stat().st_size) for p in paths}


def _manifest_key(kind: Kind, digest: str, revision: int) -> str:
    return f"{kind}/{digest}.json" if revision == 1 else f"{kind}/{digest}-{revision:06d}.json"


def fetch(store: Store, kind: Kind, digest: str, target: Path) -> Path:
    """Download a published directory to `target`, each file verified. A crash leaves no `target`; a rerun is quick.

    Raises:
        InputRejected: no such release, or a file whose bytes are not those of the manifest.
    """
    if target.exists():
        return target
    _, manifest = newest_manifest(store, kind, digest)
    draft = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(3)}")
    try:
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda item: _fetch_file(store, manifest.key_of(item[0]), draft / item[0], item[1]),
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
