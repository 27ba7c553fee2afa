"""What each part of the ranker earns: one seed of the same recipe on fewer days, each time with one part left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.domain.recipe import Recipe
from tasks.ranker.arrays import Floats
from tasks.ranker.knowledge import KNOWLEDGE, MORE
from tasks.ranker.runtime import Scorer

TRAIN_DAYS = 28
PROMOTIONS = (
    "display", "mailer", "display_change", "mailer_change", "mailer_x_habit", "discount_x_habit", "discounted_7d",
    "discounted_28d", "plan_age", "plan_sales", "plan_discounted", "plan_price", "plan_lift",
)  # fmt: skip
SIMILAR_USERS = ("neighbours", "neighbours_known", *MORE)
GRAPH = ("bought_together", "bought_together_last_trip")


class FirstStage:
    """The head alone: what is re-scored keeps its first score."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._scorer.base(x, item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self._scorer.base(x, item_vec)


@dataclass(frozen=True)
class Variant:
    """What is different: columns left out, texts left out, fields of the recipe, how the scorer is asked."""

    silent: Sequence[str] = ()
    text: bool = True
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)  # with this the dataset is made anew
    augmentation: Mapping[str, Any] = field(default_factory=dict)  # texts are written by the dataset, histories are not
    asked: Callable[[Scorer], Scorer] = lambda scorer: scorer
    trained_as: str = ""  # another variant's model
    seeds_on: int = 0  # so many seeds behind the reference's
    against: str = ""  # another variant than the reference, of the same seed

    @property
    def remade(self) -> bool:
        return bool(self.data or "views" in self.augmentation)

    def recipe(self, name: str, whole: Recipe) -> Recipe:
        changed: dict[str, Any] = {"name": name, "trees": None}
        for part in ("network", "training", "data", "augmentation"):
            changed[part] = getattr(whole, part).model_copy(update=dict(getattr(self, part)))
        if self.remade:
            changed["data"] = changed["data"].model_copy(update={"train_days": TRAIN_DAYS})
        return whole.model_copy(update=changed)


REFERENCE = "whole"  # with mean pooling, as the recipe has it
OTHER_SEED = "the whole, another seed"
VARIANTS = {
    REFERENCE: Variant(),
    OTHER_SEED: Variant(seeds_on=1),  # how much a difference may owe to chance alone
    "attention": Variant(network={"pooling": "attention"}),
    "without the history encoder (first stage)": Variant(asked=FirstStage, trained_as=REFERENCE),
    "without text": Variant(silent=("text_similarity",), text=False),
    "without similar users": Variant(silent=SIMILAR_USERS),
    "without the co-purchase graph": Variant(silent=GRAPH),
    "without promotions": Variant(silent=PROMOTIONS),
    "without knowledge": Variant(silent=KNOWLEDGE),
    "without the listwise loss": Variant(training={"listwise_weight": 0.0}),
    "with gains by value": Variant(training={"value_weight": 0.5}),
    "with hard negatives": Variant(data={"hard_negatives": 20}),
    "with hard negatives, another seed": Variant(data={"hard_negatives": 20}, seeds_on=1, against=OTHER_SEED),
    "with texts written in other ways": Variant(augmentation={"views": 2}),
    "with histories cropped": Variant(augmentation={"crop_history": 0.3}),
    "with trips left out": Variant(augmentation={"mask_history": 0.2}),
    "with trips reordered": Variant(augmentation={"reorder_history": 0.3}),
    "with adversarial training": Variant(training={"adversarial": 0.2}),
    "GRU": Variant(network={"pooling": "gru"}),
    "CNN": Variant(network={"pooling": "cnn"}),
}
