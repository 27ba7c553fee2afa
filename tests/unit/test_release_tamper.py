"""The benchmark's damage, in small: nothing that was changed serves."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.release_tamper import Signed, one_change_of_the_tree, one_edit, one_forgery
from tasks.adapters.signing import sign, signing_keys
from tasks.domain.errors import InputRejected
from tasks.serving.release import verify
from tasks.serving.signature import signature_of, verify_signed
from tasks.settings import Settings
from tests.serving_builders import a_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    root = tmp_path_factory.mktemp("signed")
    keys = signing_keys(Settings(home=root / "home"))
    src, _ = a_release(root / "made")
    sign(src, keys)
    return Signed(src, keys, random.Random(7))


def test_five_hundred_edits_of_bytes_are_refused(release: Signed) -> None:
    kinds, files, refused = set(), set(), 0
    for _ in range(500):
        with one_edit(release) as (path, kind):
            refused += release.is_refused()
            kinds.add(kind)
            files.add(path)
    assert refused == 500
    assert len(kinds) == 9 and signature_of(release.src) in files and len(files) == len(release.everything)
    assert not release.is_refused(), "every edit was undone"


def test_changes_of_the_directory_are_refused(release: Signed) -> None:
    kinds, refused = set(), 0
    for _ in range(120):
        with one_change_of_the_tree(release) as kind:
            refused += release.is_refused()
            kinds.add(kind)
    assert (refused, len(kinds)) == (120, 8)
    assert not release.is_refused()


def test_a_forger_who_seals_again_is_refused_by_the_signature_alone(release: Signed, tmp_path: Path) -> None:
    forger, kinds = signing_keys(Settings(home=tmp_path)), set()
    for _ in range(12):
        with one_forgery(release, forger) as (kind, digest):
            assert verify(release.src, digest), "its digests are right"
            with pytest.raises(InputRejected, match="signed|trusts"):
                verify_signed(release.src, release.trusted, digest)
            kinds.add(kind)
    assert len(kinds) == 2
