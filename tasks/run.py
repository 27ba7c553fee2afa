"""The one door to every step: fetch inputs, call the plain function, upload outputs, write the manifest last.

A step is complete if and only if its manifest exists. The manifest's key is a digest of everything the step may depend
on, so that a retry finds the manifest and does no work, and of two live copies of one step exactly one wins.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import secrets as random_secrets
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tasks.adapters.store import Store, open_store
from tasks.copies import in_use
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.manifest import Artifact, Manifest, Parameter, digest_of, partition_date
from tasks.domain.prune import mark_of
from tasks.settings import Settings

log = logging.getLogger("freshrank.run")
ROOT = Path(__file__).resolve().parent.parent
SEED = 20170701
MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Call:
    """What a step is told: its inputs as local directories, its own output directory, and where the world is."""

    settings: Settings
    store: Store
    partition: str
    inputs: Mapping[str, Path]
    manifests: Mapping[str, Manifest]
    out: Path
    work: Path  # survives a crash and a retry of the same key: checkpoints live here
    options: Mapping[str, Parameter]
    seed: int = SEED
    params: Mapping[str, Parameter] = field(
        default_factory=dict
    )  # what the run's key was made of: the world is not asked again

    @property
    def cache(self) -> Path:
        """Scratch shared by all runs on this machine; everything in it can be made again."""
        path = self.settings.data / "cache"
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a call before its inputs are fetched: enough to say what its result depends on."""

    settings: Settings
    store: Store
    partition: str
    options: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: which earlier steps it reads, what else its result depends on, and the function that does it."""

    name: str
    inputs: tuple[str, ...]
    execute: Callable[[Call], dict[str, Any]]
    # what the result depends on besides inputs, partition, options, code, lock and seed (the policy, the store's state)
    depends: Callable[[Asked], dict[str, Parameter]] = field(default=lambda asked: {})
    optional: tuple[str, ...] = ()


def run(
    step: Step,
    partition: str,
    inputs: Mapping[str, str],
    settings: Settings,
    *,
    options: Mapping[str, Parameter] | None = None,
    store: Store | None = None,
) -> str:
    """Run one step for one partition and return the URI of its manifest.

    Args:
        inputs: name of an earlier step -> URI of its manifest.
        options: what a person chose for this run, recorded with the rest.

    Raises:
        InputRejected: an input is missing or wrong; a retry would say the same.
        Unavailable: a service did not answer; a retry may work.
    """
    partition_date(partition)
    store = store or open_store(settings)
    options = dict(options or {})
    missing = [name for name in step.inputs if name not in inputs]
    unknown = [name for name in inputs if name not in step.inputs + step.optional]
    if missing or unknown:
        raise InputRejected(
            f"{step.name} needs the manifests of {', '.join(step.inputs) or 'nothing'}; "
            f"missing: {', '.join(missing) or 'none'}, not known: {', '.join(unknown) or 'none'}"
        )
    manifests = {name: read_manifest(store, uri) for name, uri in inputs.items()}
    params: dict[str, Parameter] = {**step.depends(Asked(settings, store, partition, options)), **options}
    code, lock = code_version(), lock_digest()
    identity: dict[str, Any] = {
        "step": step.name,
        "partition": partition,
        "inputs": {name: store.key(uri) for name, uri in inputs.items()},
        "params": params,
        "code": code,
        "lock": lock,
        "seed": SEED,
    }
    key = _key(identity)
    while (complete := store.exists(f"{key}.json")) and store.exists(mark_of(key)):
        identity["instead_of"] = key  # its outputs went with age: made anew, under a key of its own
        key = _key(identity)
    uri = store.uri(f"{key}.json")
    if complete:
        log.info("step=%s partition=%s outcome=already-complete manifest=%s", step.name, partition, uri)
        return uri

    from tasks.erasure.meanwhile import ended, name_erased  # polars

    _require_disk(settings.data)
    erased = ended(store)
    started, began = datetime.now(UTC), time.monotonic()
    with _workspace(settings.data / "work" / key.replace("/", "-")) as (work, out):
        call = Call(
            settings=settings,
            store=store,
            partition=partition,
            inputs={name: materialise(store, manifest, settings) for name, manifest in manifests.items()},
            manifests=manifests,
            out=out,
            work=work,
            options=options,
            params=params,
        )
        summary = step.execute(call)
        outputs = _upload(store, f"{key}/{random_secrets.token_hex(4)}", out, settings)
        if name_erased(store, out, erased):
            _take_back(store, outputs, settings)
            raise Unavailable(
                f"somebody was erased while {step.name} ran, and what it made names that user: it was deleted, and the step is "
                f"tried again. If no `freshrank erase` runs now, one was interrupted: run it again"
            )
        manifest = Manifest(
            step=step.name,
            partition=partition,
            inputs=dict(inputs),
            outputs=outputs,
            params=params,
            summary=summary,
            code_version=code,
            lock_digest=lock,
            seed=SEED,
            started_at=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 2),
        )
        try:
            store.put_new(f"{key}.json", manifest.model_dump_json(indent=1).encode())
        except Conflict:
            # a second live copy of this task (a restarted scheduler makes them) was first: its result is the result
            log.warning("step=%s partition=%s outcome=another-copy-was-first manifest=%s", step.name, partition, uri)
    log.info(
        "step=%s partition=%s outcome=complete seconds=%.1f manifest=%s", step.name, partition, manifest.seconds, uri
    )
    return uri


def _key(identity: Mapping[str, Any]) -> str:
    return f"runs/{identity['step']}/{identity['partition']}/{digest_of(identity)[:24]}"


def read_manifest(store: Store, uri: str) -> Manifest:
    try:
        return Manifest.model_validate_json(store.get(store.key(uri)))
    except ValueError as err:
        raise InputRejected(f"{uri} is not a step manifest: {err}") from err


def materialise(store: Store, manifest: Manifest, settings: Settings) -> Path:
    """A local directory that holds the outputs of `manifest`, each verified against its sha256. Read-only by contract."""
    identity = digest_of({name: artifact.sha256 for name, artifact in manifest.outputs.items()})[:24]
    directory = settings.data / "inputs" / f"{manifest.step}-{manifest.partition}-{identity}"
    if in_use(directory / ".complete", settings.data / "inputs"):
        return directory
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(_fetch, store, a, directory / n, settings) for n, a in manifest.outputs.items()]:
            done.result()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".complete").touch()
    return directory


def _fetch(store: Store, artifact: Artifact, target: Path, settings: Settings) -> None:
    """Link from the local cache if it is there and intact, else download; verified either way."""
    cached = _cached(settings, artifact.sha256)
    if not (in_use(cached, settings.data / "objects") and sha256_of(cached) == artifact.sha256):
        _download(store, store.key(artifact.uri), cached)
        found = sha256_of(cached)
        if found != artifact.sha256:
            cached.unlink()
            raise InputRejected(
                f"{artifact.uri} has sha256 {found[:12]}, its manifest says {artifact.sha256[:12]}: the object changed "
                f"after the manifest was written. Run the step that made it again"
            )
    _link(cached, target)


def _download(store: Store, key: str, path: Path) -> None:
    try:
        store.download(key, path)
    except InputRejected as err:
        if not store.exists(mark_of("/".join(key.split("/")[:4]))):
            raise
        raise InputRejected(
            f"{store.uri(key)} was pruned, because nothing recent named it; start the refresh of that day again"
        ) from err


def _upload(store: Store, prefix: str, out: Path, settings: Settings) -> dict[str, Artifact]:
    files = sorted(path for path in out.rglob("*") if path.is_file())

    def upload(path: Path) -> tuple[str, Artifact]:
        name, digest = path.relative_to(out).as_posix(), sha256_of(path)
        key = f"{prefix}/{name}"
        store.put_new(key, path)
        _link(path, _cached(settings, digest))
        return name, Artifact(uri=store.uri(key), sha256=digest, bytes=path.stat().st_size)

    with ThreadPoolExecutor(8) as pool:
        return dict(pool.map(upload, files))


def _take_back(store: Store, outputs: Mapping[str, Artifact], settings: Settings) -> None:
    for artifact in outputs.values():
        store.delete(store.key(artifact.uri))
        _cached(settings, artifact.sha256).unlink(missing_ok=True)


def _cached(settings: Settings, digest: str) -> Path:
    return settings.data / "objects" / digest[:2] / digest


def _link(source: Path, target: Path) -> None:
    """Hard-link through a draft name, so that two tasks may do it at once and readers see a whole file or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.{random_secrets.token_hex(3)}")
    try:
        os.link(source, draft)
    except OSError:  # another file system
        shutil.copyfile(source, draft)
    os.replace(draft, target)
    draft.unlink(missing_ok=True)  # rename is a no-op where both names are already one file


@contextmanager
def _workspace(base: Path) -> Any:
    """(work, out): `work` is kept when the step fails, so that a retry resumes; `out` is always fresh."""
    work, out = base / "work", base / f"out-{os.getpid()}-{random_secrets.token_hex(3)}"
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir()
    try:
        yield work, out
    except OSError as err:
        shutil.rmtree(out, ignore_errors=True)
        if err.errno == 28:
            raise Unavailable(
                f"the disk of {base.parent} is full; nothing was published. Free space and run the step again"
            ) from err
        raise
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    shutil.rmtree(out, ignore_errors=True)
    if not any(psutil.pid_exists(int(other.name.split("-")[1])) for other in base.glob("out-*")):
        shutil.rmtree(base, ignore_errors=True)  # not while a second live copy of this step still works in it


def _require_disk(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < MIN_FREE_BYTES:
        raise Unavailable(
            f"only {free / 1e9:.1f} GB are free under {directory.name}; a step needs 1 GB. Nothing was started: free space "
            f"and run it again"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_version() -> str:
    """A digest of the code that decides results: also right in an image without git, or with uncommitted edits."""
    digest = hashlib.sha256()
    for folder in ("tasks", "bentos", "expectations"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml") and path.is_file():
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def lock_digest() -> str:
    lock = ROOT / "requirements.lock"
    return sha256_of(lock)[:16] if lock.exists() else "unlocked"
