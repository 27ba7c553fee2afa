"""A variant whose memory cannot be measured is said to be so, with what the process said, and is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.compression import peak_memory
from tasks.domain.errors import Unavailable


def test_a_variant_that_cannot_be_loaded_is_named_by_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"could not be measured: (.|\n)*config\.json"):
        peak_memory.peak_bytes({"int8": tmp_path})


def test_a_process_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "WITHIN_S", 0.01)
    with pytest.raises(Unavailable, match="did not end within"):
        peak_memory.peak_bytes({"int8": tmp_path})
