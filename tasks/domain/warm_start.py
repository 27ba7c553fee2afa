"""Whether training may go on from the champion's weights. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAME = ("network", "features", "token", "max_tokens", "labels")


def why_not(champion: Mapping[str, Any], ours: Mapping[str, Any], validation_first_day: str) -> str | None:
    """Why a model with the config `champion` is no start for one with the config `ours`; None where it is one.

    Its training must have ended before our validation begins: else the best epoch would be chosen on days that the
    weights know by heart.
    """
    for name in SAME:
        if champion.get(name) != ours[name]:
            return f"the champion was trained with another {name}"
    if _columns(champion) != _columns(ours):
        return "the champion reads other input columns"
    seen = str(champion.get("train_through") or champion["train_end"])
    if seen >= validation_first_day:
        return f"the champion was trained on days up to {seen}, and validation begins on {validation_first_day}"
    return None


def _columns(config: Mapping[str, Any]) -> tuple[Any, ...]:
    inputs = config["inputs"]
    return list(inputs["features"]), list(inputs["nullable"]), inputs["position"]
