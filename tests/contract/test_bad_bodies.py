"""Whatever is sent: never a 5xx, never a body accepted that the published schema refuses. More of it: benchmarks/bad_bodies.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks._bodies import Body, breaks_schema, by_hand, drawn
from bentos.ranker.fast_path import FastPath
from bentos.ranker.openapi import document
from tasks.serving.replica import Replica, ReplicaOptions
from tests.serving_builders import a_release, write_secrets

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
DRAWN = 2_000


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    root = tmp_path_factory.mktemp("replica")
    src, view = a_release(root)
    secrets = write_secrets(root / "secrets.json")
    replica = Replica(ReplicaOptions(src, "r1", view=view, secrets=secrets, spool=root / "spool", deadline_ms=60_000))
    replica.load()
    yield replica
    replica.close()


@pytest.fixture(scope="module")
def refused() -> Callable[[Body], bool]:
    return breaks_schema(document("test"))


def answered(replica: Replica, bodies: Iterable[Body]) -> list[tuple[Body, int, bytes]]:
    async def send() -> list[tuple[Body, int, bytes]]:
        transport = httpx.ASGITransport(FastPath(replica), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
            replies = []
            for body in bodies:
                reply = await client.post(body.path, content=body.content, headers=body.headers)
                replies.append((body, reply.status_code, reply.content))
            return replies

    return asyncio.run(send())


def test_bodies_written_by_hand(replica: Replica, refused: Callable[[Body], bool]) -> None:
    replies = answered(replica, by_hand())
    assert len(replies) >= 200
    for body, status, content in replies:
        assert status < 500, (body.path, body.name)
        assert status in (200, 202) or json.loads(content)["error"], (body.path, body.name)
        assert not (status < 400 and refused(body)), (body.path, body.name, body.content[:200])
    assert sum(status >= 400 for _, status, _ in replies) > 120


def test_bodies_drawn_at_random(replica: Replica, refused: Callable[[Body], bool]) -> None:
    replies = answered(replica, drawn(DRAWN, seed=7))
    wrong = [(body.path, body.content[:300], status) for body, status, _ in replies if status >= 500]
    accepted = [(body.path, body.content[:300]) for body, status, _ in replies if status < 400 and refused(body)]
    assert (wrong, accepted) == ([], [])
    good = sum(status < 400 for _, status, _ in replies)
    assert DRAWN // 20 < good < DRAWN // 2, "some must pass, else nothing is tried but the door"


def test_the_oracle_sees_a_schema_that_is_broken(refused: Callable[[Body], bool]) -> None:
    assert refused(Body("/rank", b'{"surface": "email"}')) and refused(Body("/search", b"{"))
    assert not refused(Body("/rank", b'{"surface": "search"}')), "fits the schema, and makes no sense: a 400"


def test_the_published_page_is_what_is_served(replica: Replica, tmp_path: Path) -> None:
    schema = schemathesis.openapi.from_asgi("/docs.json", FastPath(replica))
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) == 9

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.validate_response(case.call(), checks=CHECKS)

    from hypothesis import given

    for operation in operations:
        given(case=operation.as_strategy())(check)()
