"""The local stack with a worker a queue: what comes on top of the plain one, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local import airflow_config
from infra.local.prepare import prepare
from infra.local.services import ServiceSpec, chosen, services
from tasks.domain.errors import InputRejected
from tasks.settings import Settings

ON_TOP = {"postgres", "broker", "worker-default", "worker-gpu"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, port_base=20_000, executor="celery")


@pytest.fixture
def table(settings: Settings) -> dict[str, ServiceSpec]:
    return services(settings)


def test_a_database_a_broker_and_two_workers_come_on_top(table: dict[str, ServiceSpec], settings: Settings) -> None:
    assert set(table) - set(services(Settings(home=settings.home))) == ON_TOP
    assert {"postgres", "broker", "airflow-api-server"} <= set(chosen(table, ("worker-gpu",)))
    ports = [port for spec in table.values() for port in spec.ports.values()]
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize(
    ("setting", "value", "gone"),
    [
        ("airflow_database", "postgresql://db.example/airflow", "postgres"),
        ("broker_url", "redis://b.example", "broker"),
    ],
)
def test_what_is_elsewhere_is_not_started(settings: Settings, setting: str, value: str, gone: str) -> None:
    assert set(services(settings)) - set(services(settings.model_copy(update={setting: value}))) == {gone}


def test_a_cluster_is_not_started_on_a_machine(settings: Settings) -> None:
    with pytest.raises(InputRejected, match="take local or celery here"):
        services(settings.model_copy(update={"executor": "kubernetes"}))


def test_passwords_are_in_no_argument_and_in_files_of_their_own(
    table: dict[str, ServiceSpec], settings: Settings
) -> None:
    secrets = [settings.secrets.derived(purpose) for purpose in ("postgres", "broker")]
    for spec in table.values():
        shown = " ".join(spec.argv) + repr(spec)
        assert not [secret for secret in secrets if secret in shown], spec.name
    prepare(table["broker"], settings)
    written = settings.data / "broker" / "broker.conf"
    assert written.read_text() == f"requirepass {secrets[1]}\n" and written.stat().st_mode & 0o777 == 0o600


def test_the_broker_never_throws_a_message_away(table: dict[str, ServiceSpec]) -> None:
    assert table["broker"].argv[-1] == "noeviction" and "yes" in table["broker"].argv
    assert table["valkey"].argv[-1] == "allkeys-lru", "the cache may"


def test_gpu_steps_have_one_slot_so_that_what_waits_for_another_has_no_deadline(settings: Settings) -> None:
    assert airflow_config.pools(settings) == {"one_benchmark_at_a_time": 1, "gpu": 1}
    assert airflow_config.pools(Settings(home=settings.home)) == {"one_benchmark_at_a_time": 1}
    environment = airflow_config.environment(settings)
    assert float(environment["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"]) == 300
    assert environment["AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES"] == "0"


def test_without_it_airflow_is_configured_as_before(settings: Settings) -> None:
    plain = airflow_config.environment(Settings(home=settings.home))
    assert plain["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert not [name for name in plain if "CELERY" in name]
    assert plain["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite:///")
