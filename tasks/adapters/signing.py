"""The key pair of releases, and signing with it: OpenSSF's model-signing, offline, in the process that packages.

`$FRESHRANK_HOME/release.key` (0600) and `release.pub` are made at first use. A machine that only serves needs the
public half: FRESHRANK_PUBLIC_KEYS names a PEM file with the keys whose releases may run there.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json
from tasks.serving.signature import key_id_of, read_public_keys, signature_of, verify_signed
from tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Where the private key is that releases are signed with, and the public keys that they are checked with."""

    private: Path
    public: Path


def signing_keys(settings: Settings) -> SigningKeys:
    """The configured keys; of this home's own pair, whatever is missing is made. Two processes at once agree on one."""
    own = SigningKeys(settings.home / "release.key", settings.home / "release.pub")
    if settings.signing_key is None or settings.public_keys is None:
        _make(own)
    return SigningKeys(settings.signing_key or own.private, settings.public_keys or own.public)


def public_keys(settings: Settings) -> Path:
    """What a machine that serves needs."""
    return settings.public_keys or signing_keys(settings).public


def sign(src: Path, keys: SigningKeys) -> str:
    """Write the signature beside the sealed release in `src`; the id of the key.

    Raises:
        InputRejected: the key cannot be used, others can read it, or releases that it signs are not trusted here.
    """
    from model_signing import hashing, signing  # 1.2 s and 800 modules: here only

    key_id = key_id_of(_private(keys.private).public_key())
    with tempfile.TemporaryDirectory(prefix="freshrank-signature-") as folder:
        draft = Path(folder) / "signature"
        config = signing.Config().use_elliptic_key_signer(private_key=keys.private)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
        config.sign(src, draft)
        # one spelling, so that whoever checks can refuse every other byte
        signature_of(src).write_bytes(canonical_json(json.loads(draft.read_bytes())))
    verify_signed(src, read_public_keys(keys.public))
    return key_id


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        if path.stat().st_mode & 0o077:
            raise InputRejected(f"{path} can be read by others; run `chmod 600 {path}` and consider it known")
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as err:
        raise InputRejected(
            f"{path.name} is no private key in PEM without a password ({err}); nothing was signed"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise InputRejected(f"{path.name} is no P-256 key; `openssl ecparam -name prime256v1 -genkey -noout` makes one")
    return key


def _make(pair: SigningKeys) -> None:
    pair.private.parent.mkdir(parents=True, exist_ok=True)
    if not pair.private.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        _write_once(pair.private, pem, 0o600)
    if not pair.public.exists():
        pem = (
            _private(pair.private)
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        _write_once(pair.public, pem, 0o644)


def _write_once(path: Path, content: bytes, mode: int) -> None:
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    try:
        os.link(draft, path)  # link, not rename: it fails where another process was first
    except FileExistsError:
        pass
    finally:
        draft.unlink()
