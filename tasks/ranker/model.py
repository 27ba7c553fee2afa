"""The network: a head over features and item text (stage 1), and what a transformer over purchases adds (stage 2).

`base(x, item_vec)` and `full = base + delta`. Zeroed, the parts that come from transformers (item text and history) are
silent and `full` equals what features alone say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.domain.recipe import Network
from tasks.ranker.arrays import Floats
from tasks.ranker.attention import among, asked
from tasks.ranker.features import FEATURES, FROM_TEXT
from tasks.ranker.packing import Layout, chosen, padded, rearranged
from tasks.ranker.runtime import PARENT, inputs_of, read_config
from tasks.ranker.sequence import LastState, Neighbourhoods, mean_of
from tasks.ranker.text import WIDTH
from tasks.ranker.tokens import TOKEN_WIDTH

CLIP = 6.0


class Dropout(nn.Module):
    """Dropout that draws from its own generator: two threads that shared one would draw in an order of their own.

    Eight numbers are dropped or kept by one draw of 64 bits, which makes the share a multiple of 1/256.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = round(256 * share)
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropped:
            return x
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        draws.random_(-(2**63), None, generator=self.generator)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * (kept * (256 / (256 - self.dropped)))


class Attention(nn.Module):
    """Pre-norm attention of `queries` over `context`, then a feed-forward layer."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.forward_norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)

    def forward(self, context: Tensor, blocked: Tensor, *, first_only: bool) -> Tensor:
        n, length, width = context.shape
        normal = self.norm(context)
        asking = normal[:, :1] if first_only else normal
        query = self.query(asking).view(n, -1, self.heads, width // self.heads).transpose(1, 2)
        both = self.key_value(normal).chunk(2, 2)
        key, value = (half.reshape(n, length, self.heads, width // self.heads).transpose(1, 2) for half in both)
        mask = blocked[:, None, None, :].expand(-1, -1, query.shape[2], -1)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        seen = seen.transpose(1, 2).reshape(n, -1, width)
        return self._forward(context[:, :1] if first_only else context, seen)

    def _forward(self, asking: Tensor, seen: Tensor) -> Tensor:
        state = asking + self.out(seen)
        return state + self.contract(nn.functional.gelu(self.expand(self.forward_norm(state))))

    def packed(self, state: Tensor, layout: Layout) -> Tensor:
        """The same for packed rows: [slots, width] -> [slots, width]."""
        weight = torch.cat([self.query.weight, self.key_value.weight])
        bias = torch.cat([self.query.bias, self.key_value.bias])
        projected = nn.functional.linear(self.norm(state), weight, bias)
        return self._forward(state, among(projected, layout, self.heads))

    def packed_first(self, state: Tensor, layout: Layout) -> Tensor:
        """The same where only candidates ask: [slots, width] -> [candidates, width].

        Keys and values are never made: a query is taken to the tokens' space, and what it finds there to the values'.
        """
        normal = self.norm(state)
        candidates, width = layout.slot[: layout.candidates], state.shape[1]
        each = width // self.heads
        key, value = self.key_value.weight.view(2, self.heads, each, width)
        query = self.query(chosen(normal, candidates)).view(-1, self.heads, each).transpose(0, 1)
        asking = torch.bmm(query, key.to(query.dtype)).transpose(0, 1).reshape(-1, self.heads * width)
        asking = rearranged(asking, layout.asker, layout.answer)
        found = asked(asking, normal.to(asking.dtype), layout, self.heads, each**-0.5)
        mine = chosen(found, layout.answer).view(-1, self.heads, width).transpose(0, 1)
        seen = torch.bmm(mine, value.to(mine.dtype).transpose(1, 2)).transpose(0, 1).reshape(-1, width)
        return self._forward(chosen(state, candidates), seen + self.key_value.bias[width:])


class HistoryEncoder(nn.Module):
    """Reads [the candidate, its tokens] and answers what the history says about the candidate.

    With a pooling other than `attention` the tokens become one vector whatever the candidate is, and nothing attends to anything.
    """

    def __init__(self, network: Network, inputs: int) -> None:
        super().__init__()
        width = network.width
        self.token = nn.Sequential(nn.Linear(TOKEN_WIDTH, width), nn.GELU(), nn.Linear(width, width))
        self.candidate = nn.Linear(inputs, width)
        attends = network.pooling == "attention"
        self.pooled = None if attends else nn.Linear(width, width)
        sequences = {"gru": LastState, "cnn": Neighbourhoods}
        self.sequence = sequences[network.pooling](width) if network.pooling in sequences else None
        self.layers = nn.ModuleList(
            Attention(width, network.heads, network.feed_forward) for _ in range(network.layers if attends else 0)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, candidate: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.pooled is not None:
            read = self.token(tokens)
            seen = mean_of(read, mask) if self.sequence is None else self.sequence(read, mask)
            return self.norm(self.candidate(candidate) + self.pooled(seen))
        state = torch.cat([self.candidate(candidate)[:, None], self.token(tokens)], 1)
        blocked = torch.cat([torch.zeros_like(candidate[:, :1]), (1 - mask) * -1e4], 1)
        for n, layer in enumerate(self.layers):
            # after the last layer only the candidate is read, so only it needs to ask
            state = layer(state, blocked, first_only=n == len(self.layers) - 1)
        return self.norm(state[:, 0])

    def packed(self, candidate: Tensor, tokens: Tensor, layout: Layout) -> Tensor:
        """The same function of packed histories: [candidates, inputs] and [tokens, TOKEN_WIDTH] -> [candidates, width]."""
        read, asking = self.token(tokens), self.candidate(candidate)
        if self.pooled is not None and self.sequence is not None:
            return self.norm(asking + self.pooled(self.sequence(*padded(read, layout))))
        if self.pooled is not None:
            total = torch.zeros_like(asking).index_add(0, layout.row, read)
            count = torch.bincount(layout.row, minlength=layout.candidates)[:, None].clamp(min=1)
            return self.norm(asking + self.pooled(total / count))
        state = rearranged(torch.cat([asking, read]), layout.source, layout.slot)
        *before, last = [layer for layer in self.layers if isinstance(layer, Attention)]
        for layer in before:
            state = layer.packed(state, layout)
        return self.norm(last.packed_first(state, layout))


class Ranker(nn.Module):
    """The network; with `members` above 1 the mean of so many, each trained by a loss of its own."""

    mean: Tensor
    scale: Tensor
    without_text: Tensor

    def __init__(self, network: Network, columns: int = len(FEATURES)) -> None:
        """columns: of the completed features, see fitted.Inputs."""
        super().__init__()
        inputs, (first, second) = columns + network.text_width, network.head
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        audible = torch.ones(columns)
        audible[list(FROM_TEXT)] = 0
        self.register_buffer("without_text", audible, persistent=False)
        self.zeroed = False
        self.text = nn.Linear(WIDTH, network.text_width)
        self.trunk = nn.Sequential(
            nn.Linear(inputs, first), nn.GELU(), Dropout(network.dropout), nn.Linear(first, second), nn.GELU()
        )
        self.base_out, self.skip = nn.Linear(second, 1), nn.Linear(inputs, 1)
        self.history = HistoryEncoder(network, inputs)
        self.delta = nn.Sequential(
            nn.Linear(second + network.width, second), nn.GELU(), Dropout(network.dropout), nn.Linear(second, 1)
        )
        alone = network.model_copy(update={"members": 1})
        self.others = nn.ModuleList(Ranker(alone, columns) for _ in range(network.members - 1))

    @property
    def members(self) -> list[Ranker]:
        """Itself and the others."""
        return [self, *(other for other in self.others if isinstance(other, Ranker))]

    def silence(self) -> Ranker:
        """Zero what comes from transformers, in every member."""
        for member in self.members:
            member.zeroed = True
        return self

    def standardise(self, mean: Floats, scale: Floats) -> None:
        """Features enter as (x - mean) * scale, so a scale of 0 leaves one out."""
        for member in self.members:
            member.mean.copy_(torch.from_numpy(mean))
            member.scale.copy_(torch.from_numpy(scale))

    def inputs(self, x: Tensor, item_vec: Tensor) -> Tensor:
        """Standardised features and projected text, side by side."""
        return self._inputs(x, self.text(item_vec))

    def _inputs(self, x: Tensor, text: Tensor) -> Tensor:
        normal = ((x - self.mean) * self.scale).clamp(-CLIP, CLIP)
        if self.zeroed:
            normal, text = normal * self.without_text, torch.zeros_like(text)
        return torch.cat([normal, text], 1)

    def base(self, x: Tensor, item_vec: Tensor) -> Tensor:
        own = self._base(self.inputs(x, item_vec))[0]
        return _mean([own, *(other.base(x, item_vec) for other in self.members[1:])])

    def full(self, x: Tensor, item_vec: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        inputs = self.inputs(x, item_vec)
        base, hidden = self._base(inputs)
        own = base + self._delta(hidden, self.history(inputs, tokens, mask))
        return _mean([own, *(other.full(x, item_vec, tokens, mask) for other in self.members[1:])])

    def both(self, x: Tensor, item_vec: Tensor, text: Tensor, tokens: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """(base, full) of rows as training reads them: text vectors item_vec[text], tokens [tokens, TOKEN_WIDTH] packed.

        Of this member alone: each is trained by its own loss.
        """
        inputs = self._inputs(x, nn.functional.embedding(text, self.text(item_vec)))
        base, hidden = self._base(inputs)
        return base, base + self._delta(hidden, self.history.packed(inputs, tokens, layout))

    def _base(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(inputs)
        return (self.base_out(hidden) + self.skip(inputs)).squeeze(1), hidden

    def _delta(self, hidden: Tensor, seen: Tensor) -> Tensor:
        delta: Tensor = self.delta(torch.cat([hidden, seen], 1)).squeeze(1)
        return torch.zeros_like(delta) if self.zeroed else delta


def _mean(scores: list[Tensor]) -> Tensor:
    return scores[0] if len(scores) == 1 else torch.stack(scores).mean(0)


def load_model(directory: Path, *, zeroed: bool = False) -> Ranker:
    """The fp32 parent of a model directory, ready to score."""
    config = read_config(directory)
    model = Ranker(Network(**config["network"]), len(inputs_of(config).columns))
    model.load_state_dict(load_file(directory / PARENT))
    return (model.silence() if zeroed else model).eval()


def as_numpy(model: Ranker, stage: str, *arrays: Floats) -> Floats:
    """Run one stage on numpy rows, without dropout."""
    model.eval()
    device = model.mean.device
    with torch.inference_mode():
        scores: Tensor = getattr(model, stage)(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))
        return scores.cpu().numpy()
