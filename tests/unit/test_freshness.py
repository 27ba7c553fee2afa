"""The picture of what refreshes were worth: which slates make which line, and what it says where a line has no point."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Artifact, Manifest, canonical_json
from tasks.explain.freshness import freshness, page


def slates(*rows):
    """kind, day, candidate, champion; the new task has a value in no slate."""
    kind, day, ours, theirs = zip(*rows, strict=True)
    return pa.table(
        {
            "kind": kind,
            "day": day,
            "candidate.ndcg_at_10[all]": pa.array(ours, pa.float64()),
            "champion.ndcg_at_10[all]": pa.array(theirs, pa.float64()),
            "candidate.ndcg_at_10[new]": pa.array([None] * len(rows), pa.float64()),
        }
    )


def publish(store, day, started, table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    run = f"runs/evaluate/{day}/{started:024x}"
    store.put_new(f"{run}/slates.parquet", buffer.getvalue())
    told = Artifact(uri=store.uri(f"{run}/slates.parquet"), sha256="0" * 64, bytes=1)
    manifest = Manifest(
        step="evaluate", partition=day, inputs={}, outputs={"slates.parquet": told}, params={}, summary={},
        code_version="x", lock_digest="x", seed=1, started_at=f"2026-11-01T00:00:{started:02d}+00:00", seconds=1.0,
    )  # fmt: skip
    store.put_new(f"{run}.json", canonical_json(manifest.model_dump(mode="json")))


@pytest.fixture
def store():
    made = MemoryStore()
    publish(made, "2017-07-01", 1, slates(("bootstrap", "2017-07-01", 0.3, 0.2)))
    publish(made, "2017-07-02", 2, slates(("state", "2017-07-02", 0.9, 0.9)))
    day = "2017-07-02"
    twice = [("state", day, 0.2, 0.1), ("state", day, 0.4, 0.3), ("weights", "2017-06-29", 0.0, 0.0)]
    publish(made, day, 3, slates(*twice, ("weights", day, 0.5, 0.3), ("weights", day, 0.3, 0.3)))
    publish(made, "2017-07-03", 4, slates(("state", "2017-07-03", 0.25, 0.2)))
    return made


def test_a_day_is_the_mean_over_its_own_slates_in_its_latest_refresh(store):
    first, second = freshness(store)
    assert (first["day"], first["slates"]) == ("2017-07-02", 2), "a first champion is held against nothing"
    means = {line: told["all"] for line, told in first["lines"].items()}
    assert means == pytest.approx({"frozen": 0.2, "state": 0.3, "full": 0.4})
    assert second["lines"].keys() == {"frozen", "state"}, "that day trained nothing"
    assert [row["day"] for row in freshness(store, "2017-07-03")] == ["2017-07-03"]


def test_the_page_draws_each_task_that_has_values_and_says_what_was_not_trained(store):
    drawn = page(freshness(store))
    assert drawn.count("<svg") == 1 and drawn.count("<polyline") == 3
    assert "not trained" in drawn and "0.3000 / - / -" in drawn
    json.dumps(freshness(store))


def test_without_a_day_to_draw_it_says_when_there_will_be_one():
    with pytest.raises(InputRejected, match="the second refresh is the first that can be drawn"):
        freshness(MemoryStore())
