"""A SASRec-like peer (Kang and McAuley, ICDM 2018): a causal transformer over the ids of a household's last purchases.

Trained once on events before the first window to say what is on the next trip (the order within a basket means nothing),
ranked each day with the histories of that day. Sampled softmax with the
correction for popularity (Bengio and Senecal, 2008), day gaps as bucket embeddings, learned positions.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks._cj1_protocol import Log, Longs

LENGTH, WIDTH, HEADS, LAYERS = 50, 64, 2, 2
EPOCHS, BATCH, NEGATIVES, RATE, DROPOUT = 6, 64, 1_024, 2e-3, 0.2
GAPS = 16


class SasRec(nn.Module):
    def __init__(self, products: int) -> None:
        super().__init__()
        self.item = nn.Embedding(products + 1, WIDTH, padding_idx=products)
        self.place, self.gap = nn.Embedding(LENGTH, WIDTH), nn.Embedding(GAPS, WIDTH)
        self.bias = nn.Embedding(products + 1, 1)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, DROPOUT, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        for embedding in (self.item, self.place, self.gap):
            nn.init.normal_(embedding.weight, std=0.05)
        nn.init.zeros_(self.bias.weight)

    def forward(self, items: Tensor, gaps: Tensor) -> Tensor:
        """[n, LENGTH] ids and gap buckets, padded in front -> [n, LENGTH, WIDTH]."""
        state = self.item(items) + self.place.weight + self.gap(gaps)
        causal = torch.triu(torch.full((LENGTH, LENGTH), -1e4), diagonal=1)
        states: Tensor = self.norm(self.layers(state, mask=causal))
        return states


def _bucket(gap: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.minimum(np.ceil(2 * np.log2(1 + gap)), GAPS - 1).astype(np.int64)


def _by_household(log: Log, day: int) -> tuple[Longs, Longs, Longs]:
    """(products, days, bounds) of the events before `day`, one household after another, oldest first."""
    end = int(log.ptr[day])
    order = np.argsort(log.household[:end], kind="stable")
    bounds = np.searchsorted(log.household[:end][order], np.arange(len(log.household_ids) + 1))
    return log.product[:end][order], log.day[:end][order], bounds


def _next_trips(days: Longs, bounds: Longs) -> tuple[Longs, Longs]:
    """For each event the range of events of its household's next trip; empty after the last trip."""
    household = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    first = np.flatnonzero((np.diff(household, prepend=-1) != 0) | (np.diff(days, prepend=-1) != 0))
    ends = np.append(first[1:], len(days))
    trip = np.repeat(np.arange(len(first)), ends - first)
    following = np.minimum(trip + 1, len(first) - 1)
    same = (household[first[following]] == household) & (following > trip)
    return np.where(same, first[following], 0), np.where(same, ends[following], 0)


def train(log: Log, day: int, path: Path, seed: int = 0) -> SasRec:
    """The model trained on events before `day`, from `path` where it lies there."""
    products = len(log.product_ids)
    model = SasRec(products)
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    torch.manual_seed(seed)
    model = SasRec(products)
    draw = np.random.default_rng(seed)
    item, days, bounds = _by_household(log, day)
    windows = [
        (max(start, stop - LENGTH), stop)
        for start, end in pairwise(bounds.tolist())
        for stop in range(end, start, -LENGTH)
    ]
    after, most = _next_trips(days, bounds)
    share = np.bincount(item, minlength=products) ** 0.75
    share /= share.sum()
    log_share = torch.from_numpy(np.log(share + 1e-12)).float()
    with torch.no_grad():  # starts as popularity: 1,500 small steps would not get there
        counts = np.bincount(item, minlength=products)
        model.bias.weight[:products, 0] = torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4, fused=True)
    steps = EPOCHS * -(-len(windows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _ in range(EPOCHS):
        for chosen in np.array_split(draw.permutation(len(windows)), -(-len(windows) // BATCH)):
            inputs = np.full((len(chosen), LENGTH), products)
            gaps, targets = np.zeros((len(chosen), LENGTH), np.int64), np.full((len(chosen), LENGTH), products)
            for row, number in enumerate(chosen):
                a, b = windows[number]
                inputs[row, a - b :] = item[a:b]
                gaps[row, a - b :] = _bucket(np.append(days[a + 1 : b], days[b - 1]) - days[a:b])
                known = most[a:b] > after[a:b]
                drawn = after[a:b] + (draw.random(b - a) * (most[a:b] - after[a:b])).astype(np.int64)
                targets[row, a - b :][known] = item[drawn[known]]
            wanted = torch.from_numpy(targets)
            told = wanted < products
            states = model(torch.from_numpy(inputs), torch.from_numpy(gaps))[told]
            positive = wanted[told]
            negative = torch.from_numpy(draw.choice(products, NEGATIVES, p=share))
            right = (states * model.item(positive)).sum(1) + model.bias(positive).squeeze(1) - log_share[positive]
            wrong = states @ model.item(negative).T + model.bias(negative).squeeze(1) - log_share[negative]
            wrong = wrong.masked_fill(positive[:, None] == negative[None], -1e4)
            scores = torch.cat([right[:, None], wrong], 1)
            loss = nn.functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model.eval()


def scores(model: SasRec, log: Log, day: int, households: Longs) -> NDArray[np.float32]:
    """[households, catalogue]: what comes next on `day`."""
    item, days, bounds = _by_household(log, day)
    inputs = np.full((len(households), LENGTH), len(log.product_ids))
    gaps = np.zeros((len(households), LENGTH), np.int64)
    for row, household in enumerate(households.tolist()):
        a, b = max(bounds[household], bounds[household + 1] - LENGTH), bounds[household + 1]
        if b > a:
            inputs[row, a - b :] = item[a:b]
            gaps[row, a - b :] = _bucket(np.append(days[a + 1 : b], day) - days[a:b])
    catalogue = torch.from_numpy(log.catalogue(day))
    with torch.inference_mode():
        states = model(torch.from_numpy(inputs), torch.from_numpy(gaps))[:, -1]
        found: NDArray[np.float32] = (states @ model.item(catalogue).T + model.bias(catalogue).squeeze(1)).numpy()
    return found
