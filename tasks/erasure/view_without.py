"""A view without some users, under the name that its release knows: the only thing of a release that may change.

What similar users buy is left as it was: it names nobody, and the next refresh makes it anew.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from tasks.adapters.erasures import erased_users
from tasks.adapters.releases import delete_before, fetch, newest_manifest, publish, publish_again
from tasks.adapters.store import Store
from tasks.domain.errors import Conflict, InputRejected
from tasks.ranker.state import View, write_view
from tasks.serving.release import VIEW_JSON, seal_view

USERS_JSON = "users.json"
ATTEMPTS = 5


def view_digests(store: Store) -> list[str]:
    """Views that are published, by digest."""
    names = {key.removeprefix("views/") for key in store.list("views/")}
    return sorted(name.removesuffix(".json") for name in names if "/" not in name and len(name) == 69)


def holds(store: Store, digest: str, users: Collection[str]) -> bool:
    _, manifest = newest_manifest(store, "views", digest)
    return USERS_JSON in manifest.files and _names(store.get(manifest.key_of(USERS_JSON)), users)


def publish_view(store: Store, digest: str, view: Path) -> None:
    """Publish `view`, then leave out whoever was erased while it was made: erasing writes its record and then looks for views."""
    publish(store, "views", digest, view)
    if users := erased_users(store):
        leave_out_of_view(store, digest, users)


def leave_out_of_view(store: Store, digest: str, users: Collection[str]) -> list[str]:
    """Publish the view again without `users`, delete what held them; the keys that went."""
    for attempt in range(ATTEMPTS):
        try:
            revision, _ = newest_manifest(store, "views", digest)
            if holds(store, digest, users):
                with tempfile.TemporaryDirectory(prefix="freshrank-view-") as scratch:
                    before = fetch(store, "views", digest, Path(scratch) / "before")
                    after = Path(scratch) / "after"
                    view_without(before, users, after)
                    publish_again(store, digest, after, revision + 1)
            return [*delete_before(store, digest), *_crashed_attempts(store, digest, users)]
        except (Conflict, InputRejected):  # another run was first, or deleted what this one reads
            if attempt == ATTEMPTS - 1:
                raise
    return []


def view_without(view: Path, users: Collection[str], out: Path) -> None:
    """Write `view` without `users` to `out`, sealed. Whatever else lies in a view is copied."""
    snapshot = View(view)
    shutil.copytree(view, out, ignore=shutil.ignore_patterns(USERS_JSON, "histories.safetensors", VIEW_JSON))
    kept = {user: snapshot.get(user) for user in snapshot.user_ids if user not in users}
    write_view(out, snapshot.items_digest, {user: history for user, history in kept.items() if history is not None})
    if (view / VIEW_JSON).exists():
        seal_view(out, len(kept), str(json.loads((view / VIEW_JSON).read_bytes())["view"]))


def leave_out_of_directory(view: Path, users: Collection[str]) -> bool:
    """Put the view without `users` in the place of the directory `view`; whether it held one of them.

    A replica that has it open keeps what it mapped. Both views are whole at every moment: a rollback may need this one.
    """
    if not ((view / USERS_JSON).exists() and _names((view / USERS_JSON).read_bytes(), users)):
        return False
    scratch = Path(tempfile.mkdtemp(prefix=f".{view.name}.", dir=view.parent))
    try:
        view_without(view, users, scratch / "view")
        _exchange(scratch / "view", view)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _exchange(a: Path, b: Path) -> None:
    """Swap two directories in one step, where the file system can."""
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) != 0:
        aside = a.with_name("before")
        b.rename(aside)
        a.rename(b)


def _crashed_attempts(store: Store, digest: str, users: Collection[str]) -> list[str]:
    """Folders of a revision that never got its manifest, and that hold a user who was erased since."""
    _, newest = newest_manifest(store, "views", digest)
    gone = []
    for key in store.list(f"views/{digest}/"):
        folder = key.rsplit("/", 1)[0]
        if key.endswith(f"/{USERS_JSON}") and folder != newest.folder and _names(store.get(key), users):
            gone += store.list(f"{folder}/")
    for key in gone:
        store.delete(key)
    return gone


def _names(users_json: bytes, users: Collection[str]) -> bool:
    return any(user.encode() in users_json for user in users)
