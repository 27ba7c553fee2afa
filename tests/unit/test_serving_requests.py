"""Bad input gets a clear 4xx, whatever the bytes are, and never work, never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.domain.requests import MAX_BODY_BYTES, RequestRefused, convert_rank, decode_feedback, decode_rank
from tasks.serving.replica import Replica
from tests.replica_in_process import JSON, RECOMMEND, a_replica, post, send


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with a_replica(tmp_path_factory.mktemp("replica")) as replica:
        yield replica


MANY = [f"i{n}" for n in range(1_001)]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        pytest.param({**RECOMMEND, "colour": 1}, 422, "colour", id="unknown field, named"),
        pytest.param({"surface": "email"}, 422, "surface", id="unknown surface"),
        pytest.param({}, 422, "surface", id="no surface"),
        pytest.param({**RECOMMEND, "k": 0}, 422, "k", id="k too small"),
        pytest.param({**RECOMMEND, "k": 1_001}, 422, "k", id="k too large"),
        pytest.param({**RECOMMEND, "k": 2.5}, 422, "k", id="k no integer"),
        pytest.param({**RECOMMEND, "user_id": "u" * 257}, 422, "user_id", id="user id too long"),
        pytest.param({**RECOMMEND, "user_id": 7}, 422, "user_id", id="user id a number"),
        pytest.param({**RECOMMEND, "candidates": [""]}, 422, "candidates", id="empty item id"),
        pytest.param({**RECOMMEND, "candidates": ["i" * 129]}, 422, "candidates", id="item id too long"),
        pytest.param({**RECOMMEND, "candidates": []}, 400, "slate has 0 items; send 1 to 1,000", id="empty slate"),
        pytest.param({**RECOMMEND, "candidates": MANY}, 400, "1,001 items", id="slate too large"),
        pytest.param({**RECOMMEND, "candidates": ["a", "b", "a"]}, 400, "candidates 0 and 2", id="an item twice"),
        pytest.param({**RECOMMEND, "user_id": "u", "history": []}, 400, "exclude", id="user and history"),
        pytest.param({**RECOMMEND, "query": "tea"}, 400, "takes no query", id="query without search"),
        pytest.param({"surface": "search"}, 400, "needs a query", id="search without query"),
        pytest.param({"surface": "search", "query": " \t"}, 400, "needs a query", id="search for nothing"),
        pytest.param({"surface": "search", "query": "q" * 513}, 422, "query", id="query too long"),
        pytest.param({**RECOMMEND, "context": {"a": {"b": 1}}}, 422, "context", id="deep context"),
        pytest.param(
            {**RECOMMEND, "history": [{"item_id": "a", "event_time": "2017-01-01T00:00:00"}]}, 422, "event_time",
            id="time without offset",
        ),
        pytest.param(
            {**RECOMMEND, "history": [{"item_id": "a", "event_time": "9999-12-31T23:59:59-12:00"}]}, 400, "9999",
            id="year 9999",
        ),
        pytest.param(b"", 400, "not JSON", id="no body"),
        pytest.param(b"[", 422, "array", id="an array"),
        pytest.param(b"\xff\xfe", 400, "not JSON", id="not text"),
        pytest.param(b'{"surface":"recommendation","user_id":"\\ud800"}', 400, "not JSON", id="lone surrogate"),
        pytest.param(b'{"surface":"recommendation","history":[{"item_id":"a","value":NaN}]}', 400, "JSON", id="NaN"),
        pytest.param(b'{"surface":"recommendation","history":[{"item_id":"a","value":1e999}]}', 422, "range", id="inf"),
        pytest.param(b'{"surface":' + b"[" * 100_000, 422, "surface", id="deep nesting"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_one_sentence(replica: Replica, body: Any, status: int, says: str) -> None:
    reply = post(replica, body)
    assert reply.status_code == status, reply.text
    assert says in reply.json()["error"]
    assert reply.headers["x-freshrank-release"] == replica.digest


def test_limits_of_transport(replica: Replica) -> None:
    assert post(replica, b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert send(replica, "POST", "/rank", content=b"{}", headers={"content-type": "text/xml"}).status_code == 415
    assert post(replica, b"{}", **{"content-encoding": "gzip"}).status_code == 415
    assert send(replica, "GET", "/rank").status_code == 405
    assert send(replica, "GET", "/nothing").status_code == 404
    assert send(replica, "GET", "/served?after=x").status_code == 422

    async def endless() -> Any:
        while True:
            yield b" " * 65_536

    assert send(replica, "POST", "/rank", content=endless(), headers=JSON).status_code == 413


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
event = st.fixed_dictionaries(
    {"item_id": st.sampled_from(["item-001", "item-002", "?"]) | values},
    optional={
        "event_time": st.datetimes().map(lambda time: time.isoformat() + "Z") | values,
        "quantity": st.floats() | values,
        "value": st.floats(0, 1e9) | values,
        "discount": values,
        "event_type": st.sampled_from(["purchase", "click"]) | values,
    },
)
rank_bodies = st.fixed_dictionaries(
    {"surface": st.sampled_from(["recommendation", "search"]) | values},
    optional={
        "user_id": st.text() | values,
        "query": st.text() | values,
        "history": st.lists(event, max_size=5) | values,
        "context": st.dictionaries(st.text(), values, max_size=3) | values,
        "candidates": st.lists(st.sampled_from([f"item-{n:03d}" for n in range(70)]) | st.text(max_size=5)) | values,
        "k": st.integers(-2, 1_100) | values,
        "extra": values,
    },
)
feedback_bodies = st.fixed_dictionaries(
    {"request_id": st.text(max_size=8) | values, "events": st.lists(event, max_size=3) | values},
    optional={"user_id": values},
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=rank_bodies)
def test_any_rank_body_gets_a_permutation_or_a_refusal(replica: Replica, body: dict[str, Any]) -> None:
    reply = post(replica, json.dumps(body).encode())
    assert reply.status_code in (200, 400, 422), reply.text
    if reply.status_code == 200:
        items = [item["item_id"] for item in reply.json()["items"]]
        scores = [item["score"] for item in reply.json()["items"]]
        given_items = body.get("candidates")
        assert all(isinstance(score, float) for score in scores)
        assert scores == sorted(scores, reverse=True)
        if given_items is not None:
            assert set(items) <= set(given_items)
            assert len(items) == min(len(given_items), body.get("k") or len(given_items))
        assert len(set(items)) == len(items)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=feedback_bodies)
def test_any_feedback_body_is_taken_or_refused(replica: Replica, body: dict[str, Any]) -> None:
    assert post(replica, json.dumps(body).encode(), "/feedback").status_code in (202, 400, 422)


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=300))
def test_any_bytes_are_refused_or_decoded(body: bytes) -> None:
    for decode in (decode_rank, decode_feedback):
        try:
            decode(body)
        except RequestRefused as err:
            assert err.status in (400, 422)


@given(value=values)
def test_what_another_parser_read_meets_the_same_limits(value: Any) -> None:
    with pytest.raises(RequestRefused):
        convert_rank({"surface": "recommendation", "history": [{"item_id": "a", "value": float("nan")}], "x": value})
