"""A step in a cluster runs in a pod: it is refused, by name, where the pod's image is not of the scheduler's build."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tasks import worker
from tasks.domain.errors import Unavailable
from tasks.refresh import Asked, run_step
from tasks.settings import Settings


def run_in_a_pod(home: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str]) -> str:
    """What the step's door says to a pod that was told `told`; "" where it lets the pod in."""
    for name in (worker.CODE, worker.LOCK):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = Settings(home=home, executor="kubernetes")
    try:
        worker.require_same_version(settings)
    except Unavailable as err:
        with pytest.raises(Unavailable, match="is refused"):
            run_step("ingest", {}, Asked("run", {}, None), settings)
        return str(err)
    return ""


def test_a_pod_of_the_scheduler_s_build_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_in_a_pod(tmp_path, monkeypatch, worker.version_for_pods()) == ""


@pytest.mark.parametrize("what", [worker.CODE, worker.LOCK])
def test_a_pod_of_another_build_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    own = worker.version_for_pods()
    said = run_in_a_pod(tmp_path, monkeypatch, own | {what: "0123456789abcdef"})
    noun = "code" if what == worker.CODE else "lock"
    assert said.startswith(
        f"worker {socket.gethostname()} is refused: it has {noun} {own[what]} where the scheduler has 0123456789abcdef."
    )
    assert "image.digests" in said


def test_a_pod_that_was_told_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nobody told it which code" in run_in_a_pod(tmp_path, monkeypatch, {})
