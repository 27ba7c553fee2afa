"""Certificates and tokens as a certificate authority and an identity provider make them, in small."""

from __future__ import annotations

import ipaddress
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ISSUER, AUDIENCE = "https://login.example.org/", "freshrank"


def put(path: Path, content: bytes) -> Path:
    """Renamed into place, as who renews certificates does."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    return draft.rename(path)


def a_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(key: ec.EllipticCurvePrivateKey, days: int = 30) -> bytes:
    """Self-signed, of localhost and 127.0.0.1."""
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).add_extension(names, critical=False)
    made = made.not_valid_before(now - timedelta(days=60)).not_valid_after(now + timedelta(days=days))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Issuer:
    """Signs tokens with one key, and shows its public half."""

    def __init__(self, name: str) -> None:
        self.name, self.key = name, a_key()

    def jwks(self, *others: Issuer) -> bytes:
        keys = [json.loads(jwt.algorithms.ECAlgorithm.to_jwk(one.key.public_key())) for one in (self, *others)]
        named = [
            key | {"kid": one.name, "alg": "ES256", "use": "sig"}
            for key, one in zip(keys, (self, *others), strict=True)
        ]
        return json.dumps({"keys": named}).encode()

    def token(self, **changes: Any) -> str:
        """Sound for five minutes; a claim that is None is left out."""
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "exp": int(time.time()) + 300} | changes
        told = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(told, self.key, algorithm="ES256", headers={"kid": self.name})
