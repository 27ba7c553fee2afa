"""One promise, two entries: the fast path and BentoML's own app answer the same requests the same way."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn

from bentos.ranker.fast_path import FastPath
from bentos.ranker.pages import BentoPages
from tasks.serving.replica import Replica, ReplicaOptions
from tests.serving_builders import a_release, write_secrets

T = TypeVar("T")


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    root = tmp_path_factory.mktemp("replica")
    src, view = a_release(root)
    options = ReplicaOptions(
        src, "r1", view=view, secrets=write_secrets(root / "secrets.json"), spool=root / "spool", deadline_ms=60_000
    )
    replica = Replica(options)
    replica.load()
    yield replica
    replica.close()


class Loop:
    """One event loop on a thread, as in a server: BentoML's app lives on the loop that opened it, once a process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def pages(replica: Replica, loop: Loop) -> Iterator[BentoPages]:
    pages = BentoPages(replica)
    yield pages
    loop.run(pages.close())


@dataclass(frozen=True)
class Entry:
    app: Any
    loop: Loop

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://ranker") as client:
                return await client.post(path, content=content, headers={"content-type": "application/json", **headers})

        return self.loop.run(send())

    def get(self, path: str) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://ranker") as client:
                return await client.get(path)

        return self.loop.run(send())


@pytest.fixture
def fast(replica: Replica, pages: BentoPages, loop: Loop) -> Entry:
    return Entry(FastPath(replica, pages), loop)


@pytest.fixture(params=["fast path", "bentoml"])
def entry(request: pytest.FixtureRequest, fast: Entry, pages: BentoPages, loop: Loop) -> Entry:
    return fast if request.param == "fast path" else Entry(loop.run(pages.service()), loop)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"surface": "recommendation", "user_id": "user-3", "k": 5}, 200, id="a user"),
        pytest.param({"surface": "recommendation", "candidates": ["item-003", "x", "item-001"]}, 200, id="a slate"),
        pytest.param({"surface": "search", "query": "milk"}, 200, id="a query"),
        pytest.param({"surface": "email"}, 422, id="a wrong value"),
        pytest.param({"surface": "recommendation", "colour": 1}, 422, id="an unknown field"),
        pytest.param({"surface": "search"}, 400, id="no sense"),
        pytest.param({"surface": "recommendation", "candidates": []}, 400, id="an empty slate"),
        pytest.param(b"nope", 400, id="not JSON"),
        pytest.param(b"[1]", 422, id="an array"),
        pytest.param(b" " * 300_000, 413, id="too large"),
        pytest.param(b'{"surface":"recommendation","user_id":"\\ud800"}', 400, id="a lone surrogate"),
        pytest.param(
            b'{"surface":"recommendation","history":[{"item_id":"a","value":NaN}]}', 400, id="a number that is none"
        ),
    ],
)
def test_rank(entry: Entry, fast: Entry, replica: Replica, body: Any, status: int) -> None:
    reply = entry.post("/rank", body, **{"x-request-id": "r-1"})
    assert reply.status_code == status, reply.text
    if status != 200:
        assert reply.json()["error"]
        return
    assert reply.headers["x-freshrank-release"] == replica.digest
    answer = reply.json()
    assert (answer["request_id"], answer["release"]) == ("r-1", replica.digest)
    expected = fast.post("/rank", body).json()
    assert answer["items"] == expected["items"]
    assert answer["stage"] == expected["stage"]


@pytest.mark.parametrize(
    ("path", "body", "same_as", "status"),
    [
        pytest.param("/recommend", {"user_id": "user-3", "k": 5}, {"surface": "recommendation"}, 200, id="a user"),
        pytest.param("/recommend", {}, {"surface": "recommendation"}, 200, id="nobody"),
        pytest.param("/search", {"query": "milk", "user_id": "user-3"}, {"surface": "search"}, 200, id="a query"),
        pytest.param(
            "/search",
            {"query": "tea", "candidates": ["item-001", "item-002"]},
            {"surface": "search"},
            200,
            id="a slate",
        ),
        pytest.param("/recommend", {"query": "milk"}, None, 422, id="a query where none is taken"),
        pytest.param("/recommend", {"candidates": ["item-001"]}, None, 422, id="candidates where none are taken"),
        pytest.param("/recommend", {"surface": "recommendation"}, None, 422, id="the path says the surface"),
        pytest.param("/recommend", {"user_id": "u", "history": []}, None, 400, id="user and history"),
        pytest.param("/search", {"user_id": "u"}, None, 422, id="no query"),
        pytest.param("/search", {"query": " "}, None, 400, id="an empty query"),
        pytest.param("/search", b"[", None, 422, id="not an object"),
    ],
)
def test_the_surfaces_have_routes_of_their_own(
    entry: Entry, fast: Entry, path: str, body: Any, same_as: dict[str, Any] | None, status: int
) -> None:
    reply = entry.post(path, body)
    assert reply.status_code == status, reply.text
    if same_as is None:
        assert reply.json()["error"]
        return
    expected = fast.post("/rank", {**same_as, **body}).json()
    assert {**reply.json(), "request_id": "", "latency_ms": 0} == {**expected, "request_id": "", "latency_ms": 0}


@pytest.mark.parametrize("path", ["/recommend", "/search"])
def test_reasons_are_given_on_request_only(entry: Entry, path: str) -> None:
    body = {"user_id": "user-3", "k": 12} | ({"query": "milk"} if path == "/search" else {})
    plain = entry.post(path, body).json()["items"]
    explained = entry.post(path, {**body, "explain": True}).json()["items"]
    assert not any("because" in item for item in plain)
    assert [item["item_id"] for item in plain] == [item["item_id"] for item in explained]
    assert all(item["because"] for item in explained[:10])
    effects = [abs(reason["effect"]) for reason in explained[0]["because"]]
    assert effects == sorted(effects, reverse=True)


def test_feedback(entry: Entry) -> None:
    entry.post("/rank", {"surface": "recommendation", "user_id": "user-3"}, **{"x-request-id": "r-2"})
    reply = entry.post("/feedback", {"request_id": "r-2", "events": [{"item_id": "item-001", "event_type": "click"}]})
    assert (reply.status_code, reply.json()) == (202, {"accepted": 1, "joined": True})
    assert entry.post("/feedback", {"request_id": "r-2", "events": []}).status_code == 400


def test_feedback_is_joined_to_what_another_replica_served(tmp_path: Path) -> None:
    src, view = a_release(tmp_path)
    secrets, listener = write_secrets(tmp_path / "secrets.json"), socket.create_server(("127.0.0.1", 0))
    told = {"view": view, "secrets": secrets, "spool": tmp_path / "spool", "deadline_ms": 60_000}
    first = Replica(ReplicaOptions(src, "r1", port=listener.getsockname()[1], **told))
    second = Replica(ReplicaOptions(src, "r2", port=9, **told))  # nobody listens there: it is only asked, in vain
    third = Replica(ReplicaOptions(src, "r3", **told))
    server = uvicorn.Server(uvicorn.Config(FastPath(first), lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    try:
        for one in (first, second, third):
            one.load()
        thread.start()
        assert third.spool is not None and len(third.spool.siblings()) == 2
        served = httpx.post(f"http://127.0.0.1:{first.options.port}/recommend", json={"user_id": "user-3", "k": 5})

        async def sent(request_id: str) -> dict[str, Any]:
            transport = httpx.ASGITransport(app=FastPath(third))
            async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
                events = [{"item_id": served.json()["items"][2]["item_id"], "event_type": "click"}]
                found: dict[str, Any] = (
                    await client.post("/feedback", json={"request_id": request_id, "events": events})
                ).json()
                return found

        assert asyncio.run(sent(served.json()["request_id"]))["joined"] is True
        assert asyncio.run(sent("nobody-served-this"))["joined"] is False
    finally:
        server.should_exit = True
        if thread.is_alive():
            thread.join(10)
        for one in (first, second, third):
            one.close()
    lines = [json.loads(line) for path in (tmp_path / "spool").glob("*/*.jsonl") for line in path.open()]
    clicks = {line["request_id"]: line for line in lines if line.get("event_type") == "click"}
    joined, alone = clicks[served.json()["request_id"]], clicks["nobody-served-this"]
    assert (joined["surface"], joined["position"]) == ("recommendation", 2) and len(joined["user_id"]) == 64
    assert (alone["surface"], alone["user_id"]) == (None, None)


def test_bentoml_answers_what_the_fast_path_does_not(fast: Entry, replica: Replica) -> None:
    paths = ("/", "/docs", "/docs.json", "/livez", "/static_content/swagger-ui.css", "/nothing")
    replies = {path: fast.get(path) for path in paths}
    assert {path: reply.status_code for path, reply in replies.items() if reply.status_code != 200} == {"/nothing": 404}
    assert all(reply.headers["x-freshrank-release"] == replica.digest for reply in replies.values())
    assert "//" not in replies["/docs"].text, "the page must load nothing from elsewhere"


def test_the_document_describes_what_is_enforced(fast: Entry) -> None:
    document = fast.get("/docs.json").json()
    request = document["components"]["schemas"]["RankRequest"]
    assert request["additionalProperties"] is False
    assert request["required"] == ["surface"]
    for path, status in (("/rank", 200), ("/recommend", 200), ("/search", 200), ("/feedback", 202)):
        operation = document["paths"][path]["post"]
        sent = operation["requestBody"]["content"]["application/json"]["examples"]
        promised = operation["responses"][str(status)]["content"]["application/json"]["examples"]
        assert sent and sent.keys() == promised.keys()
        for name, example in sent.items():
            reply = fast.post(path, example["value"])
            assert reply.status_code == status, (path, name, reply.text)
            assert set(promised[name]["value"]) == set(reply.json())
