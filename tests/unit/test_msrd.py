"""The MSRD adapter, on a made-up folder of the same shape and, where it is there, on the real one."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tasks.conform import conform
from tasks.domain.contract import EVENT, ITEM, PLAN
from tasks.domain.errors import InputRejected
from tasks.own_data.check import check
from tasks.sources import open_source

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "msrd"


def a_folder(root: Path, queries: int = 60) -> Path:
    words = {"tags": [["heist"], []], "genres": [["crime", "drama"], []], "actors": [["A. Actor"], []]}
    pl.DataFrame(
        {
            "doc_id": ["1", "2"],
            "title": ["Heist.", "Nameless"],
            "overview": ["They rob a bank.", ""],
            **words,
            "director": ["D. Irector", ""],
            "characters": [["Himself", "Himself"], []],
            "year": [1999, 2001],
            "votes": [1, 2],
            "rating": [7.5, 0.0],
            "popularity": [3.25, 0.5],
        }
    ).write_parquet(root / "items.parquet")
    pl.DataFrame({"query_id": range(queries), "query": [f"query {n}" for n in range(queries)]}).write_parquet(
        root / "queries.parquet"
    )
    pairs = [(n, doc, int(doc == "1")) for n in range(queries) for doc in ("1", "2", "unknown")]
    pl.DataFrame(pairs, schema=["query_id", "doc_id", "grade"], orient="row").write_parquet(root / "judgments.parquet")
    return root


def all_events(source) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(source.events(day)) for day in source.days()])


def test_every_judged_pair_is_a_rating_on_search_and_lies_in_its_day(tmp_path):
    source = open_source(f"msrd:{a_folder(tmp_path)}")
    events = all_events(source)
    assert len(events) == events["event_id"].n_unique() == 180
    assert set(events["surface"]) == {"search"} and set(events["event_type"]) == {"rating"}
    one = events.filter(pl.col("request_id") == "msrd-7").sort("item_id")
    assert one["item_id"].to_list() == ["1", "2", "unknown"]
    assert one["value"].to_list() == [1.0, 0.0, 0.0]
    assert set(one["query"]) == {"query 7"}
    assert one["user_id"].n_unique() == one["event_time"].dt.date().n_unique() == 1
    assert one["event_time"].diff().drop_nulls().dt.total_seconds().to_list() == [10, 10]
    for day in source.days():
        assert set(pl.DataFrame(source.events(day))["event_time"].dt.date().cast(pl.String)) <= {day}


def test_times_depend_on_the_query_alone(tmp_path):
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir(), many.mkdir()
    short, long = (all_events(open_source(f"msrd:{a_folder(*told)}")) for told in ((few, 5), (many, 60)))
    assert short.equals(long.filter(pl.col("event_id").is_in(short["event_id"].implode())), null_equal=True)


def test_text_is_rich_and_leaves_out_what_is_empty(tmp_path):
    heist, nameless = open_source(f"msrd:{a_folder(tmp_path)}").items().to_pylist()
    assert heist["text"] == "Heist. They rob a bank. heist. crime, drama. D. Irector. A. Actor. Himself. 1999"
    assert nameless["text"] == "Nameless. 2001"
    assert (heist["category_path"], nameless["category_path"]) == ("Film > Crime", "Film")
    assert '"director":"D. Irector"' in heist["attributes"] and '"popularity":3.25' in heist["attributes"]


def test_there_are_neither_plans_nor_users_nor_trips(tmp_path):
    source = open_source(f"msrd:{a_folder(tmp_path)}")
    assert (source.plan(source.first_day).num_rows, source.users(), source.trips(source.first_day)) == (0, None, [])
    with pytest.raises(InputRejected, match="MSRD ends on 2020-02-11"):
        source.events("2020-02-12")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "queries.parquet").unlink(), "queries.parquet is missing; MSRD is items.parquet, "),
        (lambda root: (root / "items.parquet").write_bytes(b"PAR1 half"), "items.parquet cannot be read"),
        (
            lambda root: pl.DataFrame({"a": [1]}).write_parquet(root / "judgments.parquet"),
            "judgments.parquet cannot be",
        ),
    ],
)
def test_a_folder_of_another_shape_is_refused_by_the_file_that_is_wrong(tmp_path, spoil, said):
    spoil(a_folder(tmp_path))
    with pytest.raises(InputRejected, match=said):
        source = open_source(f"msrd:{tmp_path}")
        source.items(), source.events(source.first_day)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the MSRD files are not there: {SHARED}")
def test_the_real_data_meets_the_contract_but_for_the_items_that_are_not_there(tmp_path):
    source = open_source(f"msrd:{SHARED}")
    events, items = all_events(source), source.items()
    assert (len(events), events["query"].n_unique() > 13_000, items.num_rows) == (329_290, True, 9_750)
    for table, contract in ((events.to_arrow(), EVENT), (items, ITEM), (source.plan(source.first_day), PLAN)):
        assert conform(table, contract, contract.name)[1] == ()
    texts = pl.Series(items.column("text")).str.len_chars()
    assert texts.median() > 400
    events.write_parquet(tmp_path / "events.parquet")
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    report = check(tmp_path)
    assert [(one.kind, one.rows) for one in report.problems] == [("unknown_item", 357)]
