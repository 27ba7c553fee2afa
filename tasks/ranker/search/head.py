"""The product head: features of a list, cosines, and the product of projected query and item vectors -> a score.

256-64-1, listwise softmax with the target spread evenly over the positives. Vectors are of the encoder that was not
trained on these lists: a head on vectors of the tuned one would learn to trust scores that are inflated on its own
training lists (notes/quality-search.md, 0.5).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats
from tasks.ranker.search.inputs import Inputs
from tasks.ranker.search.lists import Longs
from tasks.ranker.search.ranker import LIMIT

HIDDEN, PRODUCT = (256, 64), 32
LISTS_A_STEP = 32
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1e-3, 0.01, 0.2


class ProductHead(torch.nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.query = torch.nn.Linear(width, PRODUCT, bias=False)
        self.item = torch.nn.Linear(width, PRODUCT, bias=False)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(features + PRODUCT, HIDDEN[0]),
            torch.nn.ReLU(),
            torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(HIDDEN[0], HIDDEN[1]),
            torch.nn.ReLU(),
            torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(HIDDEN[1], 1),
        )

    def standardise(self, x: Floats) -> None:
        """Take mean and deviation from training rows; a column that never varies is left out."""
        deviation = x.std(0)
        self.mean.copy_(torch.from_numpy(x.mean(0)))
        self.scale.copy_(torch.from_numpy(np.where(deviation > 1e-4, 1 / np.maximum(deviation, 1e-4), 0)))

    def forward(self, x: Tensor, query_vec: Tensor, item_vec: Tensor) -> Tensor:
        """[pairs] scores; vectors are of each pair."""
        product = self.query(query_vec) * self.item(item_vec) * (query_vec.shape[1] ** 0.5)
        known = ((x - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        scores: Tensor = self.layers(torch.cat([known, product], 1)).squeeze(1)
        return scores


def list_softmax(scores: Tensor, positive: Tensor, owner: Tensor, lists: int) -> Tensor:
    """Mean over lists of the cross-entropy between softmax(scores) and equal shares of the list's positives.

    scores, positive (0 or 1), owner (0..lists-1): [pairs]. Lists without a positive count nothing.
    """
    top = torch.full((lists,), -torch.inf, device=scores.device).scatter_reduce(0, owner, scores.detach(), "amax")
    odds = scores - top[owner]
    total = torch.zeros(lists, device=scores.device).index_add(0, owner, odds.exp())
    positives = torch.zeros(lists, device=scores.device).index_add(0, owner, positive)
    share = positive / positives.clamp(min=1)[owner]
    return (share * (total.log()[owner] - odds)).sum() / (positives > 0).sum().clamp(min=1)


def pairs_of(inputs: Inputs, chosen: Longs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, query_vec, item_vec, positive and owner of the pairs of these lists."""
    pairs = inputs.lists.pairs(chosen)
    counts = np.diff(inputs.lists.ptr)[chosen]
    owner = np.repeat(np.arange(len(chosen)), counts)
    return (
        torch.from_numpy(inputs.x[pairs]),
        torch.from_numpy(inputs.query_vec[np.repeat(chosen, counts)]),
        torch.from_numpy(inputs.item_vec[inputs.lists.rows[pairs]]),
        torch.from_numpy((inputs.lists.grade[pairs] > 0).astype(np.float32)),
        torch.from_numpy(owner),
    )


def fit_head(train: Inputs, validation: Inputs, epochs: int, seed: int) -> tuple[ProductHead, list[float]]:
    """The head of the best epoch on validation, and NDCG@10 there after each epoch.

    Raises:
        InputRejected: no list can teach, or the loss became NaN.
    """
    from tasks.ranker.search.judge import ndcg

    taught = train.lists.teach()
    if not len(taught):
        raise InputRejected(
            "no list of the training days holds both a positive and another item; search was not trained"
        )
    torch.manual_seed(seed)
    head = ProductHead(train.features, train.item_vec.shape[1])
    head.standardise(train.x)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(taught) // LISTS_A_STEP)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    draw = np.random.default_rng((seed, 1))
    curve: list[float] = []
    best: dict[str, Tensor] = {}
    for _ in range(epochs):
        head.train()
        order = draw.permutation(taught)
        for at in range(0, len(order), LISTS_A_STEP):
            chosen = order[at : at + LISTS_A_STEP]
            x, query, item, positive, owner = pairs_of(train, chosen)
            optimizer.zero_grad(set_to_none=True)
            loss = list_softmax(head(x, query, item), positive, owner, len(chosen))
            if not torch.isfinite(loss):
                raise InputRejected(f"the loss of the search head became {loss.item()}; nothing was published")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        curve.append(float(ndcg(validation.lists, head_scores(head, validation)).mean()))
        if curve[-1] == max(curve):
            best = {name: value.detach().clone() for name, value in head.state_dict().items()}
    head.load_state_dict(best)
    return head.eval(), curve


@torch.inference_mode()
def head_scores(head: ProductHead, inputs: Inputs) -> Floats:
    """[pairs]"""
    head.eval()
    parts = []
    for at in range(0, len(inputs.lists), 256):
        x, query, item, _, _ = pairs_of(inputs, np.arange(at, min(at + 256, len(inputs.lists))))
        parts.append(head(x, query, item).numpy())
    return np.concatenate([*parts, np.zeros(0, np.float32)])
