"""Real days of Complete Journey pass through both doors; a false alarm here would stop the demo."""

from __future__ import annotations

from tasks.adapters.store import MemoryStore
from tasks.ingest import ingest
from tasks.sources.completejourney import CompleteJourney
from tasks.validate_data import load_policy, validate_data
from tests.behaviour_builders import KEY, KEY_ID


class LastMonth(CompleteJourney):
    """The last month of the log, Christmas included, as a log of its own."""

    first_day = "2017-12-01"


def test_a_real_month_passes_but_for_the_empty_day_and_the_day_that_breaks_off(tmp_path):
    store = MemoryStore()
    landed = ingest(LastMonth(), store, "2018-01-01", KEY, KEY_ID)
    assert (landed["landed"], landed["empty"]) == (32, ["2017-12-25"])
    summary = validate_data(LastMonth().days(), store, load_policy(), tmp_path)
    verdicts = {day: one["verdict"] for day, one in summary["days"].items() if one["verdict"] != "pass"}
    assert verdicts == {"2017-12-25": "empty", "2018-01-01": "hold"}
    assert "row_count: 524 rows" in summary["reasons"]["2018-01-01"][0]
    assert 0 < summary["quarantined"] < 0.001 * summary["rows"]
