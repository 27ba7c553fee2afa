"""One promise, two online stores: in memory and a real Valkey."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import binaries
from tasks.domain.errors import Unavailable
from tasks.serving.online_store import MemoryOnlineStore, OnlineStore, ValkeyOnlineStore
from tasks.serving.user_view import UserView
from tasks.settings import Settings

VIEW, OTHER = "a" * 64, "b" * 64
HISTORIES = [(f"{n:064x}", bytes([n % 256]) * (n + 1)) for n in range(2_500)]


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    server = str(binaries.valkey(Settings(home=folder)))
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(100):
        try:
            ValkeyOnlineStore(f"valkey://127.0.0.1:{port}", 1.0).ping()
            return process
        except Unavailable:
            time.sleep(0.05)
    process.kill()
    raise AssertionError("valkey did not start")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = start(tmp_path_factory.mktemp("valkey"), port)
    yield process, f"valkey://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(params=["memory", "valkey"])
def online(request: pytest.FixtureRequest) -> OnlineStore:
    if request.param == "memory":
        return MemoryOnlineStore()
    _, url = request.getfixturevalue("server")
    store = ValkeyOnlineStore(url, 5.0)
    for view in (VIEW, OTHER):
        store.retire(view)
    return store


def test_what_was_published_is_read_back_byte_for_byte(online: OnlineStore) -> None:
    assert online.published(VIEW) is None
    assert online.publish(VIEW, HISTORIES) == len(HISTORIES)
    assert online.published(VIEW) == len(HISTORIES)
    assert all(online.get(VIEW, pseudonym) == packed for pseudonym, packed in HISTORIES[::250])
    assert online.get(VIEW, "f" * 64) is None


def test_publishing_again_changes_nothing(online: OnlineStore) -> None:
    for _ in range(2):
        assert online.publish(VIEW, HISTORIES[:10]) == 10
    assert online.published(VIEW) == 10


def test_views_do_not_see_each_other(online: OnlineStore) -> None:
    online.publish(VIEW, HISTORIES[:5])
    assert online.get(OTHER, HISTORIES[0][0]) is None
    online.publish(OTHER, [(HISTORIES[0][0], b"other")])
    assert online.retire(VIEW) == 5
    assert online.published(VIEW) is None and online.get(VIEW, HISTORIES[0][0]) is None
    assert online.get(OTHER, HISTORIES[0][0]) == b"other"


def test_what_a_user_did_since_lies_beside_the_history(online: OnlineStore) -> None:
    anna, bert = HISTORIES[0][0], HISTORIES[1][0]
    online.publish(VIEW, HISTORIES[:2])
    assert online.recent(VIEW, anna) == {}
    online.add_recent(VIEW, anna, {"e1": b"milk", "e2": b"tea"})
    online.add_recent(VIEW, anna, {"e1": b"something else", "e3": b"soap"})
    online.add_recent(VIEW, bert, {"e4": b"salt"})
    assert online.recent(VIEW, anna) == {"e1": b"milk", "e2": b"tea", "e3": b"soap"}, "an event is told once"
    assert online.recent(OTHER, anna) == {}
    assert online.get(VIEW, anna) == HISTORIES[0][1]
    assert online.forget([VIEW], [anna]) == 1
    assert online.recent(VIEW, anna) == {} and online.recent(VIEW, bert) == {"e4": b"salt"}
    assert online.retire(VIEW) == 1
    assert online.recent(VIEW, bert) == {}


def test_an_erased_user_is_gone_from_every_view_and_nobody_else_is(online: OnlineStore) -> None:
    (erased, _), (other, packed) = HISTORIES[3], HISTORIES[4]
    for view in (VIEW, OTHER):
        online.publish(view, HISTORIES[:10])
    assert online.forget([VIEW, OTHER, "c" * 64], {erased}) == 2
    assert online.forget([VIEW, OTHER], {erased}) == 0
    assert online.get(VIEW, erased) is None and online.get(OTHER, erased) is None
    assert online.get(VIEW, other) == packed and online.published(VIEW) == 10
    assert online.forget([], {erased}) == online.forget([VIEW], set()) == 0


def test_an_interrupted_publication_is_not_whole(online: OnlineStore) -> None:
    def broken() -> Iterator[tuple[str, bytes]]:
        yield from HISTORIES[:1_500]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        online.publish(VIEW, broken())
    assert online.published(VIEW) is None
    assert online.publish(VIEW, HISTORIES) == len(HISTORIES)


def test_a_valkey_that_hangs_is_asked_three_times_in_all(server: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = server
    store = ValkeyOnlineStore(url)
    store.publish(VIEW, HISTORIES[:3])
    users = UserView(VIEW, None, store, clock=iter(range(0, 10**9, 100)).__next__, probe_every_s=0.05)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert [users.find(HISTORIES[n % 3][0])[1] for n in range(300)] == ["unknown"] * 300
        assert users._breaker is not None and not users._breaker.closed
    finally:
        os.kill(process.pid, signal.SIGCONT)
    for _ in range(200):
        if users._breaker.closed:
            break
        time.sleep(0.05)
    assert users._breaker.closed
    users.close()


def test_a_dead_valkey_says_so_in_our_words() -> None:
    with pytest.raises(Unavailable, match="snapshot"):
        ValkeyOnlineStore("valkey://127.0.0.1:1").get(VIEW, "x")
