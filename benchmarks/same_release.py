"""One day, code and seed: the release of a Celery worker, of one local process and of two training processes.

    python -m benchmarks.same_release HOME DAY

HOME is a running stack with workers whose refresh of DAY shipped new weights. Its finetune, compress and package are done again
here, from the same manifests of the steps before, by one process and by two; nothing is published. The gate is taken as it was: its
verdict is part of a release, and rests on times that no two runs share.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._table import RESULTS
from tasks.adapters.store import MemoryStore, S3Store
from tasks.domain.errors import InputRejected
from tasks.explain.story import made_by
from tasks.run import code_version, lock_digest, read_manifest, run
from tasks.settings import Settings
from tasks.steps import step_named

AGAIN = ("finetune", "compress", "package")


class Aside(MemoryStore):
    """Reads the store below, where what begins with `hidden` is not there; writes are its own."""

    def __init__(self, below: S3Store, hidden: tuple[str, ...]) -> None:
        super().__init__()
        self.below, self.hidden = below, hidden
        self.uri, self.key = below.uri, below.key  # type: ignore[method-assign]

    def exists(self, key: str) -> bool:
        return super().exists(key) or (not key.startswith(self.hidden) and self.below.exists(key))

    def get(self, key: str) -> bytes:
        return super().get(key) if super().exists(key) else self.below.get(key)

    def list(self, prefix: str) -> list[str]:
        under = [key for key in self.below.list(prefix) if not key.startswith(self.hidden)]
        return sorted({*super().list(prefix), *under})


def main(home: str, day: str) -> int:
    os.environ["FRESHRANK_HOME"] = home
    settings = Settings()
    store = S3Store(settings)
    (package,) = [key for key in store.list(f"runs/package/{day}/") if key.count("/") == 3 and key.endswith(".json")]
    made = made_by(store, store.uri(package))
    told: dict[str, Any] = {"day": day, "recipe": settings.recipe, "code": code_version(), "lock": lock_digest()}
    recorded = read_manifest(store, store.uri(package))
    if recorded.code_version != told["code"]:
        raise InputRejected(f"{day} was made by code {recorded.code_version} and this is {told['code']}")
    told["celery worker"] = _row(store, {step: made[step][1].summary for step in AGAIN})
    for name, processes in (("one local process", 1), ("two training processes", 2)):
        told[name] = _again(store, made, day, settings, processes)
    celery, *others = (told[name] for name in ("celery worker", "one local process", "two training processes"))
    told["same"] = all(row["release"] == celery["release"] for row in others)
    for row in others:
        row["differing_files"] = sorted(n for n, sha in row["files"].items() if celery["files"].get(n) != sha)
    for row in (celery, *others):
        row["files"] = len(row["files"])
    (RESULTS / "same_release.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))
    return 0 if told["same"] else 1


def _again(store: S3Store, made: Any, day: str, settings: Settings, processes: int) -> dict[str, Any]:
    release = made["package"][1].summary["release"]
    aside = Aside(store, (*(f"runs/{step}/{day}/" for step in AGAIN), f"releases/{release}"))
    uris = {name: uri for name, (uri, _) in made.items()}
    with tempfile.TemporaryDirectory() as folder:
        changed = {"home": Path(folder), "train_processes": processes, "signing_key": settings.home / "release.key"}
        elsewhere = settings.model_copy(update=changed | {"public_keys": settings.home / "release.pub"})
        (elsewhere.home / "secrets.json").write_bytes((settings.home / "secrets.json").read_bytes())
        (elsewhere.home / "secrets.json").chmod(0o600)
        for name in AGAIN:
            was = made[name][1]
            inputs = {upstream: uris[upstream] for upstream in was.inputs}
            options = {key: value for key, value in was.params.items() if key.startswith("approved")}
            uris[name] = run(step_named(name), day, inputs, elsewhere, options=options, store=aside)
        summaries = {name: read_manifest(aside, uris[name]).summary for name in AGAIN}
    return _row(aside, summaries)


def _row(store: S3Store | Aside, told: dict[str, Any]) -> dict[str, Any]:
    release = told["package"]["release"]
    return {
        "release": release,
        "weights": told["finetune"]["weights_digest"],
        "processes": told["finetune"].get("processes", 1),
        "variant": told["compress"].get("chosen"),
        "files": {n: one["sha256"] for n, one in json.loads(store.get(f"releases/{release}.json"))["files"].items()},
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
