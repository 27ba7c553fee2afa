"""What may ship -> one immutable release, built as a bento and seen answering its golden requests over HTTP.

The release is the bento's `src/`: the code that serves travels with the model. No clock and no path goes into a
file, so equal inputs make equal digests. The view (user histories) lies beside it and is named by it.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tasks.adapters.bento import LOCK, NAME, build_bento, locked_requirements
from tasks.adapters.signing import SigningKeys, sign
from tasks.bill_of_materials import SBOM_JSON, bill_of_materials
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.evidence import Check
from tasks.domain.manifest import canonical_json, digest_of
from tasks.domain.runtime_choice import Trial
from tasks.lineage import PARTITIONS_JSON
from tasks.machine import die_with_parent, processor

log = logging.getLogger("freshrank.package")
ROOT = Path(__file__).resolve().parent.parent
CODE = (
    "bentos/__init__.py", "bentos/ranker", "tasks/__init__.py", "tasks/atomic.py", "tasks/serving", "tasks/ranker",
    "tasks/ranker/search", "tasks/domain",
)  # fmt: skip
READY_WITHIN_S = 120
GOLDEN_QUERIES = ("whole milk", "fresh fruit")
NOT_AN_ITEM = "not-an-item"


def package(
    choice: str,
    candidate: Path | None,
    champion: Path | None,
    dataset: Path,
    partition: str,
    key_id: str,
    bento_home: Path,
    out: Path,
    *,
    keys: SigningKeys,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Lay out, seal, sign, build and try one release; `out` then holds `src/` (the release), its signature and `view/`.

    Args:
        choice: weights (the candidate's), state (the champion's weights with the dataset's state) or bootstrap.
        candidate: directory with model/ and text/, as compress leaves it. Needed unless `choice` is state.
        champion: src directory of the release that serves. Needed for `state`.
        dataset: directory with items/, view/ (the state of the coming morning), partitions.json and dataset.json.
        provenance: what the release was decided by: code, lock, seed, recipe, policy, verdict. No clock, no path.

    Raises:
        InputRejected: an input is missing, or the built service does not answer as the engine did.
    """
    src, view = out / "src", out / "view"
    shutil.rmtree(out, ignore_errors=True)
    release = src / "release"
    model, text, train_end = _weights(choice, candidate, champion, dataset)
    _copy_code(src)
    for source, name in ((model, "model"), (text, "text"), (dataset / "items", "items")):
        _copy_tree(source, release / name)
    if (model.parent / "search").is_dir():  # a recipe that trains no search has none
        _copy_tree(model.parent / "search", release / "search")
    _copy_tree(dataset / "view", view)
    view_digest, users, state_through = _seal_view(view, release)
    _record_golden(release)
    runtime, trials = _runtime(choice, champion, release)
    _write_provenance(release, dataset, provenance)
    (release / SBOM_JSON).write_bytes(bill_of_materials(release, locked_requirements(LOCK.read_text()), partition))
    facts = {
        "kind": choice,
        "partition": partition,
        "created": partition,
        "view": view_digest,
        "train_end": train_end,
        "state_through": state_through,
        "weights_digest": weights_digest(release / "model"),
        "key_id": key_id,
        "notes": {"runtime": runtime},
    }
    from tasks.serving.release import seal
    from tasks.serving.signature import signature_of

    digest = seal(src, facts)
    signed_by = sign(src, keys)
    built = build_bento(src, digest, bento_home)
    shutil.copyfile(signature_of(src), signature_of(built))
    checked, skew = _try_service(built, view, digest, keys.public) if _can_try(release / "model") else (0, None)
    files = [path for path in src.rglob("*") if path.is_file()]
    return {
        "release": digest,
        "signed_by": signed_by,
        "view": view_digest,
        "kind": choice,
        "partition": partition,
        "train_end": train_end,
        "state_through": state_through,
        "weights_digest": facts["weights_digest"],
        "runtime": runtime,
        "runtimes": [trial.model_dump() for trial in trials],
        "host": processor(),
        "bento_tag": f"{NAME}:{digest[:12]}",
        "golden_requests": checked,
        "skew": skew.model_dump(mode="json") if skew else None,
        "users": users,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def weights_digest(model: Path) -> str:
    """Names the weights alone: a release with new state and old weights has its champion's weights digest."""
    from tasks.serving.release import file_digests

    return digest_of(file_digests(model))


def _weights(choice: str, candidate: Path | None, champion: Path | None, dataset: Path) -> tuple[Path, Path, str]:
    if choice == "state":
        if champion is None:
            raise InputRejected("a state release takes its weights from the champion, and none was given")
        parent = champion / "release"
        train_end = str(json.loads((parent / "release.json").read_bytes())["train_end"])
        return parent / "model", parent / "text", train_end
    if choice not in ("weights", "bootstrap"):
        raise InputRejected(f"{choice!r} cannot be packaged; a release is of kind weights, state or bootstrap")
    if candidate is None:
        raise InputRejected(f"a {choice} release needs the candidate that compress made, and none was given")
    trained_on = json.loads((dataset / "dataset.json").read_bytes())
    return candidate / "model", candidate / "text", str(trained_on["train_end"])


def _copy_code(src: Path) -> None:
    for name in CODE:
        source = ROOT / name
        files = [source] if source.is_file() else [p for p in source.iterdir() if p.suffix in (".py", ".json")]
        for file in files:
            target = src / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _copy_tree(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise InputRejected(f"{source.name}/ is missing in {source.parent}; run the step that makes it again")
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)


def _seal_view(view: Path, release: Path) -> tuple[str, int, str]:
    """(view digest, users, last day the state knows); writes view.json and the schema that the release promises."""
    from tasks.ranker.arrays import iso_day
    from tasks.ranker.state import HISTORY_FIELDS, VIEW_VERSION, ItemState, View
    from tasks.serving.release import seal_view

    items, histories = ItemState.load(release / "items"), View(view)
    if histories.items_digest != items.digest:
        raise InputRejected(
            "view/ numbers its items differently from items/; both must come from one build_dataset run"
        )
    schema = {"version": VIEW_VERSION, "items": items.digest, "fields": list(HISTORY_FIELDS)}
    (release / "view_schema.json").write_bytes(canonical_json(schema))
    return seal_view(view, len(histories)), len(histories), iso_day(items.day - 1)


def _write_provenance(release: Path, dataset: Path, told: Mapping[str, Any]) -> None:
    """provenance.json: which days, by content, and what was decided by. Manifests lead to the rest (`freshrank lineage`)."""
    try:
        partitions = json.loads((dataset / PARTITIONS_JSON).read_bytes())
    except FileNotFoundError:
        raise InputRejected(f"{PARTITIONS_JSON} is missing in {dataset.name}; run build_dataset again") from None
    (release / "provenance.json").write_bytes(canonical_json({"version": 1, **told, "partitions": partitions}))


def _record_golden(release: Path) -> None:
    from tasks.ranker.device import CUDA, device_of, reference_scorer
    from tasks.ranker.state import ItemState
    from tasks.serving.engine import Engine
    from tasks.serving.golden import TOLERANCE, TOLERANCE_OF_CUDA, record
    from tasks.serving.search import open_encoder, open_search

    items = ItemState.load(release / "items")
    encoder = open_encoder(release)
    engine = Engine(items, reference_scorer(release / "model"), encoder, search=open_search(release))
    requests = golden_requests(items)
    if encoder is None:
        requests = [request for request in requests if request["surface"] != "search"]
    tolerance = TOLERANCE_OF_CUDA if device_of(release / "model") == CUDA else TOLERANCE
    (release / "golden.json").write_bytes(record(engine, requests, tolerance))


def _runtime(choice: str, champion: Path | None, release: Path) -> tuple[str, list[Trial]]:
    """By what the release is served. The champion's weights keep their runtime: equal inputs make equal releases."""
    from tasks.ranker.device import CPU, OPENVINO, TORCH, device_of
    from tasks.runtime_trial import try_runtimes

    if device_of(release / "model") != CPU:
        return TORCH, []
    if choice == "state" and champion is not None:
        record = json.loads((champion / "release" / "release.json").read_bytes())
        return str(record.get("notes", {}).get("runtime", OPENVINO)), []
    return try_runtimes(release)


def golden_requests(items: Any) -> list[dict[str, Any]]:
    """Every way through the engine: histories long and short, nobody, slates, unknown items, queries."""
    import numpy as np

    from tasks.ranker.arrays import iso_day

    sellers = [items.ids[row] for row in np.argsort(-items.sales28, kind="stable")[:200].tolist()]
    days = [f"{iso_day(items.day - 1 - 3 * n)}T12:00:00Z" for n in range(40)]

    def history(chosen: list[str]) -> list[dict[str, Any]]:
        return [
            {"item_id": item, "event_time": days[n % 40], "quantity": 1 + n % 2, "value": 2.0}
            for n, item in enumerate(chosen)
        ]

    slate = [*sellers[::2][:99], NOT_AN_ITEM]
    return [
        {"surface": "recommendation", "history": history(sellers[:120]), "k": 100},
        {"surface": "recommendation", "history": history(sellers[40:80]), "candidates": slate},
        {"surface": "recommendation", "history": history(sellers[5:8]), "k": 20},
        {"surface": "recommendation", "candidates": slate[::-1]},
        {"surface": "recommendation", "k": 50},
        *({"surface": "search", "query": query, "k": 20} for query in GOLDEN_QUERIES),
        {"surface": "search", "query": GOLDEN_QUERIES[0], "history": history(sellers[:40]), "candidates": slate},
    ]


def _can_try(model: Path) -> bool:
    """A release for a CUDA device is tried where there is one; elsewhere its replicas prove themselves at start."""
    from tasks.ranker.device import device_of, is_here

    if is_here(device_of(model)):
        return True
    log.warning("device=%s outcome=not_tried the service answers its golden requests when it starts", device_of(model))
    return False


def _try_service(src: Path, view: Path, digest: str, public_keys: Path) -> tuple[int, Check]:
    """Start the packaged service as the launcher will, and compare its answers with the golden ones and the evaluator's."""
    from tasks.serving.golden import Golden
    from tasks.serving.launch import launch_command, launch_environment

    golden = msgspec.json.decode((src / "release" / "golden.json").read_bytes(), type=Golden)
    port = _free_port()
    command = launch_command(src, view, port, "smoke", digest=digest, public_keys=public_keys)
    with subprocess.Popen(
        command,
        cwd=src,
        env=launch_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    ) as process:
        try:
            _wait_until_ready(port, process, digest)
            for number, case in enumerate(golden.cases):
                _compare(port, digest, number, case, golden.tolerance)
            skew = _require_no_skew(port, src / "release", view)
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
    return len(golden.cases), skew


def _compare(port: int, digest: str, number: int, case: Any, tolerance: float) -> None:
    from tasks.serving.golden import disagreement

    status, headers, body = _ask(port, "/rank", json.dumps(case.request).encode())
    if status != 200 or headers.get("x-freshrank-release") != digest:
        raise InputRejected(f"the packaged service answered golden request {number} with {status}: {body[:300]!r}")
    reply = json.loads(body)
    got, scores = [item["item_id"] for item in reply["items"]], [item["score"] for item in reply["items"]]
    difference = disagreement(case.items, case.scores, got, scores, tolerance)
    if difference:
        raise InputRejected(f"the packaged service answered golden request {number} with {difference}; not released")


def _require_no_skew(port: int, release: Path, view: Path) -> Check:
    """The service against the evaluator's own path, on the histories of users that the view knows."""
    from tasks.evaluation.skew import evaluator_scores, skew_check
    from tasks.ranker.device import reference_scorer
    from tasks.ranker.state import ItemState, View

    def ask(request: dict[str, Any]) -> tuple[list[str], list[float]]:
        status, _, body = _ask(port, "/rank", json.dumps(request).encode())
        if status != 200:
            raise InputRejected(f"the packaged service answered a user's history with {status}: {body[:300]!r}")
        answered = json.loads(body)["items"]
        return [item["item_id"] for item in answered], [item["score"] for item in answered]

    scored = evaluator_scores(reference_scorer(release / "model"), ItemState.load(release / "items"), View(view))
    check = skew_check(scored, ask)
    if not check.ok:
        raise InputRejected(f"train/serve skew: {check.sentence}; not released")
    return check


def _wait_until_ready(port: int, process: subprocess.Popen[str], digest: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = (process.stderr.read() if process.stderr else "").strip()[-600:]
            raise InputRejected(f"the packaged service ended with {process.returncode} before it was ready: {said}")
        try:
            status, _, body = _ask(port, "/readyz")
            if status == 200 and json.loads(body)["release"] == digest:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise Unavailable(f"the packaged service was not ready within {READY_WITHIN_S} s; run package again")


def _ask(port: int, path: str, body: bytes | None = None) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"} if body else {}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.headers, err.read()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
