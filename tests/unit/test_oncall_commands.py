"""What on-call types: the words that come out, also when the controller is down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tasks import firing, service_table
from tasks.cli import app
from tasks.controller.roles import token_of
from tasks.domain.errors import InputRejected, Unavailable
from tasks.settings import Settings
from tests.rollout_builders import A


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    monkeypatch.setenv("FRESHRANK_PORT_BASE", "1024")  # nothing answers there
    return Settings()


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_status_without_a_controller_tells_what_is_known(settings: Settings) -> None:
    service_table.write(
        service_table.services_path(settings), {"envoy": {"state": "ready", "url": "http://x", "pid": None}}
    )
    alert = {
        "name": "ServiceDown",
        "severity": "page",
        "summary": "controller does not answer.",
        "runbook": "docs/x.md",
    }
    firing.write(settings, [alert], at=4e9)
    done = CliRunner().invoke(app, ["status"])
    assert isinstance(done.exception, Unavailable)
    assert "page: ServiceDown: controller does not answer. -> docs/x.md" in done.output and "envoy" in done.output
    silent = CliRunner().invoke(app, ["status", "--json"])
    assert isinstance(silent.exception, Unavailable) and silent.output == ""


def test_the_console_s_address_and_a_link_for_each_role(settings: Settings) -> None:
    secret = settings.secrets.controller_token
    assert said("console") == "http://127.0.0.1:1025/\n"
    assert said("console", "--role", "oncall") == f"http://127.0.0.1:1025/#token={token_of('oncall', secret)}\n"
    assert said("console", "--role", "owner").endswith(f"#token={secret}\n")
    with pytest.raises(InputRejected, match="no role 'root'; roles: viewer, releaser, oncall, owner"):
        said("console", "--role", "root")


def test_releases_say_why_they_are_kept(settings: Settings) -> None:
    folder = settings.data / "serving" / "releases" / A / "release"
    folder.mkdir(parents=True)
    (folder / "release.json").write_text(json.dumps({"view": "v"}))
    assert f"{A[:12]} stays" in said("pin", "aaaa", "--reason", "before the relaunch")
    told = json.loads(said("releases", "--json"))
    assert [(one["release"], one["pinned"]["reason"]) for one in told] == [(A, "before the relaunch")]
    assert "before the relaunch" in said("releases")
    assert "goes when nothing else needs it" in said("unpin", A[:12])
    assert json.loads(said("releases", "--json"))[0]["pinned"] is None


def test_keys_are_shown_once_and_listed_without_their_secret(settings: Settings) -> None:
    assert "asks for none" in said("api-keys", "list")
    made = json.loads(said("api-keys", "create", "shop", "--json"))
    listed = said("api-keys", "list") + said("api-keys", "list", "--json")
    assert made["id"] in listed and made["secret"] not in listed
    assert "shop.2" in said("api-keys", "create", "shop")
    assert "shop.1 is refused" in said("api-keys", "revoke", "shop.1")
