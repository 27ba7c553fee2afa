"""One shared tower for queries and items, trained on both sides; alone, or with the product head beside it.

With a head, the two are trained as one score, head + scale x cosine, and neither ever sees the other's inflated scores: a
list meets the tower once in a pass, and the head learns only from lists that the tower has met already. So on the lists
of a step both are as good as they will be on new queries, and the scale between them needs no other data.

Loss: L1 + weight x L2, softmax cross-entropies with the target spread evenly over the positives; L1 over the judged items
of a query in the step, L2 over all items of the step (notes/quality-search.md, 1).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Search
from tasks.ranker.arrays import Floats
from tasks.ranker.search.checkpoint import load_run, save_run
from tasks.ranker.search.encoder import SentenceEncoder, autocast
from tasks.ranker.search.groups import drawn_pairs, grouped
from tasks.ranker.search.head import (
    LEARNING_RATE,
    LISTS_A_STEP,
    WEIGHT_DECAY,
    Inputs,
    ProductHead,
    list_softmax,
    pairs_of,
)
from tasks.ranker.search.lists import Longs

log = logging.getLogger("freshrank.finetune")
Progress = Callable[[int, int, str], None]  # steps done, of how many, and what to tell
SCALE, SCALE_RATE = 20.0, 5e-3
FINAL_SHARE, GRADIENT_CLIP = 0.03, 1.0
SAVED_EVERY = 60  # steps; about a hundred seconds of one core


class Towers(torch.nn.Module):
    """The encoder, what a cosine is worth, and the head where there is one."""

    def __init__(self, encoder: SentenceEncoder, head: ProductHead | None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(SCALE)))

    @property
    def scale(self) -> float:
        return float(self.log_scale.detach().exp())


@dataclass(frozen=True)
class Texts:
    """Token ids of each query and item; the unknown item has none and is never drawn."""

    query: list[list[int]]
    item: list[list[int]]


class Run:
    def __init__(self, towers: Towers, inputs: Inputs, texts: Texts, hardness: Floats, plan: Search, seed: int) -> None:
        self.towers, self.inputs, self.texts, self.hardness = towers, inputs, texts, hardness
        self.plan, self.seed, self.step = plan, seed, 0
        self.taught = inputs.lists.teach()
        if not len(self.taught):
            raise InputRejected(
                "no list of the training days holds both a positive and another item; search was not trained"
            )
        rates: list[tuple[torch.nn.Module, float]] = [(towers.encoder, plan.learning_rate)]
        if towers.head is not None:
            rates.append((towers.head, LEARNING_RATE))
        self.rates = [SCALE_RATE, *(rate for _, rate in rates)]
        groups = [{"params": [towers.log_scale], "weight_decay": 0.0}]
        groups += [{"params": [one for one in module.parameters() if one.requires_grad]} for module, _ in rates]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        self._order: tuple[int, Longs] | None = None

    @property
    def steps_a_pass(self) -> int:
        return -(-len(self.taught) // self.plan.queries_a_step)

    @property
    def steps(self) -> int:
        return self.plan.passes * self.steps_a_pass

    def train(
        self, checkpoint: Path, identity: str, progress: Progress = lambda step, steps, told: None
    ) -> list[float]:
        """Loss of each step. Goes on from `checkpoint` where it holds this very run, and ends with the same weights.

        Raises:
            InputRejected: the loss is not finite any more.
        """
        kept = load_run(checkpoint, identity, self.towers, self.optimizer)
        self.step, losses = (kept["step"], kept["losses"]) if kept else (0, [])
        while self.step < self.steps:
            losses.append(self.train_step())
            progress(self.step, self.steps, f"loss {np.mean(losses[-20:]):.4f} scale {self.towers.scale:.1f}")
            if self.step % SAVED_EVERY == 0 or self.step == self.steps:
                save_run(checkpoint, identity, {"step": self.step, "losses": losses}, self.towers, self.optimizer)
        return losses

    def train_step(self) -> float:
        self._set_rates()
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        chosen, draw = self._lists(self.step), np.random.default_rng((self.seed, self.step, 1))
        self.optimizer.zero_grad(set_to_none=True)
        if self.towers.head is not None:
            self.towers.head.train()
        loss = self._loss(chosen, draw)
        if not torch.isfinite(loss):
            raise InputRejected(
                f"the loss of the search encoder became {loss.item()} in step {self.step + 1} (learning rate "
                f"{self.plan.learning_rate:.2g}); nothing was published. Lower search.learning_rate in the recipe"
            )
        loss.backward()
        self._update()
        if self.towers.head is not None:
            self._rehearse(self.towers.head, draw)
        self.step += 1
        return float(loss.detach())

    def _loss(self, chosen: Longs, draw: np.random.Generator) -> Tensor:
        lists = self.inputs.lists
        rows = np.unique(lists.rows[drawn_pairs(lists, chosen, self.hardness, draw)])
        with autocast(self.towers.encoder.body.device):
            told = [*(self.texts.query[n] for n in chosen.tolist()), *(self.texts.item[row] for row in rows.tolist())]
            vectors = self.towers.encoder.embed(told).float().cpu()
        cosine = (vectors[: len(chosen)] @ vectors[len(chosen) :].T) * self.towers.log_scale.cpu().exp()
        # every judged pair that fell into the step counts, whichever list its item was drawn for
        pairs = lists.pairs(chosen)
        owner = np.repeat(np.arange(len(chosen)), np.diff(lists.ptr)[chosen])
        place = np.searchsorted(rows, lists.rows[pairs])
        here = rows[np.minimum(place, len(rows) - 1)] == lists.rows[pairs]
        at, column = torch.from_numpy(owner[here]), torch.from_numpy(place[here])
        positive = torch.from_numpy((lists.grade[pairs[here]] > 0).astype(np.float32))
        judged = cosine[at, column]
        if self.towers.head is not None:
            x, query, item, _, _ = pairs_of(self.inputs, chosen)
            kept = torch.from_numpy(here)
            judged = judged + self.towers.head(x[kept], query[kept], item[kept])
        wanted = torch.zeros_like(cosine)
        wanted[at, column] = positive
        share = wanted / wanted.sum(1, keepdim=True).clamp(min=1)
        in_batch = -(share * cosine.log_softmax(1)).sum() / (wanted.sum(1) > 0).sum().clamp(min=1)
        return list_softmax(judged, positive, at, len(chosen)) + self.plan.in_batch_weight * in_batch

    def _rehearse(self, head: ProductHead, draw: np.random.Generator) -> None:
        """Steps of the head alone, on lists that the tower has met: as many as give it its epochs in the end."""
        seen = np.concatenate([self._lists(step) for step in range(self._first_of_pass(), self.step + 1)])
        if self.step >= self.steps_a_pass:
            seen = self.taught
        for _ in range(max(1, self.plan.head_epochs // self.plan.passes) - 1):
            chosen = draw.choice(seen, min(LISTS_A_STEP, len(seen)), replace=False)
            x, query, item, positive, owner = pairs_of(self.inputs, chosen)
            self.optimizer.zero_grad(set_to_none=True)
            list_softmax(head(x, query, item), positive, owner, len(chosen)).backward()
            self._update()

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_([one for one in self.towers.parameters() if one.grad is not None], GRADIENT_CLIP)
        self.optimizer.step()

    def _set_rates(self) -> None:
        """Warm-up, then a straight line down to the final share."""
        if self.step < self.plan.warmup_steps:
            share = (self.step + 1) / self.plan.warmup_steps
        else:
            left = 1 - (self.step - self.plan.warmup_steps) / max(1, self.steps - self.plan.warmup_steps)
            share = FINAL_SHARE + (1 - FINAL_SHARE) * left
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def _first_of_pass(self) -> int:
        return self.step // self.steps_a_pass * self.steps_a_pass

    def _lists(self, step: int) -> Longs:
        number, at = divmod(step, self.steps_a_pass)
        if self._order is None or self._order[0] != number:
            order = grouped(self.inputs.lists.take(self.taught), np.random.default_rng((self.seed, number)))
            self._order = (number, self.taught[order])
        return self._order[1][at * self.plan.queries_a_step : (at + 1) * self.plan.queries_a_step]
