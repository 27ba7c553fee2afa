"""Settings: no silent typo, secrets for the owner only, one answer from two starts at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

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
