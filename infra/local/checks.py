"""Questions the supervisor asks a service: data here, asked by `ask`. An answer is None (healthy) or one sentence."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.settings import Settings

TIMEOUT_S = 10.0
# A scheduler on a busy two-core machine is late now and then; this long it is only when it hangs.
STALE_HEARTBEAT_S = 300.0


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """GET answers 200, with `contains` in its body."""

    url: str
    contains: str = ""


@dataclass(frozen=True, slots=True)
class PortCheck:
    """Something accepts connections on a loopback port."""

    port: int


@dataclass(frozen=True, slots=True)
class ValkeyCheck:
    """PING answers PONG."""

    port: int


@dataclass(frozen=True, slots=True)
class WorkerCheck:
    """A Celery worker takes tasks from this queue."""

    queue: str


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """An object can be written and read back: the health page turns green before the volumes answer."""


@dataclass(frozen=True, slots=True)
class AirflowCheck:
    """A component's heartbeat is fresh and younger than the process: its predecessor's last one proves nothing."""

    url: str
    component: str  # scheduler | triggerer | dag_processor


@dataclass(frozen=True, slots=True)
class AllOf:
    checks: tuple[Check, ...]


Check = HttpCheck | PortCheck | ValkeyCheck | WorkerCheck | StoreCheck | AirflowCheck | AllOf


def ask(check: Check, settings: Settings, started: datetime, now: datetime) -> str | None:
    """Ask one question. Blocks up to `TIMEOUT_S`: call it in a thread."""
    try:
        match check:
            case AllOf(checks):
                return next((problem for c in checks if (problem := ask(c, settings, started, now))), None)
            case HttpCheck(url, contains):
                body = _get(url)
                return None if contains in body else f"{url} answers without {contains!r}"
            case PortCheck(port):
                socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S).close()
                return None
            case ValkeyCheck(port):
                return _ping(port)
            case WorkerCheck(queue):
                return _serves(settings, queue)
            case StoreCheck():
                return _round_trip(settings)
            case AirflowCheck(url, component):
                return heartbeat_problem(json.loads(_get(url)), component, started, now)
    except urllib.error.HTTPError as err:
        return f"{err.url} answers {err.code}"
    except Exception as err:  # whatever goes wrong while asking is an answer; it must never end the one who asks
        return f"no answer yet ({type(err).__name__}: {err})"


Health = dict[str, dict[str, str | None]]


def heartbeat_problem(health: Health, component: str, started: datetime, now: datetime) -> str | None:
    """Judge one component of Airflow's health page."""
    row = health.get(component) or {}
    text = row.get(f"latest_{component}_heartbeat")
    if not text:
        return f"the {component} has not sent a heartbeat"
    beat = datetime.fromisoformat(text)
    if beat < started:
        return f"the {component} has not sent a heartbeat since it started"
    age = (now - beat).total_seconds()
    return None if age < STALE_HEARTBEAT_S else f"the {component} sent its last heartbeat {age:.0f} s ago"


# Proxies are for the outside world; a proxy variable in the shell must not catch loopback traffic.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _get(url: str) -> str:
    with _direct.open(url, timeout=TIMEOUT_S) as answer:
        body: bytes = answer.read(1 << 20)
    return body.decode(errors="replace")


def _ping(port: int) -> str | None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(64)
    # one that asks for a password is there
    return None if answer.startswith((b"+PONG", b"-NOAUTH")) else f"valkey answers {answer!r}"


def _serves(settings: Settings, queue: str) -> str | None:
    from tasks.adapters.broker import Broker

    return None if Broker(settings.broker).workers().get(queue) else f"no worker serves queue {queue} yet"


def _round_trip(settings: Settings) -> str | None:
    from tasks.adapters.store import S3Store

    # one attempt: this check is repeated anyway, and boto's own retries would only hide how long it takes
    store = S3Store(settings.model_copy(update={"store_attempts": 1}))
    probe, sent = "health/supervisor", datetime.now(UTC).isoformat().encode()
    store.create_bucket()
    store.replace(probe, sent)
    return None if store.get(probe) == sent else f"{store.uri(probe)} came back changed"
