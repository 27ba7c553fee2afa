"""What a benchmark publishes: a run of fewer bars does not take those of another run away."""

from __future__ import annotations

import json

from benchmarks._table import Row, publish


def rows_of(folder):
    return {row["bar"]: row for row in json.loads((folder / "parts.json").read_text())["rows"]}


def test_merged_bars_of_other_runs_stay_with_their_date_and_the_same_ones_are_replaced(tmp_path):
    publish("parts", [Row("a", 1.0, ""), Row("b", 2.0, "")], folder=tmp_path)
    told = json.loads((tmp_path / "parts.json").read_text())
    (tmp_path / "parts.json").write_text(json.dumps(told | {"date": "2026-01-01"}))
    publish("parts", [Row("b", 3.0, ""), Row("c", 4.0, "")], folder=tmp_path, merged=True)
    found = rows_of(tmp_path)
    assert {bar: row["ours"] for bar, row in found.items()} == {"a": 1.0, "b": 3.0, "c": 4.0}
    assert found["a"]["date"] == "2026-01-01" < found["b"]["date"] == found["c"]["date"]
    publish("parts", [Row("c", 5.0, "")], folder=tmp_path, merged=True)
    assert rows_of(tmp_path)["a"]["date"] == "2026-01-01" and rows_of(tmp_path)["c"]["ours"] == 5.0


def test_not_merged_a_run_replaces_the_file(tmp_path):
    publish("parts", [Row("a", 1.0, "")], folder=tmp_path, merged=True)
    publish("parts", [Row("b", 2.0, "")], folder=tmp_path)
    assert list(rows_of(tmp_path)) == ["b"]
