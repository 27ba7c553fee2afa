"""Which releases leave this machine's disk, and which never do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from tasks.adapters.shelf import TRASH, Shelf
from tasks.controller.collect import LOGS_KEPT_S, YOUNG_S, Collector, needed
from tasks.domain.errors import InputRejected
from tests.rollout_builders import A, B, C, a_policy
from tests.rollout_world import World

OLD = [f"{number:064x}" for number in range(1, 9)]


class Disk:
    """Releases that lie here, each with its view, all pulled a day ago."""

    def __init__(self, root: Path, world: World) -> None:
        self.root, self.world, self.shelf = root / "serving", world, Shelf(root / "serving")
        self.logs = root / "logs"
        self.logs.mkdir()
        self.retired: list[str] = []
        self.collector = Collector(world.controller, self.shelf, self.logs, self.retired.append)

    def put(self, release: str, view: str | None = None, age_s: float = 86_400) -> None:
        view = view or release[::-1]
        folder = self.root / "releases" / release / "release"
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"view": view}))
        (self.root / "releases" / f"{release}.sig.json").write_text("{}")
        (self.root / "views" / view).mkdir(parents=True, exist_ok=True)
        then = time.time() - age_s
        os.utime(folder.parent, (then, then))

    def collect(self) -> set[str]:
        return set(asyncio.run(self.collector.collect()))

    def there(self) -> set[str]:
        return {one.release for one in self.shelf.held()}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path, World(A, B, C, *OLD))


def promote(world: World, *releases: str) -> None:
    for release in releases:
        kind = "canary" if world.state.champion else "bootstrap"
        world.commands.submit(
            release=release, kind=kind, policy=a_policy(), actor="dag", reason="new", idempotency_key=release,
            expected_champion=None,
        )  # fmt: skip
        asyncio.run(world.passes(30, traffic=10))
        assert world.state.champion.release == release


def test_what_serves_served_or_was_champion_lately_stays(disk: Disk) -> None:
    promote(disk.world, *OLD[:5], A, B)
    for release in (*OLD, A, B):
        disk.put(release)
    assert needed(disk.world.state) == {B, A, OLD[4]}
    assert disk.collect() == set(OLD) - {OLD[4]}
    assert disk.there() == {A, B, OLD[4]}
    assert {path.name for path in (disk.root / "releases").iterdir()} == {
        name for release in disk.there() for name in (release, f"{release}.sig.json")
    }
    assert set(disk.shelf.views()) == {release[::-1] for release in disk.there()}
    assert set(disk.retired) == {release[::-1] for release in OLD[:4] + OLD[5:]}, "from the online store too"
    assert disk.collect() == set(), "a second time there is nothing to do"


def test_a_refused_champion_takes_no_place_of_a_good_one(disk: Disk) -> None:
    promote(disk.world, *OLD[:4])
    asyncio.run(disk.world.commands.roll_back(to=None, actor="x", reason="bad", idempotency_key="back"))
    assert needed(disk.world.state) == {OLD[2], OLD[1], OLD[0]}, "the last three that were not rolled back"


def test_nothing_goes_during_a_rollout_or_before_the_first_champion(disk: Disk) -> None:
    for release in OLD:
        disk.put(release)
    assert disk.collect() == set()
    promote(disk.world, A)
    disk.world.commands.submit(
        release=B,
        kind="canary",
        policy=a_policy(),
        actor="dag",
        reason="new",
        idempotency_key="b",
        expected_champion=None,
    )
    assert disk.collect() == set()


def test_pinned_running_waited_for_and_young_releases_stay(disk: Disk) -> None:
    promote(disk.world, A)
    for release in (A, *OLD[:4]):
        disk.put(release)
    disk.put(OLD[4], age_s=YOUNG_S / 2)
    disk.shelf.pin(OLD[0][-64:], "ada", "the one from before the relaunch")
    asyncio.run(disk.world.launcher.start(OLD[1], Path(), Path()))
    disk.world.controller.held.add(OLD[2])
    assert disk.collect() == {OLD[3]}
    disk.shelf.unpin(OLD[0])
    assert disk.collect() == {OLD[0]}


def test_nothing_goes_while_a_release_that_is_needed_is_fetched(disk: Disk) -> None:
    promote(disk.world, A, B)
    disk.put(B)
    disk.put(OLD[0])
    assert disk.collect() == set(), "A is on its way, and may share a view"
    disk.put(A)
    assert disk.collect() == {OLD[0]}


def test_a_view_that_another_release_names_stays(disk: Disk) -> None:
    promote(disk.world, A)
    disk.put(A, view=C)
    disk.put(OLD[0], view=C)
    assert disk.collect() == {OLD[0]} and disk.shelf.views() == [C] and not disk.retired


def test_a_release_that_came_back_goes_also_where_a_crash_left_its_trash(disk: Disk) -> None:
    promote(disk.world, A)
    for release in (A, OLD[0]):
        disk.put(release)
    left = disk.root / "releases" / f"{TRASH}{OLD[0]}" / "release"
    left.mkdir(parents=True)
    (left / "model.bin").write_text("half deleted")
    assert disk.collect() == {OLD[0]}
    assert not left.parent.exists()


def test_pins_that_cannot_be_read_keep_everything(disk: Disk) -> None:
    promote(disk.world, A)
    disk.put(OLD[0])
    (disk.root / "pinned.json").write_text("{")
    with pytest.raises(InputRejected, match="no release is deleted"):
        disk.collect()
    assert disk.there() == {OLD[0]}


def test_names_that_are_no_release_here(disk: Disk) -> None:
    disk.put(A)
    for named in ("", "b", "../x"):
        with pytest.raises(InputRejected, match="is not one release of this machine; here: aaaaaaaaaaaa"):
            disk.shelf.pin(named, "x", "y")
    with pytest.raises(InputRejected, match="pinned: none"):
        disk.shelf.unpin(A)


def test_logs_of_replicas_that_are_long_gone_go(disk: Disk) -> None:
    promote(disk.world, A)
    disk.put(A)
    running = next(iter(disk.world.replicas.values())).name
    for name, age in ((running, 2), ("gone-1", 2), ("gone-2", 0.5)):
        path = disk.logs / f"replica-{name}.log"
        path.touch()
        then = time.time() - age * LOGS_KEPT_S
        os.utime(path, (then, then))
    disk.collect()
    assert {path.name for path in disk.logs.iterdir()} == {f"replica-{running}.log", "replica-gone-2.log"}
