"""The controller's own code under any order of wishes, faults and deaths at a write; and 30 defects that this must notice.

Small here; `make bench NAME=controller_states` runs 10,000 orders of 50 events.
"""

from __future__ import annotations

import pytest

from tasks.domain.errors import FreshrankError
from tests.controller_defects import DEFECTS, Defect
from tests.controller_machine import explore
from tests.controller_twin import Broken

EXAMPLES, TRIES, STEPS = 15, 60, 50


def test_any_order_of_events_keeps_the_invariants() -> None:
    explore(EXAMPLES, STEPS, shrink=True)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_is_noticed(defect: Defect) -> None:
    with defect.planted(), pytest.raises((Broken, FreshrankError)):
        explore(TRIES, STEPS)
