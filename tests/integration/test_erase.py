"""One customer from the source to the view and out again, through the public steps, with every output searched."""

from __future__ import annotations

import io
import logging
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from tasks.adapters.erasures import ERASED
from tasks.adapters.registry import MemoryRegistry
from tasks.adapters.releases import fetch, publish
from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import pseudonym, session_pseudonym
from tasks.domain.erasure import erasure_id
from tasks.domain.errors import InputRejected, Unavailable
from tasks.erasure.erase import erase, look_for
from tasks.ranker.state import View
from tasks.record import mirror
from tasks.run import materialise, read_manifest, run
from tasks.serving.online_store import MemoryOnlineStore
from tasks.serving.release import seal_view, verify_view
from tasks.settings import Settings
from tasks.steps import STEPS
from tests.behaviour_builders import holders
from tests.shop_source import ANNA, LAST_DAY, NEXT_DAY, PHONE, VISIT, write_shop

NOW = datetime(2026, 11, 22, 5, tzinfo=UTC)
RAW = (ANNA, VISIT, PHONE)


def refresh(settings, store, day) -> dict[str, str]:
    """ingest -> validate_data -> build_dataset of one day; step -> manifest URI."""
    ingested = run(STEPS["ingest"], day, {}, settings, store=store)
    validated = run(STEPS["validate_data"], day, {"ingest": ingested}, settings, store=store)
    built = run(STEPS["build_dataset"], day, {"validate_data": validated}, settings, store=store)
    return {"ingest": ingested, "validate_data": validated, "build_dataset": built}


def publish_view(settings, store, built: str, scratch: Path) -> str:
    """What package does with the dataset's view."""
    shutil.copytree(materialise(store, read_manifest(store, built), settings) / "view", scratch)
    digest = seal_view(scratch, 1)
    publish(store, "views", digest, scratch)
    return digest


def texts_of(path: Path) -> list[str]:
    body = path.read_bytes()
    told = [path.name, body.decode(errors="replace")]
    if body[:4] == b"PAR1":
        told += [str(column) for column in pl.read_parquet(io.BytesIO(body)).to_dict(as_series=False).values()]
    return told


def files_naming(home: Path, text: str) -> list[Path]:
    files = [path for path in home.rglob("*") if path.is_file()]
    return [path for path in files if any(text in one for one in texts_of(path))]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Refreshed up to LAST_DAY, its view published and served from this machine; everything that was logged."""
    home = tmp_path_factory.mktemp("erase")
    settings = Settings(home=home / "home", source=f"files:{write_shop(home)}", recipe="tiny")
    store, lines = MemoryStore(), io.StringIO()
    handler = logging.StreamHandler(lines)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    uris = refresh(settings, store, LAST_DAY)
    view = publish_view(settings, store, uris["build_dataset"], home / "view")
    key = bytes.fromhex(settings.secrets.pseudonym_key)
    yield SimpleNamespace(
        settings=settings, store=store, uris=uris, view=view, lines=lines, key=key, user=pseudonym(ANNA, key), home=home
    )
    logging.getLogger().removeHandler(handler)


def test_a_raw_id_is_nowhere_after_the_first_steps(world):
    store = world.store
    session = session_pseudonym(VISIT, world.key)
    assert "landed" in world.lines.getvalue() or "rows=" in world.lines.getvalue(), "the log was captured"
    told = [world.lines.getvalue(), *world.uris.values()]
    for raw in RAW:
        assert holders(store, raw) == []
        assert files_naming(world.settings.home, raw) == []
        assert not [line[:200] for line in told if raw in line]
    assert places(store, world.user) == {
        "accepted/dt=D/caught",
        "behaviour/dt=D/events",
        "runs/build_dataset/D/names.json",
        "runs/build_dataset/D/view/users.json",
        "runs/validate_data/D/quarantine.parquet",
        "users",
        "views/users.json",
    }, "the search finds a pseudonym where it belongs, and a new place wants a decision in tasks/erasure/taint.py"
    assert holders(store, session) and files_naming(world.settings.home, world.user)


def test_what_goes_to_mlflow_names_nobody(world):
    """The calls that wait while MLflow is down, and what it is told when it is back."""

    class Down(MemoryRegistry):
        def _find(self, run_key):
            raise Unavailable("MLflow did not answer")

    down, up = Down(), MemoryRegistry()
    for uri in world.uris.values():
        assert not mirror(world.settings, down, world.store).call("step", uri=uri, run_key="r")
    spool = [path.read_text() for path in (world.settings.home / "spool").rglob("*.json")]
    mirror(world.settings, up, world.store).flush()
    told = [*spool, str(up.runs), *(f"{path} {body!r}" for (_, path), body in up.artifacts.items())]
    assert len(spool) == 3 and "report.html" in str(sorted(up.artifacts)) and "rows" in str(up.runs)
    for text in (*RAW, world.user):
        assert not [one[:200] for one in told if text in one]
    assert any(world.user[:8] in one for one in told), "a report shows eight digits: erasing deletes such pages"


def test_erasing_leaves_the_user_nowhere_and_says_what_was_built_from_the_rows(world):
    store, settings, user, view = world.store, world.settings, world.user, world.view
    for n, body in enumerate(pages_of(world)):
        store.put_new(f"mlflow/0/run/artifacts/{n}.html", body)
    online = MemoryOnlineStore()
    online.publish(view, [(user, b"history"), ("f" * 64, b"another")])
    serving = settings.data / "serving"
    fetch(store, "views", view, serving / "views" / view)
    spooled = serving / "spool" / "replica" / "replica-00000.jsonl"
    spooled.parent.mkdir(parents=True)
    spooled.write_text(f'{{"user_id": "{user}"}}\n')

    holdings = look_for(store, user)
    before = dict(store._objects)
    assert holdings.rows > 100 and len(holdings.found.days) > 25 and holdings.built.views == [view]
    assert store._objects == before, "looking changes nothing"
    done = erase(store, settings, online, holdings, "cli:test", "asked for", NOW)

    record = f"{ERASED}{erasure_id(user)}.json"
    assert holders(store, user) == [record]
    assert [
        key for key in store.list("") if key.endswith((".html", ".md")) and user[:8].encode() in store.get(key)
    ] == []
    assert files_naming(settings.home, user) == [spooled]
    assert online.get(view, user) is None and online.get(view, "f" * 64) == b"another"
    assert done.tainted.datasets == (store.key(world.uris["build_dataset"]),)
    assert done.tainted.views == (view,)
    assert sorted(done.days) == sorted(holdings.found.days)
    assert all(after.landed == 2 and after.accepted in (2, None) for after in done.days.values())
    assert [sentence[:8] for sentence in done.remains] == ["replicas", "1 feedba"]
    assert verify_view(serving / "views" / view, view) and len(View(serving / "views" / view)) == 39

    spooled.unlink()
    shutil.rmtree(settings.data / "inputs", ignore_errors=True)
    again = erase(store, settings, None, look_for(store, user), "cli:other", "again", NOW)
    assert (again.days, again.tainted) == (done.days, done.tainted)
    assert store.get(record).decode().count("cli:test") == 1, "the first record stands"
    with pytest.raises(InputRejected, match="does not exist"):
        materialise(store, read_manifest(store, world.uris["build_dataset"]), settings)


def test_the_next_refresh_and_a_repeated_one_exclude_the_user(world, tmp_path_factory):
    store, settings, user = world.store, world.settings, world.user
    repeated = refresh(settings, store, LAST_DAY)
    assert repeated["ingest"] == world.uris["ingest"], "the source still has the user, and the day is the same day"
    assert repeated["validate_data"] != world.uris["validate_data"]
    assert repeated["build_dataset"] != world.uris["build_dataset"]
    uris = refresh(settings, store, NEXT_DAY)
    assert read_manifest(store, uris["ingest"]).summary["erased_rows"] > 0
    view = publish_view(settings, store, uris["build_dataset"], world.home / "next view")
    assert user not in View(world.home / "next view").user_ids and view != world.view
    assert holders(store, user) == [f"{ERASED}{erasure_id(user)}.json"]
    assert files_naming(settings.home, user) == []

    never = tmp_path_factory.mktemp("never")
    other = Settings(home=never / "home", source=f"files:{write_shop(never, anna=False)}", recipe="tiny")
    other.home.mkdir()
    shutil.copyfile(settings.home / "secrets.json", other.home / "secrets.json")
    (other.home / "secrets.json").chmod(0o600)
    shutil.copytree(settings.data / "cache", other.data / "cache")
    clean = MemoryStore()
    same = refresh(other, clean, LAST_DAY)
    made, never_there = (
        {name: artifact.sha256 for name, artifact in read_manifest(one, uri).outputs.items()}
        for one, uri in ((store, repeated["build_dataset"]), (clean, same["build_dataset"]))
    )
    assert made == never_there, "the dataset is the one of a shop that never had the customer"


def places(store, text) -> set[str]:
    """Kinds of keys that name `text`."""
    keys = {re.sub(r"\d{4}-\d\d-\d\d", "D", key) for key in holders(store, text)}
    return {re.sub(r"[-/][0-9a-f]{8,64}(?=[/.])|\.parquet(?<!quarantine\.parquet)", "", key) for key in keys}


def pages_of(world) -> list[bytes]:
    outputs = read_manifest(world.store, world.uris["validate_data"]).outputs
    return [
        world.store.get(world.store.key(one.uri)) for name, one in outputs.items() if name.endswith((".html", ".md"))
    ]
