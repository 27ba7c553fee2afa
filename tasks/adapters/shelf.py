"""The releases and views on this machine's disk: what is there, what a person pinned, and taking one away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record
from tasks.domain.rollout_commands import DIGEST
from tasks.service_table import write

TRASH = ".gone-"


class Held(Record):
    """One release that lies here; `bytes` without its view, which others may share."""

    release: str
    view: str | None
    bytes: int
    used: float  # when it came, or was last written to; seconds since the epoch


class Shelf:
    """Directories under `root`, as tasks/controller/pull.py lays them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def held(self) -> list[Held]:
        """Newest first."""
        found = []
        for path in _digests(self._root / "releases"):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(Held(release=path.name, view=_view(path), bytes=size, used=path.stat().st_mtime))
        return sorted(found, key=lambda one: -one.used)

    def views(self) -> list[str]:
        return [path.name for path in _digests(self._root / "views")]

    def take_away(self, releases: set[str], views: set[str]) -> None:
        """Rename, so that from this moment on they are not here; `empty_trash` frees the disk."""
        for kind, digests in (("releases", releases), ("views", views)):
            for digest in digests:
                path = self._root / kind / digest
                path.rename(path.with_name(f"{TRASH}{digest}"))
                path.with_name(f"{digest}.sig.json").unlink(missing_ok=True)

    def empty_trash(self) -> None:
        for path in [*self._root.glob(f"releases/{TRASH}*"), *self._root.glob(f"views/{TRASH}*")]:
            shutil.rmtree(path, ignore_errors=True)

    def pins(self) -> dict[str, dict[str, str]]:
        """release -> {actor, reason}. What cannot be read pins everything: nothing is deleted on a guess.

        Raises InputRejected.
        """
        try:
            found: dict[str, dict[str, str]] = json.loads(self._pinned.read_text())
            return found
        except FileNotFoundError:
            return {}
        except ValueError as err:
            raise InputRejected(
                f"{self._pinned} is not JSON ({err}); no release is deleted until it is put right"
            ) from err

    def pin(self, named: str, actor: str, reason: str) -> str:
        release = self.find(named)
        write(self._pinned, self.pins() | {release: {"actor": actor, "reason": reason}})
        return release

    def unpin(self, named: str) -> str:
        pins = self.pins()
        found = [release for release in pins if release.startswith(named)]
        if len(found) != 1:
            raise InputRejected(f"{named!r} is not one pinned release; pinned: {_listed(pins)}")
        write(self._pinned, {release: why for release, why in pins.items() if release != found[0]})
        return found[0]

    def find(self, named: str) -> str:
        """A release that lies here, by its first digits. Raises InputRejected."""
        present = [path.name for path in _digests(self._root / "releases")]
        found = [release for release in present if named and release.startswith(named)]
        if len(found) != 1:
            raise InputRejected(f"{named!r} is not one release of this machine; here: {_listed(present)}")
        return found[0]

    @property
    def _pinned(self) -> Path:
        return self._root / "pinned.json"


def _digests(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if DIGEST.fullmatch(path.name)] if folder.is_dir() else []


def _view(release: Path) -> str | None:
    try:
        return str(json.loads((release / "release" / "release.json").read_bytes())["view"])
    except (OSError, ValueError, KeyError):
        return None


def _listed(releases: object) -> str:
    return ", ".join(sorted(release[:12] for release in releases)) or "none"  # type: ignore[attr-defined]
