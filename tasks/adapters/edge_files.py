"""What somebody set for the router's door: certificate, key, and the public keys of tokens. Read, and refused in a sentence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tasks.adapters.envoy_tls import Certificate
from tasks.adapters.envoy_tokens import Tokens
from tasks.domain.errors import InputRejected
from tasks.settings import Settings

PRIVATE = ("d", "k", "p", "q")  # members of a JWK that only who signs may know


def certificate(settings: Settings) -> Certificate | None:
    """None: the door is plain HTTP. Raises InputRejected: one of the two is set."""
    chain, key = settings.tls_cert, settings.tls_key
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        missing, there = ("FRESHRANK_TLS_CERT", "FRESHRANK_TLS_KEY")[:: 1 if chain is None else -1]
        raise InputRejected(f"{there} is set and {missing} is not; HTTPS needs both, plain HTTP neither")
    return Certificate(chain=chain, key=key)


def tokens(settings: Settings) -> Tokens | None:
    """None: no tokens are taken. Raises InputRejected: a setting is missing, or the file holds no public keys."""
    told = {
        "FRESHRANK_JWT_KEYS": settings.jwt_keys,
        "FRESHRANK_JWT_ISSUER": settings.jwt_issuer,
        "FRESHRANK_JWT_AUDIENCE": settings.jwt_audience,
    }
    missing = [name for name, value in told.items() if not value]
    if len(missing) == len(told):
        return None
    if missing or settings.jwt_keys is None or not settings.jwt_issuer or not settings.jwt_audience:
        raise InputRejected(f"{' and '.join(missing)} is not set; tokens need {', '.join(told)}, or none of them")
    return Tokens(issuer=settings.jwt_issuer, audience=settings.jwt_audience, jwks=_public_keys(settings.jwt_keys))


def takes_tokens(settings: Settings) -> bool:
    return bool(settings.jwt_keys or settings.jwt_issuer or settings.jwt_audience)


def check(settings: Settings) -> list[str]:
    """What is in force, a sentence each; also opens certificate and key. Raises InputRejected."""
    for setting in ("tls_cert", "tls_key", "jwt_keys"):
        path = getattr(settings, setting)
        if path is not None and not path.is_absolute():
            raise InputRejected(
                f"FRESHRANK_{setting.upper()}: {path} is relative, and services start elsewhere; write it from /"
            )
    found, said = certificate(settings), []
    if found is not None:
        said.append(f"callers come by HTTPS, with a certificate until {_until(found):%Y-%m-%d}")
    taken = tokens(settings)
    if taken is not None:
        count = len(json.loads(taken.jwks)["keys"])
        said.append(f"tokens of {taken.issuer} for {taken.audience} are taken, {count} keys")
    return said


def _until(found: Certificate) -> datetime:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        first = x509.load_pem_x509_certificates(_read("FRESHRANK_TLS_CERT", found.chain))[0]
    except ValueError as err:
        raise InputRejected(f"FRESHRANK_TLS_CERT: {found.chain.name} holds no certificate in PEM") from err
    try:
        key = load_pem_private_key(_read("FRESHRANK_TLS_KEY", found.key), None)
    except (ValueError, TypeError) as err:
        raise InputRejected(
            f"FRESHRANK_TLS_KEY: {found.key.name} holds no private key in PEM, or one with a password; store it without"
        ) from err
    if key.public_key() != first.public_key():
        raise InputRejected(
            f"FRESHRANK_TLS_KEY: {found.key.name} is not the key of the certificate in {found.chain.name}; the"
            " certificate of this host comes first there, those of who signed it behind it"
        )
    if first.not_valid_after_utc <= datetime.now(UTC):
        raise InputRejected(
            f"FRESHRANK_TLS_CERT: {found.chain.name} ended on {first.not_valid_after_utc:%Y-%m-%d}; renew it"
        )
    return first.not_valid_after_utc


def _public_keys(path: Path) -> str:
    text = _read("FRESHRANK_JWT_KEYS", path)
    try:
        keys = json.loads(text)["keys"]
        if not keys or not all(isinstance(key["kty"], str) for key in keys):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise InputRejected(
            f'FRESHRANK_JWT_KEYS: {path.name} is no set of keys; store what your issuer shows as its jwks_uri, {{"keys": [...]}}'
        ) from None
    if any(member in key for key in keys for member in PRIVATE):
        raise InputRejected(f"FRESHRANK_JWT_KEYS: {path.name} holds a private or shared key; store public keys alone")
    return text.decode()


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise InputRejected(f"{setting}: {path} cannot be read ({err.strerror})") from err
