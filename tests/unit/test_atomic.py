"""Files are whole or as they were, also when two of one process write the same one at once."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from tasks import service_table
from tasks.adapters.api_keys import _write as write_key_file
from tasks.adapters.router import _write as write_routes
from tasks.atomic import _draft, drafted, drafted_folder, remove_dead_drafts, write_atomically, write_first
from tasks.domain.errors import Unavailable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_drafts_of_one_path_never_meet(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table"
    with drafted(path) as first:
        first.write_text("one")
        with drafted(path) as second:
            second.write_text("two")
        assert path.read_text() == "two" and first.read_text() == "one"
    assert path.read_text() == "one" and names(path.parent) == ["table"]


@pytest.mark.parametrize(
    "write", [service_table.write, write_key_file, lambda p, c: write_routes(p, json.dumps(c).encode())]
)
def test_threads_that_write_one_file_all_succeed(write, tmp_path: Path) -> None:
    path, failed = tmp_path / "table.json", []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        try:
            for _ in range(20):
                write(path, {"writer": number, "filler": "x" * 5000})
        except Exception as err:
            failed.append(err)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and json.loads(path.read_text())["filler"] == "x" * 5000
    assert names(tmp_path) == ["table.json"]


def test_what_is_made_once_is_the_first_writers(tmp_path: Path) -> None:
    path, start, told = tmp_path / "deep" / "costs.json", threading.Barrier(8), set[bytes]()

    def run(number: int) -> None:
        start.wait()
        write_first(path, b"%d" % number)
        told.add(path.read_bytes())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1 and names(path.parent) == ["costs.json"]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table"
    write_atomically(path, b"before")
    with pytest.raises(ZeroDivisionError), drafted(path) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(Unavailable, match="could not write table: .*free disk space"):
        write_atomically(tmp_path / "table" / "below-a-file" / "table", b"x")
    assert path.read_text() == "before" and names(tmp_path) == ["table"]


def test_what_only_its_owner_may_read_never_was_readable_by_others(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_of_two_that_make_one_folder_the_first_stays(tmp_path: Path) -> None:
    with drafted_folder(tmp_path / "made") as draft:
        (draft / "by").write_text("the second")
        with drafted_folder(tmp_path / "made") as other:
            (other / "by").write_text("the first")
    assert (tmp_path / "made" / "by").read_text() == "the first" and names(tmp_path) == ["made"]


def test_drafts_of_the_dead_of_this_machine_go_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    dead = subprocess.Popen(["true"])
    dead.wait()
    with drafted(path) as ours:
        ours.write_text("being written")
        monkeypatch.setattr(os, "getpid", lambda: dead.pid)
        _draft(path).write_text("left behind")
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("socket.gethostname", lambda: "another-pod-0")
            theirs = _draft(path)
        theirs.write_text("being written on a shared volume")
        remove_dead_drafts(path)
        assert set(names(tmp_path)) == {ours.name, theirs.name}
    assert set(names(tmp_path)) == {path.name, theirs.name}


def test_the_next_writer_clears_what_a_dead_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    with monkeypatch.context() as its_turn:
        its_turn.setattr(os, "getpid", lambda: dead.pid)
        _draft(tmp_path / "file").write_text("half")
        half = _draft(tmp_path / "folder")
    half.mkdir()
    (half / "of").write_text("it")
    write_atomically(tmp_path / "file", b"whole")
    with drafted_folder(tmp_path / "folder") as draft:
        (draft / "all").write_text("of it")
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == ["all"]
