"""Whether somebody whom this machine trusts signed a release: OpenSSF's model-signing format, checked here.

The signature lies beside the release, `SRC.sig.json`: it names every file with its sha256, and is no part of the digest,
because signing twice gives two signatures. tasks.adapters.signing makes it with the library. It is checked with
`cryptography` alone, because a start must not wait for the library's import (docs/adr/0015).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json
from tasks.serving.release import Release, verify

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
PREDICATE = "https://model_signing/signature/v1.0"
METHOD = {"allow_symlinks": False, "hash_type": "sha256", "method": "files"}
PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", re.DOTALL)
RUNBOOK = "see docs/runbooks/release_refused.md"
LARGEST = 4 << 20

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey]  # by id: sha256 of the key in PEM


def signature_of(src: Path) -> Path:
    """Where the signature of the release in `src` lies."""
    return src.with_name(f"{src.name}.sig.json")


def read_public_keys(path: Path) -> PublicKeys:
    """Every key of a PEM file: more than one while keys change. Raises InputRejected when there is none."""
    try:
        return _parsed(path.read_text())
    except (OSError, ValueError, UnsupportedAlgorithm) as err:
        raise InputRejected(
            f"{path.name} holds no P-256 public key ({err}), so no release can be trusted; {RUNBOOK}"
        ) from None


def verify_signed(src: Path, keys: PublicKeys, expected: str | None = None) -> Release:
    """Check every file of the release against its digest and against its signature.

    Raises:
        InputRejected: a file is not what it should be, or nobody who is trusted signed exactly these files.
    """
    release = verify(src, expected)
    try:
        signature = signature_of(src)
        if signature.is_symlink() or signature.stat().st_size > LARGEST:
            raise InputRejected(f"the signature of release {release.short} is no plain small file; {RUNBOOK}")
        body = signature.read_bytes()
    except OSError:
        raise unsigned(release.digest, keys) from None
    check_signature(body, release, keys)
    return release


def check_signature(body: bytes, release: Release, keys: PublicKeys) -> str:
    """The id of the key that signed exactly the files of `release`. `body` is canonical: no byte of it may differ."""
    key_id, payload, signature = _opened(body, release.short)
    key = keys.get(key_id)
    if key is None:
        raise InputRejected(
            f"release {release.short} is signed by key {key_id[:12]}, this machine trusts {_named(keys)}; {RUNBOOK}"
        )
    try:
        key.verify(
            signature,
            b"DSSEv1 %d %b %d %b" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload),
            ec.ECDSA(hashes.SHA256()),
        )
    except InvalidSignature:
        raise InputRejected(
            f"the signature of release {release.short} is not one of key {key_id[:12]}: it was changed; {RUNBOOK}"
        ) from None
    signed = _signed_files(payload)
    if signed != release.files:
        differ = sorted(name for name in {*signed, *release.files} if signed.get(name) != release.files.get(name))
        raise InputRejected(
            f"release {release.short} was changed after it was signed: {differ[0] if differ else 'its statement'} "
            f"is not what key {key_id[:12]} signed; {RUNBOOK}"
        )
    return key_id


def unsigned(digest: str, keys: PublicKeys) -> InputRejected:
    return InputRejected(
        f"release {digest[:12]} carries no signature of a key that this machine trusts ({_named(keys)}); {RUNBOOK}"
    )


def _opened(body: bytes, short: str) -> tuple[str, bytes, bytes]:
    """(key id, payload, signature) of a bundle, which must be spelled as we would spell it."""
    try:
        told = json.loads(body)
        key_id = str(told["verificationMaterial"]["publicKey"]["hint"])
        envelope = told["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        if canonical_json(bundle(key_id, payload, signature)) != body:
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise InputRejected(f"the signature of release {short} is damaged; {RUNBOOK}") from None
    return key_id, payload, signature


def bundle(key_id: str, payload: bytes, signature: bytes) -> dict[str, Any]:
    """A Sigstore bundle as model-signing 1.1 writes it for a key pair."""
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key_id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


def _signed_files(payload: bytes) -> dict[str, str]:
    """path -> sha256; nothing for a statement of another kind, which therefore fits no release."""
    told = json.loads(payload)  # signed by a trusted key, so it is what the library wrote
    if told.get("predicateType") != PREDICATE or told["predicate"]["serialization"] != METHOD:
        return {}
    return {file["name"]: file["digest"] for file in told["predicate"]["resources"] if file["algorithm"] == "sha256"}


@cache
def _parsed(text: str) -> PublicKeys:
    keys: dict[str, ec.EllipticCurvePublicKey] = {}
    for pem in PEM.findall(text):
        key = serialization.load_pem_public_key(pem.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError("a key is of another kind")
        keys[key_id_of(key)] = key
    if not keys:
        raise ValueError("no key found")
    return keys


def key_id_of(key: ec.EllipticCurvePublicKey) -> str:
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _named(keys: PublicKeys) -> str:
    return ", ".join(key[:12] for key in sorted(keys))
