"""What this machine keeps of an erased user beside the store: copies for steps and for people, views it serves from.

Everything but the views can be made again and is deleted whole; a step that is reading it fails, and its refresh has to be
started again. The spool of feedback is only looked at: the service writes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from tasks.erasure.taint import NAMING, body_names
from tasks.erasure.view_without import leave_out_of_directory
from tasks.settings import Settings

# of steps, and what `freshrank data quarantine` and `freshrank replay --inject` wrote for a person to look at
COPIES = ("inputs", "work", "quarantine", "rehearsals")
CACHES = ("accepted", "days")  # of rows; the other caches hold item texts


def forget_here(settings: Settings, users: Collection[str], outputs: Iterable[str], *, caches: bool) -> int:
    """Delete local copies; how many files and directories went or were written anew.

    Args:
        outputs: sha256 of outputs that were deleted from the store.
        caches: whether any day held one of the users.
    """
    data, count = settings.data, 0
    for folder in (data / name for name in COPIES):
        for directory in sorted(folder.glob("*")):
            if directory.is_dir() and name_anybody(directory, users):
                shutil.rmtree(directory, ignore_errors=True)
                count += 1
    for cache in (data / "cache" / name for name in CACHES if caches):
        count += cache.is_dir()
        shutil.rmtree(cache, ignore_errors=True)
    for copy in (data / "objects" / sha256[:2] / sha256 for sha256 in outputs):
        count += copy.exists()
        copy.unlink(missing_ok=True)
    views = [view for folder in (data / "views", data / "serving" / "views") for view in sorted(folder.glob("*"))]
    return count + sum(leave_out_of_directory(view, users) for view in views if view.is_dir())


def waiting_feedback(settings: Settings, users: Collection[str]) -> int:
    """Feedback segments of this machine that name one of the users and are not uploaded yet."""
    segments = (settings.data / "serving" / "spool").glob("*/*.jsonl")
    return sum(any(user.encode() in path.read_bytes() for user in users) for path in segments if path.is_file())


def name_anybody(directory: Path, users: Collection[str]) -> bool:
    """Whether a file under `directory` names one of the users."""
    files = (path for path in directory.rglob("*") if path.suffix in NAMING and path.is_file())
    return any(body_names(path.suffix, body, user) for path in files for body in [path.read_bytes()] for user in users)
