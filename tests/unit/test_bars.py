"""The numbers we claim: each result file has one form, and one command lists every bar."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import overview
from benchmarks._table import RESULTS, Row, at_least, below, publish


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_what_was_measured_when_and_where(path):
    told = json.loads(path.read_bytes())
    assert told["name"] == path.stem and told["date"] and told["hardware"] and told["rows"] and "versions" in told
    for row in told["rows"]:
        row.pop("date", None)  # of a row that was measured on another day than the file
        Row(**row)
        assert (row["target"] is None) == (row["reached"] is None)


def test_every_bar_is_listed_once_and_the_missed_ones_alone_on_request(tmp_path):
    rows = [below("p50", 4.8, "ms", 5), at_least("speed", 3.8, "times", 6), Row("no target", 1, "")]
    assert not publish("x", rows, folder=tmp_path)
    assert [line.split(" | ")[1] for line in overview(tmp_path).splitlines()[2:]] == ["p50", "speed"]
    assert [line.split(" | ")[1] for line in overview(tmp_path, missed=True).splitlines()[2:]] == ["speed"]
