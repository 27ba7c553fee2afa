"""A pod's release: pulled, checked again, and only then linked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.controller.fetch import fetch
from tasks.controller.pull import Local
from tasks.domain.errors import InputRejected


class Shelf:
    """A library whose releases are directories here."""

    def __init__(self, root: Path, good: bool = True) -> None:
        self.root, self.good = root, good

    def local(self, release: str) -> Local | None:
        return self.pull(release)

    def pull(self, release: str) -> Local:
        for kind in ("src", "view"):
            (self.root / release / kind).mkdir(parents=True, exist_ok=True)
        return Local(src=str(self.root / release / "src"), view=str(self.root / release / "view"))

    def verify(self, release: str) -> None:
        if not self.good:
            raise InputRejected(f"{release} is signed by nobody")

    def describe(self, release: str) -> dict[str, Any]:
        return {}


def test_the_links_lead_to_the_release_and_follow_the_next(tmp_path):
    shelf, links = Shelf(tmp_path), tmp_path / "current"
    for release in ("one", "one", "two"):
        fetch(shelf, release, links)
        assert (links / "src").resolve() == tmp_path / release / "src"
        assert (links / "view").resolve() == tmp_path / release / "view"
    assert sorted(path.name for path in links.iterdir()) == ["src", "view"]


def test_what_is_refused_is_never_linked(tmp_path):
    with pytest.raises(InputRejected, match="signed by nobody"):
        fetch(Shelf(tmp_path, good=False), "one", tmp_path / "current")
    assert not (tmp_path / "current").exists()
