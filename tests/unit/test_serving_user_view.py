"""A dead or hung online store costs a few short timeouts; the snapshot answers, then popularity."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.domain.behaviour import pseudonym
from tasks.domain.errors import InputRejected, Unavailable
from tasks.ranker.state import View as Snapshot
from tasks.ranker.state import pack_user
from tasks.serving.breaker import Breaker
from tasks.serving.online_store import MemoryOnlineStore
from tasks.serving.release import verify
from tasks.serving.user_view import UserView, open_view, publish, retire
from tests.serving_builders import DAY, PSEUDONYM_KEY, USERS, a_morning, a_release

KNOWN = pseudonym("user-3", bytes.fromhex(PSEUDONYM_KEY))


class Broken(MemoryOnlineStore):
    """Fails as told; counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.well = 0, False

    def get(self, view: str, pseudonym: str) -> bytes | None:
        self.asked += 1
        if not self.well:
            raise Unavailable("hung")
        return super().get(view, pseudonym)

    def ping(self) -> None:
        if not self.well:
            raise Unavailable("hung")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return a_release(tmp_path_factory.mktemp("release"))


def test_valkey_then_snapshot_then_unknown(release: tuple[Path, Path]) -> None:
    src, view_dir = release
    view, online = verify(src).record.view, MemoryOnlineStore()
    users = UserView(view, Snapshot(view_dir), online, clock=iter(range(0, 10_000, 100)).__next__)
    assert users.find(KNOWN)[1] == "snapshot"
    assert publish(view_dir, "", online) == USERS == publish(view_dir, "", online)
    user, source = users.find(KNOWN)
    assert source == "valkey"
    assert user is not None and len(user.rows) > 0
    assert users.find("0" * 64) == (None, "unknown")
    online.publish(view, [(KNOWN, b"no history at all")])
    assert users.find(KNOWN)[1] == "snapshot", "bytes that are no history must not stop the request"
    assert retire(view, "", online) == USERS
    assert users.find(KNOWN)[1] == "snapshot"


def test_another_view_is_never_read(release: tuple[Path, Path]) -> None:
    src, _ = release
    online = MemoryOnlineStore()
    online.publish("of-a-newer-release", [(KNOWN, b"newer")])
    assert UserView(verify(src).record.view, None, online).find(KNOWN) == (None, "unknown")


def test_a_store_that_fails_is_asked_three_times_and_again_once_it_is_well(release: tuple[Path, Path]) -> None:
    src, view_dir = release
    online, snapshot = Broken(), Snapshot(view_dir)
    online.publish(verify(src).record.view, [(KNOWN, pack_user(snapshot.get(KNOWN)))])  # type: ignore[arg-type]
    users = UserView(
        verify(src).record.view, snapshot, online, clock=iter(range(0, 10**9, 100)).__next__, probe_every_s=0.01
    )
    assert [users.find(KNOWN)[1] for _ in range(50)] == ["snapshot"] * 50
    assert online.asked == 3
    online.well = True
    for _ in range(500):
        if users.find(KNOWN)[1] == "valkey":
            break
        time.sleep(0.01)
    assert users.find(KNOWN)[1] == "valkey"
    users.close()


def test_a_breaker_stops_its_probe(release: tuple[Path, Path]) -> None:
    def never() -> None:
        raise Unavailable("never")

    breaker = Breaker("test", never, failures=1, interval_s=0.01)
    breaker.failed()
    assert not breaker.closed
    breaker.stop()
    assert breaker._prober is not None and not breaker._prober.is_alive()


def test_a_view_of_other_items_is_refused(release: tuple[Path, Path]) -> None:
    src, view_dir = release
    with pytest.raises(InputRejected, match="numbers items"):
        open_view(view_dir, verify(src).record.view, replace(a_morning().items, day=DAY + 1), None)


def test_histories_are_kept_for_a_while_only(release: tuple[Path, Path]) -> None:
    src, view_dir = release
    now = [0.0]
    users = UserView(verify(src).record.view, Snapshot(view_dir), None, clock=lambda: now[0])
    assert [users.find(KNOWN)[1] for _ in range(2)] == ["snapshot", "memory"]
    now[0] = 31.0
    assert users.find(KNOWN)[1] == "snapshot"
