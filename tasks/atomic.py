"""Files and folders that are written whole or not at all, whoever else writes the same one at that moment.

A draft's name is of one call alone: two threads, or two containers that both have pid 1, may write one path at once. What
a writer that was killed left half done goes when the next one writes.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tasks.domain.errors import Unavailable


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path`, on disk, when the block ends well. Raises OSError as it comes."""
    draft = _draft(path)
    remove_dead_drafts(path)
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_first(path: Path, content: bytes) -> bool:
    """Write a file that is made once, and say whether this call made it. Where another was first its file stays."""
    draft = _draft(path)
    try:
        draft.write_bytes(content)
        _sync(draft)
        os.link(draft, path)  # a rename would take the place of the first
        return True
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def drafted_folder(folder: Path) -> Iterator[Path]:
    """The same for a folder that is made once. Where another call was first its folder stays: both hold the same."""
    draft = _draft(folder)
    remove_dead_drafts(folder)
    draft.mkdir()
    try:
        yield draft
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace `path` by `content`. `mode` as for open(): 0o600 is for what only its owner may read, at no moment else.

    Raises:
        Unavailable: the disk is full, or may not be written to; `path` is as it was.
    """
    try:
        with (
            drafted(path) as draft,
            os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file,
        ):
            file.write(content)
    except OSError as err:
        raise Unavailable(
            f"could not write {path.name}: {err.strerror}; free disk space and run the step again"
        ) from err


def remove_dead_drafts(path: Path) -> None:
    """Remove drafts of `path` that dead processes of this machine began; what another machine's write is not known here."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(_machine())}-*.draft"):
        pid = int(draft.name.removesuffix(".draft").rsplit("-", 2)[1])
        if psutil.pid_exists(pid):
            continue
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _machine() -> str:
    return socket.gethostname()[:63]


def _draft(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(3)}.draft")
