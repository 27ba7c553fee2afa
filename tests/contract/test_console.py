"""The release console: what it is told, what it refuses, and, where there is a Chromium, what a person sees and presses."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from tasks.adapters.router import Counts
from tasks.controller import console as console_module
from tasks.controller.api import create_app
from tasks.controller.console import Console
from tasks.controller.live import Live
from tests.browser import DESKTOP, PHONE, Browser, needs_chromium
from tests.rollout_builders import A, B, C, a_policy
from tests.rollout_stack import wait_until
from tests.rollout_world import World

TOKEN = "the-token"
ALERT = {"name": "DiskLow", "severity": "ticket", "summary": "9 % free", "runbook": "docs/runbooks/disk_low.md"}


class Desk:
    """A controller in memory with its console, over HTTP."""

    def __init__(self, home: Path) -> None:
        self.world = World(A, B, C)
        self.live = Live(self.world.router, self.world.clock)
        self.alerts: list[dict[str, Any]] = []
        console = Console(
            self.world.commands, self.world.controller, self.live, alerts=lambda: self.alerts, decisions=home
        )
        self.app = create_app(self.world.commands, TOKEN, console.routes())
        self.http = TestClient(self.app)

    def promote(self, *releases: str) -> None:
        for release in releases:
            self.submit(release)
            self.passes()

    def submit(self, release: str) -> None:
        kind = "canary" if self.world.state.champion else "bootstrap"
        self.world.commands.submit(
            release=release, kind=kind, policy=a_policy(), actor="dag", reason="<b>new</b> weights",
            idempotency_key=f"k-{release[:4]}", expected_champion=None,
        )  # fmt: skip

    def passes(self, count: int = 30) -> None:
        asyncio.run(self.world.passes(count, traffic=10))

    def traffic(self, samples: int = 6) -> None:
        """Counted requests, 20 a second for the champion, and the waits that the router saw."""
        release = self.world.state.champion.release[:12]
        for number in range(samples):
            seen = 100 * number
            self.world.router.counts[release] = Counts(requests=seen, errors=number, healthy=True)
            self.world.router.waited = {release: {5.0: seen // 2, 10.0: seen * 98 // 100, 50.0: seen}}
            asyncio.run(self.live.sample())
            self.world.clock.advance(5)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def press(desk: Desk, path: str, token: str = TOKEN, **body: Any) -> Any:
    told = {"actor": "test", "reason": "because"} | body
    return desk.http.post(path, json=told, headers={"authorization": f"Bearer {token}"})


def test_the_page_is_whole_and_lets_nothing_in(desk: Desk) -> None:
    page = desk.http.get("/")
    assert page.status_code == 200 and "@STYLE@" not in page.text and "@SCRIPT@" not in page.text
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "") and "https://" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert TOKEN not in page.text


def test_what_the_page_draws(desk: Desk) -> None:
    desk.promote(A)
    desk.submit(B)
    desk.passes(4)
    desk.traffic()
    desk.alerts = [ALERT]
    told = desk.http.get("/console/data").json()
    assert told["rollout"]["steps"] == ["pending", "shadow", "canary 20%", "full"]
    assert told["rollout"]["step"] == "shadow" and told["rollout"]["observations"]["findings"]
    assert [row["rev"] for row in told["rows"]] == list(range(1, told["revision"] + 1))
    assert told["alerts"] == [ALERT]
    last = told["points"][-1]["releases"][A[:12]]
    assert last == {"rate": 20.0, "error_rate": 0.01, "p50_ms": 5.0, "p99_ms": 50.0}


def test_a_router_that_restarted_or_is_silent_draws_no_nonsense(desk: Desk) -> None:
    desk.promote(A)
    desk.traffic(3)
    desk.world.router.counts[A[:12]] = Counts(requests=10, errors=0)
    desk.world.router.waited = {A[:12]: {5.0: 10, 10.0: 10, 50.0: 10}}
    asyncio.run(desk.live.sample())
    assert desk.live.points()[-1]["releases"][A[:12]]["rate"] == 2.0, "ten since it started, not minus 190"
    desk.world.router.down = True
    asyncio.run(desk.live.sample())
    desk.world.router.down = False
    asyncio.run(desk.live.sample())
    assert len(desk.live.points()) == 3, "a silent router is a gap"


def test_a_press_on_an_old_picture_is_refused_and_a_repeated_one_is_not(desk: Desk) -> None:
    desk.promote(A, B)
    seen = desk.http.get("/console/data").json()["revision"]
    first = press(desk, "/freeze", expected_revision=seen, idempotency_key="one")
    assert first.status_code == 200 and first.json()["frozen"]
    assert press(desk, "/freeze", expected_revision=seen, idempotency_key="one").status_code == 200
    stale = press(desk, "/rollback", expected_revision=seen, idempotency_key="two")
    assert stale.status_code == 409
    assert f"you saw revision {seen}, the log is at {seen + 1}: freeze by test" in stale.json()["error"]
    assert desk.world.state.champion.release == B
    assert press(desk, "/rollback", idempotency_key="two").json()["to"] == A, "without a revision as before"


def test_another_site_cannot_press(desk: Desk) -> None:
    """A form or a script elsewhere sends no authorization header; cookies, which it could send, count for nothing."""
    desk.promote(A, B)
    headers = {"origin": "https://elsewhere.example", "content-type": "text/plain"}
    reply = desk.http.post("/rollback", content='{"actor":"x","reason":"y"}', headers=headers, cookies={"token": TOKEN})
    assert reply.status_code == 401
    allowed = desk.http.options("/rollback", headers=headers | {"access-control-request-method": "POST"})
    assert "access-control-allow-origin" not in allowed.headers
    assert desk.world.state.champion.release == B


def test_a_decision_that_is_not_here_says_where_it_is(desk: Desk) -> None:
    reply = desk.http.get(f"/decision/{A}")
    assert reply.status_code == 400 and "`freshrank explain DAY`" in reply.json()["error"]
    assert desk.http.get("/decision/..%2f..%2fsecrets").status_code in (400, 404)


EXPLAINER = """import json, sys
from pathlib import Path
page = Path(sys.argv[sys.argv.index("--page") + 1])
page.write_text("<h1>2017-07-01 ships weights</h1>")
asked = page.parent / "asked"
asked.write_text(asked.read_text() + "x" if asked.exists() else "x")
print(json.dumps({"release": sys.argv[1]}))
"""


def test_a_decision_page_is_made_once_by_another_process(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "explainer.py"
    program.write_text(EXPLAINER)
    monkeypatch.setattr(console_module, "COMMAND", (sys.executable, str(program), A))
    monkeypatch.setattr(desk.world.library, "describe", lambda release: {"partition": "2017-07-01"})
    for _ in range(2):
        page = desk.http.get(f"/decision/{A}")
        assert page.status_code == 200 and "ships weights" in page.text
        assert "script-src" not in page.headers["content-security-policy"] and "default-src 'none'" in str(page.headers)
    assert (tmp_path / "asked").read_text() == "x"
    other = desk.http.get(f"/decision/{B}")
    assert other.status_code == 400 and "is not the one that shipped bbbbbbbbbbbb" in other.json()["error"]
    monkeypatch.setattr(console_module, "COMMAND", (sys.executable, "-c", "raise SystemExit('the store is down')"))
    down = desk.http.get(f"/decision/{C}")
    assert down.status_code == 503 and "the store is down" in down.json()["error"]


@pytest.fixture
def served(desk: Desk) -> Iterator[tuple[Desk, str]]:
    server = uvicorn.Server(uvicorn.Config(desk.app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "the console is served")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield desk, f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "browser")
    try:
        yield browser
    finally:
        browser.close()


@needs_chromium
def test_a_person_rolls_back_in_the_browser(served: tuple[Desk, str], browser: Browser) -> None:
    desk, url = served
    desk.promote(A, B)
    desk.traffic()
    browser.open(url, PHONE)
    browser.until("document.querySelectorAll('#history li').length > 5")
    assert "<b>new</b> weights" in browser.text("#history"), "a reason is text, not markup"
    assert f"{B[:12]} 20" in browser.text("#charts figure")
    assert browser.value("document.querySelector('#abort').disabled") is True, "there is nothing to abort"

    browser.click("#rollback")
    assert f"All traffic goes from {B[:12]} to {A[:12]}" in browser.text("#confirm-said")
    browser.click("#do")
    browser.until("document.querySelector('#confirm-error').innerText.includes('Say why')")
    for field, text in (("#reason", "orders look wrong"), ("#actor", "ada"), ("#token", "wrong")):
        browser.fill(field, text)
    browser.click("#do")
    browser.until("document.querySelector('#confirm-error').innerText.includes('not the controller')")
    assert desk.world.state.champion.release == B
    desk.world.commands.freeze(on=True, actor="bob", reason="me too", idempotency_key="bob")
    browser.fill("#token", TOKEN)
    browser.click("#do")
    browser.until("document.querySelector('#confirm-error').innerText.includes('freeze by bob')")
    assert desk.world.state.champion.release == B, "the log moved while the person looked"
    browser.click("#do")
    browser.until("!document.querySelector('#said').hidden")
    assert browser.text("#said").startswith(f"Rolled back from {B[:12]} to {A[:12]}")
    row = desk.world.log.rows()[-1]
    assert (row.kind, row.actor, row.reason) == ("rollback", "console:ada", "orders look wrong")
    assert "the-token" not in str(browser.value("document.body.outerHTML + location.href + document.cookie"))


@needs_chromium
def test_abort_freeze_and_unfreeze_in_the_browser(served: tuple[Desk, str], browser: Browser) -> None:
    desk, url = served
    desk.promote(A)
    desk.submit(B)
    desk.passes(4)
    browser.open(f"{url}#token={TOKEN}")
    browser.until("document.querySelectorAll('#findings li').length > 3")
    assert "token" not in browser.value("location.href"), "the link's token is out of the address at once"
    for button, said, state in (
        ("freeze", "Frozen", {"frozen": True}),
        ("abort", "Stopped", {"rollout": None}),
        ("unfreeze", "allowed again", {"frozen": False}),
    ):
        browser.until(f"!document.querySelector('#{button}').disabled")
        browser.click(f"#{button}")
        assert browser.value("document.querySelector('#token-row').hidden"), "the tab knows the token"
        browser.fill("#reason", "drill")
        browser.fill("#actor", "ada")
        browser.click("#do")
        browser.until(f"document.querySelector('#said').innerText.includes('{said}')")
        assert {name: getattr(desk.world.state, name) for name in state} == state
        assert browser.value("document.querySelector('#frozen').hidden") is not desk.world.state.frozen
    assert browser.complaints == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_reads_and_says_when_it_is_cut_off(
    served: tuple[Desk, str], browser: Browser, size: tuple[int, int], dark: bool
) -> None:
    desk, url = served
    desk.promote(A, B)
    desk.submit(C)
    desk.passes(4)
    desk.traffic()
    desk.alerts = [ALERT | {"since": "2026-01-01T00:00:00+00:00"}]
    browser.open(url, size, dark=dark)
    browser.until("document.querySelectorAll('#history li').length > 5")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
    cut = "[...document.querySelectorAll('.actions button')].filter((b) => b.scrollWidth > b.clientWidth).length"
    assert browser.value(cut) == 0
    assert browser.value("document.querySelector('#rollback').getBoundingClientRect().height") >= 44
    assert "DiskLow" in browser.text("#alerts") and "docs/runbooks/disk_low.md" in browser.text("#alerts")
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark
    assert browser.complaints == []
    browser.offline(True)
    browser.until("document.querySelector('#trouble').innerText.includes('does not answer')")
    assert "Traffic stays as it is" in browser.text("#trouble")
    browser.offline(False)
    browser.until("document.querySelector('#trouble').hidden")
