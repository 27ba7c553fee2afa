"""A replica takes its directory in the spool, and measures the spool, while the uploader of another one clears away what is
uploaded, empty and unlocked."""

from __future__ import annotations

import fcntl
import os
import queue
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.serving import feedback
from tasks.serving.feedback import Spool
from tasks.serving.metrics import Metrics
from tasks.serving.upload import sealed_segments

RELEASE = "d" * 64


@pytest.mark.parametrize("when", ["before it is locked", "before it is opened"])
def test_feedback_is_written_although_the_directory_was_taken_away(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = []

    def clear_away() -> None:
        if not cleared:
            cleared.append(list(sealed_segments(tmp_path, own="", before=0)))

    class Lock:
        LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

        @staticmethod
        def flock(lock: Any, how: int) -> None:
            clear_away()
            fcntl.flock(lock, how)

    if when == "before it is locked":
        monkeypatch.setattr(feedback, "fcntl", Lock)
    else:
        mkdir = Path.mkdir

        def mkdir_then_lose(self: Path, *given: Any, **named: Any) -> None:
            mkdir(self, *given, **named)
            if self.parent == tmp_path:
                clear_away()

        monkeypatch.setattr(Path, "mkdir", mkdir_then_lose)
    spool = Spool(tmp_path, RELEASE, "r1", Metrics(RELEASE, "r1"), flush_every_s=3600, port=4711)
    try:
        assert cleared == [[]]
        spool.append_and_wait([{"event_id": "one"}])
    finally:
        spool.close()
    (segment,) = tmp_path.glob("*/*.jsonl")
    assert b"one" in segment.read_bytes() and (segment.parent / "lock").read_text() == "4711"


@pytest.mark.parametrize("what", ["a folder", "a segment"])
def test_feedback_is_written_although_another_one_was_uploaded_at_that_moment(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "of-another-replica"
    other.mkdir()
    (other / "one.jsonl").write_text("{}\n")
    scandir, stat = os.scandir, os.stat

    def gone_before_it_is_listed(path: Any = ".") -> Any:
        if what == "a folder" and Path(path) == other:
            monkeypatch.setattr(os, "scandir", scandir)
            shutil.rmtree(other)
        return scandir(path)

    def gone_after_a_look(path: Any, **more: Any) -> os.stat_result:
        found = stat(path, **more)
        if what == "a segment" and not isinstance(path, int) and Path(path).name == "one.jsonl":
            Path(path).unlink()
        return found

    monkeypatch.setattr(os, "scandir", gone_before_it_is_listed)
    monkeypatch.setattr(os, "stat", gone_after_a_look)
    spool = Spool(tmp_path, RELEASE, "r1", Metrics(RELEASE, "r1"), flush_every_s=3600)
    try:
        written: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        spool.append([{"event_id": "one"}], written.put)
        assert written.get(timeout=3) is None
        assert not (other / "one.jsonl").is_file() and spool._writer.is_alive()
    finally:
        spool.close()
