"""One day, code and seed: the release of a Celery worker, of one local process and of two training processes.

    python -m benchmarks.same_release HOME DAY

HOME is a running stack with workers whose refresh of DAY ships new weights, or has begun to: package is waited for. Its finetune,
compress and package are done again here, from the same manifests of the steps before, by one process and by two; nothing is
published. The gate is taken as it was: its verdict is part of a release, and rests on times that no two runs share.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._table import Row, below, publish
from tasks.adapters.store import MemoryStore, S3Store
from tasks.domain.errors import InputRejected
from tasks.explain.story import made_by
from tasks.run import code_version, lock_digest, read_manifest, run
from tasks.settings import Settings
from tasks.steps import step_named

AGAIN = ("finetune", "compress", "package")
MADE_AGAIN = tuple(f"runs/{step}/" for step in AGAIN)
CELERY = "celery worker"
WAYS = {"one local process": 1, "two training processes": 2}


class Aside(MemoryStore):
    """Reads the store below, but for manifests of the three steps; what is written is its own."""

    def __init__(self, below: S3Store) -> None:
        super().__init__()
        self.below = below
        self.uri, self.key = below.uri, below.key  # type: ignore[method-assign]

    def exists(self, key: str) -> bool:
        return super().exists(key) or (not key.startswith(MADE_AGAIN) and self.below.exists(key))

    def get(self, key: str) -> bytes:
        return super().get(key) if super().exists(key) else self.below.get(key)

    def list(self, prefix: str) -> list[str]:
        return sorted({*super().list(prefix), *self.below.list(prefix)})


def main(home: str, day: str) -> int:
    os.environ["FRESHRANK_HOME"] = home
    settings = Settings()
    store = S3Store(settings)
    given = {step: _manifest(store, step, day) for step in ("build_dataset", "resolve_champion")}
    recipe = read_manifest(store, given["build_dataset"]).params["recipe"]
    told: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = {name: _aside(settings, Path(folder) / str(n), n) for name, n in WAYS.items()}
        made = {name: given | _run(way, day, given, ("finetune", "compress")) for name, way in ways.items()}
        package = _manifest(store, "package", day, patience_s=1200)
        by_celery = made_by(store, package)
        if by_celery["build_dataset"][0] != given["build_dataset"]:
            raise InputRejected(f"the release of {day} was made of another data set than {given['build_dataset']}")
        told[CELERY] = _row(store, {step: by_celery[step][1].summary for step in AGAIN})
        for name, (elsewhere, aside) in ways.items():
            inputs = made[name] | {"gate": by_celery["gate"][0]}
            made[name] |= _run((elsewhere, aside), day, inputs, ("package",))
            told[name] = _row(aside, {step: read_manifest(aside, made[name][step]).summary for step in AGAIN})
    for row in told.values():
        row["differing_files"] = sorted(n for n, sha in row["files"].items() if told[CELERY]["files"].get(n) != sha)
    for row in told.values():
        row["files"] = len(row["files"])
    facts = {"day": day, "recipe": recipe, "code": code_version(), "lock": lock_digest()}
    return (
        0
        if publish("same_release", bars(told), ("torch", "openvino", "celery"), evidence=facts | {"made": told})
        else 1
    )


def bars(told: dict[str, dict[str, Any]]) -> list[Row]:
    releases = {row["release"] for row in told.values()}
    differing = sum(len(row["differing_files"]) for row in told.values())
    return [
        below(f"releases made of one day, code and seed by {', '.join(told)}", len(releases), "releases", 1),
        below("files that differ from the Celery worker's", differing, f"of {told[CELERY]['files']} files", 0),
    ]


def _manifest(store: S3Store, step: str, day: str, patience_s: float = 0) -> str:
    """The one that this code made."""
    until = time.monotonic() + patience_s
    while True:
        keys = [key for key in store.list(f"runs/{step}/{day}/") if key.count("/") == 3 and key.endswith(".json")]
        found = [uri for uri in map(store.uri, keys) if read_manifest(store, uri).code_version == code_version()]
        if len(found) == 1:
            return found[0]
        if found or time.monotonic() > until:
            raise InputRejected(f"{step} of {day} was done {len(found)} times by this code, {len(keys)} times in all")
        time.sleep(1)


def _aside(settings: Settings, home: Path, processes: int) -> tuple[Settings, Aside]:
    """A home and a store that know nothing of what the stack made of the three steps; its keys are the stack's."""
    home.mkdir()
    (home / "secrets.json").write_bytes((settings.home / "secrets.json").read_bytes())
    (home / "secrets.json").chmod(0o600)
    changed = {"home": home, "train_processes": processes, "signing_key": settings.home / "release.key"}
    elsewhere = settings.model_copy(update=changed | {"public_keys": settings.home / "release.pub"})
    return elsewhere, Aside(S3Store(settings))


def _run(way: tuple[Settings, Aside], day: str, given: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    elsewhere, aside = way
    made: dict[str, str] = {}
    for name in names:
        step = step_named(name)
        inputs = {n: uri for n, uri in (given | made).items() if n in (*step.inputs, *step.optional)}
        made[name] = run(step, day, inputs, elsewhere, store=aside)
    return made


def _row(store: S3Store | Aside, told: dict[str, Any]) -> dict[str, Any]:
    release = told["package"]["release"]
    return {
        "release": release,
        "kind": told["package"]["kind"],
        "weights": told["finetune"]["weights_digest"],
        "processes": told["finetune"].get("processes", 1),
        "variant": told["compress"].get("chosen"),
        "files": {n: one["sha256"] for n, one in json.loads(store.get(f"releases/{release}.json"))["files"].items()},
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
