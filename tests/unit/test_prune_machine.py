"""This machine's copies and logs: the old ones go, what is used, serves or is the only copy does not. Files are planted."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.copies import in_use, take_away
from tasks.domain.prune import RetentionPolicy
from tasks.prune.machine import prune_machine
from tasks.settings import Settings

POLICY = RetentionPolicy(copy_days=7, log_days=30)
NOW = datetime.now(UTC)
DAY_S = 86_400.0
# what there is nothing else of, or what serves: old, and untouched all the same
NEVER = (
    "data/serving/releases/a/model", "data/serving/spool/x.jsonl", "data/store/volume.dat", "data/controller/rollout.db",
    "data/valkey/dump.rdb", "data/mlflow/mlflow.db", "data/airflow/airflow.db", "data/cache/text/e/vectors",
    "data/cache/text/e/fp32/encoder.bin",
    "spool/mlflow/1.json", "logs/controller.log", "secrets.json",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    return Settings()


def plant(home: Path, name: str, days: float, size: int = 100) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return aged(path, days)


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * DAY_S
    for one in (*(path.rglob("*") if path.is_dir() else ()), path):
        os.utime(one, (then, then))
    return path


def left(home: Path) -> set[str]:
    return {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() and path.name != ".lock"}


def test_old_copies_and_logs_go_and_nothing_else(settings: Settings) -> None:
    home = settings.home
    folders = ("inputs/x", "releases/r", "views/v", "work/runs-finetune", "cache/variants/d")
    folders += ("bentoml/bentos/freshrank_ranker/r", "cache/text/e/int8-abc", "cache/text/e/.int8-abc.host-1-abc.draft")
    for folder in folders:
        for age, name in ((8, "old"), (1, "new")):
            plant(home, f"data/{folder}-{name}/file", age)
            aged(home / f"data/{folder}-{name}", age)
    for age, name in ((8, "old"), (1, "new")):
        plant(home, f"data/cache/days/{name}.safetensors", age)
        plant(home, f"data/cache/accepted/behaviour/dt=2017-07-01/{name}.parquet", age)
        plant(home, f"data/objects/ab/{name}", age)
    for age, name in ((31, "old"), (29, "new")):
        plant(home, f"logs/airflow/dag_id=x/run_id={name}/attempt=1.log", age)
        plant(home, f"spool/mlflow/refused/{name}.json", age)
        plant(home, f"spool/mlflow/aside/{name}.json", age)
    for name in NEVER:
        plant(home, name, 999)
    before = left(home)

    shown = prune_machine(settings, POLICY, NOW, dry_run=True)
    assert left(home) == before
    done = prune_machine(settings, POLICY, NOW)
    assert done == shown and sum(done.bytes.values()) == 100 * len(before - left(home)) > 0
    assert before - left(home) == {name for name in before - {*NEVER} if "old" in name}
    assert prune_machine(settings, POLICY, NOW).things == {}


def test_a_file_with_two_names_is_counted_once_and_goes_with_its_folder(settings: Settings) -> None:
    cached = plant(settings.home, "data/objects/ab/abc", 8, size=1000)
    kept = plant(settings.home, "data/objects/cd/cde", 8, size=50)
    for source, folder in ((cached, "old"), (kept, "young")):
        target = settings.data / "inputs" / folder
        target.mkdir(parents=True)
        os.link(source, target / "file")
        (target / ".complete").touch()
    aged(settings.data / "inputs" / "old", 8)
    shown = prune_machine(settings, POLICY, NOW, dry_run=True)
    assert sum(shown.bytes.values()) == 1000 and shown.things == {"inputs": 1, "objects": 1}
    assert prune_machine(settings, POLICY, NOW) == shown
    assert kept.exists() and not cached.exists() and (settings.data / "inputs" / "young" / "file").exists()


def test_the_bento_of_what_serves_stays_however_old_it_is(settings: Settings) -> None:
    serves, gone = "a" * 64, "b" * 64
    bentos = settings.data / "bentoml/bentos/freshrank_ranker"
    for release in (serves, gone):
        plant(settings.home, f"data/bentoml/bentos/freshrank_ranker/{release[:12]}/src/model", 60)
        aged(bentos / release[:12], 60)
    plant(settings.home, f"data/serving/releases/{serves}/release/model", 60)
    (bentos / "latest").write_text(f"{serves[:12]}\n")
    aged(bentos / "latest", 60)
    assert prune_machine(settings, POLICY, NOW).things == {"bentoml/bentos/freshrank_ranker": 1}
    assert sorted(path.name for path in bentos.iterdir() if path.name != ".lock") == [serves[:12], "latest"]
    (bentos / "latest").write_text(f"{gone[:12]}\n")  # it names nothing any more
    aged(bentos / "latest", 60)
    prune_machine(settings, POLICY, NOW)
    assert not (bentos / "latest").exists() and (bentos / serves[:12]).is_dir()


def test_a_copy_that_is_in_use_from_this_moment_on_is_not_taken(settings: Settings) -> None:
    root = settings.data / "inputs"
    plant(settings.home, "data/inputs/x/.complete", 30)
    aged(root / "x", 30)
    assert in_use(root / "x" / ".complete", root)
    assert not take_away(root / "x", root, (NOW - timedelta(days=7)).timestamp())
    assert prune_machine(settings, POLICY, NOW).things == {} and (root / "x").is_dir()
    aged(root / "x", 30)
    assert take_away(root / "x", root, (NOW - timedelta(days=7)).timestamp())
    assert not in_use(root / "x" / ".complete", root), "gone, so it is fetched again"


def test_the_work_of_a_step_that_is_alive_stays(settings: Settings) -> None:
    alive, dead = (settings.data / "work" / name for name in ("runs-finetune-a", "runs-finetune-b"))
    for folder, pid in ((alive, os.getpid()), (dead, 2**22 + 1)):
        (folder / f"out-{pid}-abc").mkdir(parents=True)
        plant(folder, "work/checkpoint", 30)
        aged(folder, 30)
    assert prune_machine(settings, POLICY, NOW).things == {"work": 1}
    assert alive.is_dir() and not dead.exists()


def test_what_a_crash_left_between_renaming_and_deleting_goes_with_the_next(settings: Settings) -> None:
    plant(settings.home, "data/inputs/.gone-abc/file", 0)
    plant(settings.home, "data/inputs/x/file", 30)
    aged(settings.data / "inputs" / "x", 30)
    prune_machine(settings, POLICY, NOW)
    assert [path.name for path in (settings.data / "inputs").iterdir()] == [".lock"]
