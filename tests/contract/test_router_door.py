"""HTTPS and bearer tokens at the router's door, on the real Envoy: what is taken, what is refused, what changes while it runs."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest

from infra.local import preflight
from tasks.adapters import api_keys, edge_files, envoy
from tasks.adapters.envoy import Traffic
from tasks.adapters.envoy_edge import Access
from tasks.adapters.router import EnvoyFileRouter, write_initial
from tasks.doctor import examine
from tasks.domain.errors import InputRejected
from tasks.settings import Settings
from tests.contract.test_router import backends, settled
from tests.door_builders import AUDIENCE, ISSUER, Issuer, a_key, certificate_pem, key_pem, put
from tests.rollout_builders import A
from tests.rollout_stack import Stack
from tests.supervisor_builders import a_server, free_port

PATIENCE_S = 15


class Door:
    """A stack whose router has a certificate and takes tokens."""

    def __init__(self, root: Path) -> None:
        self.cert, self.key, self.keys = root / "edge.pem", root / "edge.key", root / "jwks.json"
        self.issuer = Issuer("first")
        first = a_key()
        put(self.cert, certificate_pem(first))
        put(self.key, key_pem(first))
        put(self.keys, self.issuer.jwks())
        self.stack = Stack(
            root / "home",
            bind="0.0.0.0",  # who comes from elsewhere is what this is about
            tls_cert=self.cert,
            tls_key=self.key,
            jwt_keys=self.keys,
            jwt_issuer=ISSUER,
            jwt_audience=AUDIENCE,
        )

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.cert.read_text())

    def url(self, scheme: str, host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.stack.settings.port('router')}"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door = Door(tmp_path_factory.mktemp("door"))
    try:
        door.stack.start_envoy()
        yield door
    finally:
        door.stack.stop()


def address_elsewhere() -> str | None:
    """One of this machine that is not loopback; asking for a route sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
        return None if found.startswith("127.") else found


def bearer(token: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} | headers


@pytest.mark.stack
def test_callers_come_by_https_and_a_renewed_certificate_is_taken_while_connections_stay(door: Door) -> None:
    async def scenario() -> None:
        settings = door.stack.settings
        router = EnvoyFileRouter(settings)
        headers = bearer(door.issuer.token())
        async with (
            backends(door.stack, A) as (_, ports),
            httpx.AsyncClient(base_url=door.url("https"), verify=door.trusting()) as open_before,
        ):
            await router.apply(Traffic(weights={A: 100}, backends=ports))
            await settled(router, A)
            assert (await open_before.post("/rank", json={}, headers=headers)).status_code == 200
            async with httpx.AsyncClient(base_url=door.url("https")) as stranger:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await stranger.get("/readyz")
            async with httpx.AsyncClient(base_url=door.url("http")) as ours:
                assert (await ours.get("/readyz")).status_code == 200, "the stack's own commands, from this machine"
            if (elsewhere := address_elsewhere()) is not None:
                async with httpx.AsyncClient(base_url=door.url("http", elsewhere)) as plain:
                    with pytest.raises(httpx.TransportError):
                        await plain.get("/readyz")

            renewed = a_key()
            put(door.key, key_pem(renewed))  # for a moment key and certificate do not belong together
            await asyncio.sleep(0.5)
            assert (await open_before.post("/rank", json={}, headers=headers)).status_code == 200
            put(door.cert, certificate_pem(renewed))
            for _ in range(PATIENCE_S * 10):
                try:
                    async with httpx.AsyncClient(base_url=door.url("https"), verify=door.trusting()) as after:
                        assert (await after.post("/rank", json={}, headers=headers)).status_code == 200
                        break
                except httpx.ConnectError:
                    await asyncio.sleep(0.1)
            else:
                raise AssertionError("the new certificate was never served")
            assert (await open_before.post("/rank", json={}, headers=headers)).status_code == 200

    asyncio.run(scenario())


@pytest.mark.stack
def test_sound_tokens_and_api_keys_are_taken_and_nothing_else(door: Door) -> None:
    stranger, good = Issuer("first"), door.issuer.token()
    unsigned = jwt.encode(jwt.decode(good, options={"verify_signature": False}), None, algorithm="none")
    refused = {
        "ended": door.issuer.token(exp=1_700_000_000),
        "no end": door.issuer.token(exp=None),
        "no subject": door.issuer.token(sub=None),
        "another issuer": door.issuer.token(iss="https://evil.example.org/"),
        "another audience": door.issuer.token(aud="mail"),
        "another key": stranger.token(),
        "changed": f"{good[:-4]}AAAA",
        "unsigned": unsigned,
        "no token": "x",
    }

    async def scenario() -> None:
        router = EnvoyFileRouter(door.stack.settings)
        async with backends(door.stack, A) as (found, ports), httpx.AsyncClient(base_url=door.url("http")) as client:

            async def asked(headers: dict[str, str], auth: tuple[str, str] | None = None) -> int:
                return (await client.post("/rank", json={}, headers=headers, auth=auth)).status_code

            plan = Traffic(weights={A: 100}, backends=ports)
            await router.apply(plan)
            await settled(router, A)
            assert await asked(bearer(good)) == 200
            assert (await client.post("/feedback", json={}, headers=bearer(good))).status_code == 202
            forced = bearer(good, **{"x-freshrank-force": A})
            assert await asked(forced) == 200
            before = len(found[A].ids)
            for what, token in refused.items():
                status = 403 if what == "another audience" else 401
                assert await asked(bearer(token)) == status, what
                assert await asked(bearer(token, **{"x-freshrank-force": A})) == status, what
            told = await client.post("/rank", json={})
            assert told.status_code == 401 and "token of its issuer" in told.json()["error"]
            assert len(found[A].ids) == before, "none of it came to a replica"
            assert (await client.get("/readyz")).status_code == 200, "health needs no token"

            own = api_keys.own_credentials(door.stack.settings)
            assert own is not None and await asked({}, own) == 200, "what our own commands send"
            assert await asked({}, (own[0], "guess")) == 401
            key = api_keys.create(door.stack.settings, "shop")
            await router.apply(plan)
            assert (await asked({}, (key.id, key.secret)), await asked(bearer(good))) == (200, 200), "beside each other"
            api_keys.revoke(door.stack.settings, key.id)
            await router.apply(plan)
            assert await asked({}) == 401, "with the last key gone it is not open: tokens are asked for"
            assert await asked({}, api_keys.own_credentials(door.stack.settings)) == 200

    asyncio.run(scenario())


@pytest.mark.stack
def test_keys_of_the_issuer_change_on_open_connections_and_each_subject_has_its_own_rate(door: Door) -> None:
    async def scenario() -> None:
        settings = door.stack.settings
        router, old, new = EnvoyFileRouter(settings), door.issuer, Issuer("second")
        async with backends(door.stack, A) as (_, ports), httpx.AsyncClient(base_url=door.url("http")) as client:
            plan = Traffic(weights={A: 100}, backends=ports)

            async def becomes(issuer: Issuer, status: int) -> None:
                for _ in range(PATIENCE_S * 10):
                    if (await client.post("/rank", json={}, headers=bearer(issuer.token()))).status_code == status:
                        return
                    await asyncio.sleep(0.1)
                raise AssertionError(f"{issuer.name} was never answered with {status}")

            await router.apply(plan)
            await settled(router, A)
            put(door.keys, old.jwks(new))
            await router.apply(plan)
            await becomes(new, 200)
            await becomes(old, 200)
            put(door.keys, new.jwks())
            await router.apply(plan)
            await becomes(old, 401)
            put(door.keys, b"{")
            await EnvoyFileRouter(settings).apply(plan)
            await becomes(new, 200)
            put(door.keys, new.jwks())

            limited = EnvoyFileRouter(settings.model_copy(update={"router_rate": 5}))
            await limited.apply(plan)
            posing = {"x-freshrank-client": "search"}
            pages = await asyncio.gather(*(client.get("/readyz", headers=posing) for _ in range(40)))
            assert {reply.status_code for reply in pages} == {200}
            first = [client.post("/rank", json={}, headers=bearer(new.token(), **posing)) for _ in range(40)]
            counts = Counter(reply.status_code for reply in await asyncio.gather(*first))
            assert 10 <= counts[200] <= 25 and set(counts) == {200, 429}, counts
            other = await client.post("/rank", json={}, headers=bearer(new.token(sub="search")))
            assert other.status_code == 200, "nobody uses up another's rate by naming it"
            await router.apply(plan)

    asyncio.run(scenario())


def test_routes_of_before_tokens_were_set_or_unset_let_nobody_in(tmp_path: Path) -> None:
    plain = Settings(home=tmp_path)
    asking = Settings(**a_home(tmp_path), home=tmp_path)
    rds, plan = tmp_path / "data" / "envoy" / "xds" / "rds.json", Traffic(weights={A: 100}, backends={A: (1,)})

    def kept(before: Settings, after: Settings) -> bool:
        write_initial(before)
        access = Access(tokens=before is asking)
        content = {"version_info": "1", "resources": [envoy.routes(plan, access)]}
        rds.write_text(json.dumps(content))
        write_initial(after)
        return envoy.cluster_name(A) in rds.read_text()

    assert kept(plain, plain) and kept(asking, asking), "a router that starts again goes on where it was"
    assert not kept(plain, asking) and not kept(asking, plain)


def a_home(tmp_path: Path) -> dict[str, Path | str]:
    key = a_key()
    return {
        "tls_cert": put(tmp_path / "edge.pem", certificate_pem(key)),
        "tls_key": put(tmp_path / "edge.key", key_pem(key)),
        "jwt_keys": put(tmp_path / "jwks.json", Issuer("i").jwks()),
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tls_key": None}, "FRESHRANK_TLS_CERT is set and FRESHRANK_TLS_KEY is not; HTTPS needs both"),
        ({"tls_cert": None}, "FRESHRANK_TLS_KEY is set and FRESHRANK_TLS_CERT is not"),
        ({"tls_cert": "edge.pem"}, "edge.pem is relative, and services start elsewhere"),
        ({"tls_cert": "/nowhere/edge.pem"}, r"FRESHRANK_TLS_CERT: /nowhere/edge.pem cannot be read \(No such file"),
        ({"jwt_issuer": None}, "FRESHRANK_JWT_ISSUER is not set; tokens need FRESHRANK_JWT_KEYS"),
        ({"jwt_keys": None}, "FRESHRANK_JWT_KEYS is not set"),
    ],
)
def test_a_setting_that_lacks_its_other_half_is_refused(
    tmp_path: Path, change: dict[str, str | None], sentence: str
) -> None:
    with pytest.raises(InputRejected, match=sentence):
        edge_files.check(Settings(home=tmp_path, **{**a_home(tmp_path), **change}))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("edge.pem", b"no PEM", "FRESHRANK_TLS_CERT: edge.pem holds no certificate in PEM"),
        ("edge.pem", certificate_pem(a_key()), "edge.key is not the key of the certificate in edge.pem"),
        ("edge.key", b"no PEM", "FRESHRANK_TLS_KEY: edge.key holds no private key in PEM"),
        ("jwks.json", b"{", "FRESHRANK_JWT_KEYS: jwks.json is no set of keys; store what your issuer shows"),
        ("jwks.json", b'{"keys": []}', "jwks.json is no set of keys"),
        ("jwks.json", b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "holds a private or shared key"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    settings = Settings(home=tmp_path, **a_home(tmp_path))
    assert len(edge_files.check(settings)) == 2
    put(tmp_path / name, content)
    with pytest.raises(InputRejected, match=sentence):
        edge_files.check(settings)
    door = next(one for one in examine(settings) if one["check"] == "door")
    assert not door["ok"] and name in door["sentence"]


def test_the_stack_does_not_start_with_a_wrong_door(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, **a_home(tmp_path))
    table = {"envoy": a_server("envoy", free_port(), tmp_path / "starts")}
    preflight.check(table, settings)
    (tmp_path / "edge.key").unlink()
    with pytest.raises(InputRejected, match="FRESHRANK_TLS_KEY: .*edge.key cannot be read"):
        preflight.check(table, settings)


def test_a_certificate_that_ended_is_refused(tmp_path: Path) -> None:
    settings, key = Settings(home=tmp_path, **a_home(tmp_path)), a_key()
    put(tmp_path / "edge.pem", certificate_pem(key, days=-1))
    put(tmp_path / "edge.key", key_pem(key))
    with pytest.raises(InputRejected, match=r"FRESHRANK_TLS_CERT: edge.pem ended on .*; renew it"):
        edge_files.check(settings)
