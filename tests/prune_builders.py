"""A store with a history: refreshes through the one door, each with a release and a view that it published."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.adapters.releases import publish
from tasks.adapters.store import Store
from tasks.run import Call, Step, run
from tasks.settings import Settings

ORDER = ("resolve_champion", "build_dataset", "finetune", "compress", "gate", "package")


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def step(name: str, number: int, summary: dict[str, Any]) -> Step:
    """Its output is `number` times ten bytes: small, but it can be told from the others."""

    def execute(call: Call) -> dict[str, Any]:
        (call.out / f"{name}.bin").write_bytes(b"0123456789" * number)
        return summary

    return Step(name, (), execute, optional=ORDER)


def a_refresh(
    store: Store, settings: Settings, day: str, name: str | None, compared: str | None = None
) -> dict[str, str]:
    """Step -> manifest key. With a name it ships a release of that name."""
    uris: dict[str, str] = {}
    for number, one in enumerate(ORDER if name else ORDER[:-1], start=1):
        summary: dict[str, Any] = {}
        if one == "package" and name:
            publish_release(store, settings.home / "made", name)
            summary = {"release": digest_of(name)}
        if one == "resolve_champion" and compared:
            summary = {"release": digest_of(compared)}
        uris[one] = run(step(one, number, summary), day, uris, settings, store=store)
    return {one: store.key(uri) for one, uri in uris.items()}


def publish_release(store: Store, folder: Path, name: str) -> None:
    view, src = folder / name / "view", folder / name / "src"
    view.mkdir(parents=True)
    (view / "users.bin").write_text(f"users of {name}")
    (src / "release").mkdir(parents=True)
    told = {"view": digest_of(f"view of {name}"), "weights_digest": digest_of(f"weights of {name}"), "kind": "weights"}
    (src / "release" / "release.json").write_text(json.dumps(told))
    (src / "release" / "provenance.json").write_text("{}")
    (src / "release" / "model.bin").write_text(f"weights of {name}")
    publish(store, "views", told["view"], view)
    publish(store, "releases", digest_of(name), src)
    store.put_new(f"releases/{digest_of(name)}.0123456789abcdef.sig.json", b"{}")
