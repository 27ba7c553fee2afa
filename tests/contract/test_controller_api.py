"""The controller's HTTP door and its client, over a controller in memory: what is accepted, refused, and said."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from infra.local.run import first_rollout
from tasks.adapters.shelf import Shelf
from tasks.controller.api import create_app
from tasks.controller.client import ControllerClient
from tasks.controller.commands import Commands
from tasks.controller.roles import token_of
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.settings import Settings
from tests.rollout_builders import A, B, C, a_policy
from tests.rollout_world import World

POLICY = a_policy().model_dump(mode="json")


class Door:
    """A controller behind its API, and a signed-in client."""

    def __init__(self, home: Path) -> None:
        self.world = World(A, B, C)
        self.settings = Settings(home=home)
        self.http = TestClient(create_app(self.world.commands, self.settings.secrets.controller_token))
        transport = _Through(self.http)
        self.client = ControllerClient(self.settings, transport=transport)

    def passes(self, count: int = 30, traffic: int = 10) -> None:
        asyncio.run(self.world.passes(count, traffic=traffic))

    def promote(self, *releases: str) -> Door:
        for release in releases:
            kind = "canary" if self.world.state.champion else "bootstrap"
            self.submit(release, kind=kind)
            self.passes()
        return self

    def submit(self, release: str, **more: Any) -> dict[str, Any]:
        wish = {
            "kind": "canary",
            "policy": POLICY,
            "actor": "dag",
            "reason": "new",
            "idempotency_key": f"k-{release[:4]}",
        }
        return self.client.submit(release=release, **(wish | more))


class _Through(httpx.BaseTransport):
    """The client's requests, answered by the app in this process."""

    def __init__(self, app: TestClient) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = dict(request.headers)
        reply = self._app.request(
            request.method, request.url.raw_path.decode(), content=request.read(), headers=headers
        )
        return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


@pytest.mark.parametrize("path", ["/rollouts", "/rollback", "/abort", "/freeze", "/unfreeze"])
@pytest.mark.parametrize("token", [None, "", "Bearer ", "Bearer wrong", "Basic x"])
def test_changes_need_the_token(door: Door, path: str, token: str | None) -> None:
    reply = door.http.post(path, json={}, headers={"authorization": token} if token is not None else {})
    assert reply.status_code == 401 and "token" in reply.json()["error"]
    assert door.world.log.rows() == []


ROUTES = {
    "submit": "/rollouts",
    "rollback": "/rollback",
    "abort": "/abort",
    "freeze": "/freeze",
    "unfreeze": "/unfreeze",
}
ALLOWED = {
    "viewer": set(),
    "releaser": {"submit", "abort"},
    "oncall": {"rollback", "abort", "freeze", "unfreeze"},
    "owner": set(ROUTES),
}


@pytest.mark.parametrize("change", ROUTES)
@pytest.mark.parametrize("role", ALLOWED)
def test_every_role_may_do_what_it_may_and_nothing_else(door: Door, role: str, change: str) -> None:
    secret = door.settings.secrets.controller_token
    token = secret if role == "owner" else token_of(role, secret)
    reply = door.http.post(ROUTES[change], json={}, headers={"authorization": f"Bearer {token}"})
    if change in ALLOWED[role]:
        assert reply.status_code == 422, "let in, and the empty body is refused"
    else:
        assert reply.status_code == 403 and f"role {role}, which may not {change}" in reply.json()["error"]
    assert door.world.log.rows() == []


def test_a_token_of_a_role_is_not_made_without_the_secret(door: Door) -> None:
    forged = token_of("oncall", "another secret")
    for given in (forged, "oncall.", "oncall", f"owner.{forged[7:]}", "owner"):
        reply = door.http.post("/rollback", json={}, headers={"authorization": f"Bearer {given}"})
        assert reply.status_code == 401
    assert door.settings.secrets.controller_token not in token_of("oncall", door.settings.secrets.controller_token)


@pytest.mark.parametrize("path", ["//rollback", "/Rollback", "/rollback/", "/%72ollback/..", "/status/../rollback"])
@pytest.mark.parametrize("headers", [{}, {"x-http-method-override": "POST"}])
def test_other_spellings_are_no_way_in(door: Door, path: str, headers: dict[str, str]) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "GET"):
        reply = door.http.request(method, path, headers=headers, follow_redirects=False)
        assert reply.status_code in (307, 401, 404, 405), (method, path, reply.status_code)
    assert door.http.get("/rollback", headers=headers).status_code == 405
    assert door.world.log.rows() == []


def test_an_empty_controller_has_nothing_to_show(door: Door) -> None:
    status = door.client.status()
    assert status.pop("frozen") is False and status.pop("revision") == 0
    assert status.pop("weights") == {}
    assert status == {
        "champion": None,
        "challenger": None,
        "previous": None,
        "rollout": None,
        "frozen_because": None,
    }


def test_a_rollout_from_submission_to_champion(door: Door) -> None:
    door.promote(A)
    started = door.submit(B)
    door.passes(4)
    status = door.client.status()
    assert status["challenger"]["digest"] == B and status["rollout"]["state"] == "shadow"
    assert status["weights"] == {A: 100, B: 0}
    live = door.client.rollout(started["rollout"])
    assert {finding["name"] for finding in live["observations"]["findings"]} >= {
        "requests",
        "error_rate",
        "overlap_at_10",
    }
    door.passes()
    ended = door.client.wait(started["rollout"], deadline_s=1)
    assert ended["state"] == "promoted" and ended["observations"]["outcome"] == "pass"
    status = door.client.status()
    assert (status["champion"]["digest"], status["previous"]["digest"]) == (B, A)
    assert status["rollout"]["release"] == B and status["rollout"]["state"] == "promoted"


def test_the_same_key_is_the_same_rollout_even_after_it_ended(door: Door) -> None:
    door.promote(A)
    first = door.submit(B)
    assert door.submit(B) == first
    door.passes()
    assert door.submit(B) == first
    with pytest.raises(Conflict, match="was used at revision"):
        door.submit(C, idempotency_key="k-bbbb")


def test_make_run_tries_the_first_champion_again_once_it_can_be_fetched(door: Door) -> None:
    door.world.library.store_down = True
    failed = first_rollout(door.client, A)
    assert first_rollout(door.client, A) == failed, "an interrupted run joins it"
    door.passes(120)
    assert door.client.rollout(failed)["state"] == "failed"
    door.world.library.store_down = False
    again = first_rollout(door.client, A)
    door.passes()
    assert door.client.rollout(again)["state"] == "promoted" and door.client.status()["champion"]["digest"] == A
    assert first_rollout(door.client, A) == again, "and one that was interrupted at the very end finds it promoted"


def test_a_stale_verdict_is_409_with_a_sentence(door: Door) -> None:
    door.promote(A)
    with pytest.raises(Conflict, match=r"was judged against champion cccccccccccc but aaaaaaaaaaaa serves now"):
        door.submit(B, expected_champion=C)


def test_rollback_says_what_it_did_and_a_second_press_what_it_did_not(door: Door) -> None:
    door.promote(A, B)
    done = door.client.rollback(actor="on-call", reason="bad", idempotency_key="press")
    assert (done["from"], done["to"], done["changed"]) == (B, A, True) and done["seconds"] >= 0
    again = door.client.rollback(actor="on-call", reason="bad", idempotency_key="press")
    assert (again["from"], again["to"], again["revision"]) == (B, A, done["revision"])
    other = door.client.rollback(actor="another", reason="bad too")
    assert (other["from"], other["to"], other["changed"]) == (A, A, False)


def test_rollback_with_nothing_before_is_refused(door: Door) -> None:
    with pytest.raises(Conflict, match="nothing serves yet"):
        door.client.rollback(actor="on-call", reason="bad")
    door.promote(A)
    with pytest.raises(Conflict, match="there is no release before"):
        door.client.rollback(actor="on-call", reason="bad")


def test_abort_freeze_and_unfreeze(door: Door) -> None:
    door.promote(A)
    with pytest.raises(Conflict, match="no rollout is running"):
        door.client.abort(actor="on-call", reason="x")
    started = door.submit(B)
    door.passes(4)
    assert door.client.abort(actor="on-call", reason="odd")["to"] == A
    assert door.client.rollout(started["rollout"])["state"] == "aborted"
    assert door.client.freeze(actor="on-call", reason="holiday")["frozen"] is True
    assert door.client.freeze(actor="on-call", reason="holiday")["frozen"] is True
    with pytest.raises(Conflict, match="frozen"):
        door.submit(C)
    assert door.client.unfreeze(actor="on-call", reason="back")["frozen"] is False
    assert door.submit(C)["rollout"]


def test_a_key_of_another_change_stops_nothing_and_says_so(door: Door) -> None:
    door.promote(A)
    door.submit(B)
    door.passes(3)
    for change in (door.client.abort, door.client.rollback, door.client.freeze, door.client.unfreeze):
        with pytest.raises(Conflict, match=r"'k-bbbb' was used for start at revision \d+; nothing was changed"):
            change(actor="on-call", reason="odd", idempotency_key="k-bbbb")
    assert door.client.status()["challenger"]["release"] == B and not door.client.status()["frozen"]


def test_what_served_when_and_why(door: Door) -> None:
    door.promote(A)
    then = door.world.clock().isoformat()
    door.world.clock.advance(60)
    door.promote(B)
    told = door.client.served_at(then)
    assert told["champion"] == A and told["because"]["kind"] == "boot"
    assert door.client.served_at(door.world.clock().isoformat())["champion"] == B
    assert door.client.served_at("2000-01-01T00:00:00Z")["champion"] is None
    door.world.clock.advance(-600)  # the machine's clock was wrong, and was set back
    door.client.freeze(actor="on-call", reason="holiday")
    assert door.client.served_at(door.world.clock().isoformat())["champion"] == B
    assert next(row["rev"] for row in door.client.log(after=2)) == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 422, id="empty"),
        pytest.param(b"[]", 422, id="not an object"),
        pytest.param(b"\xff\xfe", 422, id="not text"),
        pytest.param(b'{"release": "../../etc", "actor": "a", "reason": "r", "idempotency_key": "k"}', 400, id="path"),
        pytest.param(
            b'{"release": "x", "actor": "a", "reason": "r", "idempotency_key": "k", "more": 1}', 422, id="extra"
        ),
        pytest.param(b'{"release": "x", "actor": "", "reason": "r", "idempotency_key": "k"}', 422, id="nobody"),
        pytest.param(b'{"x": "' + b"y" * 70_000 + b'"}', 413, id="too large"),
    ],
)
def test_bad_bodies_are_refused_with_a_sentence(door: Door, body: bytes, status: int) -> None:
    signed = {"authorization": f"Bearer {door.settings.secrets.controller_token}"}
    reply = door.http.post("/rollouts", content=body, headers=signed)
    assert reply.status_code == status and reply.json()["error"]
    assert door.world.log.rows() == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("/rollouts/rollout-99", 404), ("/served-at?time=yesterday", 400), ("/log?after=-1", 400), ("/nope", 404)],
)
def test_reads_that_cannot_be_answered(door: Door, path: str, status: int) -> None:
    reply = door.http.get(path)
    assert reply.status_code == status and reply.json()["error"]


def test_what_is_pinned_where_the_controller_runs_is_told_elsewhere(door: Door, tmp_path: Path) -> None:
    app = create_app(Commands(door.world.controller, "demo", tmp_path), "token")
    client, shelf = ControllerClient(door.settings, transport=_Through(TestClient(app))), tmp_path / "data" / "serving"
    assert client.pins() == {}
    (shelf / "releases" / A).mkdir(parents=True)
    Shelf(shelf).pin(A[:12], "cli:me", "compared with")
    assert client.pins() == {A: {"actor": "cli:me", "reason": "compared with"}}
    (shelf / "pinned.json").write_text("{")
    with pytest.raises(InputRejected, match="no release is deleted until it is put right"):
        client.pins()


def test_metrics_name_the_weights(door: Door) -> None:
    door.promote(A)
    assert f'freshrank_rollout_weight_percent{{release="{A[:12]}"}} 100' in door.http.get("/metrics").text


def test_metrics_follow_a_rollout_from_its_step_to_its_end(door: Door) -> None:
    door.promote(A)
    door.submit(B)
    door.passes(4)
    page = door.http.get("/metrics").text
    entered = door.world.state.rollout.entered.timestamp()
    assert f'freshrank_rollout_step_since_seconds{{release="{B[:12]}"}} {entered:.15g}\n' in page
    limit = a_policy().shadow_s + a_policy().hold_s
    assert f'freshrank_rollout_step_limit_seconds{{release="{B[:12]}"}} {limit:g}\n' in page
    assert f'freshrank_replica_ready{{release="{B[:12]}"}} 1\n' in page
    assert 'freshrank_reconcile_failing{part="route"} 0\n' in page and "freshrank_reconcile_pass_seconds " in page
    assert "freshrank_rollout_stopped_seconds{" not in page
    door.client.freeze(actor="x", reason="y")
    assert "freshrank_rollout_step_since_seconds{" not in door.http.get("/metrics").text, "a frozen step is not stuck"
    door.client.abort(actor="x", reason="y")
    page = door.http.get("/metrics").text
    assert f'freshrank_rollout_stopped_seconds{{release="{B[:12]}",how="aborted"}}' in page
    assert "freshrank_rollout_frozen 1\n" in page
    door.world.router.down = True
    door.world.clock.advance(60)
    door.passes(1)
    assert 'freshrank_reconcile_failing{part="route"} 1\n' in door.http.get("/metrics").text


def test_targets_are_what_prometheus_discovers(door: Door) -> None:
    door.promote(A)
    port = door.world.replicas[A].port
    assert door.http.get("/targets").json() == [{"targets": [f"127.0.0.1:{port}"], "labels": {"release": A[:12]}}]


def test_a_controller_that_is_down_is_unavailable(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port_base=1024)
    with pytest.raises(Unavailable, match="traffic stays as it is"):
        ControllerClient(settings).status()


def test_refusals_keep_their_kind(door: Door) -> None:
    with pytest.raises(InputRejected, match="is not a digest"):
        door.submit("latest")
