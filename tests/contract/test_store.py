"""What the code expects of an object store, asked of the in-memory twin and of a real server alike.

To ask Amazon S3, set FRESHRANK_STORE_ENDPOINT=aws with a bucket and credentials; see `S3Store`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.adapters.store import MemoryStore, S3Store, Store
from tasks.domain.errors import Conflict, Forbidden, InputRejected, Unavailable
from tasks.settings import Settings

THREADS = 16
BAD_KEYS = ["", "/absolute", "../x", "a/../../x", "a//b", "a/./b", "nul\0byte", "a/", ".."]


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    real = S3Store(request.getfixturevalue("store_settings"))
    real.create_bucket()
    return real


@pytest.fixture
def folder() -> str:
    """A prefix nobody else uses: the server is shared by the session."""
    return f"contract/{uuid4().hex}"


def test_what_was_put_is_read_back(store: Store, folder: str) -> None:
    store.put_new(f"{folder}/object", b"\x00bytes\xff")
    assert store.get(f"{folder}/object") == b"\x00bytes\xff"
    assert store.exists(f"{folder}/object")


def test_an_empty_object_is_an_object(store: Store, folder: str) -> None:
    store.put_new(f"{folder}/empty", b"")
    assert store.exists(f"{folder}/empty")
    assert store.get(f"{folder}/empty") == b""


def test_the_same_bytes_again_are_a_no_op(store: Store, folder: str) -> None:
    store.put_new(f"{folder}/object", b"same")
    store.put_new(f"{folder}/object", b"same")
    assert store.get(f"{folder}/object") == b"same"


def test_other_bytes_under_the_same_key_conflict_and_change_nothing(store: Store, folder: str) -> None:
    store.put_new(f"{folder}/object", b"first")
    with pytest.raises(Conflict, match="nothing was overwritten"):
        store.put_new(f"{folder}/object", b"second")
    assert store.get(f"{folder}/object") == b"first"


def test_of_many_writers_exactly_one_wins(store: Store, folder: str) -> None:
    key = f"{folder}/contested"
    won, lost = _race(lambda number: store.put_new(key, f"writer {number}".encode()))
    assert len(won) == 1, f"winners {won}, losers {lost}"
    assert {type(error) for error in lost.values()} == {Conflict}
    assert store.get(key) == f"writer {won[0]}".encode()


def test_many_writers_of_the_same_bytes_all_succeed(store: Store, folder: str) -> None:
    won, lost = _race(lambda _: store.put_new(f"{folder}/agreed", b"agreed"))
    assert len(won) == THREADS, lost


def _race(write: Callable[[int], None]) -> tuple[list[int], dict[int, Exception]]:
    won: list[int] = []
    lost: dict[int, Exception] = {}
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait()
        try:
            write(number)
            won.append(number)
        except Exception as err:
            lost[number] = err

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) + len(lost) == THREADS
    return won, lost


def test_replace_overwrites(store: Store, folder: str) -> None:
    store.replace(f"{folder}/pointer", b"one")
    store.replace(f"{folder}/pointer", b"two")
    assert store.get(f"{folder}/pointer") == b"two"


def test_a_missing_key_is_named(store: Store, folder: str, tmp_path: Path) -> None:
    missing = f"{folder}/missing"
    assert not store.exists(missing)
    with pytest.raises(InputRejected, match=missing):
        store.get(missing)
    with pytest.raises(InputRejected, match=missing):
        store.download(missing, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_deleting_twice_is_fine(store: Store, folder: str) -> None:
    store.put_new(f"{folder}/object", b"x")
    store.delete(f"{folder}/object")
    store.delete(f"{folder}/object")
    assert not store.exists(f"{folder}/object")


def test_a_deleted_key_can_be_written_again(store: Store, folder: str) -> None:
    store.put_new(f"{folder}/object", b"one")
    store.delete(f"{folder}/object")
    store.put_new(f"{folder}/object", b"two")
    assert store.get(f"{folder}/object") == b"two"


def test_a_listing_is_complete_sorted_and_only_of_its_prefix(store: Store, folder: str) -> None:
    """More than one page of the real server, which holds 1,000 keys."""
    wanted = sorted(f"{folder}/many/{number:04d}" for number in range(1_050))
    _each(wanted, lambda key: store.put_new(key, b"x"))
    store.put_new(f"{folder}/other", b"x")
    assert store.list(f"{folder}/many/") == wanted
    assert store.list(f"{folder}/many/00") == wanted[:100]  # a prefix is a prefix, not a folder
    assert store.list(f"{folder}/none/") == []


def test_a_listing_tells_how_large_objects_are_and_since_when_they_are_there(store: Store, folder: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)  # servers count whole seconds
    store.put_new(f"{folder}/a", b"12345")
    store.replace(f"{folder}/b", b"")
    one, two = store.stat(f"{folder}/")
    assert [(one.key, one.bytes), (two.key, two.bytes)] == [(f"{folder}/a", 5), (f"{folder}/b", 0)]
    assert all(before <= found.written <= datetime.now(UTC) + timedelta(seconds=5) for found in (one, two))


def test_its_clock_is_the_one_that_dates_its_objects(store: Store, folder: str) -> None:
    store.put_new(f"{folder}/a", b"x")
    (found,) = store.stat(f"{folder}/a")
    assert abs(store.clock() - found.written) < timedelta(minutes=5)


def _each(keys: list[str], write: Callable[[str], None]) -> None:
    def run(part: int) -> None:
        for key in keys[part::8]:
            write(key)

    threads = [threading.Thread(target=run, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_that_are_not_plain_relative_paths_are_refused(store: Store, tmp_path: Path, key: str) -> None:
    for call in (
        lambda: store.put_new(key, b"x"),
        lambda: store.replace(key, b"x"),
        lambda: store.get(key),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: store.download(key, tmp_path / "file"),
        lambda: store.uri(key),
    ):
        with pytest.raises(InputRejected, match="plain relative path"):
            call()


@pytest.mark.parametrize("key", ["dt=2017-07-01/part 0.parquet", "ümlaut/日本", "a+b&c=d?e#f", "%2e%2e/x", "A > B"])
def test_unusual_keys_come_back_as_they_were(store: Store, folder: str, key: str) -> None:
    store.put_new(f"{folder}/{key}", key.encode())
    assert store.get(f"{folder}/{key}") == key.encode()
    assert store.list(f"{folder}/") == [f"{folder}/{key}"]


def test_a_uri_names_its_key(store: Store, folder: str) -> None:
    uri = store.uri(f"{folder}/object")
    assert store.key(uri) == f"{folder}/object"
    for foreign in ("s3://another-bucket/object", "file:///etc/passwd", folder, uri.replace("/object", "/../object")):
        with pytest.raises(InputRejected):
            store.key(foreign)


def test_a_big_object_goes_in_from_a_file_and_out_to_a_file(store: Store, folder: str, tmp_path: Path) -> None:
    block = hashlib.sha256(folder.encode()).digest() * 32_768  # 1 MiB
    (tmp_path / "in").write_bytes(block * 48)
    store.put_new(f"{folder}/big", tmp_path / "in")
    store.download(f"{folder}/big", tmp_path / "deep" / "out")
    assert _sha256(tmp_path / "deep" / "out") == _sha256(tmp_path / "in")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]  # no draft stays


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Only a real server can refuse a credential or fail to answer.


@pytest.mark.parametrize("changed", ["store_secret_key", "store_access_key"])
def test_a_wrong_credential_is_refused(store_settings: Settings, tmp_path: Path, changed: str, folder: str) -> None:
    S3Store(store_settings).create_bucket()
    stranger = Settings(home=tmp_path, port_base=store_settings.port_base)
    secrets = store_settings.secrets.model_copy(update={changed: "wrong-but-well-formed-0123456789"})
    (tmp_path / "secrets.json").write_text(secrets.model_dump_json())
    (tmp_path / "secrets.json").chmod(0o600)
    with pytest.raises(Forbidden, match="credentials"):
        S3Store(stranger).put_new(f"{folder}/object", b"x")
    with pytest.raises(InputRejected, match="credentials"):
        S3Store(stranger).list(folder)
    assert not S3Store(store_settings).exists(f"{folder}/object")


def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path, port_base: int) -> None:
    nowhere = Settings(home=tmp_path, port_base=port_base, store_attempts=1)
    for call in (
        lambda store: store.get("a"),
        lambda store: store.exists("a"),
        lambda store: store.put_new("a", b""),
        lambda store: store.list("a"),
        lambda store: store.create_bucket(),
    ):
        with pytest.raises(Unavailable):
            call(S3Store(nowhere))


def test_a_store_elsewhere_without_credentials_says_which_to_set(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    elsewhere = Settings(home=tmp_path, store_endpoint=f"http://127.0.0.1:{free_port}", store_attempts=1)
    with pytest.raises(InputRejected, match="set a role"):
        S3Store(elsewhere).get("a")
