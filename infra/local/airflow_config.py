"""Airflow's configuration as environment variables, so that no generated airflow.cfg decides anything.

Airflow's log servers bind every interface and have no setting for it (`serve_logs` passes an empty host), therefore the
components run with --skip-serve-logs: with LocalExecutor the API server reads the same log files from disk.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

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
    # timeout: how long a writer waits for another before "database is locked"
    return settings.airflow_database or f"sqlite:///{home(settings) / 'airflow.db'}?timeout=60"


def health_url(settings: Settings) -> str:
    return f"{settings.url('airflow')}/api/v2/monitor/health"


def pools(settings: Settings) -> dict[str, int]:
    """Pools beside `default_pool`, with their slots."""
    table = {BENCHMARK_POOL: 1}
    if settings.gpu_pool not in ("default_pool", BENCHMARK_POOL):
        table[settings.gpu_pool] = 1
    return table


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
            "secret_key": hashlib.sha256(f"api-secret:{secrets.airflow_jwt}".encode()).hexdigest(),
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
    flat = {f"AIRFLOW__{section}__{name}".upper(): value for section, t in options.items() for name, value in t.items()}
    # the triggerer, unlike the others, does not look into the DAG folder for dags/_partition_trigger.py
    paths = {"AIRFLOW_HOME": str(home(settings)), "PYTHONPATH": str(REPO / "dags")}
    return {**paths, **{name: str(value) for name, value in flat.items()}}
