"""Loading a release must not take the machine from the replicas that answer."""

from __future__ import annotations

import os
import sys
import threading
from types import SimpleNamespace

import pytest

from bentos.ranker.__main__ import LOADING_NICE, _load
from tasks.domain.errors import InputRejected


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a priority of its own on Linux only")
def test_the_thread_that_loads_has_a_low_priority_and_no_other_has() -> None:
    before, seen = os.getpriority(os.PRIO_PROCESS, 0), []

    def load() -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        raise InputRejected("not fit to serve")

    server, failure = SimpleNamespace(should_exit=False), list[str]()
    thread = threading.Thread(target=_load, args=(SimpleNamespace(load=load), server, failure))
    thread.start()
    thread.join(10)
    assert seen == [max(before, LOADING_NICE)] and os.getpriority(os.PRIO_PROCESS, 0) == before
    assert server.should_exit and failure == ["not fit to serve"]
