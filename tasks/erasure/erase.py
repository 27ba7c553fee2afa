"""Erase one user: every place that holds the user is found, left without, and written down; what remains is said.

The record comes first, so that ingest leaves the user out from then on and a killed run is resumed by running it again.
Raw ids are hashed before they come here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from tasks.adapters.erasures import (
    DONE,
    ERASED,
    FEEDBACK,
    Found,
    erased_users,
    erasures,
    find,
    holds,
    leave_out,
)
from tasks.adapters.partitions import (
    accepted_revisions,
    landed_days,
    landed_revisions,
    read_landed_manifest,
    retired_days,
)
from tasks.adapters.store import Store
from tasks.domain.erasure import Erased, ErasedDay, Erasure, Tainted, erasure_id
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.erasure.local_copies import forget_here, waiting_feedback
from tasks.erasure.taint import PAGES, Built, built_from, names
from tasks.erasure.view_without import leave_out_of_view, view_digests
from tasks.progress import Progress
from tasks.serving.online_store import OnlineStore
from tasks.settings import Settings

log = logging.getLogger("freshrank.erase")
MLFLOW = "mlflow/"  # where the local MLflow keeps the pages that steps wrote


@dataclass(frozen=True, slots=True)
class Holdings:
    """Where a user lies now; `record` is there once somebody asked for the erasure."""

    user: str
    record: Erasure | None
    found: Found
    built: Built
    feedback: list[str]
    pages: list[str]

    @property
    def rows(self) -> int:
        return sum(day.rows for day in self.found.days.values())

    @property
    def nothing(self) -> bool:
        return not (
            self.found.days
            or self.found.tabled
            or self.built.objects
            or self.built.views
            or self.feedback
            or self.pages
        )


def look_for(store: Store, user: str) -> Holdings:
    """Find every place in the store; nothing changes."""
    record = erasures(store).get(erasure_id(user))
    with Progress("look for the user", len(landed_days(store)), "days") as bar:
        found = find(store, {user}, advance=bar.advance)
    since = _since(store, [*found.days, *(record.days if record else ())])
    built = built_from(store, user, since)
    feedback = [key for key in store.list(FEEDBACK) if key.endswith(".parquet") and holds(store, key, {user})]
    pages = [key for key in store.list(MLFLOW) if key.endswith(PAGES) and names(store, key, user)] if since else []
    return Holdings(user, record, found, built, feedback, pages)


def erase(
    store: Store,
    settings: Settings,
    online: OnlineStore | None,
    holdings: Holdings,
    actor: str,
    reason: str,
    now: datetime,
) -> Erased:
    """Erase the user of `holdings`, here and in the store. Again, or twice at once, ends the same.

    Raises:
        InputRejected: an object that would have to be looked into is damaged; it is named, and what was done stays done.
    """
    user, name = holdings.user, erasure_id(holdings.user)
    record = holdings.record or _record(store, holdings, actor, reason, now)
    everybody = erased_users(store)
    with Progress("leave the user out", len(holdings.found.affected), "days") as bar:
        leave_out(store, everybody, holdings.found, bar.advance)
    for view in view_digests(store):
        leave_out_of_view(store, view, everybody)
    tainted, outputs = record.tainted, set[str]()
    since = _since(store, [*record.days, *holdings.found.days])
    while (built := built_from(store, user, since)).objects:  # again: a step may have ended meanwhile
        tainted = tainted.joined(built.tainted)
        outputs |= {*built.outputs}
        for key in built.objects:
            store.delete(key)
    for key in holdings.pages:
        store.delete(key)
    local = forget_here(settings, {user}, outputs | {*built.outputs}, caches=since is not None)
    remains = _remains(settings, store, online, user, tainted)
    landed, accepted = landed_revisions(store), accepted_revisions(store)
    days = {*record.days, *holdings.found.days}
    done = Erased(
        when=now.isoformat(timespec="seconds"),
        days={
            day: ErasedDay(
                landed=landed[day], accepted=accepted.get(day), digest=read_landed_manifest(store, day).digest
            )
            for day in sorted(days & landed.keys())  # the others are retired
        },
        tainted=tainted,
        remains=tuple(remains),
    )
    store.replace(f"{ERASED}{name}{DONE}", done.model_dump_json(indent=1).encode())
    log.info("erasure=%s days=%d local=%d remains=%d", name, len(days), local, len(remains))
    return done


def _since(store: Store, days: Iterable[str]) -> str | None:
    """The first day from which anything can have been made of the user's rows. Whose rows retired days held, nobody knows."""
    return min([*days, *retired_days(store)], default=None)


def checked_key_id(store: Store, key_id: str) -> None:
    """Raise InputRejected where raw ids are hashed with another key than the landed days were."""
    days = landed_days(store)
    if days and (known := read_landed_manifest(store, days[-1]).pseudonym_key_id) != key_id:
        raise InputRejected(
            f"the days up to {days[-1]} were pseudonymised with key {known}, this stack has key {key_id}: a raw id would "
            f"name nobody. Use secrets.json of the stack that landed them, or --pseudonym"
        )


def _record(store: Store, holdings: Holdings, actor: str, reason: str, now: datetime) -> Erasure:
    record = Erasure(
        pseudonym=holdings.user,
        when=now.isoformat(timespec="seconds"),
        actor=actor,
        reason=reason,
        days=holdings.found.days,
        tainted=holdings.built.tainted,
    )
    try:
        store.put_new(f"{ERASED}{erasure_id(holdings.user)}.json", record.model_dump_json(indent=1).encode())
    except Conflict:  # somebody asked for the same a moment ago; that record stands
        return erasures(store)[erasure_id(holdings.user)]
    return record


def _remains(settings: Settings, store: Store, online: OnlineStore | None, user: str, tainted: Tainted) -> list[str]:
    """What still holds something of the user, each with when it goes."""
    sentences = []
    if tainted.views:
        named = ", ".join(view[:12] for view in tainted.views)
        try:
            if online is not None:
                online.forget(sorted({*tainted.views, *view_digests(store)}), {user})
            sentences.append(
                f"replicas that serve view {named} keep what they opened until the next release replaces them"
            )
        except Unavailable as err:
            sentences.append(f"Valkey still holds the user in view {named}: {err}. Run this command again")
    if tainted.weights:
        sentences.append(
            f"weights {', '.join(one[:12] for one in tainted.weights)} were trained on days with the user; they name nobody "
            f"and go with the next weights that ship"
        )
    if waiting := waiting_feedback(settings, {user}):
        sentences.append(
            f"{waiting} feedback segments of this machine are not uploaded yet; run this again in a minute"
        )
    if not settings.local_store:
        sentences.append("other machines that run steps or serve keep local copies until this command runs there")
    if settings.mlflow_url:
        sentences.append(
            f"{settings.mlflow_url} may keep report pages with caught rows under the first eight digits of the pseudonym"
        )
    return sentences
