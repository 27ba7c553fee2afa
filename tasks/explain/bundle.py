"""Everything that one decision rests on as one file, and the decision made again from it: no store, no MLflow, no settings.

A bundle is an uncompressed zip with fixed times and sorted names, so one run has one spelling. It holds the slates' metrics
and the timed pairs, so the bootstrap itself is repeated and not only the rules. Users are row numbers; no ids, no paths.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tasks.adapters.store import Store
from tasks.decisions import explanation
from tasks.domain.champion import CHAMPION_FILE, read_champion
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.domain.gate import Decision, Evidence, GatePolicy, choose, decide
from tasks.domain.manifest import Manifest, Record, canonical_json, digest_of
from tasks.explain.story import POLICY
from tasks.run import code_version, lock_digest, read_manifest

FORMAT = 1
INDEX, RECORD = "bundle.json", "record.json"
ENVIRONMENT = "environment.json"
CONFIG = "model/config.json"  # what kind of model it is
# what the gate reads and writes, by the step that made it
NEEDED = {
    "gate": ("decision.json", "evidence.json", POLICY, ENVIRONMENT),
    "evaluate": ("evaluation.json", "slates.parquet"),
}
ALSO = {
    "benchmark": ("benchmark.json",),
    "resolve_champion": (CHAMPION_FILE,),
    "compress": ("front.json", CONFIG),
}
COMPARE = ("evaluate", "benchmark")
LARGEST = 1 << 30
EPOCH = (1980, 1, 1, 0, 0, 0)
TOLERANCE = 1e-9  # of evidence on a processor whose sums are rounded in another order
LIBRARIES = ("numpy", "pyarrow", "pydantic")


class Index(Record):
    """What a bundle is of, by keys of the store, and the sha256 of every other file in it."""

    format: int
    run: str
    inputs: dict[str, str]
    partition: str
    asked: str
    seed: int
    code: str
    lock: str
    with_release: dict[str, str]
    files: dict[str, str]


class Bundle:
    """The verified contents of one bundle."""

    def __init__(self, index: Index, files: Mapping[str, bytes], digest: str) -> None:
        self.index, self.files, self.digest = index, files, digest

    @property
    def record(self) -> dict[str, Any]:
        """What `freshrank explain` said of the run when the bundle was written."""
        told: dict[str, Any] = json.loads(self.files[RECORD])
        return told

    def manifest(self, step: str) -> Manifest:
        return Manifest.model_validate_json(self.files[f"manifests/{step}.json"])


def environment() -> dict[str, str]:
    """What may round a number differently: recorded by the gate, compared by a replay."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in LIBRARIES},
    }


def bundle(store: Store, uri: str) -> bytes:
    """The bundle of one gate, by its manifest URI. The same run gives the same bytes.

    Raises:
        InputRejected: it is not a gate's manifest, or something that the gate read or wrote is gone.
    """
    gate = read_manifest(store, uri)
    if gate.step != "gate":
        raise InputRejected(f"{uri} is of {gate.step}: nothing was decided there, so there is nothing to decide again")
    files: dict[str, bytes] = {}
    for step, at in {"gate": uri, **{step: at for step, at in gate.inputs.items() if step in (*NEEDED, *ALSO)}}.items():
        manifest = read_manifest(store, at)
        files[f"manifests/{step}.json"] = store.get(store.key(at))
        for name in NEEDED.get(step, ALSO.get(step, ())):
            if name == CONFIG and name not in manifest.outputs:
                continue  # no variant could serve: there is no model
            if name not in manifest.outputs:
                raise InputRejected(
                    f"{step} of {gate.partition} kept no {name}: it ran before bundles were; run the gate again for a bundle"
                )
            files[f"{step}/{name}"] = store.get(store.key(manifest.outputs[name].uri))
    pinned = gate.inputs.get("resolve_champion")
    if pinned and "compress" in gate.inputs:
        release = read_manifest(store, pinned).summary["release"]
        files[f"champion/release/{CONFIG}"] = store.get(f"releases/{release}/release/{CONFIG}")
    files[RECORD] = canonical_json(explanation(store, uri))
    index = Index(
        format=FORMAT,
        run=store.key(uri),
        inputs={name: store.key(at) for name, at in gate.inputs.items()},
        partition=gate.partition,
        asked=str(gate.params.get("candidates") or "both"),
        seed=gate.seed,
        code=gate.code_version,
        lock=gate.lock_digest,
        with_release=_with_release(store, gate),
        files={name: _sha256(content) for name, content in files.items()},
    )
    return _zipped(files | {INDEX: canonical_json(index.model_dump(mode="json"))})


def _with_release(store: Store, gate: Manifest) -> dict[str, str]:
    """Step -> the release that it took for the champion."""
    pinned = {step: read_manifest(store, gate.inputs[step]).inputs for step in COMPARE if step in gate.inputs}
    return {
        step: str(read_manifest(store, inputs["resolve_champion"]).summary["release"])
        for step, inputs in pinned.items()
        if "resolve_champion" in inputs
    }


def read_bundle(path: Path) -> Bundle:
    """Open a bundle and check every byte of it.

    Raises:
        InputRejected: it is no bundle, or something in it was changed: the file and both digests are named.
    """
    if path.stat().st_size > LARGEST:
        raise InputRejected(f"{path.name} is larger than {LARGEST >> 20} MiB; that is no bundle")
    content = path.read_bytes()
    files = _unzipped(content, path.name)
    try:
        index = Index.model_validate_json(files.pop(INDEX))
    except (KeyError, ValidationError) as err:
        raise InputRejected(f"{path.name} has no readable {INDEX}, so it is no bundle of this version: {err}") from err
    if index.format != FORMAT:
        raise InputRejected(
            f"{path.name} has format {index.format}, this version reads {FORMAT}; use code {index.code}"
        )
    if set(files) != set(index.files):
        odd = ", ".join(sorted(set(files) ^ set(index.files)))
        raise InputRejected(f"{path.name} does not hold the files that its {INDEX} names: {odd}")
    for name, wanted in index.files.items():
        _require_digest(path.name, name, files[name], wanted, f"its {INDEX}")
    made = Bundle(index, files, _sha256(content))
    _require_manifests(path.name, made)
    if _zipped({**files, INDEX: canonical_json(index.model_dump(mode="json"))}) != content:
        raise InputRejected(
            f"{path.name} has sha256 {made.digest[:12]}, which its contents do not make: it was changed"
        )
    return made


def replay(given: Bundle) -> dict[str, Any]:
    """Decide again: first from the recorded evidence, then from the slates and the pairs themselves.

    Raises:
        FreshrankError: the decision or the evidence is another one; the first difference is named.
    """
    recorded = Decision.model_validate_json(given.files["gate/decision.json"])
    here, code = json.loads(given.files[f"gate/{ENVIRONMENT}"]), code_version()
    told = {
        "bundle": given.digest,
        "run": given.index.run,
        "partition": given.index.partition,
        "shipped": recorded.shipped,
        "code": {"recorded": given.index.code, "here": code, "same": given.index.code == code},
        "lock": {"recorded": given.index.lock, "here": lock_digest(), "same": given.index.lock == lock_digest()},
        "environment": {"recorded": here, "here": environment(), "same": here == environment()},
    }
    about = "" if given.index.code == code else f" The code differs: recorded {given.index.code}, here {code}."
    try:
        again, evidence = _decided(given), _gathered(given)
    except (InputRejected, ValidationError, TypeError, KeyError) as err:
        raise FreshrankError(f"the bundle cannot be decided with this code: {err}.{about}") from err
    if difference := _first_difference(recorded.model_dump(mode="json"), again.model_dump(mode="json"), 0.0):
        raise FreshrankError(f"the replay decides otherwise: {difference}.{about}")
    if difference := _first_difference(*_timed(given), TOLERANCE):
        raise FreshrankError(f"the timed pairs of the bundle give other ratios: {difference}.{about}")
    kept = json.loads(given.files["gate/evidence.json"])
    if difference := _first_difference(kept, evidence, TOLERANCE):
        raise FreshrankError(f"the slates and pairs of the bundle give other evidence: {difference}.{about}")
    same = canonical_json(kept) == canonical_json(evidence)
    told["decision"] = _sha256(canonical_json(again.model_dump(mode="json")))
    told["evidence"] = "identical" if same else f"equal within {TOLERANCE:g}"
    told["sentence"] = (
        f"the same verdict, bit for bit: ships {recorded.shipped}. The evidence was made again from the slates: "
        f"{told['evidence']}.{about}"
    )
    return told


def _decided(given: Bundle) -> Decision:
    policy = GatePolicy.model_validate_json(given.files[f"gate/{POLICY}"])
    evidence = TypeAdapter(tuple[Evidence, ...]).validate_json(given.files["gate/evidence.json"])
    return choose(tuple(decide(one, policy) for one in evidence), policy, given.index.asked)


def _gathered(given: Bundle) -> Any:
    """evidence.json as the gate makes it from the bundle's own slates and pairs."""
    from tasks.gate import gate
    from tasks.gate_evidence import Compared

    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder), Path(folder) / "again"
        out.mkdir()
        for name, content in given.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        gate(
            evaluation=root / "evaluate",
            measured=root / "benchmark" if (root / "benchmark").is_dir() else None,
            champion=read_champion(root / "resolve_champion") if (root / "resolve_champion").is_dir() else None,
            policy=GatePolicy.model_validate_json(given.files[f"gate/{POLICY}"]),
            out=out,
            seed=given.index.seed,
            asked=given.index.asked,
            compared=Compared(
                candidate=root / "compress" if (root / "compress").is_dir() else None,
                champion=root / "champion" if (root / "champion").is_dir() else None,
                with_release=given.index.with_release,
            ),
        )
        return json.loads((out / "evidence.json").read_bytes())


def _timed(given: Bundle) -> tuple[Any, Any]:
    """(ratios that the benchmark wrote down, the same from its pairs); nothing where nothing was timed."""
    from tasks.benchmark import compare

    if "benchmark/benchmark.json" not in given.files:
        return None, None
    told = json.loads(given.files["benchmark/benchmark.json"])
    wall, cpu = ({name: np.array(ms) for name, ms in told[key].items()} for key in ("wall_ms", "cpu_ms"))
    again = compare(wall, cpu, given.manifest("benchmark").seed, told["limits"])
    return told["candidates"], {name: [row.model_dump() for row in rows] for name, rows in again.items()}


def _require_manifests(bundle_name: str, given: Bundle) -> None:
    """Every file is the one that its step's manifest names, and the gate's key is a digest of what it depended on."""
    for name, content in given.files.items():
        step, _, file = name.partition("/")
        if step in (*NEEDED, *ALSO):
            _require_digest(
                bundle_name, name, content, given.manifest(step).outputs[file].sha256, f"the manifest of {step}"
            )
    gate = given.manifest("gate")
    identity = {
        "step": "gate",
        "partition": gate.partition,
        "inputs": given.index.inputs,
        "params": gate.params,
        "code": gate.code_version,
        "lock": gate.lock_digest,
        "seed": gate.seed,
    }
    key = f"runs/gate/{gate.partition}/{digest_of(identity)[:24]}.json"
    told = (given.index.run, given.index.code, given.index.lock, given.index.seed)
    if told != (key, gate.code_version, gate.lock_digest, gate.seed):
        raise InputRejected(f"{bundle_name}: manifests/gate.json is of {key}, {INDEX} speaks of {given.index.run}")
    digest = str(gate.params.get("policy_digest"))
    if not _sha256(given.files[f"gate/{POLICY}"]).startswith(digest):
        raise InputRejected(f"{bundle_name}: gate/{POLICY} is not the policy {digest} that the gate was told")


def _require_digest(bundle_name: str, name: str, content: bytes, wanted: str, who: str) -> None:
    found = _sha256(content)
    if found != wanted:
        raise InputRejected(
            f"{bundle_name}: {name} has sha256 {found[:12]}, {who} says {wanted[:12]}: it was changed. Ask for the bundle "
            f"again, or write it anew with `freshrank bundle`"
        )


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # not of the system that writes it
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def _unzipped(content: bytes, bundle_name: str) -> dict[str, bytes]:
    """Every member, read into memory: nothing is unpacked under a name of the archive's choosing."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content) for entry in entries):
                raise InputRejected(f"{bundle_name} holds a compressed file; a bundle is not compressed")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as err:
        raise InputRejected(f"{bundle_name} cannot be read as a bundle: {err}") from err


def _first_difference(recorded: Any, again: Any, tolerance: float, at: str = "") -> str:
    """Where two JSON values part, in words; numbers may differ by `tolerance`, relative. Empty where they are equal."""
    if isinstance(recorded, dict) and isinstance(again, dict) and set(recorded) == set(again):
        parts = ((recorded[key], again[key], f"{at}.{key}") for key in recorded)
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        parts = ((one, other, f"{at}[{n}]") for n, (one, other) in enumerate(zip(recorded, again, strict=True)))
    elif isinstance(recorded, float) and isinstance(again, float):
        near = abs(recorded - again) <= tolerance * max(1.0, abs(recorded))
        return "" if near else f"{at.lstrip('.')} was {recorded!r} and is {again!r}"
    else:
        return "" if recorded == again else f"{at.lstrip('.')} was {recorded!r} and is {again!r}"
    return next(
        (found for one, other, where in parts if (found := _first_difference(one, other, tolerance, where))), ""
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
