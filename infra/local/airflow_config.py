"""Airflow's configuration as environment variables, so that no generated airflow.cfg decides anything.

Airflow's log servers bind every interface and have no setting for it (`serve_logs` passes an empty host), therefore the
components run with --skip-serve-logs: with LocalExecutor the API server reads the same log files from disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from infra.local import postgres
from tasks.settings import Settings

REPO = Path(__file__).resolve().parents[2]
PARALLELISM = 3
USER = "admin"
# DAGs name their pool; the benchmark must not share the machine with a second one
BENCHMARK_POOL = "one_benchmark_at_a_time"


def home(settings: Settings) -> Path:
    return settings.data / "airflow"


def password_file(settings: Settings) -> Path:
    return home(settings) / "simple_auth_manager_passwords.json.generated"


def database_url(settings: Settings) -> str:
    if settings.airflow_database:
        return settings.airflow_database
    if settings.executor == "celery":
        return postgres.url(settings)
    # timeout: how long a writer waits for another before "database is locked"
    return f"sqlite:///{home(settings) / 'airflow.db'}?timeout=60"


def celery_results(settings: Settings) -> str:
    """In the database: a broker that was killed must not take with it what has ended."""
    return f"db+{database_url(settings)}"


def health_url(settings: Settings) -> str:
    return f"{settings.url('airflow')}/api/v2/monitor/health"


def pools(settings: Settings) -> dict[str, int]:
    """Pools beside `default_pool`, with their slots."""
    table = {BENCHMARK_POOL: 1}
    if settings.pool_of_gpu_steps not in ("default_pool", BENCHMARK_POOL):
        table[settings.pool_of_gpu_steps] = 1
    return table


def _celery(settings: Settings) -> dict[str, dict[str, object]]:
    """What differs with one worker a queue. A worker is lost where its tasks' heartbeats stop, so they must stop soon."""
    return {
        "core": {"executor": "CeleryExecutor"},
        "celery": {
            "broker_url": settings.broker,
            "result_backend": celery_results(settings),
            "worker_prefetch_multiplier": 1,
        },
        # longer than the longest step: a message that the broker hands out again meets a task that runs
        "celery_broker_transport_options": {"visibility_timeout": 24 * 3600},
        "scheduler": {
            "task_instance_heartbeat_timeout": 60,
            "task_queued_timeout": settings.queued_deadline_s,
            "task_queued_timeout_check_interval": 15,
            "num_stuck_in_queued_retries": 0,
        },
    }


def environment(settings: Settings) -> dict[str, str]:
    url = settings.url("airflow")
    port = settings.port("airflow")
    secrets = settings.secrets
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": REPO / "dags",
            "executor": "LocalExecutor",
            "parallelism": PARALLELISM,
            "load_examples": False,
            "dagbag_import_timeout": 120,
            "fernet_key": secrets.airflow_fernet,
            "execution_api_server_url": f"{url}/execution/",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": password_file(settings),
            # the default asks the resolver for a full name, which is a network call
            "hostname_callable": "socket.gethostname",
        },
        "database": {"sql_alchemy_conn": database_url(settings)},
        "api": {
            "host": settings.bind,
            "port": port,
            "base_url": url,
            "workers": 1,
            "secret_key": secrets.derived("api-secret"),
        },
        "api_auth": {"jwt_secret": secrets.airflow_jwt},
        # a task queued behind a long one must still be let in when its turn comes
        "execution_api": {"jwt_expiration_time": 6 * 3600},
        # tasks outlive a restart of the API server, which takes up to half a minute on a busy machine
        "workers": {
            "max_failed_heartbeats": 30,
            "execution_api_timeout": 30,
            "execution_api_retries": 12,
            "execution_api_retry_wait_max": 10,
        },
        "scheduler": {
            "scheduler_health_check_threshold": 60,
            # the default of a second, three times between two steps, was half a minute of every refresh
            "scheduler_idle_sleep_time": 0.3,
            "task_instance_heartbeat_timeout": 300,
        },
        "triggerer": {"triggerer_health_check_threshold": 60},
        "dag_processor": {
            "refresh_interval": 5,
            "parsing_processes": 1,
            "dag_file_processor_timeout": 150,
            "health_check_threshold": 60,
        },
        "logging": {
            "base_log_folder": settings.logs / "airflow",
            "dag_processor_child_process_log_directory": settings.logs / "airflow" / "dag_processor",
            "dag_processor_log_target": "stdout",
            # nothing listens there (see above); set so that a server started by hand keeps to our ports
            "worker_log_server_port": settings.port("airflow_worker_logs"),
            "trigger_log_server_port": settings.port("airflow_trigger_logs"),
            "colored_console_log": False,
        },
    }
    if settings.executor == "celery":
        for section, more in _celery(settings).items():
            options[section] = options.get(section, {}) | more
    flat = {f"AIRFLOW__{section}__{name}".upper(): value for section, t in options.items() for name, value in t.items()}
    # the triggerer, unlike the others, does not look into the DAG folder for dags/_partition_trigger.py; and the code is
    # this checkout's, whichever one the environment was made for
    paths = {"AIRFLOW_HOME": str(home(settings)), "PYTHONPATH": os.pathsep.join((str(REPO / "dags"), str(REPO)))}
    return {**paths, **{name: str(value) for name, value in flat.items()}}
