"""The table of the local stack: what runs, with which arguments, after what, and how to tell that it is well.

Pure: nothing is started, written or asked here. A service that settings place elsewhere (`airflow_url`,
`store_endpoint` and so on) has no row.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from infra.local import airflow_config, binaries, envoy_bootstrap
from infra.local.checks import AirflowCheck, AllOf, Check, HttpCheck, PortCheck, StoreCheck, ValkeyCheck, WorkerCheck
from tasks import telemetry_off
from tasks.domain.errors import InputRejected
from tasks.machine import MARKER
from tasks.settings import Settings

REPO = airflow_config.REPO
GRPC_OFFSET = 10_000
# Whoever loads a model through MLflow obeys this, so every process gets it. It covers pickle and nothing else: a model
# "from code" still runs its code. We load none: MLflow shows what the store and the rollout log hold.
NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no code runs in the server; also saves 8 processes, 1.3 GB


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One child process and the questions about it. `ready` None: a one-shot, ready when it exits with 0."""

    name: str
    argv: tuple[str, ...]
    ready: Check | None
    url: str = ""
    env: dict[str, str] = field(default_factory=dict, repr=False)  # holds secrets: never in a repr, never in a log
    cwd: Path = REPO
    depends_on: tuple[str, ...] = ()
    liveness: Check | None = None
    ports: dict[str, int] = field(default_factory=dict)  # setting name -> port
    packages: tuple[str, ...] = ()
    ready_timeout_s: float = 180.0
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0


def services(settings: Settings, *, everywhere: bool = False) -> dict[str, ServiceSpec]:
    """Every local service, in start order; with `everywhere` also those that settings place elsewhere.

    Raises InputRejected when an executable is missing, or when the settings are a cluster's.
    """
    if settings.executor == "kubernetes":
        raise InputRejected("executor kubernetes starts pods, and this machine has none; take local or celery here")
    rows = [
        *([_store(settings)] if everywhere or settings.local_store else []),
        *([_valkey(settings)] if everywhere or settings.valkey_url is None else []),
        *([_envoy(settings)] if everywhere or settings.router_url is None else []),
        *([_controller(settings)] if everywhere or settings.controller_url is None else []),
        *([_traffic()] if everywhere or settings.source != "none" else []),
        *(_airflow(settings) if everywhere or settings.airflow_url is None else []),
        *(_workers(settings) if settings.executor == "celery" else []),
        *([_mlflow(settings)] if everywhere or settings.mlflow_url is None else []),
        _registry_mirror(),
        *([_watch(settings)] if everywhere or settings.controller_url is None else []),
    ]
    return {row.name: row for row in rows}


def chosen(table: dict[str, ServiceSpec], only: tuple[str, ...]) -> dict[str, ServiceSpec]:
    """The named services and what they depend on; all of them for an empty choice."""
    unknown = [name for name in only if name not in table]
    if unknown:
        raise InputRejected(f"no service is called {', '.join(unknown)}; services: {', '.join(table)}")
    wanted, queue = set(), list(only or table)
    while queue:
        name = queue.pop()
        if name in table and name not in wanted:
            wanted.add(name)
            queue += table[name].depends_on
    return {name: spec for name, spec in table.items() if name in wanted}


def base_environment(settings: Settings, inherited: dict[str, str]) -> dict[str, str]:
    """What every child gets: the caller's environment without what could redirect or slow down a service, and our own on top."""
    # compiling Airflow again at every start would take a third of it
    left_out = ("AIRFLOW", "MLFLOW_", "_MLFLOW", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in inherited.items() if not name.startswith(left_out)}
    return kept | {
        "PATH": os.pathsep.join([str(binaries.VENV_BIN), inherited.get("PATH", os.defpath)]),
        "FRESHRANK_HOME": str(settings.home),
        "FRESHRANK_PORT_BASE": str(settings.port_base),
        MARKER: str(settings.home),
        "SPT_NOENV": "1",  # process titles must not overwrite the environment that `down` looks into
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # see tasks/__main__.py
        "PYTHONUNBUFFERED": "1",
        **NO_PICKLE,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **telemetry_off.environment(on_aws=not settings.local_store),
    }


def _store(settings: Settings) -> ServiceSpec:
    ports = {
        name: settings.port(name) for name in ("store", "store_master", "store_volume", "store_filer", "store_admin")
    }
    return ServiceSpec(
        name="store",
        argv=(
            str(binaries.weed(settings)),
            "mini",  # not `server`: after a SIGKILL that one needs 20 s where mini needs one
            f"-dir={settings.data / 'store'}",
            "-ip=127.0.0.1",
            f"-ip.bind={settings.bind}",
            f"-master.port={ports['store_master']}",
            f"-volume.port={ports['store_volume']}",
            f"-filer.port={ports['store_filer']}",
            f"-s3.port={ports['store']}",
            f"-admin.port={ports['store_admin']}",  # opens even without its pages
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-filer.localSocket=filer.sock",  # relative: a deep home would break the length limit of socket paths
            "-s3.localSocket=s3.sock",
        ),
        env={
            "AWS_ACCESS_KEY_ID": settings.secrets.store_access_key,
            "AWS_SECRET_ACCESS_KEY": settings.secrets.store_secret_key,
        },
        cwd=settings.data / "store",
        ready=StoreCheck(),
        liveness=HttpCheck(f"{settings.url('store')}/healthz"),
        url=settings.url("store"),
        ports=ports | {f"{name} (gRPC)": port + GRPC_OFFSET for name, port in ports.items()},
        packages=("boto3",),
        ready_timeout_s=60,
        # it stops within 3 s or, now and then, waits for its own maintenance worker forever; no request is open then
        grace_s=6,
    )


def _valkey(settings: Settings) -> ServiceSpec:
    port = settings.port("valkey")
    data = settings.data / "valkey"
    return ServiceSpec(
        name="valkey",
        argv=(
            str(binaries.valkey(settings)),
            *("--bind", settings.bind, "--port", str(port), "--dir", str(data)),
            # without a password it would refuse everybody but this machine; in a container the network is the guard
            *(() if settings.bind == "127.0.0.1" else ("--protected-mode", "no")),
            *("--appendonly", "yes", "--save", ""),
            *("--set-proc-title", "no"),  # a title overwrites the environment, and with it the marker
            *("--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"),
        ),
        cwd=data,
        ready=ValkeyCheck(port),
        liveness=ValkeyCheck(port),
        url=settings.url("valkey"),
        ports={"valkey": port},
        ready_timeout_s=60,
    )


def _envoy(settings: Settings) -> ServiceSpec:
    admin = f"http://127.0.0.1:{settings.port('envoy_admin')}/ready"
    return ServiceSpec(
        name="envoy",
        argv=(
            str(binaries.envoy(settings)),
            *("--config-path", str(envoy_bootstrap.path(settings))),
            # hot restart would tie Envoy's life to the thread that started it, and clash with a second stack
            "--disable-hot-restart",
            *("--concurrency", "2", "--log-level", "warning"),
        ),
        # live means that it read its listeners; a listener that could not bind it only reports
        ready=AllOf((HttpCheck(admin, contains="LIVE"), PortCheck(settings.port("router")))),
        liveness=HttpCheck(admin, contains="LIVE"),
        url=settings.url("router"),
        ports={"router": settings.port("router"), "envoy_admin": settings.port("envoy_admin")},
        ready_timeout_s=60,
    )


def _controller(settings: Settings) -> ServiceSpec:
    health = HttpCheck(f"{settings.url('controller')}/healthz")
    return ServiceSpec(
        name="controller",
        argv=(sys.executable, "-m", "tasks.controller"),
        # not on the store: a rollback must work without it
        depends_on=("envoy",),
        ready=health,
        liveness=health,
        url=settings.url("controller"),
        ports={"controller": settings.port("controller")},
        packages=("uvicorn", "starlette"),
    )


def _traffic() -> ServiceSpec:
    """Sends the replayed day's requests while a rollout is judged: a demo has no users, and silence proves nothing."""
    return ServiceSpec(
        name="traffic",
        argv=(sys.executable, "-m", "tasks.replay"),
        depends_on=("controller",),
        ready=AllOf(()),  # no port to ask: well as long as it lives
        packages=("httpx",),
    )


def _registry_mirror() -> ServiceSpec:
    """Waits for what is down, so it depends on nothing."""
    return ServiceSpec(
        name="registry-mirror",
        argv=(sys.executable, "-m", "tasks.registry_mirror"),
        ready=AllOf(()),
        packages=("httpx",),
    )


def _watch(settings: Settings) -> ServiceSpec:
    """Looks at everything, so it depends on nothing. Where the controller is elsewhere, so is its Prometheus."""
    health = HttpCheck(f"http://127.0.0.1:{settings.port('watch')}/healthz")
    return ServiceSpec(
        name="watch",
        argv=(sys.executable, "-m", "infra.local.watch"),
        ready=health,
        liveness=health,
        ports={"watch": settings.port("watch")},
        packages=("uvicorn", "starlette", "httpx"),
    )


def _mlflow(settings: Settings) -> ServiceSpec:
    data = settings.data / "mlflow"
    health = HttpCheck(f"{settings.url('mlflow')}/health")
    env = {**NO_JOBS, **NO_PICKLE}
    if settings.local_store:
        env |= {
            "MLFLOW_S3_ENDPOINT_URL": settings.url("store"),
            "AWS_ACCESS_KEY_ID": settings.secrets.store_access_key,
            "AWS_SECRET_ACCESS_KEY": settings.secrets.store_secret_key,
        }
    elif settings.store_endpoint not in (None, "aws"):
        env["MLFLOW_S3_ENDPOINT_URL"] = str(settings.store_endpoint)
    if settings.store_sse:
        extra = {"ServerSideEncryption": settings.store_sse}
        env["MLFLOW_S3_UPLOAD_EXTRA_ARGS"] = json.dumps(
            extra | ({"SSEKMSKeyId": settings.store_kms_key} if settings.store_kms_key else {})
        )
    env["AWS_DEFAULT_REGION"] = settings.store_region
    return ServiceSpec(
        name="mlflow",
        argv=(
            str(binaries.console_script("mlflow", "mlflow")),
            "server",
            *("--host", settings.bind, "--port", str(settings.port("mlflow")), "--workers", "1"),
            *("--backend-store-uri", settings.mlflow_database or f"sqlite:///{data / 'mlflow.db'}"),
            *("--artifacts-destination", f"s3://{settings.store_bucket}/mlflow"),
        ),
        env=env,
        cwd=data,
        depends_on=("store",) if settings.local_store else (),
        ready=health,
        liveness=health,
        url=settings.url("mlflow"),
        ports={"mlflow": settings.port("mlflow")},
        packages=("mlflow",),
    )


def _airflow(settings: Settings) -> list[ServiceSpec]:
    airflow = str(binaries.console_script("airflow", "apache-airflow"))
    env = airflow_config.environment(settings)
    health, port = airflow_config.health_url(settings), settings.port("airflow")

    def component(command: str, check: Check, *arguments: str, ports: dict[str, int] | None = None) -> ServiceSpec:
        return ServiceSpec(
            name=f"airflow-{command}",
            argv=(airflow, command, *arguments),
            env=env,
            depends_on=("airflow-database",),
            ready=check,
            liveness=check,
            url=settings.url("airflow") if ports else "",
            ports=ports or {},
            packages=("airflow",),
            grace_s=20,
        )

    database = ServiceSpec(
        name="airflow-database",
        argv=(sys.executable, "-m", "infra.local.airflow_database"),
        env=env,
        depends_on=(
            *(("postgres",) if _own_postgres(settings) else ()),
            *(("broker",) if _own_broker(settings) else ()),
        ),
        ready=None,
        packages=("airflow",),
    )
    serve = ("--host", settings.bind, "--port", str(port), "--workers", "1")
    return [
        *([_postgres(settings)] if _own_postgres(settings) else []),
        *([_broker(settings)] if _own_broker(settings) else []),
        database,
        component("api-server", HttpCheck(health), *serve, ports={"airflow": port}),
        component("scheduler", AirflowCheck(health, "scheduler"), "--skip-serve-logs"),
        component("dag-processor", AirflowCheck(health, "dag_processor")),
        component("triggerer", AirflowCheck(health, "triggerer"), "--skip-serve-logs"),
    ]


def _own_postgres(settings: Settings) -> bool:
    return settings.executor == "celery" and settings.airflow_database is None


def _own_broker(settings: Settings) -> bool:
    return settings.executor == "celery" and settings.broker_url is None


def _postgres(settings: Settings) -> ServiceSpec:
    binaries.postgres("postgres")
    port = settings.port("postgres")
    return ServiceSpec(
        name="postgres",
        argv=(sys.executable, "-m", "infra.local.postgres"),
        ready=PortCheck(port),
        liveness=PortCheck(port),
        ports={"postgres": port},
        packages=("psycopg2", "asyncpg"),
        stop_signal=signal.SIGINT,  # end sessions and stop; on SIGTERM it waits for its clients
    )


def _broker(settings: Settings) -> ServiceSpec:
    """A server of its own: the cache beside it may throw away what it holds, a queue may not."""
    port, data = settings.port("broker"), settings.data / "broker"
    return ServiceSpec(
        name="broker",
        argv=(
            str(binaries.valkey(settings)),
            str(data / "broker.conf"),
            *("--bind", settings.bind, "--port", str(port), "--dir", str(data)),
            *("--appendonly", "yes", "--save", "", "--set-proc-title", "no"),
            *("--maxmemory", "64mb", "--maxmemory-policy", "noeviction"),
        ),
        cwd=data,
        ready=ValkeyCheck(port),
        liveness=ValkeyCheck(port),
        ports={"broker": port},
        ready_timeout_s=60,
    )


def _workers(settings: Settings) -> list[ServiceSpec]:
    """One a queue. Two at once on the GPU's: what computes there is one (its pool), and the benchmark has a pool beside."""
    env = airflow_config.environment(settings)
    slots = {"default": airflow_config.PARALLELISM, settings.gpu_queue: 2}

    def worker(queue: str, at_once: int) -> ServiceSpec:
        return ServiceSpec(
            name=f"worker-{queue}",
            argv=(sys.executable, "-m", "infra.local.worker", queue, str(at_once)),
            env=env,
            depends_on=("airflow-api-server",),
            ready=WorkerCheck(queue),
            liveness=WorkerCheck(queue),
            packages=("celery", "redis", "airflow.providers.celery"),
            grace_s=5,  # it would wait for its tasks, and a training can take hours; each goes on from its checkpoint
        )

    return [worker(queue, at_once) for queue, at_once in slots.items()]
