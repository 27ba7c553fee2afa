"""The `search/` directory of a dataset: the catalogue as search reads it, and judged lists split by day.

Lists of holdout days lie in a file of their own, which training never opens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import polars as pl
from safetensors.numpy import load_file, save_file

from tasks.domain.manifest import canonical_json
from tasks.domain.recipe import SearchFields
from tasks.ranker.search.documents import COLUMNS, DOCUMENTS, Documents, read_documents, save_documents
from tasks.ranker.search.lists import Lists, lists_of, together

DIRECTORY = "search"
EVENTS: dict[str, pl.DataType | type[pl.DataType]] = {
    "event_id": pl.String, "event_time": pl.Datetime("us", "UTC"), "user_id": pl.String, "session_id": pl.String,
    "surface": pl.String, "query": pl.String, "item_id": pl.String, "event_type": pl.String, "value": pl.Float64,
    "request_id": pl.String,
}  # fmt: skip


def read_catalogue(catalogue: Path, fields: SearchFields) -> Documents:
    schema = pl.read_parquet_schema(catalogue)
    table = pl.read_parquet(catalogue, columns=[name for name in COLUMNS if name in schema]).sort("item_id")
    return read_documents(table.to_dicts(), fields)


def read_lists(accepted: Iterable[Path], documents: Documents) -> tuple[Lists, set[str]]:
    """(lists of these days, the pseudonyms of who searched); a list ends with its day."""
    days = [_events(path).filter(pl.col("surface") == "search") for path in sorted(accepted)]
    users = {user for day in days for user in day["user_id"].drop_nulls().to_list()}
    return together([lists_of(day, documents.ids) for day in days]), users


def write_search(out: Path, documents: Documents, parts: dict[str, Lists], users: Iterable[str] = ()) -> dict[str, int]:
    """Write the catalogue and the lists of train, validation and holdout; how many of each can teach or judge.

    users: whose searches these are. A list names nobody, but an erasure must find the dataset by whom it is made of.
    """
    folder = out / DIRECTORY
    folder.mkdir()
    save_documents(folder / DOCUMENTS, documents)
    (folder / "users.json").write_bytes(canonical_json({"users": sorted(users)}))
    for name, lists in parts.items():
        (folder / f"{name}.json").write_bytes(canonical_json({"names": lists.names, "queries": lists.queries}))
        save_file({"ptr": lists.ptr, "rows": lists.rows, "grade": lists.grade}, folder / f"{name}.safetensors")
    return {f"search_{name}_lists": len(lists.teach()) for name, lists in parts.items()}


def load_lists(dataset: Path, part: str) -> Lists:
    """The lists of train, validation or holdout; none where the dataset holds no search."""
    folder = dataset / DIRECTORY
    if not (folder / f"{part}.safetensors").exists():
        return together([])
    arrays, told = load_file(folder / f"{part}.safetensors"), json.loads((folder / f"{part}.json").read_bytes())
    return Lists(told["names"], told["queries"], arrays["ptr"], arrays["rows"], arrays["grade"])


def _events(path: Path) -> pl.DataFrame:
    schema = pl.read_parquet_schema(path)
    frame = pl.read_parquet(path, columns=[name for name in EVENTS if name in schema])
    columns = [pl.col(n).cast(t) if n in schema else pl.lit(None, dtype=t).alias(n) for n, t in EVENTS.items()]
    return frame.select(columns)
