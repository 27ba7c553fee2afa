"""Several people make and revoke keys of one home at once: nobody's key is lost, and none that was revoked comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters import api_keys
from tasks.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def at_once(*calls: Callable[[], object]) -> list[Exception]:
    failed: list[Exception] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        start.wait()
        try:
            call()
        except Exception as err:
            failed.append(err)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_keys_that_are_made_at_once_are_all_there(settings: Settings) -> None:
    clients = [f"shop-{number}" for number in range(12)]
    assert at_once(*(lambda client=client: api_keys.create(settings, client) for client in clients)) == []
    assert sorted(key.client for key in api_keys.keys(settings)) == sorted([api_keys.OURS, *clients])
    own = json.loads(api_keys.own_file(settings).read_text())
    assert own["id"] in {key.id for key in api_keys.keys(settings)}, (
        "our own clients' secret is that of a key that counts"
    )


def test_a_key_that_is_revoked_while_others_are_made_stays_revoked(settings: Settings) -> None:
    old = [api_keys.create(settings, f"old-{number}").id for number in range(6)]
    calls = [lambda key=key: api_keys.revoke(settings, key) for key in old]
    calls += [lambda n=n: api_keys.create(settings, f"new-{n}") for n in range(6)]
    assert at_once(*calls) == []
    clients = {key.client for key in api_keys.keys(settings)}
    assert {f"new-{number}" for number in range(6)} <= clients and not any(one.startswith("old") for one in clients)
