"""A sealed view of four users, two of whom tests erase."""

from __future__ import annotations

from pathlib import Path

from tasks.ranker.state import save_view
from tasks.serving.release import seal_view
from tests.ranker_builders import DAY, a_builder, a_log, stocked

ANNA, BERT = f"{0:064x}", f"{1:064x}"


def a_view(directory: Path) -> str:
    log = a_log(stocked([(DAY - 3, 0, 1), (DAY - 2, 0, 2), (DAY - 2, 1, 5), (DAY - 1, 2, 7)]))
    morning = a_builder(log).morning(DAY)
    save_view(directory, morning.items, {log.user_ids[user]: one for user, one in morning.histories.items()})
    (directory / "schema.json").write_text("{}")
    return seal_view(directory, 4)
