"""Settings: no silent typo, secrets for the owner only, one answer from two starts at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tasks.domain.errors import InputRejected
from tasks.settings import PORT_OFFSETS, Secrets, Settings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    return tmp_path


def test_a_mistyped_variable_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("FRESHRANK_PORTBASE", "1")
    with pytest.raises(ValueError, match="unknown settings FRESHRANK_PORTBASE"):
        Settings()


def test_a_variable_beats_the_file_and_the_file_beats_the_default(home, monkeypatch):
    (home / "settings.toml").write_text('port_base = 30000\nrecipe = "tiny"\n')
    monkeypatch.setenv("FRESHRANK_PORT_BASE", "31000")
    settings = Settings()
    assert (settings.port_base, settings.recipe, settings.policy) == (31000, "tiny", "demo")


def test_a_mistyped_key_of_the_file_is_refused(home):
    (home / "settings.toml").write_text("port_bass = 30000\n")
    with pytest.raises(ValueError, match="port_bass"):
        Settings()


def test_ports_are_distinct_and_stay_below_the_limit_with_their_grpc_twins():
    assert len(set(PORT_OFFSETS.values())) == len(PORT_OFFSETS)
    assert max(PORT_OFFSETS.values()) < 100


def test_secrets_are_for_the_owner_only_and_stay_the_same(home):
    first = Settings().secrets
    assert (home / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert Settings().secrets == first
    assert len(set(first.model_dump().values())) == len(first.model_dump())


def test_a_secrets_file_that_others_can_read_is_refused(home):
    Secrets.load_or_create(home / "secrets.json")
    (home / "secrets.json").chmod(0o644)
    with pytest.raises(InputRejected, match="chmod 600"):
        Secrets.load_or_create(home / "secrets.json")


def test_many_first_starts_at_once_agree_on_one_set_of_secrets(home):
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: Secrets.load_or_create(home / "secrets.json"), range(16)))
    assert len({secrets.model_dump_json() for secrets in found}) == 1
    assert [path.name for path in home.iterdir()] == ["secrets.json"]


def running(home, port_base, pid=None):
    """What a supervisor of this home writes; this very process unless another is named."""
    me = psutil.Process()
    row = {"pid": pid or me.pid, "born": me.create_time(), "port_base": port_base}
    (home / "run").mkdir(parents=True)
    (home / "run" / "supervisor.json").write_text(json.dumps(row))


def test_a_second_terminal_finds_the_stack_that_runs_on_other_ports(home, monkeypatch):
    running(home, 31500)
    assert Settings().port_base == 31500
    assert Settings().url("controller").endswith(":31501")
    (home / "settings.toml").write_text("port_base = 30000\n")
    assert Settings().port_base == 30000, "what was set is what is meant"
    monkeypatch.setenv("FRESHRANK_PORT_BASE", "31000")
    assert Settings().port_base == 31000 and Settings(port_base=32000).port_base == 32000


def test_a_stack_that_ended_or_runs_in_another_home_says_nothing(home, tmp_path):
    running(home, 31500, pid=2**22 + 1)
    assert Settings().port_base == 28000
    running(tmp_path / "other", 31700)
    assert Settings(home=tmp_path / "other").port_base == 31700 and Settings().port_base == 28000
    (home / "run" / "supervisor.json").write_text("{")
    assert Settings().port_base == 28000
