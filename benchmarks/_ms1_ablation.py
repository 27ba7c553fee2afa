"""What each part of the search ranker earns on MS1: one seed of the shipped mix, each time with one part left out.

Weights of every mix are fitted anew on validation. Differences are paired on the dev queries; nothing was chosen by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._ms1 import DEV, VALIDATION, bootstrap
from benchmarks._table import Row
from tasks.ranker.arrays import Floats
from tasks.ranker.search.inputs import COSINES, Inputs
from tasks.ranker.search.match import columns_of
from tasks.ranker.search.mix import fit_mix
from tasks.ranker.search.past import PAST_COLUMNS

if TYPE_CHECKING:
    from benchmarks.search_quality import Bench

SEED = 0


@dataclass(frozen=True)
class Variant:
    """Members of the mix, and which groups of columns the head and the trees do not read."""

    members: tuple[str, ...] = ("trees", "head", "encoder")
    without: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """Of the names of kept parts; with and without the past as search_quality has them."""
        known = {(): "-past", ("past",): ""}
        return known.get(self.without, "".join(f"-no-{group}" for group in self.without))


REFERENCE = "whole"
VARIANTS = {
    REFERENCE: Variant(),
    "without trees": Variant(("head", "encoder")),
    "without the head": Variant(("trees", "encoder")),
    "without the bi-encoder": Variant(("trees", "head")),
    "LoRA bi-encoder in place of the whole one": Variant(("trees", "head", "lora")),
    "without past searches": Variant(without=("past",)),
    "without text match": Variant(without=("match",)),
    "without numbers of the item (year, votes, rating, popularity)": Variant(without=("numbers",)),
    "without cosines of the untrained encoder": Variant(without=("cosines",)),
}


def ablation_table(bench: Bench) -> list[Row]:
    """Each variant, and what it gains or loses against the whole on the same queries."""
    ms1, (inputs, hard) = bench.ms1, bench.inputs()
    told = bench.with_past(inputs)
    numbers = ms1.documents.fields.numbers
    groups = {"numbers": numbers, "cosines": COSINES, "past": PAST_COLUMNS}
    groups["match"] = tuple(column for column in columns_of(ms1.documents) if column not in numbers)
    columns = (*bench.columns, *PAST_COLUMNS)
    learned = {"head": bench.head, "trees": bench.trees}
    towers = {kind: bench.towers(inputs, hard, SEED, kind)["cosine"] for kind in ("encoder", "lora")}
    chosen = np.flatnonzero(ms1.part == VALIDATION)
    pairs, lists, found = ms1.lists.pairs(chosen), ms1.lists.take(chosen), dict[str, Floats]()
    for name, variant in VARIANTS.items():
        silent = {column for group in variant.without for column in groups[group]}
        left = [at for at, column in enumerate(columns) if column not in silent]
        read = Inputs(told.lists, np.ascontiguousarray(told.x[:, left]), told.query_vec, told.item_vec)
        members = {
            member: towers[member] if member in towers else learned[member](read, SEED, f"{member}{variant.suffix}")
            for member in variant.members
        }
        mix = fit_mix(lists, {member: of[pairs] for member, of in members.items()})
        found[name] = ms1.ndcg(mix.scores(members), DEV)
    rows = []
    for name, dev in found.items():
        difference = dev - found[REFERENCE]
        low, high = bootstrap(difference)
        print(f"{name}: {dev.mean():.4f}, {difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]")
        less = {} if name == REFERENCE else {"less the whole": float(difference.mean()), "from": low, "to": high}
        rows.append(Row(name, float(dev.mean()), "NDCG@10", peers=less))
    whole, lora = (ms1.ndcg(towers[kind], DEV) for kind in ("encoder", "lora"))
    low, high = bootstrap(lora - whole)
    print(f"LoRA alone {lora.mean():.4f}, bi-encoder alone {whole.mean():.4f}: [{low:+.4f}, {high:+.4f}]")
    less = {"less the whole bi-encoder alone": float((lora - whole).mean()), "from": low, "to": high}
    rows.append(Row("LoRA bi-encoder alone", float(lora.mean()), "NDCG@10", peers=less))
    rows.append(Row("whole bi-encoder alone", float(whole.mean()), "NDCG@10"))
    return rows
