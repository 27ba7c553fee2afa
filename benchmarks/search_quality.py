"""Search re-ranking on MSRD by protocol MS1: the product's search ranker and its peers, side by side.

    make bench NAME=search_quality                               # about 20 minutes of one core, 2.5 GiB
    python -m benchmarks.search_quality --only encoder --msrd ../shared/data/msrd    # one piece; the next call goes on
    python -m benchmarks.search_quality --ablate                 # what each part earns, one seed

Every model here is tasks/ranker/search; this file splits, calls and counts. Parts are kept in `--folder`, so that a run
can be stopped and continued. Settings, epochs and weights of mixes come from the validation queries; dev is only reported.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks._ms1 import DEV, DIGEST, FIELDS, QUERIES, TRAIN, VALIDATION, bootstrap, read_ms1
from benchmarks._ms1_ablation import ablation_table
from benchmarks._table import Row, at_least, publish
from tasks.domain.recipe import Search
from tasks.ranker.arrays import Floats
from tasks.ranker.search.encoder import SentenceEncoder, base_encoder, vectors_of
from tasks.ranker.search.head import ProductHead, fit_head, head_scores
from tasks.ranker.search.inputs import COSINES, Inputs, hardness, make_inputs
from tasks.ranker.search.match import TextMatch, columns_of
from tasks.ranker.search.mix import fit_mix
from tasks.ranker.search.past import PAST_COLUMNS, past_of
from tasks.ranker.search.training import Run, Texts, Towers
from tasks.ranker.search.trees import fit_trees, tree_scores

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
PLAN = Search(fields=FIELDS)
NEURAL, MIX = 0.931, 0.9323  # bars of issue 4
STAGES = ("heads", "trees", "past", "encoder", "joint", "lora")
LORA = PLAN.model_copy(update={"lora_rank": 8, "learning_rate": 5e-4})  # ten times the rate of the whole encoder


class Bench:
    def __init__(self, msrd: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ms1 = folder, read_ms1(msrd)
        self.seconds: dict[str, float] = {}

    def kept(self, name: str, make: Callable[[], dict[str, Floats]]) -> dict[str, Floats]:
        """The arrays of a part: made once, then read."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            began = time.process_time()
            made = make()
            made["cpu_seconds"] = np.array([time.process_time() - began], np.float32)
            draft = path.with_suffix(".draft")
            save_file({key: np.ascontiguousarray(value) for key, value in made.items()}, draft)
            draft.replace(path)
            print(f"{name}: {made['cpu_seconds'][0]:.0f} CPU s", flush=True)
        told: dict[str, Floats] = load_file(path)
        self.seconds[name] = float(told["cpu_seconds"][0])
        return told

    def inputs(self) -> tuple[Inputs, Floats]:
        """Of all queries, and how hard each pair is before training."""
        ms1 = self.ms1
        self.columns = (*columns_of(ms1.documents), *COSINES)

        def make() -> dict[str, Floats]:
            encoder = SentenceEncoder(base_encoder(PLAN.encoder))
            titles = [" ".join(of) for of in ms1.documents.values["title"]]
            query, title, written = (
                vectors_of(encoder, texts, most)
                for texts, most in (
                    (ms1.lists.queries, PLAN.query_tokens),
                    ([*titles, ""], PLAN.item_tokens),
                    ([*ms1.documents.written, ""], PLAN.item_tokens),
                )
            )
            match = TextMatch(ms1.documents)
            made = make_inputs(match, ms1.lists, query, title, written)
            return {"x": made.x, "query": query, "written": written, "hard": hardness(match, made)}

        told = self.kept("inputs", make)
        return Inputs(ms1.lists, told["x"], told["query"], told["written"]), told["hard"]

    def with_past(self, inputs: Inputs) -> Inputs:
        """The same and what the train queries made of each film; of a train query, those of the other nine parts."""
        lists, train = self.ms1.lists, self.ms1.part == TRAIN

        def make() -> dict[str, Floats]:
            match, chosen = TextMatch(self.ms1.documents), np.flatnonzero(train)
            past = past_of(lists.take(chosen), len(self.ms1.documents))
            x = np.zeros((len(lists.rows), len(PAST_COLUMNS)), np.float32)
            for of in (chosen, np.flatnonzero(~train)):
                part, own = lists.take(of), bool(train[of[0]])
                weights = [match.weights(query) for query in part.queries]
                x[lists.pairs(of)] = past.of_lists(weights, part, own=own)
            return {"x": x}

        x = self.kept("past", make)["x"]
        return Inputs(lists, np.concatenate([inputs.x, x], axis=1), inputs.query_vec, inputs.item_vec)

    def of(self, inputs: Inputs, part: int) -> Inputs:
        chosen = np.flatnonzero(self.ms1.part == part)
        pairs = inputs.lists.pairs(chosen)
        return Inputs(inputs.lists.take(chosen), inputs.x[pairs], inputs.query_vec[chosen], inputs.item_vec)

    def head(self, inputs: Inputs, seed: int, name: str = "head") -> Floats:
        def make() -> dict[str, Floats]:
            head, curve = fit_head(self.of(inputs, TRAIN), self.of(inputs, VALIDATION), PLAN.head_epochs, seed)
            print(f"{name} {seed} by epoch, validation:", *(f"{value:.4f}" for value in curve), flush=True)
            return {"scores": head_scores(head, inputs), "curve": np.array(curve, np.float32)}

        return self.kept(f"{name}-{seed}", make)["scores"]

    def trees(self, inputs: Inputs, seed: int, name: str = "trees") -> Floats:
        def make() -> dict[str, Floats]:
            train, validation = self.of(inputs, TRAIN), self.of(inputs, VALIDATION)
            model = fit_trees(train.lists, train.x, validation.lists, validation.x, seed)
            return {"scores": tree_scores(model, inputs.x), "trees": np.array([model.best_iteration], np.float32)}

        return self.kept(f"{name}-{seed}", make)["scores"]

    def towers(self, inputs: Inputs, hard: Floats, seed: int, kind: str) -> dict[str, Floats]:
        """cosine (and head) of all pairs after training on the train part: `encoder`, `joint` with the head, or `lora`."""
        name, joint, plan = f"{kind}-{seed}", kind == "joint", LORA if kind == "lora" else PLAN

        def make() -> dict[str, Floats]:
            lists, documents = self.ms1.lists, self.ms1.documents
            train = self.of(inputs, TRAIN)
            encoder, head = SentenceEncoder(base_encoder(PLAN.encoder)), None
            if joint:
                torch.manual_seed(seed)
                head = ProductHead(inputs.features, encoder.width)
                head.standardise(train.x)
            if plan.lora_rank:
                encoder.adapt(plan.lora_rank, seed)
            towers = Towers(encoder, head)
            texts = Texts(
                encoder.words(train.lists.queries, PLAN.query_tokens),
                encoder.words(documents.written, PLAN.item_tokens),
            )
            chosen = np.flatnonzero(self.ms1.part == TRAIN)
            run = Run(towers, train, texts, hard[lists.pairs(chosen)], plan, seed)
            checkpoint, identity = self.folder / f"{name}.checkpoint.safetensors", f"{name} {train.lists.digest}"

            def progress(step: int, steps: int, told: str) -> None:
                if step % 20 == 0:
                    print(f"{name} step {step}/{steps} {told}", flush=True)

            losses = run.train(checkpoint, identity, progress)
            query = vectors_of(encoder, lists.queries, PLAN.query_tokens)
            item = vectors_of(encoder, [*documents.written, ""], PLAN.item_tokens)
            cosine = np.einsum("ij,ij->i", query[lists.owner], item[lists.rows])
            made = {"cosine": cosine, "losses": np.array(losses, np.float32), "scale": np.array([towers.scale])}
            if head is not None:
                made["head"] = head_scores(head, inputs)
                made["scores"] = made["head"] + np.float32(towers.scale) * cosine
            checkpoint.unlink()
            return made

        return self.kept(name, make)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--msrd", type=Path, default=ROOT.parent / "shared" / "data" / "msrd")
    parser.add_argument("--folder", type=Path, default=ROOT / ".freshrank" / "bench" / "search_quality")
    parser.add_argument(
        "--only", choices=("inputs", *STAGES), help="make and keep one part; `joint` and `lora` are made on demand only"
    )
    parser.add_argument("--ablate", action="store_true", help="what each part of the mix earns, one seed; LoRA too")
    parser.add_argument("--encoder-seeds", type=int, default=1, help="each about nine minutes of one core, twice")
    asked = parser.parse_args()
    if not (asked.msrd / "judgments.parquet").exists():
        print(f"{asked.msrd} holds no MSRD; give --msrd FOLDER", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    bench = Bench(asked.msrd, asked.folder)
    counts = tuple(int((bench.ms1.part == part).sum()) for part in (TRAIN, DEV, VALIDATION))
    print(f"MS1 queries train/dev/val {counts} pairs {len(bench.ms1.items)} digest {bench.ms1.digest}", flush=True)
    if (bench.ms1.digest, counts) != (DIGEST, QUERIES):
        print(f"this is not MS1: expected {QUERIES} and {DIGEST}", file=sys.stderr)
        return 2
    if asked.ablate:
        rows = ablation_table(bench)
        return 0 if publish("search_ablation", rows, ("torch", "transformers", "lightgbm", "numpy")) else 1
    inputs, hard = bench.inputs()
    wanted = STAGES[:-1] if asked.only is None else (asked.only,)
    if asked.only is None and (asked.folder / "joint-0.safetensors").exists():
        wanted = STAGES[:4]
    scores: dict[str, Floats] = {}
    if "heads" in wanted:
        scores |= {f"head {seed}": bench.head(inputs, seed) for seed in SEEDS}
    if "trees" in wanted:
        scores |= {f"trees {seed}": bench.trees(inputs, seed) for seed in SEEDS}
    if "past" in wanted:
        told = bench.with_past(inputs)
        scores |= {f"head with past {seed}": bench.head(told, seed, "head-past") for seed in SEEDS}
        scores |= {f"trees with past {seed}": bench.trees(told, seed, "trees-past") for seed in SEEDS}
    for seed in range(asked.encoder_seeds) if "encoder" in wanted else ():
        scores[f"bi-encoder {seed}"] = bench.towers(inputs, hard, seed, "encoder")["cosine"]
    for seed in range(asked.encoder_seeds) if "joint" in wanted else ():
        made = bench.towers(inputs, hard, seed, "joint")
        scores |= {f"joint {seed}": made["scores"], f"joint {seed}: head": made["head"]}
        scores |= {f"joint {seed}: cosine": made["cosine"]}
    for seed in range(asked.encoder_seeds) if "lora" in wanted else ():
        scores[f"LoRA bi-encoder {seed}"] = bench.towers(inputs, hard, seed, "lora")["cosine"]
    column = {name: inputs.x[:, at] for at, name in enumerate(bench.columns)}
    peers = {
        "BM25 title": column["bm25_title"],
        "BM25 all fields": column["bm25_all"],
        "MiniLM zero-shot": column["cosine_title"] + column["cosine_written"],
    }
    for name, of in (peers | scores).items():
        validation, dev = bench.ms1.ndcg(of, VALIDATION).mean(), bench.ms1.ndcg(of, DEV)
        low, high = bootstrap(dev)
        print(f"{name:30} val {validation:.4f} dev {dev.mean():.4f} [{low:.4f}, {high:.4f}]")
    return report(bench, peers, scores) if asked.only is None else 0


def report(bench: Bench, peers: dict[str, Floats], scores: dict[str, Floats]) -> int:
    """Fit the mixes on validation, choose there, and tell dev once."""
    ms1, lists = bench.ms1, bench.ms1.lists
    chosen = np.flatnonzero(ms1.part == VALIDATION)
    pairs = lists.pairs(chosen)
    named: dict[str, tuple[str, ...]] = {}
    for seed in SEEDS:
        for kind, more in (("", " with past"), (" without past", "")):
            neural = (f"head{more} {seed}", "bi-encoder 0")
            named |= {f"neural{kind}: {seed}": neural, f"mix{kind}: {seed}": (f"trees{more} {seed}", *neural)}
    if "joint 0: head" in scores:
        named["joint: weights from validation"] = ("joint 0: head", "joint 0: cosine")
    found: dict[str, list[NDArray[np.float64]]] = {}
    for name, members in named.items():
        told = {member: scores[member] for member in members}
        mix = fit_mix(lists.take(chosen), {member: of[pairs] for member, of in told.items()})
        mixed = mix.scores(told)
        validation, dev = float(ms1.ndcg(mixed, VALIDATION).mean()), ms1.ndcg(mixed, DEV)
        low, high = bootstrap(dev)
        weights = " ".join(f"{member}:{weight:.2f}" for member, weight in zip(mix.members, mix.weights, strict=True))
        print(f"{name:40} val {validation:.4f} dev {dev.mean():.4f} [{low:.4f}, {high:.4f}]  {weights}")
        found.setdefault(name.split(":")[0], []).append(dev)
    reference = np.mean([ms1.ndcg(scores[f"trees {seed}"], DEV) for seed in SEEDS], axis=0)
    others = {name: float(ms1.ndcg(of, DEV).mean()) for name, of in peers.items()}
    others |= {"LambdaMART + cosines, mean of 3 seeds": float(reference.mean())}
    rows = []
    for kind, title, target in (
        ("neural", "one neural model: head + bi-encoder", NEURAL),
        ("mix", "shipped mix: the same + LambdaMART", MIX),
    ):
        dev = np.mean(found[kind], axis=0)
        low, high = bootstrap(dev - reference)
        rows += [
            at_least(f"{title}, mean of {len(SEEDS)} seeds", float(dev.mean()), "NDCG@10", target, others),
            Row(f"{title}: above LambdaMART + cosines", float((dev - reference).mean()), "NDCG@10"),
            at_least(f"{title}: above it, lower end of 95 %", low, "NDCG@10", 0.0),
            Row(f"{title}: above it, upper end", high, "NDCG@10"),
        ]
    for kind in ("neural", "mix"):
        rows.append(Row(f"{kind}, nothing of past searches", float(np.mean(found[f"{kind} without past"])), "NDCG@10"))
    for kind in ("head", "trees", "head with past", "trees with past", "bi-encoder", "joint"):
        each = [float(ms1.ndcg(of, DEV).mean()) for name, of in scores.items() if name.rsplit(" ", 1)[0] == kind]
        if each:
            rows.append(Row(f"{kind} alone, mean of {len(each)} seeds", float(np.mean(each)), "NDCG@10"))
    rows += [Row(f"CPU seconds of {name}", seconds, "s") for name, seconds in bench.seconds.items()]
    return 0 if publish("search_quality", rows, ("torch", "transformers", "lightgbm", "numpy")) else 1


if __name__ == "__main__":
    sys.exit(main())
