"""Erased users in the object store: who they are, which days hold them, and how every place is left without them.

Everything here looks at what is there and changes what holds an erased user: run again after a crash it goes on, run
twice at once both agree. A day gets its next revision first, the bytes of the one before go last.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
from pydantic import ValidationError

from tasks.adapters.next_revision import UserTables, accepted_along, held_by, landed_without
from tasks.adapters.partitions import (
    accepted_key,
    accepted_revisions,
    landed_key,
    landed_revisions,
    read_accepted_manifest,
    read_landed_manifest,
    users_key,
)
from tasks.adapters.store import Store
from tasks.adapters.tables import READERS, parquet_bytes, read_table
from tasks.domain.behaviour import PartitionManifest
from tasks.domain.contract import EVENT
from tasks.domain.erasure import Erasure, HeldDay
from tasks.domain.errors import InputRejected

log = logging.getLogger("freshrank.erase")
ERASED, DONE = "control/erased/", ".done.json"
FEEDBACK = "feedback/"
ATTEMPTS = 5
POLARS_SAYS = (pl.exceptions.PolarsError, OSError)  # of a file that is no Parquet
Revisions = tuple[int, int | None]  # of a landed day, and of its accepted day
T = TypeVar("T")
Advance = Callable[[int, str], Any]


def erasures(store: Store) -> dict[str, Erasure]:
    """Erasure id -> what was asked, done or not."""
    found = {}
    for key in store.list(ERASED):
        if not key.endswith(DONE):
            try:
                found[key.removeprefix(ERASED).removesuffix(".json")] = Erasure.model_validate_json(store.get(key))
            except ValidationError as err:
                raise InputRejected(
                    f"{store.uri(key)} is no record of an erasure ({err.errors()[0]['msg']}): nobody knows whose rows to "
                    f"leave out, so nothing is landed. Restore the object"
                ) from None
    return found


def erased_users(store: Store) -> frozenset[str]:
    """Pseudonyms whose rows are left out, wherever and whenever they come."""
    return frozenset(erasure.pseudonym for erasure in erasures(store).values())


def finish_days(store: Store) -> frozenset[str]:
    """Go on with erasures that were interrupted, as far as days go; the erased users."""
    users = erased_users(store)
    keys = set(store.list(ERASED))
    if any(not key.endswith(DONE) and key.removesuffix(".json") + DONE not in keys for key in keys):
        leave_out(store, users)
    elif users:  # a day may have been judged while its next revision was written
        accepted = accepted_revisions(store)
        for day, revision in landed_revisions(store).items():
            if revision > 1 and day in accepted:
                _bring_along(store, read_landed_manifest(store, day, revision))
    return users


@dataclass(frozen=True, slots=True)
class Found:
    """Days with rows of the users, days whose user table names one, days that need a new revision for whatever reason,
    and the revisions that were looked at."""

    days: dict[str, HeldDay]
    tabled: list[str]
    affected: list[str]
    looked_at: dict[str, Revisions]


def find(
    store: Store, users: Collection[str], known: Mapping[str, Revisions] | None = None, advance: Advance | None = None
) -> Found:
    """Look for rows of `users` in every landed day that is not `known` at its present revisions."""
    accepted = accepted_revisions(store)
    present = {day: (revision, accepted.get(day)) for day, revision in landed_revisions(store).items()}
    wanted = sorted(day for day in present if present[day] != (known or {}).get(day))
    tables = UserTables(store, users)

    def look(day: str) -> tuple[HeldDay, bool, bool]:
        manifest, revision = read_landed_manifest(store, day), present[day][1]
        file = manifest.file("events")
        events = read_table(store, landed_key(day, file.name), file, EVENT, columns=["user_id"])
        rows = int(held_by(pl.DataFrame(events), users).sum())
        behind = revision is not None and manifest.revision > 1 and _is_behind(store, day, revision, manifest.revision)
        held = HeldDay(rows=rows, landed=manifest.revision, accepted=revision, digest=manifest.digest)
        return held, tables.holds(manifest.users), behind

    found = Found({}, [], [], present)
    with ThreadPoolExecutor(READERS) as pool:
        looked = pool.map(lambda day: _persistently(day, lambda: look(day)), wanted)
        for day, (held, tabled, behind) in zip(wanted, looked, strict=True):
            if held.rows:
                found.days[day] = held
            if tabled:
                found.tabled.append(day)
            if held.rows or tabled or behind:
                found.affected.append(day)
            if advance:
                advance(1, day)
    return found


def leave_out(
    store: Store, users: Collection[str], found: Found | None = None, advance: Advance | None = None
) -> list[str]:
    """Write the next revision of every day that holds `users`, then delete what held them; the keys that changed or went.

    Days that land meanwhile are looked at too. `users` are all erased users, not the one at hand: of two runs at once
    each then writes what the other would.
    """
    found = found or find(store, users)
    tables = UserTables(store, users)
    while found.affected:
        with ThreadPoolExecutor(READERS) as pool:
            for day in pool.map(lambda one: _one_day(store, one, users, tables), found.affected):
                if advance:
                    advance(1, day)
        found = find(store, users, found.looked_at)
    return [*_out_of_feedback(store, users), *sweep(store, users)]


def sweep(store: Store, users: Collection[str], days: Iterable[str] | None = None) -> list[str]:
    """Delete what holds `users` in landed days and is named by no newest manifest: revisions before, crashed attempts.

    A day without a manifest is left alone: somebody may be writing it.
    """
    landed, accepted = landed_revisions(store), accepted_revisions(store)
    chosen = sorted(landed if days is None else days)
    named: set[str] = set()
    for day in chosen:
        manifest = read_landed_manifest(store, day, landed[day])
        named |= {landed_key(day, file.name) for file in manifest.files}
        if day in accepted:
            judged = read_accepted_manifest(store, day, accepted[day])
            named |= {accepted_key(day, file.name) for file in judged.files}
            named.add(landed_key(day, judged.events.name))
        if manifest.users:
            named.add(users_key(manifest.users))
    folders = [make(day, "") for make in (landed_key, accepted_key) for day in chosen]
    folders = folders if days is not None else ["behaviour/", "accepted/", "users/"]
    known = {landed_key(day, "") for day in landed} | {accepted_key(day, "") for day in landed} | {"users/"}
    gone = []
    for key in (key for folder in folders for key in store.list(folder)):
        of_users = key.rsplit("/", 1)[-1].startswith(("events-", "caught-")) or key.startswith("users/")
        if of_users and key not in named and f"{key.rsplit('/', 1)[0]}/" in known and holds(store, key, users):
            store.delete(key)
            gone.append(key)
    return gone


def _one_day(store: Store, day: str, users: Collection[str], tables: UserTables) -> str:
    landed = _persistently(day, lambda: landed_without(store, day, users, tables))
    if day in accepted_revisions(store):
        _bring_along(store, landed)
    return day


def _bring_along(store: Store, landed: PartitionManifest) -> None:
    try:
        _persistently(landed.partition, lambda: accepted_along(store, landed))
    except InputRejected as err:
        # it was being judged while its landed rows changed under it: its files are gone, and validate_data, which sees
        # that it speaks of an old revision, judges it again
        log.warning("partition=%s accepted=to-be-judged-again why=%r", landed.partition, str(err))


def _is_behind(store: Store, day: str, accepted: int, landed: int) -> bool:
    return read_accepted_manifest(store, day, accepted).landed_revision < landed


def _persistently(day: str, act: Callable[[], T]) -> T:
    """Another run may be first with a revision, or delete what this one reads: look again before giving up."""
    for attempt in range(1, ATTEMPTS):
        try:
            return act()
        except InputRejected as err:
            log.info("partition=%s attempt=%d overtaken=%r", day, attempt, str(err))
    return act()


def _out_of_feedback(store: Store, users: Collection[str]) -> list[str]:
    """A segment keeps its name: the service sends it again under that name when it does not know that it arrived."""
    changed = []
    for key in store.list(FEEDBACK):
        if key.endswith(".parquet") and holds(store, key, users):
            try:
                frame = pl.read_parquet(io.BytesIO(store.get(key)))
            except POLARS_SAYS as err:
                raise InputRejected(f"{store.uri(key)} is no readable Parquet file; delete it, then run again") from err
            store.replace(key, parquet_bytes(frame.filter(~held_by(frame, users)).to_arrow()))
            changed.append(key)
    return changed


def holds(store: Store, key: str, users: Collection[str]) -> bool:
    """Whether a table names one of the users; one that cannot be read may, and one that is gone does not."""
    try:
        body = store.get(key)
    except InputRejected:
        return False
    try:
        return bool(held_by(pl.read_parquet(io.BytesIO(body), columns=["user_id"]), users).any())
    except POLARS_SAYS:
        return True
