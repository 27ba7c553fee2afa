"""`freshrank evaluate`: a release on events and judged queries that it has never seen, and what it refuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tasks.cli import app
from tasks.domain.behaviour import pseudonym
from tasks.domain.errors import InputRejected
from tasks.evaluate_command import pulled
from tasks.evaluation.outside import evaluate_release
from tasks.serving.release import verify
from tests.serving_builders import DAY, PSEUDONYM_KEY, a_log, a_release


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return a_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def release(released):
    return verify(released[0])


def events(rows, folder, **columns):
    """(day, user number, item number) as a Parquet file of purchases."""
    start = datetime(1970, 1, 1, 12, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "event_id": [f"e{n}" for n in range(len(rows))],
            "event_time": [start + timedelta(days=day) for day, _, _ in rows],
            "user_id": [pseudonym(f"user-{user}", bytes.fromhex(PSEUDONYM_KEY)) for _, user, _ in rows],
            "surface": ["recommendation"] * len(rows),
            "item_id": [f"item-{item:03d}" for _, _, item in rows],
            "event_type": ["purchase"] * len(rows),
            "value": [2.0] * len(rows),
        }
        | columns,
        schema_overrides={"event_time": pl.Datetime("us", "UTC")},
    )
    path = folder / "events.parquet"
    frame.write_parquet(path)
    return path


def a_week(folder):
    """Days after the release's state: each user buys again what it bought most."""
    log, rows = a_log(), []
    for user in range(8):
        items, counts = np.unique(log.item[log.user == user], return_counts=True)
        rows += [(DAY + day, user, int(item)) for day in (1, 3) for item in items[np.argsort(-counts)][:4]]
    return events(rows, folder)


def queries(folder, rows, name="judged.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def a_judged(folder):
    """Items called by the query are best, those that share a word are good."""
    texts = a_log().items.texts
    rows = [
        {
            "query": query,
            "item_id": f"item-{n:03d}",
            "grade": 2 if texts[n] == query else int(bool(set(query.split()) & set(texts[n].split()))),
        }
        for query in sorted(set(texts))[:12]
        for n in range(60)
    ]
    return queries(folder, rows)


def test_events_become_slates_with_metrics_slices_and_a_baseline(release, released, tmp_path):
    told = evaluate_release(release, released[1], a_week(tmp_path))
    assert (told["slates"], told["users"], told["kind"]) == (16, 8, "events")
    assert {"ndcg_at_10[all]", "logloss[all]", "auc[all]", "value_ndcg_at_10[all]"} <= set(told["metrics"])
    assert told["baseline"]["metrics"]["ndcg_at_10[all]"] > 0.5, "they buy what they bought most often"
    assert told["slices"]["surface_recommendation"]["slates"] == 16
    assert 0 < told["report"]["coverage_at_10"] <= 1
    assert "ndcg_at_10[repeat]" in told["metrics"]


def test_without_the_view_history_comes_from_the_file_alone(release, released, tmp_path):
    path = a_week(tmp_path)
    known, alone = evaluate_release(release, released[1], path), evaluate_release(release, None, path)
    assert known["baseline"]["metrics"]["ndcg_at_10[all]"] > alone["baseline"]["metrics"]["ndcg_at_10[all]"]
    assert alone["slices"]["new_users"]["slates"] == 16


def test_days_that_the_state_has_counted_are_no_holdout(release, tmp_path):
    rows = [(DAY - 2, 1, 3), (DAY - 1, 1, 3)]
    with pytest.raises(InputRejected, match=r"empty holdout.*2 user days that the release has counted"):
        evaluate_release(release, None, events(rows, tmp_path))
    told = evaluate_release(release, None, events([*rows, (DAY, 1, 3)], tmp_path))
    assert told["slates"] == 1 and told["left_out"]["user_days_that_the_release_has_counted"] == 2
    assert told["metrics"]["ndcg_at_10[repeat]"] > 0


def test_judged_queries_are_ranked_by_the_services_engine(release, tmp_path):
    told = evaluate_release(release, None, a_judged(tmp_path))
    assert told["kind"] == "judged queries" and told["slates"] == 12
    assert told["metrics"]["graded_ndcg_at_10[all]"] > 0.9 > told["baseline"]["metrics"]["graded_ndcg_at_10[all]"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"query": "milk", "item_id": "item-001", "grade": 1}] * 2, "duplicates: 1 rows"),
        ([{"query": "milk", "item_id": "item-001", "grade": 0}], "empty holdout: none of its 1 queries"),
        ([{"query": "milk", "item_id": "item-001", "grade": -1}], "null, NaN, infinite or negative in 1 of 1"),
        (
            [{"query": "milk", "item_id": "item-001", "grade": None}, {"query": "m", "item_id": "x", "grade": 1}],
            "in 1 of 2",
        ),
        ([{"query": " ", "item_id": "item-001", "grade": 1}], "query or item_id is empty"),
        ([{"query": "milk", "item_id": "item-001", "grade": "good"}], "write a number"),
    ],
)
def test_bad_judgements_are_refused_by_name(release, tmp_path, rows, said):
    with pytest.raises(InputRejected, match=said):
        evaluate_release(release, None, queries(tmp_path, rows))


def test_events_that_come_twice_or_break_the_contract_are_refused(release, tmp_path):
    rows = [(DAY, 1, 3), (DAY, 1, 4)]
    with pytest.raises(InputRejected, match="stood before"):
        evaluate_release(release, None, events(rows, tmp_path, event_id=["e1", "e1"]))
    with pytest.raises(InputRejected, match="does not meet the contract"):
        evaluate_release(release, None, events(rows, tmp_path, value=[1.0, float("nan")]))
    torn = tmp_path / "events.parquet"
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(InputRejected, match="cannot be read"):
        evaluate_release(release, None, torn)


def test_scores_that_are_no_numbers_are_refused_by_the_name_of_the_metric(release, tmp_path, monkeypatch):
    from tasks.evaluation import outside

    class Broken:
        def base(self, x, item_vec):
            return np.full(len(x), np.nan, np.float32)

        def full(self, x, item_vec, tokens, mask):
            return self.base(x, item_vec)

    monkeypatch.setattr(outside, "reference_scorer", lambda model: Broken())
    with pytest.raises(InputRejected, match=r"logloss\[all\].* is NaN or infinite"):
        evaluate_release(release, None, a_week(tmp_path))


def test_the_command_prints_a_table_or_json(released, tmp_path):
    path, folder = a_week(tmp_path), released[0].parent
    shown = CliRunner().invoke(app, ["evaluate", "--release", str(folder), "--data", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "16 slates of 8 users" in shown.output and "GP-TopFreq" in shown.output and "new_users" not in shown.output
    told = CliRunner().invoke(app, ["evaluate", "--release", str(folder), "--data", str(path), "--json"])
    assert json.loads(told.stdout)["slates"] == 16
    with pytest.raises(InputRejected, match="holds no release"):
        CliRunner().invoke(
            app,
            ["evaluate", "--release", str(tmp_path), "--data", str(path)],
            catch_exceptions=False,
            standalone_mode=False,
        )


def test_a_digest_names_a_release_that_has_served_here_with_its_view(released, tmp_path, monkeypatch):
    src, view = released
    serving, digest = tmp_path / "data" / "serving", verify(src).digest
    (serving / "releases").mkdir(parents=True)
    (serving / "releases" / digest).symlink_to(src)
    (serving / "releases" / f"{digest}.key.sig.json").write_text("{}")
    named = json.loads((src / "release" / "release.json").read_bytes())["view"]
    (serving / "views").mkdir()
    (serving / "views" / named).symlink_to(view)
    assert pulled(serving, digest[:8]) == (serving / "releases" / digest, serving / "views" / named)
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    command = ["evaluate", "--release", digest[:12], "--data", str(a_week(tmp_path)), "--json"]
    told = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert told["release"] == digest
    with pytest.raises(InputRejected, match=f"0 releases .* there are: {digest[:12]}[.]"):
        pulled(serving, "0" * 12)
