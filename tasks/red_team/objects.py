"""What lies in the store: bytes cut, turned or gone after the manifest was written, and keys that lead elsewhere."""

from __future__ import annotations

from dataclasses import replace

from tasks.adapters.partitions import landed_key, read_landed_manifest
from tasks.adapters.store import Store
from tasks.domain.behaviour import next_day
from tasks.red_team.scene import Kind, Landing, Scene, count_of

ANY = "any number above 0"


def _events_key(store: Store, day: str) -> str:
    files = [file for file in read_landed_manifest(store, day).files if file.kind == "events"]
    return landed_key(day, files[0].name)


def _truncated(store: Store, scene: Scene, strength: float) -> None:
    key = _events_key(store, scene.day)
    body = store.get(key)
    if cut := count_of(len(body), strength):
        store.replace(key, body[:-cut])


def _changed(store: Store, scene: Scene, strength: float) -> None:
    key = _events_key(store, scene.day)
    body = bytearray(store.get(key))
    for at in scene.draws.permutation(len(body))[: count_of(len(body), strength)]:
        body[at] ^= 0xFF
    store.replace(key, bytes(body))


def _absent(store: Store, scene: Scene, strength: float) -> None:
    if strength > 0:
        store.delete(_events_key(store, scene.day))


def _torn_manifest(store: Store, scene: Scene, strength: float) -> None:
    key = landed_key(scene.day)
    body = store.get(key)
    if cut := count_of(len(body), strength):
        store.replace(key, body[:-cut])


def _other_manifest(store: Store, scene: Scene, strength: float) -> None:
    if strength > 0:
        store.replace(landed_key(scene.day), store.get(landed_key(next_day(scene.day, -1))))


def _escaping(landing: Landing, strength: float) -> Landing:
    return replace(landing, day=f"../../{landing.day}") if strength > 0 else landing


def _other_key(landing: Landing, strength: float) -> Landing:
    if strength == 0:
        return landing
    return replace(landing, key=bytes(byte ^ 0xFF for byte in landing.key), key_id=f"not-{landing.key_id}")


# fmt: off
KINDS = (
    Kind("truncated_part", "A copy between buckets breaks off: the end of a file is missing.",
         "share of the file's bytes", 0.01, ("reader",), "rejected", objects=_truncated),
    Kind("changed_object", "Somebody repairs a file by hand after its manifest was written, or a disk turns bits.",
         "share of the file's bytes, at least one", 1e-6, ("reader",), "rejected", objects=_changed),
    Kind("absent_file", "A clean-up job deletes a file that a manifest names.",
         ANY, 1.0, ("reader",), "rejected", objects=_absent),
    Kind("torn_manifest", "The manifest itself is cut short.",
         "share of its bytes", 0.1, ("reader",), "rejected", objects=_torn_manifest),
    Kind("other_manifest", "A restore puts the manifest of the day before in today's place.",
         ANY, 1.0, ("reader",), "rejected", objects=_other_manifest),
    Kind("escaping_key", "A caller asks for the partition `../../DAY`, to write outside the folder.",
         ANY, 1.0, ("ingest",), "rejected", landing=_escaping),
    Kind("other_key", "A second stack with its own pseudonym key lands into the same bucket.",
         ANY, 1.0, ("ingest",), "rejected", landing=_other_key),
)
# fmt: on
