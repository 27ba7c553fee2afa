"""What becomes of an accepted request: who it is of, what the judge is told, what feedback joins, and a queue that is full."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.serving.replica import Replica
from tasks.serving.rings import NO_USER, USER_BUCKETS
from tests.replica_in_process import RECOMMEND, a_replica, post, send


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with a_replica(tmp_path_factory.mktemp("replica")) as replica:
        yield replica


def test_a_user_id_reaches_no_reply_and_no_log(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    marker = "marker-5f3a"
    for body in ({**RECOMMEND, "user_id": marker, "k": 3}, {**RECOMMEND, "user_id": marker, "history": []}):
        assert marker not in post(replica, body).text
    assert marker not in caplog.text
    assert marker.encode() not in replica.metrics.text()
    assert marker not in send(replica, "GET", "/served?after=0").text


def test_a_known_user_is_found_by_the_raw_id(replica: Replica) -> None:
    assert post(replica, {**RECOMMEND, "user_id": "user-3", "k": 5}).json()["stage"] == "full"
    assert post(replica, {**RECOMMEND, "user_id": "nobody", "k": 5}).json()["stage"] == "popularity"


def test_the_judge_is_told_a_bucket_of_the_user_and_what_was_cut_short(replica: Replica) -> None:
    patient = replica.options
    for user, deadline_ms in (("user-3", 60_000), ("user-4", 60_000), (None, 60_000), ("user-3", 0.0)):
        replica.options = replace(patient, deadline_ms=deadline_ms)
        post(replica, {**RECOMMEND, "candidates": ["item-001", "item-002"]} | ({"user_id": user} if user else {}))
    replica.options = patient
    told = [(one["user"], one["cut_short"]) for one in send(replica, "GET", "/served?after=0").json()[-4:]]
    three, four = told[0][0], told[1][0]
    assert told == [(three, False), (four, False), (NO_USER, False), (three, True)]
    assert three != four and {three, four} <= set(range(USER_BUCKETS))


def test_request_ids_of_the_router_are_kept_and_others_replaced(replica: Replica) -> None:
    assert post(replica, RECOMMEND, **{"x-request-id": "abc-1"}).json()["request_id"] == "abc-1"
    made_up = post(replica, RECOMMEND, **{"x-request-id": "x" * 129}).json()["request_id"]
    assert len(made_up) == 32


def test_feedback_is_joined_and_on_disk_before_it_is_acknowledged(replica: Replica) -> None:
    served = post(replica, {**RECOMMEND, "user_id": "user-1", "k": 4}, **{"x-request-id": "slate-1"}).json()
    bought = {"item_id": served["items"][2]["item_id"], "event_type": "purchase", "value": 2.5}
    for _ in range(2):
        reply = post(replica, {"request_id": "slate-1", "events": [bought]}, "/feedback")
        assert (reply.status_code, reply.json()) == (202, {"accepted": 1, "joined": True})
    assert post(replica, {"request_id": "other", "events": [bought]}, "/feedback").json()["joined"] is False
    spooled = [path.read_text() for path in Path(str(replica.options.spool)).rglob("*.jsonl")]
    rows = [json.loads(line) for line in "".join(spooled).splitlines()]
    first, again = [row for row in rows if row["request_id"] == "slate-1" and "event_type" in row]
    assert first["event_id"] == again["event_id"], "the same event twice must be one event"
    assert (first["position"], len(first["user_id"]), first["surface"]) == (2, 64, "recommendation")
    assert "user-1" not in "".join(spooled)
    seen = send(replica, "GET", "/feedback_seen?after=0").json()
    assert [record["request_id"] for record in seen] == ["slate-1", "slate-1", "other"]
    assert send(replica, "GET", f"/feedback_seen?after={seen[-1]['n']}").json() == []


def test_a_full_queue_refuses_a_long_body_unread_and_still_answers_what_is_ready(replica: Replica) -> None:
    ready = {**RECOMMEND, "user_id": "user-3", "k": 5}
    assert post(replica, ready).status_code == 200
    gate, waiting = threading.Event(), replica.options.queue
    try:
        for _ in range(waiting):
            replica.worker.submit(lambda: gate.wait(30), lambda result, error: None)
        assert post(replica, b'{"candidates": [' + b" " * 600).status_code == 429, "no JSON, and nobody looked"
        assert post(replica, {**RECOMMEND, "candidates": ["item-001"]}).status_code == 429
        assert post(replica, ready).status_code == 200, "it needs no turn of the engine"
    finally:
        gate.set()
    while replica.worker.pending:
        time.sleep(0.001)
    assert post(replica, b'{"candidates": [' + b" " * 600).status_code == 400
