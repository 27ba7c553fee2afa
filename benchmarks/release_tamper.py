"""Damage a signed release 10,000 times, at random, and count how many of them it would still serve.

    make bench NAME=release_tamper

Three kinds: edits of bytes (in every file, the list of files and the signature included), changes of the directory (files that
are more, fewer, swapped, links), and forgeries (an edit, sealed again under its new digest, with the old signature or with
one of another key). Others, on the same damage: OpenSSF's library alone, our list of digests without the signature,
and the loaders of the weights.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._table import Row, at_least, below, publish
from tasks.adapters.signing import SigningKeys, sign, signing_keys
from tasks.domain.errors import InputRejected
from tasks.serving.release import RELEASE_JSON, seal, verify
from tasks.serving.signature import PublicKeys, read_public_keys, signature_of, verify_signed
from tasks.settings import Settings

BYTES, TREES, FORGERIES = 10_000, 1_000, 200
CHECKED_BY_LIBRARY = 1_000
SEED = 20170701


class Signed:
    """One signed release on disk, which is damaged and put right again and again."""

    def __init__(self, src: Path, keys: SigningKeys, chance: random.Random) -> None:
        self.src, self.keys, self.chance = src, keys, chance
        self.trusted: PublicKeys = read_public_keys(keys.public)
        self.digest = verify_signed(src, self.trusted).digest
        self.files = sorted(path for path in src.rglob("*") if path.is_file())
        self.everything = [*self.files, signature_of(src)]
        self._sizes = [path.stat().st_size for path in self.everything]

    def victim(self) -> Path:
        """Any file, or any byte: else the small files (the list, the signature) would hardly ever be hit."""
        if self.chance.random() < 0.5:
            return self.chance.choice(self.everything)
        return self.chance.choices(self.everything, self._sizes)[0]

    def is_refused(self) -> bool:
        return refused(lambda: verify_signed(self.src, self.trusted, self.digest))


def refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except InputRejected:
        return True
    return False


def edited(body: bytes, chance: random.Random) -> tuple[str, bytes]:
    """(kind, other bytes than `body`)."""
    kinds: dict[str, Callable[[int], bytes]] = {
        "bit": lambda at: body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :],
        "byte": lambda at: body[:at] + chance.randbytes(1) + body[at + 1 :],
        "inserted": lambda at: body[:at] + chance.randbytes(1) + body[at:],
        "deleted": lambda at: body[:at] + body[at + 1 :],
        "zeros": lambda at: body[:at] + bytes(min(64, len(body) - at)) + body[at + 64 :],
        "swapped": lambda at: body[:at] + body[at + 1 : at + 2] + body[at : at + 1] + body[at + 2 :],
        "truncated": lambda at: body[:at],
        "appended": lambda at: body + chance.randbytes(1 + at % 16),
        "space": lambda at: body[:at] + b" " + body[at:],
    }
    while True:
        kind = chance.choice(list(kinds)) if body else "appended"
        other = kinds[kind](chance.randrange(max(1, len(body))))
        if other != body:
            return kind, other


@contextmanager
def one_edit(release: Signed) -> Iterator[tuple[Path, str]]:
    path = release.victim()
    whole = path.read_bytes()
    kind, other = edited(whole, release.chance)
    path.write_bytes(other)
    try:
        yield path, kind
    finally:
        path.write_bytes(whole)


@contextmanager
def one_change_of_the_tree(release: Signed) -> Iterator[str]:
    chance, src, path = release.chance, release.src, release.chance.choice(release.files)
    whole = path.read_bytes()
    aside = src.parent / "aside"
    new = path.with_name(f"{path.stem}x{chance.choice(['.json', '.py', '.pkl', '.safetensors', ''])}")
    cache = path.parent / "__pycache__"
    kind = chance.choice(["missing", "more", "renamed", "link", "bytecode", "swapped", "folder", "signature gone"])
    try:
        if kind == "missing":
            path.unlink()
        elif kind == "more":
            new.write_bytes(whole)
        elif kind == "renamed":
            path.rename(new)
        elif kind == "link":
            path.rename(aside)
            path.symlink_to(aside)
        elif kind == "bytecode":
            cache.mkdir()
            (cache / f"{path.stem}.cpython-311.pyc").write_bytes(chance.randbytes(100))
        elif kind == "swapped":
            other = next(one for one in release.files if one.read_bytes() != whole)
            path.write_bytes(other.read_bytes())
        elif kind == "folder":
            path.unlink()
            path.mkdir()
        else:
            signature_of(src).rename(aside)
        yield kind
    finally:
        if kind == "signature gone":
            aside.rename(signature_of(src))
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
        new.unlink(missing_ok=True)
        aside.unlink(missing_ok=True)
        shutil.rmtree(cache, ignore_errors=True)


@contextmanager
def one_forgery(release: Signed, forger: SigningKeys) -> Iterator[tuple[str, str]]:
    """(kind, the digest that the forger gives it): his list of files is right, and so is his name."""

    record = json.loads((release.src / RELEASE_JSON).read_bytes())
    facts = {name: value for name, value in record.items() if name not in ("version", "files", "sha256")}
    data = [path for path in release.files if "release" in path.parts and path.suffix == ".json"]
    path = release.chance.choice([one for one in data if one.name != "release.json"])
    kept = {one: one.read_bytes() for one in (path, release.src / RELEASE_JSON, signature_of(release.src))}
    path.write_bytes(edited(kept[path], release.chance)[1])
    kind = release.chance.choice(["old signature", "signed by another key"])
    try:
        digest = seal(release.src, facts)
        if kind == "signed by another key":
            sign(release.src, forger)
        yield kind, digest
    finally:
        for one, body in kept.items():
            one.write_bytes(body)


def library_refuses(release: Signed) -> bool:
    from model_signing import verifying

    checking = verifying.Config().use_elliptic_key_verifier(public_key=release.keys.public)
    try:
        checking.verify(release.src, signature_of(release.src))
    except Exception:
        return True
    return False


def loader_refuses(path: Path) -> bool:
    """Whether opening the weights as the engine does shows that they are not the ones that were packaged."""
    import openvino as ov
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".safetensors":
            load_file(path)
        else:
            ov.Core().read_model(path.with_suffix(".xml"))
    except Exception:
        return True
    return False


def main() -> int:
    from tests.serving_builders import a_release

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        keys, forger = (signing_keys(Settings(home=root / name)) for name in ("home", "forger"))
        src, _ = a_release(root / "made")
        sign(src, keys)
        release = Signed(src, keys, random.Random(SEED))
        rows = measure(release, forger)
    return 0 if publish("release_tamper", rows, ("model-signing", "cryptography", "safetensors", "openvino")) else 1


def measure(release: Signed, forger: SigningKeys) -> list[Row]:
    seen: Counter[str] = Counter()
    began = time.perf_counter()
    for number in range(BYTES):
        with one_edit(release) as (path, _):
            seen["bytes"] += release.is_refused()
            if number < CHECKED_BY_LIBRARY:
                seen["library"] += library_refuses(release)
            if path.suffix in (".safetensors", ".bin") and seen["weights"] < CHECKED_BY_LIBRARY:
                seen["weights"] += 1
                seen["loader"] += loader_refuses(path)
    seconds = time.perf_counter() - began
    for _ in range(TREES):
        with one_change_of_the_tree(release):
            seen["trees"] += release.is_refused()
    for _ in range(FORGERIES):
        with one_forgery(release, forger) as (_, digest):
            seen["forgeries"] += refused(lambda digest=digest: verify_signed(release.src, release.trusted, digest))
            seen["unsigned"] += refused(lambda digest=digest: verify(release.src, digest))
    if release.is_refused():
        raise SystemExit("the release was not put right again: the counts mean nothing")
    starts = [_timed(lambda: verify_signed(release.src, release.trusted, release.digest)) for _ in range(100)]
    digests = [_timed(lambda: verify(release.src, release.digest)) for _ in range(100)]
    share = 100.0 / CHECKED_BY_LIBRARY
    others = {
        f"model-signing alone, {CHECKED_BY_LIBRARY} of them": seen["library"] * share,
        f"opening the weights, {seen['weights']} edits of them": 100 * seen["loader"] / seen["weights"],
    }
    alone = {"digests without a signature": 100 * seen["unsigned"] / FORGERIES}
    return [
        at_least(f"{BYTES:,} edits of bytes refused", 100 * seen["bytes"] / BYTES, "%", 100, others),
        at_least(f"{TREES:,} changes of the directory refused", 100 * seen["trees"] / TREES, "%", 100),
        at_least(
            f"{FORGERIES} forgeries under their own digest refused",
            seen["forgeries"] * 100 / FORGERIES,
            "%",
            100,
            alone,
        ),
        below("what the signature adds to a check, median", 1000 * (_median(starts) - _median(digests)), "ms", 50),
        Row("all edits of bytes", seconds, "s"),
    ]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


if __name__ == "__main__":
    sys.exit(main())
