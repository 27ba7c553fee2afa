"""A durable write that stops half way, on the real files: what is read afterwards is the state before it, or after it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tasks.adapters import router
from tasks.adapters.launcher import new_replica
from tasks.adapters.processes import _read_table
from tasks.atomic import _draft
from tasks.controller.log import SqliteLog
from tasks.domain.manifest import canonical_json
from tests.rollout_builders import NOON, A, B, a_draft


def test_a_row_is_whole_or_absent_wherever_the_power_went(tmp_path: Path) -> None:
    path = tmp_path / "rollout.db"
    log = SqliteLog(path)
    with closing(sqlite3.connect(path)) as reader:  # while somebody reads, the write-ahead log stays a file of its own
        reader.execute("SELECT count(*) FROM rollout_log").fetchone()
        log.append(a_draft("first", to_release=A), expected=0, at=NOON)
        before = path.with_name("rollout.db-wal").read_bytes()
        log.append(a_draft("second", to_release=B), expected=1, at=NOON)
        after = path.with_name("rollout.db-wal").read_bytes()
        base = path.read_bytes()
    assert len(after) > len(before) > 0
    seen = set()
    for cut in [*range(len(before), len(after), 97), len(after)]:
        place = tmp_path / f"cut-{cut}"
        place.mkdir()
        (place / "rollout.db").write_bytes(base)
        (place / "rollout.db-wal").write_bytes(after[:cut])
        torn = SqliteLog(place / "rollout.db")
        torn.verify()
        seen.add(len(torn.rows()))
        assert [row.op for row in torn.rows()] in (["first"], ["first", "second"])
        again = torn.append(a_draft("second", to_release=B), expected=len(torn.rows()), at=NOON)
        assert again.rev == 2 and len(torn.rows()) == 2, "the same press again has one effect"
        shutil.rmtree(place)
    assert seen == {1, 2}


def test_half_a_route_file_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "xds" / "rds.json"
    old, new = [{"name": "old"}], [{"name": "new"}]
    router._write_resources(path, old)
    body = canonical_json({"version_info": "x", "resources": new})
    dead = subprocess.Popen(["true"])
    dead.wait()
    for cut in range(0, len(body), 7):
        with monkeypatch.context() as its_turn:
            its_turn.setattr(os, "getpid", lambda: dead.pid)
            _draft(path).write_bytes(body[:cut])  # died before the rename
        assert router._read_resources(path) == old
    router._write_resources(path, new)
    assert router._read_resources(path) == new
    assert [one.name for one in path.parent.iterdir()] == ["rds.json"], "what was torn goes"


def test_half_a_table_of_replicas_is_no_table(tmp_path: Path) -> None:
    """Then the mark in their environment finds the processes: adopting nothing is safe, adopting garbage is not."""
    path = tmp_path / "replicas.json"
    body = canonical_json([new_replica(A, 20_000, tmp_path, tmp_path).model_dump(mode="json")])
    for cut in range(0, len(body), 5):
        path.write_bytes(body[:cut])
        assert _read_table(path) == []
    path.write_bytes(body)
    assert [replica.release for replica in _read_table(path)] == [A]
