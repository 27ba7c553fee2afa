"""Releases and views on this machine: pulled once, every file and the signature verified. After that no store is needed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tasks.adapters.store import Store
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.domain.manifest import Record
from tasks.domain.rollout_commands import checked_release

log = logging.getLogger(__name__)


class Local(Record):
    """Where a verified release and the view it names lie."""

    src: str
    view: str


class Library(Protocol):
    """What this machine holds. Methods block; the reconcile loop calls the slow ones in a thread."""

    def local(self, release: str) -> Local | None:
        """Quick: None when something of it is still missing here."""
        ...

    def pull(self, release: str) -> Local:
        """Fetch what is missing.

        Raises:
            InputRejected: no such release, a file is not what its digest says, or nobody who is trusted here signed it.
                Nothing of it is used.
            Unavailable: the store does not answer.
        """
        ...

    def verify(self, release: str) -> None:
        """Hash every file again and check the signature. Raises InputRejected, naming the file or the key."""
        ...

    def describe(self, release: str) -> dict[str, Any]:
        """release.json, or nothing when the release is not here."""
        ...


class ReleaseLibrary:
    """Directories under `root`. The store is opened at a pull only, so that nothing else depends on it."""

    def __init__(
        self, root: Path, open_store: Callable[[], Store], public_keys: Path, valkey_url: str | None = None
    ) -> None:
        self._root = root
        self._open_store = open_store
        self._public_keys = public_keys
        self._valkey_url = valkey_url

    def local(self, release: str) -> Local | None:
        from tasks.serving.signature import signature_of

        src = self._root / "releases" / checked_release(release)
        if not (src.is_dir() and signature_of(src).is_file()):
            return None
        view = self._view(release)
        return Local(src=str(src), view=str(view)) if view.is_dir() else None

    def pull(self, release: str) -> Local:
        from tasks.adapters.releases import fetch, fetch_release
        from tasks.serving.release import verify_view
        from tasks.serving.signature import read_public_keys

        store = self._open_store()
        (self._root / "releases").mkdir(parents=True, exist_ok=True)
        (self._root / "views").mkdir(parents=True, exist_ok=True)
        src = self._root / "releases" / checked_release(release)
        fetch_release(store, release, src, read_public_keys(self._public_keys))
        view = self._view(release)
        fetch(store, "views", view.name, view)
        with _kept_only_if_good(view):
            verify_view(view, view.name)
        self._publish(view)
        return Local(src=str(src), view=str(view))

    def verify(self, release: str) -> None:
        from tasks.serving.signature import read_public_keys, verify_signed

        keys = read_public_keys(self._public_keys)
        verify_signed(self._root / "releases" / checked_release(release), keys, release)

    def describe(self, release: str) -> dict[str, Any]:
        try:
            path = self._root / "releases" / checked_release(release) / "release" / "release.json"
            told: dict[str, Any] = json.loads(path.read_bytes())
            return told
        except (OSError, ValueError):
            return {}

    def retire(self, view: str) -> None:
        """Take the histories of a view that went from here out of Valkey: nothing else ever does, and each day adds a view."""
        if not self._valkey_url:
            return
        try:
            from tasks.serving.user_view import retire

            log.info("view=%s event=retired users=%d", view[:12], retire(view, self._valkey_url))
        except FreshrankError as err:
            log.warning("view=%s event=not-retired why=%s; its histories stay in Valkey", view[:12], err)

    def _view(self, release: str) -> Path:
        try:
            return self._root / "views" / checked_release(self.describe(release).get("view"))
        except InputRejected:
            why = f"release {release[:12]} names no view; it cannot serve known users, package it again"
            raise InputRejected(why) from None

    def _publish(self, view: Path) -> None:
        """Into Valkey, if it answers: without it, replicas read the snapshot beside the release."""
        if not self._valkey_url:
            return
        try:
            from tasks.serving.user_view import publish

            log.info("view=%s event=published users=%d", view.name[:12], publish(view, self._valkey_url))
        except FreshrankError as err:
            log.warning("view=%s event=not-published why=%s", view.name[:12], err)


@contextmanager
def _kept_only_if_good(directory: Path) -> Iterator[None]:
    """What is not what its name says must not lie there under that name."""
    try:
        yield
    except InputRejected:
        shutil.rmtree(directory, ignore_errors=True)
        raise
