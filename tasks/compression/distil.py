"""Several encoders -> one small one in place of all: the teachers' vectors and scores are made once, then cached.

Serving reads a query by an untrained and by a tuned encoder; both start from the same weights, so that one body with a
linear map for each learns to answer for both, and a query costs one pass in place of two.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats
from tasks.ranker.search.encoder import SentenceEncoder, autocast
from tasks.ranker.search.groups import drawn_pairs, grouped
from tasks.ranker.search.inputs import Inputs

log = logging.getLogger("freshrank.compress")
TEXTS_A_STEP, POOL = 64, 16  # texts of like length are drawn together, out of so many steps' worth
RATE, WARM_UP, FINAL_SHARE, CLIP = 3e-4, 0.06, 0.02, 1.0
SHARPNESS = 20.0  # of the softmax over the texts of a step
NEIGHBOURS_WEIGHT = 0.3


class Student(nn.Module):
    """One body, one map of its mean state for each teacher. (ids, mask) -> [texts, teachers, width], unit length."""

    def __init__(self, encoder: SentenceEncoder, teachers: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.maps = nn.ModuleList([nn.Linear(encoder.width, encoder.width, bias=False) for _ in range(teachers)])
        for one in self.maps:
            nn.init.eye_(one.get_parameter("weight"))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.told(self.encoder(ids, mask))

    def told(self, pooled: Tensor) -> Tensor:
        told = torch.stack([one(pooled) for one in self.maps], 1)
        return nn.functional.normalize(told.float(), dim=-1)


def distil(
    student: Student,
    words: Sequence[Sequence[int]],
    targets: Floats,
    epochs: int,
    seed: int,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> list[float]:
    """Loss of each step; the student is changed in place.

    Loss: 1 - cosine with each teacher's vector, and the cross-entropy between how near the texts of a step lie to each other
    by the teacher and by the student (as in contrastive representation distillation, arXiv 1910.10699).

    Args:
        words: token ids of each text; a text that is asked for often may stand here more than once.
        targets: [texts, teachers, width], unit length.

    Raises:
        InputRejected: the loss is not finite any more.
    """
    draw = np.random.default_rng(seed)
    steps = [batch for _ in range(epochs) for batch in batches([len(one) for one in words], draw)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    losses: list[float] = []
    for step, batch in enumerate(steps):
        _set_rate(optimizer, step, len(steps))
        optimizer.zero_grad(set_to_none=True)
        with autocast(student.encoder.body.device):
            pooled = student.encoder.embed([words[at] for at in batch.tolist()])
        loss = distance(student.told(pooled.float()), torch.from_numpy(targets[batch]))
        losses.append(_stepped(optimizer, student, loss, step))
        progress(step + 1, len(steps), losses[-1])
    return losses


def distil_lists(
    student: Student,
    query: Sequence[Sequence[int]],
    item: Sequence[Sequence[int]],
    inputs: Inputs,
    scores: Floats,
    hardness: Floats,
    queries_a_step: int,
    seed: int,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> list[float]:
    """One pass over judged lists: the last map learns to order them as a teacher does, the first keeps its vectors.

    Loss: cross-entropy between the softmaxes of both scores over the judged items of a query in the step, added to `distance`
    of the first map. No grade is read: what the teacher made of them is all that is taught.

    Args:
        query, item: token ids by list and by catalogue row.
        inputs: lists, and the first teacher's vectors.
        scores: [pairs] of the other teacher, on the scale on which its softmax was trained.
        hardness: [pairs] which items of a list are met (tasks.ranker.search.groups).
    """
    lists = inputs.lists
    order = grouped(lists, np.random.default_rng(seed))
    starts = range(0, len(order), queries_a_step)
    scale = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
    optimizer = torch.optim.AdamW([*student.parameters(), scale], lr=RATE, weight_decay=0.01, fused=True)
    losses: list[float] = []
    for step, at in enumerate(starts):
        _set_rate(optimizer, step, len(starts))
        chosen, draw = order[at : at + queries_a_step], np.random.default_rng((seed, step))
        rows = np.unique(lists.rows[drawn_pairs(lists, chosen, hardness, draw)])
        words = [*(query[n] for n in chosen.tolist()), *(item[row] for row in rows.tolist())]
        optimizer.zero_grad(set_to_none=True)
        with autocast(student.encoder.body.device):
            told = student.told(student.encoder.embed(words).float())
        theirs = torch.from_numpy(np.concatenate([inputs.query_vec[chosen], inputs.item_vec[rows]])).unsqueeze(1)
        pairs = lists.pairs(chosen)
        owner = np.repeat(np.arange(len(chosen)), np.diff(lists.ptr)[chosen])
        place = np.searchsorted(rows, lists.rows[pairs])
        here = rows[np.minimum(place, len(rows) - 1)] == lists.rows[pairs]
        left, right = torch.from_numpy(owner[here]), torch.from_numpy(place[here] + len(chosen))
        ours = (told[left, -1] * told[right, -1]).sum(-1) * scale.exp()
        loss = distance(told[:, :1], theirs) + _order_loss(
            ours, torch.from_numpy(scores[pairs[here]]), left, len(chosen)
        )
        losses.append(_stepped(optimizer, student, loss, step))
        progress(step + 1, len(starts), losses[-1])
    return losses


def _order_loss(ours: Tensor, theirs: Tensor, owner: Tensor, lists: int) -> Tensor:
    """Mean over lists of KL(softmax(theirs) | softmax(ours)); all but `lists` are [pairs]."""

    def log_softmax(scores: Tensor) -> Tensor:
        top = torch.full((lists,), -torch.inf).scatter_reduce(0, owner, scores.detach(), "amax")[owner]
        total = torch.zeros(lists).index_add(0, owner, (scores - top).exp())
        return scores - top - total.log()[owner]

    wanted = log_softmax(theirs)
    return (wanted.exp() * (wanted - log_softmax(ours))).sum() / lists


def _set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Warm-up, then a straight line down to the final share."""
    warm = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
    for group in optimizer.param_groups:
        group["lr"] = RATE * warm * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 - step / steps))


def _stepped(optimizer: torch.optim.Optimizer, student: Student, loss: Tensor, step: int) -> float:
    if not torch.isfinite(loss):
        raise InputRejected(f"the loss of distillation became {loss.item()} in step {step + 1}; nothing was made")
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), CLIP)
    optimizer.step()
    return float(loss.detach())


def distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean over texts and teachers; both are [texts, teachers, width]."""
    apart = 1 - (ours * theirs).sum(-1).mean()
    near, wanted = (SHARPNESS * torch.einsum("atw,btw->tab", of, theirs) for of in (ours, theirs))
    neighbours = -(wanted.softmax(-1) * (near.log_softmax(-1) - wanted.log_softmax(-1))).sum(-1).mean()
    return apart + NEIGHBOURS_WEIGHT * neighbours


def batches(lengths: Sequence[int], draw: np.random.Generator) -> list[np.ndarray]:
    """Every text once, in steps of texts of like length, the steps in random order."""
    order = draw.permutation(len(lengths))
    told: list[np.ndarray] = []
    for at in range(0, len(order), TEXTS_A_STEP * POOL):
        pool = order[at : at + TEXTS_A_STEP * POOL]
        pool = pool[np.argsort(np.asarray(lengths)[pool], kind="stable")]
        told += [pool[n : n + TEXTS_A_STEP] for n in range(0, len(pool), TEXTS_A_STEP)]
    return [told[n] for n in draw.permutation(len(told)).tolist()]


@torch.inference_mode()
def student_vectors(student: Student, words: Sequence[Sequence[int]]) -> Floats:
    """[texts, teachers, width] float32 by the torch weights; chunks of like length, bfloat16 products."""
    with autocast(student.encoder.body.device):
        pooled = student.encoder.embed(words)
    vectors: Floats = student.told(pooled.float()).numpy()
    return vectors
