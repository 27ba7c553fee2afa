"""One promise, three routers: in memory, Envoy, HTTPRoute. What only a real router can show is tested on Envoy alone."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.adapters import envoy
from tasks.adapters.envoy import Traffic
from tasks.adapters.kubernetes_router import GatewayApiRouter
from tasks.adapters.router import EnvoyFileRouter, MemoryRouter, Router
from tasks.domain.errors import Unavailable
from tests.kubernetes_cluster import KUBERNETES, NAME, Cluster
from tests.rollout_builders import A, B, C
from tests.rollout_stack import Stack

ENVOY = pytest.param("envoy", marks=pytest.mark.stack)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Envoy without a controller: these tests are its only writer."""
    stack = Stack(tmp_path_factory.mktemp("router") / "home")
    try:
        stack.start_envoy()
        yield stack
    finally:
        stack.stop()


class Backend:
    """A replica inside the test process."""

    def __init__(self, release: str) -> None:
        self.release, self.ids, self.feedback, self.status = release, list[str](), 0, 200
        self.pause_s = 0.0

    async def rank(self, request: Request) -> Response:
        self.ids.append(request.headers["x-request-id"])
        await asyncio.sleep(self.pause_s)
        return JSONResponse({"release": self.release}, self.status, headers={"x-freshrank-release": self.release})

    async def told(self, request: Request) -> Response:
        self.feedback += 1
        return JSONResponse({}, 202)

    async def readyz(self, request: Request) -> Response:
        return JSONResponse({"release": self.release})


@asynccontextmanager
async def backends(
    stack: Stack, *releases: str
) -> AsyncIterator[tuple[dict[str, Backend], dict[str, tuple[int, ...]]]]:
    found = {release: Backend(release) for release in releases}
    servers, tasks, ports = [], [], {}
    for number, backend in enumerate(found.values()):
        port = stack.settings.port("first_replica") + number
        routes = [
            *(Route(path, backend.rank, methods=["POST"]) for path in envoy.RANKED),
            Route("/feedback", backend.told, methods=["POST"]),
            Route("/readyz", backend.readyz),
        ]
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=port, log_config=None, access_log=False))
        servers.append(server)
        tasks.append(asyncio.create_task(server.serve()))
        ports[backend.release] = (port,)
    while not all(server.started for server in servers):
        await asyncio.sleep(0.02)
    try:
        yield found, ports
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


async def rank(stack: Stack, count: int = 1, **headers: str) -> Counter[tuple[int, str]]:
    seen: Counter[tuple[int, str]] = Counter()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=stack.settings.url("router"), timeout=10) as client:
        for _ in range(count):
            reply = await client.post("/rank", json={}, headers=named)
            seen[(reply.status_code, reply.headers.get("x-freshrank-release", ""))] += 1
    return seen


async def settled(router: Router, *releases: str) -> None:
    for _ in range(200):
        seen = await router.observe()
        if all(seen.get(release[:12]) and seen[release[:12]].healthy for release in releases):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not healthy: {seen}")


@pytest.mark.parametrize("kind", ["memory", ENVOY, KUBERNETES])
def test_applying_twice_is_applying_once(kind: str, request: pytest.FixtureRequest) -> None:
    async def scenario() -> None:
        if kind == "memory":
            router: Router = MemoryRouter()
            ports = {A: (1,), B: (2,)}
            await follow(router, ports)
        elif kind == "kubernetes":
            cluster = Cluster()
            try:
                cluster.route()
                for release in (A, B):
                    cluster.run(release)
                async with cluster.gateway():
                    await follow(GatewayApiRouter(cluster.api(), NAME), {A: (8080,), B: (8080,)})
            finally:
                cluster.close()
        else:
            stack = request.getfixturevalue("stack")
            router = EnvoyFileRouter(stack.settings)
            async with backends(stack, A, B) as (_, ports):
                await follow(router, ports)

    async def follow(router: Router, ports: dict[str, tuple[int, ...]]) -> None:
        plan = Traffic(weights={A: 100}, backends=ports)
        await router.apply(plan)
        await router.apply(plan)
        assert set(await router.observe()) == {A[:12], B[:12]}
        await router.apply(Traffic(weights={B: 100}, backends={B: ports[B]}))
        assert set(await router.observe()) == {B[:12]}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        pytest.param({"weights": {A: 60, B: 30}, "backends": {A: (1,), B: (2,)}}, "sum to 90", id="weights"),
        pytest.param({"weights": {A: 100}}, "no replica for aaaaaaaaaaaa", id="nobody there"),
        pytest.param(
            {"weights": {A: 100}, "backends": {A: (1,)}, "mirror": B}, "no replica for bbbb", id="nobody to copy to"
        ),
    ],
)
def test_a_plan_that_would_lose_requests_cannot_be_written(plan: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Traffic(**plan)


def test_promotion_and_rollback_change_routes_only() -> None:
    ports = {A: (1,), B: (2,)}
    plans = [
        Traffic(weights={A: 100}, backends=ports),
        Traffic(weights={A: 100, B: 0}, backends=ports, mirror=B),
        Traffic(weights={A: 80, B: 20}, backends=ports, fallback={B: A}),
        Traffic(weights={B: 100}, backends=ports, fallback={B: A}),
    ]
    assert len({json.dumps(envoy.clusters(plan)) for plan in plans}) == 1
    assert len({json.dumps(envoy.routes(plan)) for plan in plans}) == len(plans)


@pytest.mark.stack
def test_weights_copies_overrides_and_ids(stack: Stack) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with backends(stack, A, B) as (found, ports):
            await router.apply(Traffic(weights={A: 100, B: 0}, backends=ports, mirror=B, fallback={B: A}))
            await settled(router, A, B)
            assert await rank(stack, 20) == {(200, A): 20}
            await asyncio.sleep(0.3)
            assert found[A].ids == found[B].ids and len(set(found[A].ids)) == 20, "copies carry the caller's id"
            await rank(stack, x_request_id="mine-1")
            assert found[A].ids[-1] == "mine-1", "an id that the caller sent is kept"

            await router.apply(Traffic(weights={A: 50, B: 50}, backends=ports, fallback={B: A}))
            split = await rank(stack, 200)
            assert set(split) == {(200, A), (200, B)} and min(split.values()) > 50
            assert await rank(stack, 5, x_freshrank_force=B) == {(200, B): 5}
            assert await rank(stack, 5, x_freshrank_force=A[:12]) == {(200, A): 5}

            found[B].status, before = 429, len(found[B].ids)
            assert await rank(stack, 50) == {(200, A): 50}, "what a release has no room for, the one behind it answers"
            assert len(found[B].ids) > before, "it was asked"
            found[B].status, found[A].status, before = 200, 429, len(found[A].ids)
            told = await rank(stack, 50)
            assert len(found[A].ids) - before == told[(429, A)] > 0, "nobody is behind the champion: asked once"
            found[A].status = 200
            found[B].status = 500
            assert await rank(stack, 50) == {(200, A): 50}, "a retry goes to the champion"
            assert (await router.observe())[B[:12]].errors > 0, "and is counted against the challenger"
            found[A].status = 429
            await router.apply(Traffic(weights={A: 100}, backends=ports))
            assert await rank(stack, 5) == {(429, A): 5}, "without one it is final"

    asyncio.run(scenario())


@pytest.mark.stack
def test_pages_feedback_and_refusals(stack: Stack) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with (
            backends(stack, A) as (found, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router")) as client,
        ):
            await router.apply(Traffic(backends=ports))
            nothing = await client.post("/rank", json={})
            assert nothing.status_code == 503 and "no release serves yet" in nothing.json()["error"]
            await router.apply(Traffic(weights={A: 100}, backends=ports))
            await settled(router, A)
            assert (await client.post("/feedback", json={})).status_code == 202 and found[A].feedback == 1
            assert (await client.get("/readyz")).json() == {"release": A}
            assert [(await client.post(path, json={})).json() for path in envoy.RANKED] == [{"release": A}] * 3
            for method, path in (("GET", "/rank"), ("GET", "/metrics"), ("GET", "/served"), ("POST", "/nope")):
                refused = await client.request(method, path)
                assert refused.status_code == 404 and "error" in refused.json(), path

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_try_that_takes_too_long_is_counted_and_answered_by_the_champion(stack: Stack) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with backends(stack, A, B) as (found, ports):
            plan = Traffic(weights={A: 0, B: 100}, fallback={B: A}, backends=ports)
            await router.apply(plan)
            await settled(router, A, B)
            before = (await router.observe())[B[:12]]
            found[B].pause_s = 4
            assert await rank(stack) == Counter({(200, A): 1})
            after = (await router.observe())[B[:12]]
        assert (after.timeouts - before.timeouts, after.errors - before.errors) == (1, 1)

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_port_that_answers_for_another_release_gets_no_traffic(stack: Stack) -> None:
    """After a restart another release may have the port that a cluster names."""

    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with backends(stack, A, B) as (found, ports):
            crossed = {A: ports[A], C: ports[B]}
            await router.apply(Traffic(weights={C: 100}, backends=crossed, fallback={C: A}))
            await settled(router, A)
            assert await rank(stack, 20) == {(200, A): 20}
            assert found[B].ids == []

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_configuration_that_envoy_rejects_is_told(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings, confirm_s=1)
        async with backends(stack, A) as (_, ports):
            good = Traffic(weights={A: 100}, backends=ports)
            await router.apply(good)
            await settled(router, A)
            monkeypatch.setattr(envoy, "PER_TRY_TIMEOUT", "never")
            with pytest.raises(Unavailable, match=r"does not confirm rds.json .* rejected so far \{.*update_"):
                await router.apply(good)
            assert await rank(stack, 10) == {(200, A): 10}, "the old routes stay"

    asyncio.run(scenario())


@pytest.mark.stack
def test_without_envoy_the_plan_is_stored_and_the_error_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        silent = Stack(tmp_path / "home")
        router = EnvoyFileRouter(silent.settings, confirm_s=1)
        with pytest.raises(Unavailable, match="does not answer"):
            await router.apply(Traffic(weights={A: 100}, backends={A: (1,)}))
        assert envoy.cluster_name(A) in (silent.settings.data / "envoy" / "xds" / "cds.json").read_text()

    asyncio.run(scenario())
