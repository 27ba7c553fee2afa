"""A release on this machine is what its digest says, or it is not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.adapters.releases import publish, publish_release
from tasks.adapters.signing import public_keys
from tasks.adapters.store import MemoryStore, Store
from tasks.controller.pull import ReleaseLibrary
from tasks.domain.errors import InputRejected, Unavailable
from tasks.serving.release import verify
from tasks.serving.signature import read_public_keys, signature_of
from tasks.settings import Settings
from tests.rollout_stack import make_release


def packaged(tmp_path: Path, name: str) -> tuple[Settings, str]:
    """Where package ran: the settings with its key pair, and a signed release on its disk."""
    settings = Settings(home=tmp_path / "made")
    return settings, make_release(settings, name)


def a_store_with_a_release(tmp_path: Path) -> tuple[MemoryStore, str]:
    settings, release = packaged(tmp_path, "one")
    store, serving = MemoryStore(), settings.data / "serving"
    view = verify(serving / "releases" / release).record.view
    key_id = next(iter(read_public_keys(public_keys(settings))))
    publish_release(store, release, serving / "releases" / release, key_id)
    publish(store, "views", view, serving / "views" / view)
    return store, release


def library(tmp_path: Path, store: Store) -> ReleaseLibrary:
    return ReleaseLibrary(tmp_path / "serving", lambda: store, public_keys(Settings(home=tmp_path / "made")))


def test_a_pulled_release_lies_beside_its_view_and_needs_no_store_again(tmp_path: Path) -> None:
    store, release = a_store_with_a_release(tmp_path)
    found = library(tmp_path, store)
    assert found.local(release) is None
    pulled = found.pull(release)
    assert verify(Path(pulled.src), release) and (Path(pulled.view) / "view.json").exists()

    def no_store() -> Store:
        raise Unavailable("the object store does not answer")

    offline = ReleaseLibrary(tmp_path / "serving", no_store, public_keys(Settings(home=tmp_path / "made")))
    assert offline.local(release) == pulled
    offline.verify(release)
    assert offline.describe(release)["partition"] == "2017-07-01"


def test_a_dead_valkey_does_not_stop_the_collecting_of_views(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = public_keys(Settings(home=tmp_path / "made"))
    ReleaseLibrary(tmp_path, MemoryStore, keys, "valkey://127.0.0.1:1").retire("a" * 64)
    assert "event=not-retired" in caplog.text


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
    settings, other = packaged(tmp_path, "two")
    publish(store, "releases", "e" * 64, settings.data / "serving" / "releases" / other)
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


def test_a_release_that_nobody_signed_is_refused_and_not_kept(tmp_path: Path) -> None:
    store, release = a_store_with_a_release(tmp_path)
    (signature,) = (key for key in store.list("releases/") if key.endswith(".sig.json"))
    store.delete(signature)
    found = library(tmp_path, store)
    with pytest.raises(InputRejected, match="carries no signature of a key that this machine trusts"):
        found.pull(release)
    assert found.local(release) is None and not (tmp_path / "serving" / "releases" / release).exists()


def test_a_release_of_another_key_is_refused_until_the_key_is_trusted(tmp_path: Path) -> None:
    store, release = a_store_with_a_release(tmp_path)
    theirs, ours = public_keys(Settings(home=tmp_path / "made")), public_keys(Settings(home=tmp_path / "ours"))
    with pytest.raises(InputRejected, match="carries no signature"):
        ReleaseLibrary(tmp_path / "serving", lambda: store, ours).pull(release)
    both = tmp_path / "both.pem"
    both.write_text(ours.read_text() + theirs.read_text())
    assert ReleaseLibrary(tmp_path / "serving", lambda: store, both).pull(release)


def test_a_signature_changed_in_the_store_is_refused_and_what_serves_keeps_its_own(tmp_path: Path) -> None:
    store, release = a_store_with_a_release(tmp_path)
    found = library(tmp_path, store)
    src = Path(found.pull(release).src)
    (signature,) = (key for key in store.list("releases/") if key.endswith(".sig.json"))
    store.replace(signature, store.get(signature).replace(b"M", b"N", 1))
    with pytest.raises(InputRejected, match="signature"):
        found.pull(release)
    found.verify(release)
    shutil.rmtree(src)
    with pytest.raises(InputRejected, match="signature"):
        found.pull(release)
    assert found.local(release) is None


def test_a_signature_lost_on_this_machine_is_pulled_again(tmp_path: Path) -> None:
    store, release = a_store_with_a_release(tmp_path)
    found = library(tmp_path, store)
    signature_of(Path(found.pull(release).src)).unlink()
    assert found.local(release) is None
    with pytest.raises(InputRejected, match="carries no signature"):
        found.verify(release)
    assert found.pull(release) == found.local(release)
    found.verify(release)
