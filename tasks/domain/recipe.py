"""How to train: one YAML file, read whole, refused at the first unknown or impossible field."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record, digest_of

MOST_HOLDOUT_DAYS = 14
RECIPES = Path(__file__).resolve().parent.parent / "recipes"
EventType = Literal["click", "add_to_cart", "purchase", "rating"]


class Data(Record):
    """Which users and days make slates, and which candidates become training rows."""

    users: int = Field(ge=2, description="households with most trips; the first champion's choice holds from then on")
    train_from: date = Field(description="no slate of an earlier day is trained on")
    train_days: int = Field(ge=1, description="at most this many days before the validation")
    validation_days: int = Field(ge=1, description="choose the epoch and the compressed variant")
    holdout_days: int = Field(
        ge=1, le=MOST_HOLDOUT_DAYS, description="the last days, at least: judged by evaluate, seen by nothing else"
    )
    holdout_slates: int = Field(ge=1, description="the holdout grows, to 14 days at most, until it holds so many")
    label_delay_days: int = Field(
        default=0, ge=0, le=30, description="a label may come so late; younger days are not trained or judged on yet"
    )
    keep_bought: float = Field(gt=0, le=1, description="share of unbought-today past products that become rows")
    keep_other: float = Field(gt=0, le=1, description="share of the other candidates that become rows")
    barely_known: float = Field(ge=0, le=1, description="share of slates repeated as if the user had almost no history")
    hard_negatives: int = Field(
        default=0, ge=0, description="so many of the best unbought candidates always become rows, past ones and others"
    )
    goal: tuple[EventType, ...] = Field(
        default=("purchase",),
        min_length=1,
        description="what users come for: histories, counters, slates are made of it",
    )
    knowledge: bool = Field(default=False, description="taxonomy and co-purchases as features")


class Exposure(Record):
    """What to make of the lists that a log says were shown. A log of purchases alone has none."""

    slates: Literal["bought", "shown", "both"] = Field(
        default="bought", description="train on what was bought of the catalogue, on what came of lists, or on both"
    )
    keep_unseen: float = Field(default=0.0, ge=0, le=1, description="share of candidates not shown that become rows")
    position_bias: Literal["ignored", "weights", "input"] = Field(
        default="ignored",
        description="answers weigh 1 / chance of a look at their place, or the place is an input, first place when serving",
    )
    most_weight: float = Field(default=10.0, ge=1, description="no answer weighs more: rare places would decide alone")


class Augmentation(Record):
    """Other ways to write item texts and histories, read in training instead of what there is; serving never sees one."""

    views: int = Field(default=0, ge=0, le=8, description="ways for each text, beside the text itself")
    synonyms: dict[str, str] = Field(default={}, description="short: long, in lower case; used in both directions")
    swap_words: float = Field(default=0.5, ge=0, le=1, description="chance that a word with a synonym becomes it")
    drop_words: float = Field(default=0.1, ge=0, lt=1, description="chance that a word is left out")
    crop_history: float = Field(default=0.0, ge=0, lt=1, description="share of the trips, at most, cut off both ends")
    mask_history: float = Field(default=0.0, ge=0, lt=1, description="chance that a trip is left out")
    reorder_history: float = Field(
        default=0.0, ge=0, le=1, description="share of the trips, one after the other, that exchange their days"
    )

    @property
    def alters_histories(self) -> bool:
        return bool(self.crop_history or self.mask_history or self.reorder_history)


class Network(Record):
    """Sizes. The history transformer is `width` wide and reads at most 20 purchases."""

    width: int = Field(ge=8)
    heads: int = Field(ge=1)
    layers: int = Field(ge=1)
    feed_forward: int = Field(ge=8)
    text_width: int = Field(ge=1, description="item text vector after projection")
    head: tuple[int, int] = Field(description="hidden layers of the feature head")
    dropout: float = Field(ge=0, lt=1)
    pooling: Literal["attention", "mean", "gru", "cnn"] = Field(
        default="attention", description="how the purchases behind a candidate become one vector"
    )
    members: int = Field(
        default=1, ge=1, le=5, description="so many networks, apart in their start only; scores are means"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Network:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class WarmStart(Record):
    """How a champion's weights are trained on, where `start` is champion: shrink and perturb (arXiv 1910.08475)."""

    share: float = Field(
        default=0.12, gt=0, le=1, description="of the slates that a fresh training reads in all epochs"
    )
    rate: float = Field(default=0.5, gt=0, le=1, description="of learning_rate, at its height")
    shrink: float = Field(default=1.0, gt=0, le=1, description="weights are multiplied by it; 1 takes them as they are")
    perturb: float = Field(default=0.0, ge=0, le=1, description="share of freshly drawn weights that is added")


class Training(Record):
    """Warm-up, decay, gradient clipping; the best epoch on validation is kept. Defaults are what paid in the ablation."""

    start: Literal["fresh", "champion"] = Field(
        default="fresh", description="champion: from its weights, where network, features and labels are the same"
    )
    warm: WarmStart = WarmStart()
    epochs: int = Field(ge=1)
    patience: int = Field(default=0, ge=0, description="stop after so many epochs without a better one; 0 never does")
    slates_a_step: int = Field(ge=1)
    optimizer: Literal["adamw", "nadam", "adagrad"] = "adamw"
    schedule: Literal["linear", "cosine"] = "linear"
    learning_rate: float = Field(gt=0)
    encoder_rate: float = Field(default=1.0, gt=0, le=1, description="of learning_rate, for the history encoder")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of products on the CPU; a GPU multiplies in bf16"
    )
    exchange: Literal["fp32", "bf16", "powersgd"] = Field(
        default="fp32", description="how gradients travel between training processes; the small ones make other weights"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="fsdp: each training process holds a share of weights and moments, not all of them"
    )
    final_share: float = Field(ge=0, le=1, description="of the learning rate, reached at the last step")
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    gradient_clip: float = Field(gt=0)
    calibration_weight: float = Field(ge=0, description="of the binary cross-entropy beside the slate softmax")
    base_weight: float = Field(ge=0, description="of stage 1's loss beside stage 2's")
    listwise_weight: float = Field(default=1.0, ge=0, description="of the slate softmax; 0 trains row by row")
    adversarial: float = Field(
        default=0.0, ge=0, description="length of the worst change to each history, trained on beside it (FGM); 0: none"
    )
    value_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="gains in the slate softmax are times price to this power; 0: a sale is a sale",
    )

    @model_validator(mode="after")
    def _shares_travel_whole(self) -> Training:
        if self.parallel == "fsdp" and self.exchange != "fp32":
            raise ValueError(f"exchange {self.exchange} needs parallel ddp: fsdp sends gradients as they are")
        return self


class Trees(Record):
    """LambdaMART on the same rows, blended with the network where lists are re-scored."""

    rounds: int = Field(ge=1)
    leaves: int = Field(default=63, ge=2)
    learning_rate: float = Field(default=0.06, gt=0)
    features: float = Field(default=0.6, gt=0, le=1, description="share of the features that a tree may look at")
    rows: float = Field(default=0.8, gt=0, le=1, description="share of the rows that a tree is grown on")
    least_rows: int = Field(default=100, ge=1, description="in a leaf")
    truncation: int = Field(default=20, ge=1, description="best places whose order counts")
    objective: Literal["lambdarank", "rank_xendcg", "binary"] = "lambdarank"
    threads: int = Field(default=1, ge=1, description="the same trees on every machine need the same number")


Variant = Literal["fp32", "bf16", "int8", "int8-low-rank"]


class Compression(Record):
    """Which variants are tried, and how much of the parent's validation quality one may lose."""

    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="what releases of this recipe serve on; cuda takes the variants fp32 and bf16"
    )
    variants: tuple[Variant, ...]
    margin: float = Field(gt=0, description="NDCG@10 that the lower bound of the paired difference may not fall below")
    calibration_slates: int = Field(ge=1)
    rank: int = Field(ge=1, description="of the factorised head")
    cpu_limit: float = Field(gt=1, description="times the fastest variant's CPU a request that a variant may take")
    text_calibration: int = Field(ge=1, description="item texts that calibrate the query encoder")

    @field_validator("variants")
    @classmethod
    def _fp32_is_always_there(cls, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        if "fp32" not in variants:
            raise ValueError("variants must hold fp32: it is what remains when no smaller one is good enough")
        return variants


class SearchFields(Record):
    """What of an item search reads: columns of the catalogue (title, text, brand, ...) and keys of its `attributes`."""

    matched: tuple[str, ...] = Field(default=("title", "text"), min_length=1, description="fields of text match")
    written: tuple[tuple[str, int], ...] = Field(
        default=(("title", 1),), min_length=1, description="what the encoder reads: fields, how many values of each"
    )
    numbers: tuple[str, ...] = Field(default=("price",), description="fields that are numbers")


class SearchStudent(Record):
    """One small encoder in place of the two that a query is read by, distilled from both (25 times less CPU on MSRD)."""

    layers: int = Field(default=2, ge=1)
    feed_forward: int = Field(default=768, ge=8, description="units that stay in each layer, those that say most")
    heads: int = Field(
        default=0, ge=0, description="of attention that stay in each layer, those whose loss turns vectors most; 0: all"
    )
    one_layer: bool = Field(default=False, description="all layers have the weights of one, the mean of theirs")
    pieces: int = Field(default=12_000, ge=100, description="word pieces that stay, the commonest of the shop's texts")
    piece_width: int = Field(
        default=0, ge=0, description="numbers that a word piece is looked up in, then mapped to the width; 0: the width"
    )
    directions: int = Field(
        default=192, ge=1, description="of the item vectors that stay, in int8: a seventh of fp32's bytes"
    )
    epochs: int = Field(default=2, ge=1, description="of distillation over all texts, before one over the lists")
    margin: float = Field(default=0.003, gt=0, description="NDCG@10 that the bound against the fp32 parent may lose")


class Search(Record):
    """Training of the search ranker: a bi-encoder and a product head on lists of judged items (notes/quality-search.md)."""

    encoder: str | None = Field(default=None, description="directory of a Hugging Face encoder; absent, MiniLM-L6")
    fields: SearchFields = SearchFields()
    item_tokens: int = Field(default=36, ge=3)
    query_tokens: int = Field(default=16, ge=3)
    passes: int = Field(default=1, ge=1, description="of the encoder over all queries")
    queries_a_step: int = Field(default=32, ge=1, description="in groups of 8 that share items")
    learning_rate: float = Field(default=5e-5, gt=0, description="of the encoder")
    lora_rank: int = Field(
        default=0, ge=0, description="above 0: LoRA of this rank; it wants ten times the learning_rate"
    )
    warmup_steps: int = Field(default=15, ge=0)
    in_batch_weight: float = Field(default=0.3, ge=0, description="of the loss over all items of the step")
    head_epochs: int = Field(default=5, ge=1, description="more of them only learn the training lists by heart")
    past: bool = Field(default=True, description="features of what earlier searches made of an item")
    joint: bool = Field(default=False, description="head and encoder as one score in one pass; not measured to the end")
    trees: bool = Field(default=False, description="a LambdaMART member beside the neural ones")
    student: SearchStudent | None = Field(default=None, description="absent: both encoders ship in int8, uncut")


class Recipe(Record):
    name: str
    data: Data
    exposure: Exposure = Exposure()
    augmentation: Augmentation = Augmentation()
    search: Search | None = Field(default=None, description="absent: queries are answered by the untrained encoder")
    network: Network
    training: Training
    trees: Trees | None = None
    compression: Compression

    @property
    def labels(self) -> dict[str, Any]:
        """What counts as a success: two models of one definition can be held against each other by numbers alone."""
        return {
            "goal": list(self.data.goal),
            "delay_days": self.data.label_delay_days,
            "slates": self.exposure.slates,
        }

    @property
    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json", exclude=None if self.search else {"search"}))


def load_recipe(name: str) -> Recipe:
    """Read tasks/recipes/NAME.yaml, or a file of your own by its absolute path.

    Raises:
        InputRejected: no such recipe, or everything that is wrong with it.
    """
    path = Path(name) if Path(name).is_absolute() else RECIPES / f"{name}.yaml"
    if not path.is_file() or path.suffix != ".yaml" or (not Path(name).is_absolute() and name != Path(name).name):
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputRejected(f"there is no recipe {name!r}; known: {known}, or the absolute path of a .yaml file")
    try:
        return Recipe(name=path.stem, **yaml.safe_load(path.read_text()))
    except (ValidationError, TypeError, yaml.YAMLError) as err:
        raise InputRejected(f"recipe {path.name} is not valid: {err}") from err
