"""The signature of a release: made by OpenSSF's library, checked by us, and the two agree on what is good."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tasks.adapters.signing import SigningKeys, public_keys, sign, signing_keys
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json
from tasks.serving.release import RELEASE_JSON, seal, verify
from tasks.serving.signature import bundle, read_public_keys, signature_of, verify_signed
from tasks.settings import Settings

FACTS = {"kind": "weights", "partition": "2017-07-01", "created": "2017-07-01", "view": "v"}


def a_small_release(root: Path, text: str = "{}") -> Path:
    src = root / "src"
    (src / "release" / "model").mkdir(parents=True)
    (src / "release" / "model" / "config.json").write_text(text)
    (src / "tasks").mkdir()
    (src / "tasks" / "__init__.py").write_text("")
    seal(src, FACTS)
    return src


@pytest.fixture
def keys(tmp_path: Path) -> SigningKeys:
    return signing_keys(Settings(home=tmp_path / "home"))


@pytest.fixture
def signed(tmp_path: Path, keys: SigningKeys) -> Path:
    src = a_small_release(tmp_path)
    sign(src, keys)
    return src


def library_says(src: Path, keys: SigningKeys) -> bool:
    from model_signing import verifying

    try:
        verifying.Config().use_elliptic_key_verifier(public_key=keys.public).verify(src, signature_of(src))
    except Exception:
        return False
    return True


def we_say(src: Path, keys: SigningKeys) -> bool:
    try:
        verify_signed(src, read_public_keys(keys.public))
    except InputRejected:
        return False
    return True


def test_the_library_and_we_take_what_was_signed(signed: Path, keys: SigningKeys) -> None:
    assert library_says(signed, keys) and we_say(signed, keys)
    release = verify_signed(signed, read_public_keys(keys.public), verify(signed).digest)
    assert RELEASE_JSON in release.files


def reseal(src: Path) -> None:
    """What a forger does who knows our format but not our key."""
    (src / "release" / "model" / "config.json").write_text('{"bought": "by somebody"}')
    seal(src, FACTS)


def sign_by_another_key(src: Path) -> None:
    sign(src, signing_keys(Settings(home=src.parent / "another")))


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (reseal, "was changed after it was signed: release/model/config.json"),
    (sign_by_another_key, "this machine trusts"),
    (lambda src: signature_of(src).unlink(), "carries no signature"),
    (lambda src: signature_of(src).write_bytes(b"{}"), "damaged"),
    (lambda src: signature_of(src).write_bytes(b"\xff" * 100), "damaged"),
    (lambda src: signature_of(src).write_bytes(b"[" * 100_000), "damaged"),
    (lambda src: signature_of(src).write_bytes(b" " * (5 << 20)), "no plain small file"),
    (lambda src: (src / "release" / "more.json").write_text("{}"), "not listed"),
    (lambda src: (src / "tasks" / "__init__.py").unlink(), "is missing"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES, ids=[says for _, says in DAMAGES])
def test_the_library_and_we_refuse_the_same(
    signed: Path, keys: SigningKeys, damage: Callable[[Path], object], says: str
) -> None:
    damage(signed)
    assert not library_says(signed, keys)
    with pytest.raises(InputRejected, match=says):
        verify_signed(signed, read_public_keys(keys.public))


def test_bytecode_in_a_cache_folder_is_a_file_like_any_other(signed: Path, keys: SigningKeys) -> None:
    """Python would run it in place of the source beside it."""
    cache = signed / "tasks" / "__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-311.pyc").write_bytes(b"anything")
    with pytest.raises(InputRejected, match="__pycache__"):
        verify_signed(signed, read_public_keys(keys.public))


def test_a_signature_that_is_a_link_is_refused(signed: Path, keys: SigningKeys) -> None:
    signature_of(signed).rename(elsewhere := signed.parent / "elsewhere")
    signature_of(signed).symlink_to(elsewhere)
    with pytest.raises(InputRejected, match="no plain small file"):
        verify_signed(signed, read_public_keys(keys.public))


def test_a_signature_in_another_spelling_is_refused_where_the_library_takes_it(signed: Path, keys: SigningKeys) -> None:
    path = signature_of(signed)
    told = json.loads(path.read_bytes())
    path.write_text(json.dumps(told, indent=1))
    assert library_says(signed, keys)
    assert not we_say(signed, keys)


def test_a_good_signature_over_another_kind_of_statement_is_refused(signed: Path, keys: SigningKeys) -> None:
    """Signed with our key, but it says nothing of files as we hash them."""
    from cryptography.hazmat.primitives import hashes

    private = serialization.load_pem_private_key(keys.private.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    told = json.loads(signature_of(signed).read_bytes())
    statement = json.loads(base64.b64decode(told["dsseEnvelope"]["payload"]))
    statement["predicate"]["serialization"]["method"] = "shards"
    payload = json.dumps(statement).encode()
    kind = b"application/vnd.in-toto+json"
    over = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    forged = bundle(next(iter(read_public_keys(keys.public))), payload, private.sign(over, ec.ECDSA(hashes.SHA256())))
    signature_of(signed).write_bytes(canonical_json(forged))
    with pytest.raises(InputRejected, match="was changed after it was signed"):
        verify_signed(signed, read_public_keys(keys.public))


def test_nobody_else_can_read_the_key_and_two_starts_make_one(tmp_path: Path) -> None:
    settings, found = Settings(home=tmp_path), list[bytes]()
    line = threading.Barrier(8)

    def start() -> None:
        line.wait()
        found.append(signing_keys(settings).private.read_bytes())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert stat.S_IMODE((tmp_path / "release.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release.key", "release.pub"]
    assert signing_keys(settings).public.read_text() == public_keys(settings).read_text()


def test_a_key_that_others_can_read_signs_nothing(tmp_path: Path, keys: SigningKeys) -> None:
    keys.private.chmod(0o644)
    with pytest.raises(InputRejected, match="can be read by others"):
        sign(a_small_release(tmp_path), keys)


def test_a_key_that_this_machine_does_not_trust_signs_nothing_that_ships(tmp_path: Path, keys: SigningKeys) -> None:
    theirs = signing_keys(Settings(home=tmp_path / "theirs"))
    with pytest.raises(InputRejected, match="this machine trusts"):
        sign(a_small_release(tmp_path), SigningKeys(theirs.private, keys.public))


@pytest.mark.parametrize("content", ["", "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n", None])
def test_without_a_public_key_nothing_is_trusted(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputRejected, match=r"keys\.pem holds no P-256 public key"):
        read_public_keys(path)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for number, key in enumerate((ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1()))):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(key.public_key().public_bytes(*form))
        with pytest.raises(InputRejected, match="another kind"):
            read_public_keys(path)


def test_configured_keys_are_used_and_none_are_made(tmp_path: Path, keys: SigningKeys) -> None:
    other = Settings(home=tmp_path / "other", signing_key=keys.private, public_keys=keys.public)
    assert signing_keys(other) == keys and public_keys(other) == keys.public
    assert not (tmp_path / "other").exists()


def test_signing_opens_no_connection(tmp_path: Path, keys: SigningKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    src = a_small_release(tmp_path)
    assert sign(src, keys) and we_say(src, keys)


def test_what_is_signed_names_no_path_of_this_machine(signed: Path, keys: SigningKeys) -> None:
    told = json.loads(signature_of(signed).read_bytes())
    said = base64.b64decode(told["dsseEnvelope"]["payload"]).decode() + signature_of(signed).read_text()
    assert str(signed.parent) not in said and os.uname().nodename not in said


def test_a_copy_elsewhere_is_as_good(signed: Path, keys: SigningKeys, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "0123"
    shutil.copytree(signed, copy)
    shutil.copy(signature_of(signed), signature_of(copy))
    assert we_say(copy, keys)
