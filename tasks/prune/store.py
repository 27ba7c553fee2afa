"""The store's part of pruning: what lies there, what of it may go (tasks.domain.prune), marks, and deletions.

Never a version by its name, and never past a lock: in a bucket that keeps versions a deletion hides what readers see, and the
bytes go by the bucket's own rule (infra/terraform/aws/store.tf). Run twice at once, or again after a crash, it ends the same.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from secrets import token_hex

from tasks.adapters.releases import release_description
from tasks.adapters.store import Store, Stored
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.manifest import Record, canonical_json
from tasks.domain.prune import (
    GOING,
    GRACE,
    MARKS,
    Choice,
    Held,
    RetentionPolicy,
    Run,
    StoredRelease,
    StoredView,
    choose,
    mark_of,
    orphans,
)
from tasks.lineage import READERS, RUN, manifests_of, parents
from tasks.progress import Progress
from tasks.prune.stacks import STACKS

log = logging.getLogger("freshrank.prune")
# what a release that is gone leaves behind: what it was, for lineage, for `served-at` and for bundles of what was compared with it
RECORD = ("/release/release.json", "/release/provenance.json", "/release/model/config.json")
PUBLISHED = re.compile(
    r"(?P<key>(?:releases|views)/(?P<digest>[0-9a-f]{64}))(?P<rest>(?:-\d{6})?\.json|\.[^/]+\.sig\.json|/.+)"
)
MANIFEST = re.compile(r"(releases|views)/[0-9a-f]{64}\.json")
Serving = Callable[[], Mapping[str, str]]  # release -> why it must stay, as it is now


class Lies(Record):
    """What the store holds, which objects make it up (in the order in which they go), and outputs that nobody names."""

    held: Held
    objects: dict[str, tuple[str, ...]]
    orphans: tuple[str, ...]
    bytes: dict[str, int]  # of every object above


class Pruned(Record):
    """What a pass over the store did, or would do."""

    marked: tuple[str, ...]
    marked_bytes: int
    gone: tuple[str, ...]
    gone_bytes: int
    unmarked: tuple[str, ...]
    orphans: int
    orphan_bytes: int
    kept: dict[str, str]  # why


def prune_store(
    store: Store, serving: Serving, policy: RetentionPolicy, now: datetime, *, dry_run: bool = False
) -> Pruned:
    """Mark what nothing needs; delete what was marked a day ago and still is not needed.

    Raises:
        Forbidden: whoever runs this may not delete here. Nothing was changed.
        Unavailable, InputRejected: what serves, or what something rests on, cannot be told. Nothing was changed.
    """
    lies = look(store, policy, now)
    choice = choose(lies.held, serving(), policy, now)
    told = _told(lies, choice)
    if not dry_run:
        _mark(store, choice, now)
        # asked again, because looking took a while: somebody may have gone back to an old release meanwhile
        going = set(choice.go) & set(choose(lies.held, serving(), policy, now).go)
        _delete(store, lies, sorted(going), now)
        log.info(
            "marked=%d gone=%d gone_bytes=%d", len(told.marked), len(told.gone), told.gone_bytes + told.orphan_bytes
        )
    return told


def look(store: Store, policy: RetentionPolicy, now: datetime) -> Lies:
    runs, left = _runs(store, policy, now)
    releases, views = _releases(store), _published(store, "views/")
    marked = [one for one in store.stat(MARKS) if not one.key.startswith((STACKS, GOING))]
    marks = {one.key.removeprefix(MARKS).removesuffix(".json"): one.written for one in marked}
    held = Held(
        runs=tuple(run for run, _ in runs),
        releases=tuple(one for one, _ in releases),
        views=tuple(
            StoredView(digest=digest, made=_made(found), published=_is_published(found), bytes=_size(found))
            for digest, found in views.items()
        ),
        marks=marks,
    )
    stored = {run.key: found for run, found in runs} | {one.key: found for one, found in releases}
    stored |= {f"views/{digest}": found for digest, found in views.items()}
    everything = [*left, *(one for found in stored.values() for one in found)]
    return Lies(
        held=held,
        objects={key: tuple(one.key for one in found) for key, found in stored.items()},
        orphans=tuple(one.key for one in left),
        bytes={one.key: one.bytes for one in everything},
    )


def _runs(store: Store, policy: RetentionPolicy, now: datetime) -> tuple[list[tuple[Run, list[Stored]]], list[Stored]]:
    """([(run, its outputs)], outputs that may go because no manifest names them)."""
    outputs, ended = defaultdict[str, list[Stored]](list), dict[str, datetime]()
    for one in store.stat("runs/"):
        if found := RUN.fullmatch(one.key):
            if found["rest"] == ".json":
                ended[found["run"]] = one.written
            else:
                outputs[found["run"]].append(one)
    told: list[tuple[Run, list[Stored]]] = []
    named = set[str]()
    manifests = manifests_of(store, ended)
    if unread := sorted(ended.keys() - manifests.keys()):
        # else its outputs would look like nobody's, and what led to a release would end here
        raise Unavailable(
            f"{store.uri(f'{unread[0]}.json')} and {len(unread) - 1} more manifests are listed and cannot be read: gone "
            f"meanwhile, or this role may not read them. Nothing is pruned while nobody knows what they name"
        )
    for key, manifest in manifests.items():
        names = {store.key(artifact.uri) for artifact in manifest.outputs.values()}
        named |= names
        there = [one for one in outputs[key] if one.key in names]
        run = Run(
            key=key,
            step=manifest.step,
            made=ended[key],
            inputs=frozenset(parents(store, manifest).values()),
            release=str(manifest.summary["release"]) if "release" in manifest.summary else None,
            bytes=_size(there),
            whole=len(there) == len(names),
        )
        told.append((run, there))
    every = {one.key: one for found in outputs.values() for one in found}
    return told, [every[key] for key in orphans({key: one.written for key, one in every.items()}, named, policy, now)]


def _releases(store: Store) -> list[tuple[StoredRelease, list[Stored]]]:
    found = _published(store, "releases/")
    published = [digest for digest, objects in found.items() if _is_published(objects)]

    def described(digest: str) -> dict[str, str | None]:
        try:
            told = release_description(store, digest)
            return {"view": told.get("view"), "weights": told.get("weights_digest"), "kind": told.get("kind")}
        except (ValueError, AttributeError) as err:
            raise InputRejected(
                f"release.json of {digest[:12]} is damaged ({err}): nobody knows what the release rests on, so nothing is "
                f"pruned. Restore the object, or delete releases/{digest}.json"
            ) from None

    with ThreadPoolExecutor(READERS) as pool:
        facts = dict(zip(published, pool.map(described, published), strict=True))
    return [
        (
            StoredRelease(
                digest=digest,
                made=_made(objects),
                published=digest in facts,
                bytes=_size(objects),
                **facts.get(digest, {}),
            ),
            objects,
        )
        for digest, objects in found.items()
    ]


def _published(store: Store, prefix: str) -> dict[str, list[Stored]]:
    """Digest -> its objects that may go, those first without which nobody sees the rest."""
    found = defaultdict[str, list[Stored]](list)
    for one in store.stat(prefix):
        if (match := PUBLISHED.fullmatch(one.key)) and match["rest"] not in RECORD:
            found[match["digest"]].append(one)
    return {digest: sorted(objects, key=_rank) for digest, objects in found.items()}


def _rank(one: Stored) -> tuple[bool, bool, str]:
    return (not _is_manifest(one), one.key.count("/") > 1, one.key)


def _is_manifest(one: Stored) -> bool:
    return bool(MANIFEST.fullmatch(one.key))


def _is_published(objects: Collection[Stored]) -> bool:
    return any(_is_manifest(one) for one in objects)


def _made(objects: Collection[Stored]) -> datetime:
    return max(one.written for one in objects)


def _size(objects: Collection[Stored]) -> int:
    return sum(one.bytes for one in objects)


def _mark(store: Store, choice: Choice, now: datetime) -> None:
    for key in choice.unmark:
        store.delete(mark_of(key))
    for key in choice.mark:
        with suppress(Conflict):  # somebody else is pruning too, and was first
            store.put_new(mark_of(key), canonical_json({"marked": now.isoformat(timespec="seconds")}))


def _delete(store: Store, lies: Lies, going: Collection[str], now: datetime) -> None:
    for one in store.stat(GOING):
        if one.written <= now - GRACE:  # of a pruning that was killed
            store.delete(one.key)
    with Progress("prune", len(going), "things") as bar:
        for key in going:
            if key.startswith("runs/"):
                for name in lies.objects[key]:
                    store.delete(name)
            else:
                _delete_published(store, key, lies)
            bar.advance(1, key)
    for name in lies.orphans:
        store.delete(name)


def _delete_published(store: Store, key: str, lies: Lies) -> None:
    """Unless somebody publishes it again: say that it goes, then look for what was written since it was marked. Who publishes
    does the same the other way round (tasks.adapters.releases), so that one of the two sees the other."""
    said = f"{GOING}{key}/{token_hex(6)}.json"
    store.put_new(said, b"{}")
    newest = max((one.written for one in store.stat(key)), default=lies.held.marks[key])
    if newest > lies.held.marks[key]:
        log.info("key=%s event=kept reason=published_again", key)
    else:
        for name in lies.objects[key]:
            store.delete(name)
    store.delete(mark_of(key))  # published again it is new
    store.delete(said)


def _told(lies: Lies, choice: Choice) -> Pruned:
    def size(keys: Collection[str]) -> int:
        return sum(lies.bytes[name] for key in keys for name in lies.objects[key])

    return Pruned(
        marked=choice.mark,
        marked_bytes=size(choice.mark),
        gone=choice.go,
        gone_bytes=size(choice.go),
        unmarked=choice.unmark,
        orphans=len(lies.orphans),
        orphan_bytes=sum(lies.bytes[name] for name in lies.orphans),
        kept=choice.kept,
    )
