"""The peer of benchmarks/training.py: our model, rows and loss under the Hugging Face Trainer with its default settings."""

from __future__ import annotations

import copy
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.domain.recipe import Training
from tasks.ranker.corpus import Corpus
from tasks.ranker.loss import Answers, training_loss
from tasks.ranker.model import Ranker
from tasks.ranker.tokens import TOKEN_WIDTH

NAMES = ("x", "item_vec", "label", "gain", "weight", "odds_weight")


class Slates(torch.utils.data.Dataset[dict[str, Tensor]]):
    """One slate an example: its rows as tensors that are ready in memory."""

    def __init__(self, corpus: Corpus, slates: int) -> None:
        self.examples = []
        for slate in range(slates):
            rows = slice(corpus.ptr[slate], corpus.ptr[slate + 1])
            first, last = corpus.offset[rows.start], corpus.offset[rows.stop - 1] + corpus.lengths[rows.stop - 1]
            arrays = {
                "x": corpus.fitted.inputs.complete(corpus.x[rows].astype(np.float32), corpus.position[rows]),
                "item_vec": corpus.vectors[0, corpus.text[rows]],
                "label": corpus.label[rows].astype(np.float32),
                "gain": corpus.gain[rows],
                "weight": corpus.weight[rows],
                "odds_weight": corpus.weight[rows] * corpus.inverse[rows],
                "tokens": corpus.tokens[first:last].astype(np.float32),
                "lengths": corpus.lengths[rows].astype(np.int64),
            }
            self.examples.append({name: torch.from_numpy(np.ascontiguousarray(of)) for name, of in arrays.items()})

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.examples[number]


def padded(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of all slates, histories padded to the longest of the batch, as the Trainer's default for texts does."""
    lengths = torch.cat([one["lengths"] for one in examples])
    longest = max(1, int(lengths.max()))
    mask = torch.arange(longest) < lengths[:, None]
    tokens = torch.zeros(len(lengths), longest, TOKEN_WIDTH)
    tokens[mask] = torch.cat([one["tokens"] for one in examples])
    sizes = torch.tensor([len(one["x"]) for one in examples])
    batch = {name: torch.cat([one[name] for one in examples]) for name in NAMES}
    slate = torch.repeat_interleave(torch.arange(len(examples)), sizes)
    return batch | {"tokens": tokens, "mask": mask.float(), "slate": slate, "slates": torch.tensor(len(examples))}


class WithLoss(nn.Module):
    """The ranker as it is exported, and its loss, as the Trainer wants them: forward answers {"loss": ...}."""

    def __init__(self, model: Ranker, training: Training) -> None:
        super().__init__()
        self.model, self.recipe = model, training

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        model = self.model
        inputs = model.inputs(batch["x"], batch["item_vec"])
        base, hidden = model._base(inputs)
        full = base + model._delta(hidden, model.history(inputs, batch["tokens"], batch["mask"]))
        told = {name: batch[name] for name in ("label", "gain", "weight", "odds_weight", "slate")}
        return {"loss": training_loss(base, full, Answers(**told, slates=int(batch["slates"])), self.recipe)}


def slates_a_cpu_second(
    model: Ranker, corpus: Corpus, training: Training, slates_a_step: int | None, slates: int
) -> float:
    """CPU of one pass of the Trainer over the first `slates`; None: its default batch of 8."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        chosen: dict[str, Any] = {} if slates_a_step is None else {"per_device_train_batch_size": slates_a_step}
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=1, use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
            report_to=[], save_strategy="no", seed=1, **chosen,
        )  # fmt: skip
        trainer = Trainer(
            model=WithLoss(copy.deepcopy(model), training),
            args=arguments,
            train_dataset=Slates(corpus, slates),
            data_collator=padded,
        )
        torch.use_deterministic_algorithms(False)  # its default, and faster
        began = time.process_time()
        trainer.train()
        return slates / (time.process_time() - began)
