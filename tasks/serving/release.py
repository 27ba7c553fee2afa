"""A release directory, checked file by file before anything in it is used. Never repairs, never skips a file.

`src/` holds the code that serves and `release/`; `release/release.json` lists the sha256 of every other file, and the
release digest is taken over all of them, so a release is named by its content. Beside it lies the view: the users'
histories, not part of the digest because a person may ask to be erased from them.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json, digest_of

RELEASE_JSON = "release/release.json"
VIEW_JSON = "view.json"
MAX_FILES = 2_000
MAX_BYTES = 4 * 1024**3
MAX_TENSOR_HEADER = 16 * 1024**2
SUFFIXES = {".json", ".safetensors", ".xml", ".bin", ".py"}  # nothing here is ever unpickled


class ReleaseRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """release.json. `created` is the partition: a clock here would give equal releases different digests."""

    version: int
    kind: str  # weights | state | bootstrap
    partition: str
    created: str
    view: str
    files: dict[str, str]
    sha256: str  # of the record without this field, so that a flipped bit in release.json itself shows
    train_end: str | None = None
    state_through: str | None = None
    weights_digest: str | None = None
    key_id: str | None = None
    notes: dict[str, str | int | float | bool | None] = {}


class Release(msgspec.Struct, frozen=True):
    """A release whose every byte has been compared with its digest."""

    digest: str
    src: Path
    record: ReleaseRecord
    files: dict[str, str]  # path -> sha256 of every file, release.json included

    @property
    def directory(self) -> Path:
        return self.src / "release"

    @property
    def short(self) -> str:
        return self.digest[:12]


class View(msgspec.Struct, frozen=True):
    digest: str
    directory: Path
    users: int


def release_digest(files: dict[str, str]) -> str:
    """The name of a release: sha256 over the sorted {path: sha256} of `src/**`."""
    return digest_of(files)


def file_digests(root: Path) -> dict[str, str]:
    """{relative path: sha256} of every file under `root`, `__pycache__` included: Python would run what lies there.

    Raises:
        InputRejected: a link, a special file, or too much.
    """
    if not root.is_dir():
        raise InputRejected(f"{root.name} is not a directory; pull the release again")
    found: dict[str, str] = {}
    total = 0
    for folder, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        for name in [*folders, *sorted(names)]:
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise InputRejected(f"{relative} is a link or special file; a release holds plain files only")
            if path.is_dir():
                continue
            total += path.stat().st_size
            if len(found) >= MAX_FILES or total > MAX_BYTES:
                raise InputRejected(f"{root.name} holds more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB; refused")
            try:
                with path.open("rb") as file:
                    found[relative] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as err:
                raise InputRejected(f"{relative} cannot be read ({err.strerror}); pull it again") from None
    return found


def verify(src: Path, expected: str | None = None) -> Release:
    """Check every file of the release and return it. Raises InputRejected that names the first file that is wrong."""
    present = file_digests(src)
    record = _read_record(src)
    _compare(record.files, present, RELEASE_JSON, "release.json")
    for path in present:
        _check_kind(src, path, present)
    digest = release_digest(present)
    if expected is not None and digest != expected:
        raise InputRejected(f"release digest is {digest}, expected {expected}; this is another release, pull it again")
    return Release(digest, src, record, present)


def verify_view(directory: Path, expected: str) -> View:
    """Check the users' histories against their own list and the view that the release names."""
    present = file_digests(directory)
    try:
        listed = json.loads((directory / VIEW_JSON).read_bytes())
        view, users, files = listed["view"], int(listed["users"]), dict(listed["files"])
        if _stamped(listed) != listed:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputRejected(f"{VIEW_JSON} of the view is missing or broken; pull the view again") from None
    _compare(files, present, VIEW_JSON, VIEW_JSON)
    if view != expected:
        raise InputRejected(f"view is {view[:12]}, the release needs {expected[:12]}; pull the view that it names")
    return View(view, directory, users)


def seal(src: Path, facts: dict[str, Any]) -> str:
    """Write release.json over what lies in `src` and return the release digest. The last write of packaging."""
    (src / RELEASE_JSON).unlink(missing_ok=True)
    facts = {"version": 1, **facts, "files": file_digests(src), "sha256": ""}
    record = msgspec.to_builtins(msgspec.convert(facts, ReleaseRecord))
    (src / RELEASE_JSON).write_bytes(canonical_json(_stamped(record)))
    return verify(src).digest


def seal_view(directory: Path, users: int, name: str | None = None) -> str:
    """Write view.json and return the view digest, which is over the data files only.

    `name` keeps the digest that a release names, for a view that a user was erased from.
    """
    (directory / VIEW_JSON).unlink(missing_ok=True)
    files = file_digests(directory)
    view = name or digest_of(files)
    listed = _stamped({"version": 1, "view": view, "users": users, "files": files})
    (directory / VIEW_JSON).write_bytes(canonical_json(listed))
    return view


def _read_record(src: Path) -> ReleaseRecord:
    try:
        body = (src / RELEASE_JSON).read_bytes()
        record = msgspec.json.decode(body, type=ReleaseRecord)
        if canonical_json(_stamped(msgspec.to_builtins(record))) != body or record.version != 1:
            raise ValueError
    except OSError:
        raise InputRejected(f"{RELEASE_JSON} is missing; {src.name} is not a release") from None
    except ValueError:
        raise InputRejected(f"{RELEASE_JSON} is not what was written; pull the release again") from None
    return record


def _stamped(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "sha256": digest_of({**record, "sha256": ""})}


def _compare(listed: dict[str, str], present: dict[str, str], itself: str, by: str) -> None:
    for path in sorted(listed):
        if path not in present:
            raise InputRejected(f"{path} is missing; {by} lists it; pull it again")
        if present[path] != listed[path]:
            raise InputRejected(
                f"{path} has sha256 {present[path][:12]}, {by} says {listed[path][:12]}; it is damaged, pull it again"
            )
    unexpected = sorted(set(present) - set(listed) - {itself})
    if unexpected:
        raise InputRejected(f"{unexpected[0]} is not listed in {by}; remove it or pull the directory again")


def _check_kind(src: Path, path: str, present: dict[str, str]) -> None:
    suffix = Path(path).suffix
    if suffix not in SUFFIXES or (suffix == ".py" and path.startswith("release/")):
        raise InputRejected(f"{path} is of a kind that no release may hold; allowed: {', '.join(sorted(SUFFIXES))}")
    if suffix == ".bin" and f"{path.removesuffix('.bin')}.xml" not in present:
        raise InputRejected(f"{path} has no .xml beside it; only OpenVINO weights may be called .bin")
    if suffix == ".safetensors":
        _check_tensors(src / path, path)


def _check_tensors(file: Path, path: str) -> None:
    """The header must describe exactly the bytes that follow: a mapped file that is too short kills the process."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= MAX_TENSOR_HEADER:
                raise ValueError
            header = json.loads(opened.read(length))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        if max(ends, default=0) != file.stat().st_size - 8 - length:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputRejected(f"{path} is not a whole safetensors file; build the release again") from None
