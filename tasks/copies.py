"""Local copies of what lies in the store, or can be made again: whoever uses one says so, so that those nobody uses may go.

The time of a copy's last use is its modification time. Using and taking away exclude each other by a lock of the folder, held
for microseconds: a copy that was found is there until the days of the policy are over.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
GONE = ".gone-"


def in_use(copy: Path, root: Path) -> bool:
    """Whether `copy`, a file or folder below `root`, is there; if so it stays for the next days."""
    with _locked(root, fcntl.LOCK_SH):
        try:
            os.utime(copy)
        except FileNotFoundError:
            return False
        return True


def take_away(copy: Path, root: Path, unused_since: float) -> bool:
    """Delete a copy that nobody has used since that moment (seconds since the epoch); False where somebody has."""
    gone = root / f"{GONE}{secrets.token_hex(6)}"
    with _locked(root, fcntl.LOCK_EX):
        try:
            if last_use(copy) >= unused_since:
                return False
            copy.rename(gone)
        except FileNotFoundError:  # another process took it
            return False
    _delete(gone)
    return True


def empty_trash(root: Path) -> None:
    """What a crash left between the two halves of `take_away`."""
    for gone in root.glob(f"{GONE}*"):
        _delete(gone)


def last_use(copy: Path) -> float:
    """The newest modification time of a file, or of a folder and everything in it."""
    below = copy.rglob("*") if copy.is_dir() and not copy.is_symlink() else ()
    return max(path.lstat().st_mtime for path in (copy, *below))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(root: Path, how: int) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("a") as lock:
        fcntl.flock(lock, how)
        yield
