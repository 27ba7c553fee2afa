"""This machine's part of pruning: copies that nobody has used for days, what killed steps left, old logs and refused calls.

Never what serves: that lies in data/serving, where the controller keeps its own order (tasks/controller/collect.py); nor the
bento of a release that lies there, which people start and put into images under the name of what serves. Never what
is the only copy: the store, the rollout log, Valkey's and MLflow's files, feedback that is not uploaded yet.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psutil

from tasks.adapters.mirror import ASIDE, REFUSED
from tasks.copies import GONE, LOCK, empty_trash, last_use, take_away
from tasks.domain.manifest import Record
from tasks.domain.prune import RetentionPolicy
from tasks.settings import Settings

log = logging.getLogger("freshrank.prune")
BENTOS, LATEST = "bentoml/bentos/freshrank_ranker", "latest"
# folder under data -> what is one copy there; folders of links before what they link to
COPIES = {
    "inputs": "*",
    "work": "*",
    "objects": "??/*",
    "releases": "*",
    "views": "*",
    BENTOS: "*",
    "cache/variants": "*",
    "cache/students": "*",
    "cache/days": "*",
    "cache/accepted": "**/*",
    "cache/text": "*/*int8*",  # query encoders, one for each change of the texts; vectors and the original stay
}


class Old(NamedTuple):
    path: Path
    root: Path


class Freed(Record):
    """By folder: how many things went, or would, and how many bytes that frees."""

    things: dict[str, int]
    bytes: dict[str, int]


def prune_machine(settings: Settings, policy: RetentionPolicy, now: datetime, *, dry_run: bool = False) -> Freed:
    """Delete what is old. Also while steps run: whoever uses a copy holds on to it (tasks/copies.py)."""
    unused_since = (now - timedelta(days=policy.copy_days)).timestamp()
    written_before = (now - timedelta(days=policy.log_days)).timestamp()
    names = Counter[int]()  # inode -> how many of its names go
    stays = _bentos_that_stay(settings)
    found = {
        name: _copies(settings.data / name, pattern, unused_since, names, stays if name == BENTOS else ())
        for name, pattern in COPIES.items()
    }
    logs = settings.logs / "airflow"
    found["logs/airflow"] = _files(logs, "**/*", written_before)
    for off in (REFUSED, ASIDE):
        found[f"spool/mlflow/{off}"] = _files(settings.home / "spool" / "mlflow" / off, "*.json", written_before)
    counted = set[int]()
    sizes = {name: _freed(old, names, counted) for name, old in found.items()}
    if not dry_run:
        for name, old in found.items():
            before = unused_since if name in COPIES else written_before
            found[name] = [one for one in old if take_away(one.path, one.root, before)]
        for root in {one.root for old in found.values() for one in old}:
            empty_trash(root)
        _drop_empty_folders(logs, written_before)
    told = {name: old for name, old in found.items() if old}
    freed = Freed(things={name: len(old) for name, old in told.items()}, bytes={name: sizes[name] for name in told})
    log.info("things=%d bytes=%d", sum(freed.things.values()), sum(freed.bytes.values()))
    return freed


def _bentos_that_stay(settings: Settings) -> set[str]:
    """Of the releases in data/serving, and BentoML's note of which bento is the latest while that stays."""
    serving, bentos = settings.data / "serving" / "releases", settings.data / BENTOS
    releases = [path.name for path in serving.iterdir() if path.is_dir()] if serving.is_dir() else []
    stays = {path.name for path in _below(bentos, "*") if any(release.startswith(path.name) for release in releases)}
    latest = bentos / LATEST
    return stays | ({LATEST} if latest.is_file() and latest.read_text().strip() in stays else set())


def _copies(
    root: Path, pattern: str, unused_since: float, names: Counter[int], stays: Collection[str] = ()
) -> list[Old]:
    """Old copies; a file that keeps another name is none: deleting this one frees nothing."""
    found = []
    for path in _below(root, pattern):
        if path.name in stays:
            continue
        try:
            if last_use(path) >= unused_since or (root.name == "work" and _is_worked_in(path)):
                continue
            stat = path.lstat()
        except FileNotFoundError:  # its user is done with it
            continue
        if path.is_file() and stat.st_nlink - names[stat.st_ino] > 1:
            continue
        names.update(file.st_ino for file in _in(path))
        found.append(Old(path, root))
    return found


def _files(root: Path, pattern: str, before: float) -> list[Old]:
    paths = [path for path in _below(root, pattern) if path.is_file() and not path.is_symlink()]
    return [Old(path, root) for path in paths if path.lstat().st_mtime < before]


def _below(root: Path, pattern: str) -> list[Path]:
    deep = pattern.startswith("**")
    paths = sorted(root.glob(pattern)) if root.is_dir() else []
    return [path for path in paths if not path.name.startswith((LOCK, GONE)) and not (deep and path.is_dir())]


def _is_worked_in(folder: Path) -> bool:
    """Whether a step that is alive works there: its output folder has its pid in its name (tasks/run.py)."""
    return any(psutil.pid_exists(int(out.name.split("-")[1])) for out in folder.glob("out-*"))


def _in(path: Path) -> list[os.stat_result]:
    """Of every file of a copy."""
    files = [path] if path.is_file() else path.rglob("*")
    return [file.lstat() for file in files if file.is_file() and not file.is_symlink()]


def _freed(old: Iterable[Old], names: Counter[int], counted: set[int]) -> int:
    """Bytes of the files all of whose names go; each once."""
    size = 0
    for file in (file for one in old for file in _in(one.path)):
        if file.st_ino not in counted and names.get(file.st_ino, 1) >= file.st_nlink:
            counted.add(file.st_ino)
            size += file.st_size
    return size


def _drop_empty_folders(root: Path, before: float) -> None:
    for folder in sorted((path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True):
        if folder.stat().st_mtime < before:
            with suppress(OSError):  # not empty
                folder.rmdir()
