"""Pin which release serves now, once per run: everything later compares with this one, whatever is promoted meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.domain.champion import CHAMPION_FILE, Champion
from tasks.domain.errors import InputRejected


def resolve_champion(
    status: dict[str, Any], release_meta: dict[str, Any], out: Path, previous_meta: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write champion.json from the controller's status and the releases' own descriptions.

    Raises:
        InputRejected: nothing serves yet, so there is nothing to compare with.
    """
    serving = status.get("champion")
    if not serving:
        raise InputRejected("no release serves yet, so a candidate has nothing to prove itself against; run `make run`")
    champion = Champion(
        release=serving["digest"],
        view=release_meta["view"],
        train_end=release_meta["train_end"],
        state_through=release_meta["state_through"],
        weights_digest=release_meta["weights_digest"],
        previous=status["previous"]["digest"] if previous_meta else None,
        previous_weights_digest=previous_meta["weights_digest"] if previous_meta else None,
    )
    (out / CHAMPION_FILE).write_text(champion.model_dump_json(indent=1))
    return champion.model_dump()
