"""The parent and its cheaper variants as directories that the service can load, and what each costs."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tasks.atomic import drafted_folder, write_first
from tasks.compression.for_cuda import make_for_cuda
from tasks.compression.low_rank import with_low_rank_head
from tasks.compression.peak_memory import peak_bytes
from tasks.compression.quantise import Inputs, save_graph, to_int8, to_openvino
from tasks.copies import in_use
from tasks.domain.manifest import Record
from tasks.machine import processor
from tasks.ranker import rank
from tasks.ranker.corpus import Corpus
from tasks.ranker.cuda import WEIGHTS
from tasks.ranker.device import CPU, CUDA, is_here, reference_scorer
from tasks.ranker.judge import Judged
from tasks.ranker.model import load_model
from tasks.ranker.profile import Profile
from tasks.ranker.runtime import BLEND, PARENT, TREES, Scorer, in_bf16
from tasks.ranker.tokens import tokenise

SMALL, LARGE = 100, 1_000  # candidates of the requests that are timed
ROUNDS = 40
TOLD = "told.txt"
TOLERANCE = 1e-5  # how far a score may depend on its batch mates


class Cost(Record):
    """What one request costs on this machine, features included, one thread; the bytes of the weights and of a process.

    CPU is a median; p50, p95 and p99 are of the elapsed time of a request of 1,000. `peak_bytes` is a process that loaded the
    variant and answered once, less one that only imported OpenVINO.
    """

    cpu_ms_100: float
    cpu_ms_1000: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    bytes: int
    peak_bytes: int
    load_ms: float


def cached_variant(
    name: str, parent: Path, calibration: Sequence[Inputs], rank_kept: int, cache: Path, out: Path, device: str = CPU
) -> str:
    """make_variant, its graphs taken from `cache` where the same parent was turned into it before, with the same tools."""
    folder = cache / "variants" / variant_digest(name, parent, calibration, rank_kept, device)
    if not in_use(folder / TOLD, cache / "variants"):
        with drafted_folder(folder) as draft:
            (draft / TOLD).parent.mkdir(parents=True, exist_ok=True)
            told = make_variant(name, parent, calibration, rank_kept, draft, device)
            (draft / TOLD).write_text(told)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(TOLD))
    return (folder / TOLD).read_text()


def variant_digest(name: str, parent: Path, calibration: Sequence[Inputs], rank_kept: int, device: str = CPU) -> str:
    """Of all that a variant is made of: weights, calibration rows, settings, and the versions of what makes it."""
    digest = hashlib.sha256()
    made_by = [f"{package} {version(package)}" for package in ("openvino", "nncf", "torch")]
    code = [
        Path(__file__).with_name(f"{module}.py").read_text()
        for module in ("variants", "for_cuda", "quantise", "low_rank")
    ]
    rank_of = str(rank_kept) if name == "int8-low-rank" else ""  # what no other variant reads
    digest.update("\n".join([name, device, rank_of, *made_by, *code]).encode())
    for part in (PARENT, "config.json", TREES, BLEND):
        if (parent / part).exists():
            digest.update((parent / part).read_bytes())
    for inputs in calibration if name.startswith("int8") else calibration[:1]:
        for array in inputs:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def make_variant(
    name: str, parent: Path, calibration: Sequence[Inputs], rank_kept: int, out: Path, device: str = CPU
) -> str:
    """Write what the device runs (graphs, on CUDA weights), config and parent under `out`; returns what was done, a sentence."""
    if device == CUDA:
        told = make_for_cuda(name, parent, out)
    else:
        told = _make_graphs(name, parent, calibration, rank_kept, out)
        shutil.copyfile(parent / "config.json", out / "config.json")
    for kept in (PARENT, TREES, BLEND):
        if (parent / kept).exists():
            shutil.copyfile(parent / kept, out / kept)
    return told


def _make_graphs(name: str, parent: Path, calibration: Sequence[Inputs], rank_kept: int, out: Path) -> str:
    model, told = load_model(parent), "the parent's weights, unquantised"
    convert: Callable[[Any, Sequence[Inputs]], Any] = to_int8
    if name == "int8-low-rank":
        model, energy = with_low_rank_head(model, rank_kept)
        told = f"int8, first head layer of rank {rank_kept} ({energy:.0%} of its energy)"
    elif name == "int8":
        told = f"int8 by static calibration on {len(calibration)} training slates, with SmoothQuant"
    elif name == "bf16":
        told, convert = "products in bf16 where the CPU has them, weights in two bytes", lambda graph, _: in_bf16(graph)
    else:
        convert = lambda graph, _: graph  # noqa: E731
    for stage, width in (("base", 2), ("full", 4)):
        samples = [inputs[:width] for inputs in calibration]
        graph = to_openvino(model, stage, tuple(part[:8] for part in samples[0]))
        save_graph(convert(graph, samples), out / f"{stage}.xml")
    return told


def calibration_inputs(corpus: Corpus, slates: int) -> list[Inputs]:
    """Rows of whole training slates, evenly spread over the corpus."""
    chosen = np.unique(np.linspace(0, corpus.slates - 1, min(slates, corpus.slates)).astype(np.int64))
    batches = (corpus.batch(chosen[n : n + 1]) for n in range(len(chosen)))
    return [tuple(part.numpy() for part in b.padded()) for b in batches if len(b.x)]


def batch_dependence(scorer: Scorer, judged: Judged) -> float:
    """Largest difference between a row's score alone and in company."""
    profile, candidates, x = judged.ranked.profile, judged.ranked.candidates, judged.ranked.x
    vectors = profile.items.vectors(candidates)
    tokens, mask = tokenise(profile, candidates[: rank.RESCORED])
    base, full = scorer.base(x, vectors), scorer.full(x[: len(mask)], vectors[: len(mask)], tokens, mask)
    worst = 0.0
    for n in range(0, len(mask), 7):
        one = slice(n, n + 1)
        worst = max(worst, float(abs(scorer.base(x[one], vectors[one])[0] - base[n])))
        worst = max(worst, float(abs(scorer.full(x[one], vectors[one], tokens[one], mask[one])[0] - full[n])))
        few = slice(n, min(n + 5, len(mask)))
        alone = scorer.full(x[few], vectors[few], tokens[few], mask[few])
        worst = max(worst, float(np.abs(alone - full[few]).max()))
    return worst


def kept_costs(directories: dict[str, Path], judged: Sequence[Judged], cache: Path) -> dict[str, Cost]:
    """measure_costs, once for the same files on one kind of machine: a step that runs again, or twice at once, chooses the same."""
    digest = hashlib.sha256(
        f"{processor()} {version('openvino')} {is_here(CUDA)} {Path(__file__).read_text()}".encode()
    )
    for name, directory in directories.items():
        for path in sorted(directory.iterdir()):
            digest.update(f"{name}/{path.name}".encode() + path.read_bytes())
    path = cache / "variants" / f"costs-{digest.hexdigest()[:32]}.json"
    if not in_use(path, path.parent):
        costs = {name: cost.model_dump() for name, cost in measure_costs(directories, judged).items()}
        write_first(path, json.dumps(costs).encode())  # another run's numbers are everyone's
    return {name: Cost.model_validate(cost) for name, cost in json.loads(path.read_bytes()).items()}


def measure_costs(directories: dict[str, Path], judged: Sequence[Judged]) -> dict[str, Cost]:
    """CPU of whole requests, variants interleaved so that a busy moment hits all; the median over rounds."""
    scorers, loads = {}, {}
    for name, directory in directories.items():
        began = time.perf_counter()
        scorers[name] = reference_scorer(directory)
        loads[name] = 1_000 * (time.perf_counter() - began)
    spent: dict[tuple[str, int], list[float]] = {(name, size): [] for name in scorers for size in (SMALL, LARGE)}
    elapsed: dict[str, list[float]] = {name: [] for name in scorers}
    for turn in range(ROUNDS + 1):
        one = judged[turn % len(judged)]
        for name, scorer in scorers.items():
            for size in (SMALL, LARGE):
                profile = Profile(one.ranked.profile.items, one.ranked.profile.user, one.ranked.profile.day)
                began, clock = time.process_time(), time.perf_counter()
                rank.rank_profile(scorer, profile, one.ranked.candidates[:size])
                if turn:  # the first round compiles kernels for its shapes
                    spent[name, size].append(1_000 * (time.process_time() - began))
                    elapsed[name] += [1_000 * (time.perf_counter() - clock)] if size == LARGE else []
    peaks, costs = peak_bytes(directories), {}
    for name, directory in directories.items():
        p50, p95, p99 = np.quantile(elapsed[name], (0.5, 0.95, 0.99)).round(3).tolist()
        costs[name] = Cost(
            cpu_ms_100=round(float(np.median(spent[name, SMALL])), 3),
            cpu_ms_1000=round(float(np.median(spent[name, LARGE])), 3),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            bytes=sum(
                path.stat().st_size for path in directory.iterdir() if path.suffix == ".bin" or path.name == WEIGHTS
            ),
            peak_bytes=peaks[name],
            load_ms=round(loads[name], 1),
        )
    return costs
