"""A release is what was packaged, bit for bit, or it does not serve."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tasks.domain.errors import InputRejected
from tasks.serving.golden import disagreement
from tasks.serving.release import RELEASE_JSON, file_digests, release_digest, seal, verify, verify_view
from tests.serving_builders import a_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return a_release(tmp_path_factory.mktemp("release"))


def test_every_one_of_300_flipped_bits_is_refused_by_name(release: tuple[Path, Path]) -> None:
    src, _ = release
    digest, chance = verify(src).digest, random.Random(7)
    paths = sorted(path for path in src.rglob("*") if path.is_file())
    assert len(paths) >= 9
    refused = 0
    for trial in range(300):
        path = paths[trial % len(paths)]
        whole = path.read_bytes()
        at = chance.randrange(len(whole) * 8)
        path.write_bytes(whole[: at // 8] + bytes([whole[at // 8] ^ 1 << at % 8]) + whole[at // 8 + 1 :])
        try:
            with pytest.raises(InputRejected, match=path.name):
                verify(src)
            refused += 1
        finally:
            path.write_bytes(whole)
    assert refused == 300
    assert verify(src).digest == digest


def test_every_truncated_file_is_refused_by_name(release: tuple[Path, Path]) -> None:
    src, _ = release
    for path in sorted(path for path in src.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputRejected, match=path.name):
            verify(src)
        path.write_bytes(whole)


def test_the_digest_names_the_content_and_nothing_else(release: tuple[Path, Path], tmp_path: Path) -> None:
    src, _ = release
    copy = tmp_path / "elsewhere"
    shutil.copytree(src, copy, copy_function=shutil.copyfile)
    assert verify(copy).digest == verify(src).digest == release_digest(file_digests(src))
    with pytest.raises(InputRejected, match="another release"):
        verify(copy, "0" * 64)


def test_equal_inputs_make_equal_digests(release: tuple[Path, Path], tmp_path: Path) -> None:
    src, _ = release
    again, _ = a_release(tmp_path)
    assert verify(again).digest == verify(src).digest


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        pytest.param("release/model/weights.pkl", b"\x80\x04.", "kind", id="a pickle"),
        pytest.param("release/model/weights.bin", b"\x80\x04.", "no .xml", id="a pickle that is called weights"),
        pytest.param("release/model/weights.safetensors", b"\x80\x04.", "safetensors", id="a pickle as safetensors"),
        pytest.param("release/evil.py", b"", "kind", id="code among the data"),
        pytest.param("release/model/notes.txt", b"", "kind", id="an unknown kind"),
    ],
)
def test_what_no_release_may_hold_cannot_be_sealed(
    release: tuple[Path, Path], tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    src = tmp_path / "src"
    shutil.copytree(release[0], src)
    (src / name).write_bytes(content)
    with pytest.raises(InputRejected, match="not listed"):
        verify(src)
    with pytest.raises(InputRejected, match=says):
        seal(src, {"kind": "weights", "partition": "2017-07-01", "created": "2017-07-01", "view": "v"})


def test_links_and_missing_files_are_refused(release: tuple[Path, Path], tmp_path: Path) -> None:
    src = tmp_path / "src"
    shutil.copytree(release[0], src)
    (src / "release" / "golden.json").unlink()
    with pytest.raises(InputRejected, match=r"golden\.json is missing"):
        verify(src)
    (src / "release" / "golden.json").symlink_to("/etc/passwd")
    with pytest.raises(InputRejected, match="link"):
        verify(src)
    (src / RELEASE_JSON).unlink()
    (src / "release" / "golden.json").unlink()
    with pytest.raises(InputRejected, match="not a release"):
        verify(src)


def test_a_view_is_checked_against_the_one_the_release_names(release: tuple[Path, Path], tmp_path: Path) -> None:
    src, view = release
    named = verify(src).record.view
    assert verify_view(view, named).users == 12
    with pytest.raises(InputRejected, match="the release needs"):
        verify_view(view, "0" * 64)
    damaged = tmp_path / "view"
    shutil.copytree(view, damaged)
    body = bytearray((damaged / "histories.safetensors").read_bytes())
    body[-3] ^= 1
    (damaged / "histories.safetensors").write_bytes(body)
    with pytest.raises(InputRejected, match="histories"):
        verify_view(damaged, named)


@pytest.mark.parametrize(
    ("got", "scores", "agrees"),
    [
        pytest.param(["a", "b", "c"], [3.0, 2.0, 1.0], True, id="the same"),
        pytest.param(["b", "a", "c"], [2.505, 2.5, 1.0], False, id="an order that the scores do not explain"),
        pytest.param(["a", "b", "c"], [3.005, 2.0, 1.0], True, id="inside the tolerance"),
        pytest.param(["a", "b", "c"], [3.02, 2.0, 1.0], False, id="a score too far"),
        pytest.param(["a", "b"], [3.0, 2.0], False, id="too short"),
        pytest.param(["a", "b", "d"], [3.0, 2.0, 1.0], True, id="another item of the last score"),
        pytest.param(["a", "d", "c"], [3.0, 2.0, 1.0], False, id="another item in the middle"),
        pytest.param(["a", "c", "b"], [3.0, 1.0, 2.0], False, id="out of order"),
    ],
)
def test_golden_answers_may_differ_by_rounding_only(got: list[str], scores: list[float], agrees: bool) -> None:
    assert (disagreement(["a", "b", "c"], [3.0, 2.0, 1.0], got, scores, 0.01) == "") is agrees
