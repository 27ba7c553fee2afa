"""What the router does with a caller before it routes: keys, rates, sizes, slowness; and what it writes of it. Real Envoy."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.local import journal
from tasks.adapters import api_keys
from tasks.adapters.envoy import Traffic
from tasks.adapters.router import EnvoyFileRouter
from tasks.domain.errors import InputRejected
from tasks.domain.requests import MAX_BODY_BYTES
from tasks.settings import Settings
from tests.contract.test_router import backends, settled
from tests.rollout_builders import A, B
from tests.rollout_stack import Stack

PLAN = {"weights": {A: 100}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("edge") / "home")
    try:
        stack.start_envoy()
        yield stack
    finally:
        stack.stop()


def limited(stack: Stack, rate: int) -> EnvoyFileRouter:
    return EnvoyFileRouter(stack.settings.model_copy(update={"router_rate": rate}))


@pytest.mark.stack
def test_keys_are_asked_for_rotated_and_revoked_on_open_connections(stack: Stack) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with (
            backends(stack, A) as (found, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router")) as client,
        ):
            plan = Traffic(weights={A: 100}, backends=ports)

            async def asked(key: api_keys.NewKey | None, **headers: str) -> int:
                auth = (key.id, key.secret) if key else None
                return (await client.post("/rank", json={}, auth=auth, headers=headers)).status_code

            await router.apply(plan)
            await settled(router, A)
            assert await asked(None) == 200, "without keys the service is open"
            old = api_keys.create(stack.settings, "shop")
            await router.apply(plan)
            assert await asked(None) == 401 and await asked(old) == 200
            assert await asked(old.model_copy(update={"secret": "guess"})) == 401
            refused = await client.post("/rank", json={})
            assert "asks for a key" in refused.json()["error"]
            assert (await client.get("/readyz")).status_code == 200, "health needs no key"
            own = api_keys.own_credentials(stack.settings)
            assert own is not None and (await client.post("/rank", json={}, auth=own)).status_code == 200

            new = api_keys.create(stack.settings, "shop")
            await router.apply(plan)
            assert (await asked(old), await asked(new)) == (200, 200), "both live while callers change over"
            with pytest.raises(InputRejected, match=r"shop has 2 live keys, shop\.1, shop\.2"):
                api_keys.create(stack.settings, "shop")
            api_keys.revoke(stack.settings, old.id)
            await router.apply(plan)
            assert (await asked(old), await asked(new)) == (401, 200), "on the connection that was open all the time"

            written = [path.read_bytes() for path in stack.settings.home.rglob("*") if path.is_file()]
            kept = [content for content in written if old.secret.encode() in content or new.secret.encode() in content]
            assert len(written) > 5 and kept == [], "a secret lies nowhere"
            assert hashlib.sha1(new.secret.encode()).hexdigest() not in str(found[A].ids)

            table = stack.settings.home / "api_keys.json"
            sound = table.read_text()
            table.write_text("{")
            await EnvoyFileRouter(stack.settings).apply(Traffic(weights={A: 100}, backends=ports, fallback={A: B}))
            assert (await asked(None), await asked(new)) == (401, 200), "keys that cannot be read hold up no rollback"
            table.write_text(sound)

            api_keys.revoke(stack.settings, new.id)
            await router.apply(plan)
            assert await asked(None) == 200 and api_keys.own_credentials(stack.settings) is None

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_rate_is_each_key_s_own_and_nobody_can_pose_as_another(stack: Stack) -> None:
    async def scenario() -> None:
        router = limited(stack, 5)
        made = [api_keys.create(stack.settings, name) for name in ("shop", "search")]
        async with (
            backends(stack, A) as (_, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router")) as client,
        ):
            try:
                await router.apply(Traffic(weights={A: 100}, backends=ports))
                await settled(router, A)
                seen = []
                for key, posing in ((made[0], made[1].id), (made[1], made[1].id)):
                    send = [
                        client.post("/rank", json={}, auth=(key.id, key.secret), headers={"x-freshrank-client": posing})
                        for _ in range(40)
                    ]
                    replies = await asyncio.gather(*send)
                    seen.append(Counter(reply.status_code for reply in replies))
                    slow = next(reply for reply in replies if reply.status_code == 429)
                    assert "slow down" in slow.json()["error"] and slow.headers["retry-after"] == "1"
                assert all(10 <= one[200] <= 25 and set(one) == {200, 429} for one in seen), seen
            finally:
                for key in made:
                    api_keys.revoke(stack.settings, key.id)
            await router.apply(Traffic(weights={A: 100}, backends=ports))
            by_address = await asyncio.gather(*(client.post("/rank", json={}) for _ in range(40)))
            assert {reply.status_code for reply in by_address} == {200, 429}, "without keys by address"
            await limited(stack, 0).apply(Traffic(weights={A: 100}, backends=ports))
            free = await asyncio.gather(*(client.post("/rank", json={}) for _ in range(60)))
            assert {reply.status_code for reply in free} == {200}

    asyncio.run(scenario())


@pytest.mark.stack
def test_sizes_and_what_a_caller_may_say(stack: Stack) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with (
            backends(stack, A) as (found, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router")) as client,
        ):
            await router.apply(Traffic(weights={A: 100}, backends=ports))
            await settled(router, A)
            before = len(found[A].ids)
            large = await client.post("/rank", content=b"x" * (MAX_BODY_BYTES + 1))
            assert large.status_code == 413 and "256 KiB" in large.json()["error"]
            heavy = await client.post("/rank", json={}, headers={"x-large": "a" * 40_000})
            assert heavy.status_code == 431 and "32 KiB" in heavy.json()["error"]
            many = await client.post("/rank", json={}, headers={f"x-{n}": "a" for n in range(120)})
            assert many.status_code == 431
            assert len(found[A].ids) == before, "none of it came to a replica"
            fits = await client.post("/rank", content=b"x" * MAX_BODY_BYTES)
            assert fits.status_code == 200
            found[A].status = 500
            told = await client.post("/rank", json={}, headers={"x-envoy-max-retries": "9", "x-envoy-retry-on": "5xx"})
            assert told.status_code == 500 and len(found[A].ids) - before == 1 + 3, "a caller sets no retries"

    asyncio.run(scenario())


@pytest.mark.stack
def test_slow_clients_are_let_go_and_the_others_never_notice(stack: Stack) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with (
            backends(stack, A) as (found, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router")) as client,
        ):
            await router.apply(Traffic(weights={A: 100}, backends=ports))
            await settled(router, A)
            before = len(found[A].ids)

            async def slow(begin: bytes) -> str:
                """Sends the beginning, then a byte every second; what it got in the end."""
                reader, writer = await asyncio.open_connection("127.0.0.1", stack.settings.port("router"))
                writer.write(begin)
                answer = asyncio.create_task(reader.read(400))
                while not answer.done():
                    try:
                        writer.write(b"x")
                        await writer.drain()
                    except ConnectionError:
                        break
                    await asyncio.sleep(1)
                writer.close()
                try:
                    return (await answer).decode().split("\r\n")[0]
                except ConnectionError:
                    return "reset"

            headers = b"POST /rank HTTP/1.1\r\nhost: x\r\nx-drip: "
            body = b"POST /rank HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{"
            dripping = [asyncio.create_task(slow(begin)) for begin in [headers] * 100 + [body] * 100]
            good = 0
            while not all(task.done() for task in dripping):
                reply = await client.post("/rank", json={})
                assert reply.status_code == 200
                good += 1
                await asyncio.sleep(0.1)
            ended = Counter(task.result() for task in dripping)
            assert set(ended) <= {"HTTP/1.1 408 Request Timeout", "reset", ""}, ended
            assert ended["HTTP/1.1 408 Request Timeout"] >= 150
            assert good > 20 and len(found[A].ids) - before == good, "no slow request came to a replica"

    asyncio.run(asyncio.wait_for(scenario(), 120))


@pytest.mark.stack
def test_a_replica_that_fails_is_put_aside_although_its_health_page_is_well(stack: Stack) -> None:
    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with (
            backends(stack, A, B) as (found, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router")) as client,
        ):
            await router.apply(Traffic(weights={A: 50, B: 50}, backends=ports, fallback={B: A}))
            await settled(router, A, B)
            found[B].status = 500
            replies = [await client.post("/rank", json={}) for _ in range(60)]
            assert {reply.headers["x-freshrank-release"] for reply in replies if reply.status_code == 200} == {A}
            assert {reply.status_code for reply in replies} == {200}
            assert len(found[B].ids) < 15, "after five failures in a row it is asked no more"
            assert not (await router.observe())[B[:12]].healthy
            found[B].status = 200
            await settled(router, B)
            assert (await client.post("/rank", json={}, headers={"x-freshrank-force": B})).status_code == 200

    asyncio.run(scenario())


@pytest.mark.stack
def test_many_retries_at_once_are_within_the_budget(stack: Stack) -> None:
    """Envoy's default of three retries at a time loses requests when a replica dies under load."""

    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with (
            backends(stack, A, B) as (found, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router"), limits=httpx.Limits(max_connections=80)) as client,
        ):
            await router.apply(Traffic(weights={A: 1, B: 99}, backends=ports, fallback={B: A}))
            await settled(router, A, B)
            found[B].status = 503
            replies = await asyncio.gather(*(client.post("/rank", json={}) for _ in range(80)))
            assert Counter(reply.status_code for reply in replies) == {200: 80}
            text = await router._ask("/stats?filter=upstream_rq_retry_overflow$")
            assert set(re.findall(r": (\d+)", text)) == {"0"}

    asyncio.run(scenario())


@pytest.mark.stack
def test_the_access_log_is_json_names_the_release_and_is_cut_by_size(stack: Stack, tmp_path: Path) -> None:
    log = stack.settings.logs / "router-access.log"

    async def scenario() -> None:
        router = EnvoyFileRouter(stack.settings)
        async with (
            backends(stack, A) as (_, ports),
            httpx.AsyncClient(base_url=stack.settings.url("router")) as client,
        ):
            await router.apply(Traffic(weights={A: 100}, backends=ports))
            await settled(router, A)

            async def line_of(request_id: str) -> dict[str, object]:
                for _ in range(300):  # Envoy writes what it gathered every ten seconds, or when it is much
                    for line in log.read_text().splitlines():
                        if request_id in line:
                            found: dict[str, object] = json.loads(line)
                            return found
                    await asyncio.sleep(0.1)
                raise AssertionError(f"{request_id} was not written")

            await client.post(
                "/rank?secret=1", json={}, headers={"x-request-id": "first-1", "authorization": "Basic eDp5"}
            )
            line = await line_of("first-1")
            assert (line["method"], line["path"], line["status"], line["release"]) == ("POST", "/rank", 200, A)
            assert "secret" not in log.read_text() and "eDp5" not in log.read_text()
            assert journal.rotate(log, limit=10) and log.stat().st_size == 0
            await client.post("/rank", json={}, headers={"x-request-id": "second-2"})
            await line_of("second-2")
            assert b"\0" not in log.read_bytes(), "Envoy appends: no hole where the cut part was"
            assert "first-1" in log.with_name(f"{log.name}.1").read_text()

    asyncio.run(scenario())


def test_names_and_files_of_keys(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    for name in ("", "Shop", "a b", "../x", "x:y", "-a", "a" * 41):
        with pytest.raises(InputRejected, match="is no name"):
            api_keys.create(settings, name)
    made = api_keys.create(settings, "shop")
    assert [key.id for key in api_keys.keys(settings)] == ["freshrank.1", "shop.1"] and made.id == "shop.1"
    for name in ("api_keys.json", "own_api_key.json"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    assert made.secret not in (tmp_path / "api_keys.json").read_text()
    with pytest.raises(InputRejected, match=r"no key 'shop\.9'; keys: freshrank\.1, shop\.1"):
        api_keys.revoke(settings, "shop.9")
    with pytest.raises(InputRejected, match="own clients use"):
        api_keys.revoke(settings, "freshrank.1")
    api_keys.create(settings, "freshrank")
    api_keys.revoke(settings, "freshrank.1")
    assert api_keys.own_credentials(settings)[0] == "freshrank.2"
    (tmp_path / "api_keys.json").write_text("{")
    with pytest.raises(InputRejected, match="cannot be read"):
        api_keys.htpasswd(settings)
