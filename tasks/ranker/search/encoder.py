"""Texts -> unit vectors by one Hugging Face encoder for queries and items; it can be trained. Build time only (torch)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats
from tasks.ranker.text import encoder_folder

CHUNK = 48  # texts of like length that go through the encoder together
NAMES = {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}


class SentenceEncoder(torch.nn.Module):
    """Mean pooling over a transformer's last states, unit length. Dropout is off: it is trained in one short pass."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        super().__init__()
        if not (folder / "config.json").is_file():
            raise InputRejected(
                f"{folder} holds no config.json; `encoder` names the directory of a Hugging Face encoder"
            )
        logging.getLogger("transformers").setLevel(logging.ERROR)  # it reports the unused pooler at length
        disable_progress_bar()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.body: Any = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).float()
        self.eval()

    @property
    def width(self) -> int:
        return int(self.body.config.hidden_size)

    def adapt(self, rank: int, seed: int) -> None:
        """Freeze the weights and put a trained product of two thin matrices beside every linear layer: LoRA, by peft.

        `rank` is the matrices' inner width; their product counts twice (alpha = 2 x rank). Hu et al. 2021, arXiv 2106.09685.
        """
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)  # one of the two starts at random, the other at zero
        plan = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
        self.body = get_peft_model(self.body, plan)
        self.eval()

    def merge(self) -> None:
        """Add what `adapt` trained to the weights; from here on it is an encoder like any other."""
        self.body = self.body.merge_and_unload()

    def words(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Token ids with specials, at most `most`; an empty text has its specials only."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=most)["input_ids"]
        return ids

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean.float(), dim=-1)

    def embed(self, words: Sequence[Sequence[int]]) -> Tensor:
        """[texts, width] float32. Texts go through in chunks of like length, in bfloat16 where autocast is on."""
        order = sorted(range(len(words)), key=lambda n: (len(words[n]), n))
        parts = [self(*self._padded([words[n] for n in order[at : at + CHUNK]])) for at in range(0, len(order), CHUNK)]
        place = torch.empty(len(order), dtype=torch.int64)
        place[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[place.to(parts[0].device)]

    def _padded(self, words: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, words))
        ids = torch.full((len(words), longest), int(self.tokenizer.pad_token_id or 0))
        mask = torch.zeros(len(words), longest, dtype=torch.int64)
        for row, told in enumerate(words):
            ids[row, : len(told)] = torch.tensor(told)
            mask[row, : len(told)] = 1
        device = self.body.device
        return ids.to(device), mask.to(device)

    def save(self, folder: Path) -> None:
        """Weights as safetensors, config and tokenizer as JSON: `SentenceEncoder(folder)` loads it again."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.body.state_dict().items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.body.config.to_dict(), sort_keys=True, default=str))
        self.tokenizer.save_pretrained(folder)


def base_encoder(directory: str | None) -> Path:
    """The directory that a recipe names, or MiniLM-L6 of the installed package."""
    return encoder_folder() if directory is None else Path(directory)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 products, float32 sums and weights."""
    return torch.autocast(device.type, torch.bfloat16)


@torch.inference_mode()
def vectors_of(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    most: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Floats:
    """[texts, width] float32, unit length; zeros for a text without a letter or digit. Equal texts are encoded once."""
    distinct = sorted({text for text in texts if text.strip()}, key=lambda text: (len(text), text))
    table = np.zeros((len(distinct) + 1, encoder.width), np.float32)
    with autocast(encoder.body.device):
        for at in range(0, len(distinct), 8 * CHUNK):
            part = distinct[at : at + 8 * CHUNK]
            table[at : at + len(part)] = encoder.embed(encoder.words(part, most)).cpu().numpy()
            progress(at + len(part))
    row = {text: n for n, text in enumerate(distinct)}
    return table[[row.get(text, len(distinct)) for text in texts]]
