"""Two live copies of the package step: a restarted scheduler makes them, and neither may spoil what the other publishes."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tasks import steps
from tasks.adapters import releases
from tasks.adapters.store import MemoryStore
from tasks.domain.gate import Decision, Outcome, Verdict
from tasks.run import Call
from tasks.settings import Settings

RELEASE, VIEW = "a" * 64, "b" * 64
FILES = ("src/one.json", "src/two.json", "view/users.json")


def test_a_copy_that_begins_does_not_take_away_what_another_is_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = Verdict(kind="weights", outcome=Outcome.PASS, reason="better", findings=())
    decision = Decision(policy="demo", shipped="weights", reason="better", needs_review=False, verdicts=(verdict,))
    (tmp_path / "decision.json").write_text(decision.model_dump_json())
    store, copies = MemoryStore(), list[Path]()

    def a_copy() -> None:
        out = tmp_path / f"out-{len(copies)}"
        out.mkdir()
        steps.STEPS["package"].execute(
            Call(
                settings=Settings(home=tmp_path / "home"),
                store=store,
                partition="2017-07-01",
                inputs={"gate": tmp_path, "build_dataset": tmp_path},
                manifests={},
                out=out,
                work=tmp_path,
                options={},
            )
        )

    def package(*, out: Path, **_: Any) -> dict[str, Any]:
        copies.append(out)
        shutil.rmtree(out, ignore_errors=True)
        for name in FILES:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text("whole")
            if len(copies) == 2:
                raise KeyboardInterrupt  # it has begun, and is killed
        with suppress(KeyboardInterrupt):
            a_copy()
        return {"release": RELEASE, "view": VIEW, "signed_by": "k"}

    def publish_release(store: MemoryStore, digest: str, src: Path, key_id: str) -> str:
        return releases.publish(store, "releases", digest, src)

    monkeypatch.setattr("tasks.package.package", package)
    monkeypatch.setattr(releases, "publish_release", publish_release)
    monkeypatch.setattr(steps, "_provenance", lambda *_: {})
    a_copy()
    published = json.loads(store.get(f"releases/{RELEASE}.json"))["files"]
    assert set(published) == {"one.json", "two.json"}
    assert store.exists(f"views/{VIEW}/users.json")
    assert not any(folder.exists() for folder in copies), "nothing of it stays on the disk"
