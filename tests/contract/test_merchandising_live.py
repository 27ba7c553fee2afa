"""A rule that is made while a replica answers is obeyed within seconds, and one that starts obeys at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from bentos.ranker.fast_path import FastPath
from tasks.adapters.merchandising import InStore, change, merchandising_folder
from tasks.adapters.store import S3Store
from tasks.cli import app
from tasks.controller.rules import follow
from tasks.domain.merchandising import Merchandising
from tasks.serving.replica import Replica, ReplicaOptions
from tasks.settings import Settings
from tests.serving_builders import a_release, write_secrets

RECOMMEND = {"surface": "recommendation", "user_id": "user-3", "k": 5}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return a_release(tmp_path_factory.mktemp("release"))


class Shop(NamedTuple):
    settings: Settings
    folder: Path  # that a replica looks at


@pytest.fixture(params=["disk", "store"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """Rules on the disk that the replica looks at; or in the store, and brought to its disk as in a pod."""
    if request.param == "disk":
        home = Settings(home=tmp_path)
        yield Shop(home, merchandising_folder(home))
        return
    running: Settings = request.getfixturevalue("store_settings")
    settings = running.model_copy(update={"store_bucket": f"rules-{tmp_path.parent.name}", "merchandising": "store"})
    store, left = S3Store(settings), threading.Event()
    store.create_bucket()
    brings = threading.Thread(target=follow, args=(InStore(store), tmp_path / "pod", left))
    brings.start()
    yield Shop(settings, tmp_path / "pod")
    left.set()
    brings.join(20)
    assert not brings.is_alive()


def replica_of(release: tuple[Path, Path], shop: Shop, secrets: Path) -> Replica:
    write_secrets(secrets)
    replica = Replica(
        ReplicaOptions(
            release[0], "r1", view=release[1], secrets=secrets, merchandising=shop.folder, deadline_ms=60_000
        )
    )
    replica.load()
    return replica


def items(client: TestClient) -> list[str]:
    return [one["item_id"] for one in client.post("/rank", content=json.dumps(RECOMMEND)).json()["items"]]


def test_a_block_reaches_a_replica_that_answers_and_a_later_one(
    release: tuple[Path, Path], shop: Shop, tmp_path: Path
) -> None:
    first = replica_of(release, shop, tmp_path / "secrets.json")
    try:
        client = TestClient(FastPath(first))
        best = items(client)
        assert items(client) == best
        assert client.get("/readyz").json()["merchandising"] == 0
        change(shop.settings, "test", "recall", lambda _: Merchandising(blocked=frozenset(best[:1])))
        deadline = time.monotonic() + 10
        while client.get("/readyz").json()["merchandising"] != 1:
            assert time.monotonic() < deadline, "the replica never looked"
            time.sleep(0.05)
        after = items(client)
        assert len(after) == 5
        assert after[:4] == best[1:], "the kept answer of before was sent, or a gap was left"
        assert b"freshrank_merchandising_revision 1.0" in client.get("/metrics").content
    finally:
        first.close()
    second = replica_of(release, shop, tmp_path / "secrets.json")
    try:
        assert items(TestClient(FastPath(second)))[:4] == best[1:]
    finally:
        second.close()


def test_the_command_keeps_a_rule_while_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    monkeypatch.setenv("FRESHRANK_PORT_BASE", "1100")  # nobody listens there
    run = CliRunner().invoke
    told = run(app, ["items", "block", "a", "b", "--reason", "recall"])
    assert told.exit_code == 0, told.output
    assert "revision 1: kept; the controller does not answer" in told.output
    (tmp_path / "stock.txt").write_text("# from the warehouse\nc\n\nd\n")
    assert run(app, ["items", "unavailable", "--file", str(tmp_path / "stock.txt")]).exit_code == 0
    again = run(app, ["items", "block", "a", "--reason", "recall", "--json"])
    assert json.loads(again.output) == {"revision": 2, "changed": False}
    rules = json.loads(run(app, ["items", "rules", "--json"]).output)
    assert rules == {
        "revision": 2,
        "blocked": ["a", "b"],
        "unavailable": ["c", "d"],
        "pinned": [],
        "caps": [],
        "explored": 0.0,
    }
    assert run(app, ["items", "restore", "0", "--reason", "over"]).exit_code == 0
    assert [one["rules"][:9] for one in json.loads(run(app, ["items", "history", "--json"]).output)] == [
        "0 blocked",
        "2 blocked",
        "2 blocked",
    ]
    empty = run(app, ["items", "block", "--reason", "x"])
    assert "no item is named" in str(empty.exception)
    long = run(app, ["items", "block", "x" * 200, "--reason", "x"])
    assert "at most 128 characters; nothing was changed" in str(long.exception)
