"""Retire days that are older than a team may keep them: a tombstone first, then the bytes, also of what was made from them.

A retired day is not landed, judged or trained on again. Manifests stay: they hold counts and digests, no rows.
"""

from __future__ import annotations

import logging
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.adapters.erasures import FEEDBACK
from tasks.adapters.partitions import (
    RETIRED,
    accepted_key,
    catalogue_key,
    landed_key,
    landed_revisions,
    retired_days,
    users_key,
)
from tasks.adapters.store import Store
from tasks.adapters.tables import READERS
from tasks.domain.behaviour import PartitionManifest, next_day
from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.manifest import Record, canonical_json
from tasks.erasure.local_copies import COPIES
from tasks.progress import Progress

log = logging.getLogger("freshrank.retention")
FEWEST_DAYS = 30  # a day is judged by the 28 before it
STEPS_WITH_ROWS = ("validate_data", "build_dataset")
DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Tombstone(Record):
    """behaviour/dt=DAY/retired.json and accepted/dt=DAY/retired.json."""

    when: str
    actor: str
    keep_days: int


class Retired(Record):
    """What a run of the command found to delete, or deleted."""

    before: str  # days from this one on are kept
    days: tuple[str, ...]
    objects: tuple[str, ...]


def look_for_old(store: Store, keep_days: int) -> Retired:
    """What is older than the last `keep_days` days, the newest landed day included. What an interrupted run left counts too."""
    if keep_days < FEWEST_DAYS:
        raise InputRejected(
            f"{keep_days} days are too few: a day is judged by the 28 before it, keep {FEWEST_DAYS} or more"
        )
    landed = landed_revisions(store)
    before = next_day(max(landed), 1 - keep_days) if landed else "0000-00-00"
    days = [day for day in sorted(landed) if day < before]
    gone = {*days, *retired_days(store)}
    objects = [
        key
        for folder in ("behaviour/", "accepted/", FEEDBACK)
        for key in store.list(folder)
        if _day_of(key) < before and (_day_of(key) in gone or folder == FEEDBACK) and not _stays(key)
    ]
    objects += [
        key
        for step in STEPS_WITH_ROWS
        for key in store.list(f"runs/{step}/")
        if key.count("/") > 3 and key.split("/")[2] < before
    ]
    objects += _side_tables(store, gone, set(landed) - gone)
    return Retired(before=before, days=tuple(days), objects=tuple(sorted(objects)))


def retire(store: Store, found: Retired, data: Path, keep_days: int, actor: str, now: datetime) -> None:
    """Hide the days, then delete what is left of them, here too. Run again after a crash it goes on."""
    tombstone = canonical_json(
        Tombstone(when=now.isoformat(timespec="seconds"), actor=actor, keep_days=keep_days).model_dump()
    )
    for day in found.days:
        for key in (accepted_key(day, RETIRED), landed_key(day, RETIRED)):
            with suppress(Conflict):  # an earlier run hid the day
                store.put_new(key, tombstone)
    with Progress("retire", len(found.objects), "objects") as bar:
        for key in found.objects:
            store.delete(key)
            bar.advance(1)
    of_days = (*(f"{copies}/*" for copies in COPIES), "cache/accepted/*/dt=*")
    for path in (path for pattern in of_days for path in data.glob(pattern)):
        if _day_of(path.name) < found.before:
            shutil.rmtree(path, ignore_errors=True)
    for copies in ("objects", "cache/days"):  # named by content: which of them are old cannot be told
        shutil.rmtree(data / copies, ignore_errors=True)
    log.info("before=%s days=%d objects=%d", found.before, len(found.days), len(found.objects))


def _side_tables(store: Store, gone: set[str], kept: set[str]) -> set[str]:
    """User and item tables that only retired days name, in whichever revision."""

    def named(day: str) -> set[str]:
        keys = [key for key in store.list(landed_key(day, "")) if key.rsplit("/", 1)[1].startswith("manifest")]
        try:
            manifests = [PartitionManifest.model_validate_json(store.get(key)) for key in keys]
        except ValidationError as err:
            raise InputRejected(f"a manifest of {day} cannot be read: {err.errors()[0]['msg']}; restore it") from None
        return {catalogue_key(m.catalogue) for m in manifests} | {users_key(m.users) for m in manifests if m.users}

    with ThreadPoolExecutor(READERS) as pool:
        old, new = (set[str]().union(*pool.map(named, sorted(days))) for days in (gone, kept))
    return (old - new) & {*store.list("catalogue/"), *store.list("users/")}


def _day_of(key: str) -> str:
    found = DAY.search(key)
    return found[0] if found else "9999-99-99"


def _stays(key: str) -> bool:
    name = key.rsplit("/", 1)[1]
    return name == RETIRED or name.startswith("manifest")
