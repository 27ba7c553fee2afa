"""resolve_champion pins what its key says, although another release is promoted between the key and the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.adapters.store import MemoryStore
from tasks.controller.client import ControllerClient
from tasks.run import read_manifest, run
from tasks.settings import Settings
from tasks.steps import STEPS
from tests.rollout_builders import A, B, C

DAY = "2017-07-01"


def test_what_is_pinned_is_what_the_key_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.run.MIN_FREE_BYTES", 0)
    store, settings = MemoryStore(), Settings(home=tmp_path)
    for release in (A, B, C):
        told = {"view": "v", "train_end": DAY, "state_through": DAY, "weights_digest": release[:8]}
        store.put_new(f"releases/{release}/release/release.json", json.dumps(told).encode())
    # promoted right after the key was made: B serves from then on
    answers = [
        {"champion": {"digest": A}, "previous": {"digest": C}},
        {"champion": {"digest": B}, "previous": {"digest": A}},
    ]
    asked = []
    monkeypatch.setattr(ControllerClient, "status", lambda self: asked.append(1) or answers[min(len(asked), 2) - 1])
    manifest = read_manifest(store, run(STEPS["resolve_champion"], DAY, {}, settings, store=store))
    assert manifest.params["champion"] == manifest.summary["release"] == A
    assert manifest.params["previous"] == manifest.summary["previous"] == C and len(asked) == 1
    later = read_manifest(store, run(STEPS["resolve_champion"], DAY, {}, settings, store=store))
    assert later.params["champion"] == later.summary["release"] == B, (
        "asking again after the promotion is another question"
    )
