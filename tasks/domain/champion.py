"""Which release a run compares with: pinned once, read by every later step."""

from __future__ import annotations

from pathlib import Path

from tasks.domain.manifest import Record

CHAMPION_FILE = "champion.json"


class Champion(Record):
    """The release that served when the run asked."""

    release: str
    view: str
    train_end: str
    state_through: str
    weights_digest: str
    previous: str | None = None  # the release that served before it, where there was one
    previous_weights_digest: str | None = None


def read_champion(directory: Path) -> Champion:
    return Champion.model_validate_json((directory / CHAMPION_FILE).read_text())
