"""A release on this machine is what its digest says, or it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adapters.releases import publish
from tasks.adapters.store import MemoryStore, Store
from tasks.controller.pull import ReleaseLibrary
from tasks.domain.errors import InputRejected, Unavailable
from tasks.serving.release import verify
from tests.rollout_stack import make_release


def a_store_with_a_release(tmp_path: Path) -> tuple[MemoryStore, str]:
    made, store = tmp_path / "made", MemoryStore()
    release = make_release(made, "one")
    view = verify(made / "releases" / release).record.view
    publish(store, "releases", release, made / "releases" / release)
    publish(store, "views", view, made / "views" / view)
    return store, release


def library(tmp_path: Path, store: Store) -> ReleaseLibrary:
    return ReleaseLibrary(tmp_path / "serving", lambda: store)


def test_a_pulled_release_lies_beside_its_view_and_needs_no_store_again(tmp_path: Path) -> None:
    store, release = a_store_with_a_release(tmp_path)
    found = library(tmp_path, store)
    assert found.local(release) is None
    pulled = found.pull(release)
    assert verify(Path(pulled.src), release) and (Path(pulled.view) / "view.json").exists()

    def no_store() -> Store:
        raise Unavailable("the object store does not answer")

    offline = ReleaseLibrary(tmp_path / "serving", no_store)
    assert offline.local(release) == pulled
    offline.verify(release)
    assert offline.describe(release)["partition"] == "2017-07-01"


@pytest.mark.parametrize("victim", ["release/behaviour.json", "bentos/ranker/__main__.py", "release/release.json"])
def test_a_release_changed_in_the_store_is_refused_and_not_kept(tmp_path: Path, victim: str) -> None:
    store, release = a_store_with_a_release(tmp_path)
    store.replace(f"releases/{release}/{victim}", b"changed")
    found = library(tmp_path, store)
    with pytest.raises(InputRejected, match="sha256"):
        found.pull(release)
    assert found.local(release) is None


def test_a_release_changed_on_disk_is_found(tmp_path: Path) -> None:
    store, release = a_store_with_a_release(tmp_path)
    found = library(tmp_path, store)
    pulled = found.pull(release)
    (Path(pulled.src) / "release" / "behaviour.json").write_text("{}")
    with pytest.raises(InputRejected, match=r"behaviour\.json has sha256"):
        found.verify(release)


def test_another_release_under_this_name_is_refused(tmp_path: Path) -> None:
    """The manifest in the store agrees with the files, but the files are not this release."""
    store, _ = a_store_with_a_release(tmp_path)
    other = make_release(tmp_path / "other", "two")
    publish(store, "releases", "e" * 64, tmp_path / "other" / "releases" / other)
    found = library(tmp_path, store)
    with pytest.raises(InputRejected, match="expected eeee"):
        found.pull("e" * 64)
    assert not (tmp_path / "serving" / "releases" / ("e" * 64)).exists()


def test_an_unknown_release_and_a_name_that_is_none(tmp_path: Path) -> None:
    found = library(tmp_path, MemoryStore())
    with pytest.raises(InputRejected, match="does not exist"):
        found.pull("f" * 64)
    with pytest.raises(InputRejected, match="is not a digest"):
        found.local("../../etc")
