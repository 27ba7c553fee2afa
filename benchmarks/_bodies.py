# ruff: noqa: E501
"""Bodies that no well-meant caller sends: 200 written by hand, and any number drawn from a seed. Used by tests too.

Whether a body breaks the schema is not ours to say: `breaks_schema` asks jsonschema about the published OpenAPI page.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

PATHS = ("/rank", "/recommend", "/search", "/feedback")
ITEMS = [f"item-{n:03d}" for n in range(60)]
GOOD: dict[str, dict[str, Any]] = {
    "/rank": {"surface": "recommendation", "user_id": "user-3", "candidates": ITEMS[:4], "k": 3},
    "/recommend": {"history": [{"item_id": "item-001", "event_time": "2017-06-28T17:20:00Z", "value": 1.0}], "k": 4},
    "/search": {"query": "milk tea", "user_id": "user-1", "k": 5},
    "/feedback": {"request_id": "r-1", "events": [{"item_id": "item-001", "event_type": "click", "value": 1.0}]},
}
JSON_TYPE = {"content-type": "application/json"}
BOMBS = (
    "x" * 512, "a\u0301" * 255, "\u202e" * 64, "\u200b" * 64, "\ufeff", "\U0001f600" * 100, "\u0000", "' OR 1=1 --", "../../etc/passwd",
    "<script>alert(1)</script>", "${jndi:ldap://x}", "%00%0d%0aSet-Cookie: a=b", "\r\nX-Injected: 1", "\x1b[31m", "\ufdfa" * 60, "ﷺ" * 100,
    "{{7*7}}", "NULL", "None", "true", "-1", "1e999", "\u2028\u2029", "Z\u0351\u036b\u0343\u036a" * 50, "\ud7ff", "𝕳𝖊𝖑𝖑𝖔",
)  # fmt: skip
WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, 10**30, "", "x", [], {}, [None], {"a": 1}, [[[[]]]], "2017-01-01", "9999-99-99T99:99:99Z",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Body:
    path: str
    content: bytes
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON_TYPE))
    name: str = ""


def by_hand() -> list[Body]:
    """Two hundred cases: transport, JSON, schema, sense, and texts that break what reads them carelessly."""
    cases = [*_transport(), *_broken_json(), *_wrong_types(), *_limits(), *_texts()]
    assert len(cases) >= 200, len(cases)
    return cases


def drawn(count: int, seed: int) -> Iterator[Body]:
    """A good body bent once to four times, sometimes cut or flipped as bytes; the same seed draws the same."""
    rng = random.Random(seed)
    for _ in range(count):
        path = rng.choice(PATHS)
        value: Any = json.loads(json.dumps(GOOD[path]))
        for _ in range(rng.randint(1, 4)):
            value = rng.choice(BENT)(rng, value)
        content = json.dumps(value).encode()
        if rng.random() < 0.15:
            content = _damaged(rng, content)
        yield Body(path, content)


def breaks_schema(document: dict[str, Any]) -> Callable[[Body], bool]:
    """Whether a body is JSON at all, and of the schema that the page promises for its path."""
    from jsonschema import Draft202012Validator, FormatChecker

    def of(path: str) -> Draft202012Validator:
        taken = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        return Draft202012Validator({**taken, "components": document["components"]}, format_checker=FormatChecker())

    validators = {path: of(path) for path in PATHS}

    def breaks(body: Body) -> bool:
        try:
            value = json.loads(body.content.decode(), parse_constant=_no_constant)
            return not validators[body.path].is_valid(value)
        except (ValueError, RecursionError):
            return True

    return breaks


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _transport() -> Iterator[Body]:
    good = json.dumps(GOOD["/rank"]).encode()
    for kind in (
        "text/plain",
        "text/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/cbor",
        "*/*",
        "",
    ):
        yield Body("/rank", good, {"content-type": kind}, f"content-type {kind!r}")
    for coding in ("gzip", "br", "deflate", "zstd", "gzip, gzip"):
        yield Body("/rank", good, {**JSON_TYPE, "content-encoding": coding}, f"content-encoding {coding}")
    for path in PATHS:
        yield Body(path, b"", name="no body")
        yield Body(path, b" " * 300_000, name="300 KB of nothing")
        yield Body(path, b"[" * 100_000, name="deep nesting")
        yield Body(path, b'{"a":' * 20_000, name="deep objects")


def _broken_json() -> Iterator[Body]:
    texts = (
        b"{", b"}", b"[]", b"[{}]", b"null", b"true", b"0", b'"surface"', b"{'surface':'search'}", b'{"surface"}', b'{"surface":}', b"{,}",
        b'{"surface":"search",}', b'{"surface":"search"}{"surface":"search"}', b'{"surface":NaN}', b'{"k":Infinity}', b'{"k":-Infinity}',
        b'{"k":01}', b'{"k":1e999}', b'{"k":.5}', b'{"k":+1}', b'{"user_id":"\\ud800"}', b'{"user_id":"\\x00"}', b'{"user_id":"\x00"}',
        b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b'{"user_id":"\xc3\x28"}', b'{"user_id":"\xed\xa0\x80"}', b"<rank/>", b"surface=search",
        b'{"surface":"search","surface":"recommendation","surface":3}', b'// c\n{"surface":"search"}', b'{"user_id":"' + b"\\u0000" * 300 + b'"}',
    )  # fmt: skip
    for number, text in enumerate(texts):
        yield Body(PATHS[number % 4], text, name=text[:30].decode("latin-1"))


def _wrong_types() -> Iterator[Body]:
    for path in PATHS:
        for name in GOOD[path]:
            for wrong in (None, 7, "", [], {"a": []}, [[]], -1.5):
                yield Body(path, json.dumps({**GOOD[path], name: wrong}).encode(), name=f"{name}={wrong!r}")
        yield Body(path, json.dumps({**GOOD[path], "extra": 1}).encode(), name="an unknown field")
        yield Body(path, json.dumps({**GOOD[path], "__proto__": {"k": 1}}).encode(), name="a prototype")


def _limits() -> Iterator[Body]:
    rank, event = GOOD["/rank"], {"item_id": "item-001", "event_type": "click"}
    many = [f"i{n}" for n in range(1_001)]
    for name, more in {
        "1,001 candidates": {"candidates": many}, "an item twice": {"candidates": ["a", "a"]}, "no candidates": {"candidates": []},
        "k 0": {"k": 0}, "k 1,001": {"k": 1_001}, "k 2.5": {"k": 2.5}, "k 10**30": {"k": 10**30}, "item id empty": {"candidates": [""]},
        "item id of 129": {"candidates": ["i" * 129]}, "user id of 257": {"user_id": "u" * 257}, "context of 33": {"context": {str(n): 1 for n in range(33)}},
        "context deep": {"context": {"a": {"b": {}}}}, "context long": {"context": {"a": "x" * 257}}, "user and history": {"history": []},
        "query without search": {"query": "milk"}, "surface email": {"surface": "email"}, "surface SEARCH": {"surface": "SEARCH"}, "explain 1": {"explain": 1},
    }.items():  # fmt: skip
        yield Body("/rank", json.dumps({**rank, **more}).encode(), name=name)
    for when in (
        "2017-01-01",
        "2017-01-01T00:00:00",
        "0000-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "now",
        "1e9",
        "",
    ):
        yield Body(
            "/recommend", json.dumps({"history": [{"item_id": "a", "event_time": when}]}).encode(), name=f"at {when}"
        )
    for value in ("-1", "1e10", "1e999", "NaN", "true", '"1"'):
        text = '{"request_id":"r","events":[{"item_id":"a","event_type":"click","value":' + value + "}]}"
        yield Body("/feedback", text.encode(), name=f"value {value}")
    for request in ("", " ", "a b", "é", "r\n", "r" * 129):
        yield Body(
            "/feedback",
            json.dumps({"request_id": request, "events": [event]}).encode(),
            name=f"request id {request[:8]!r}",
        )
    yield Body("/feedback", json.dumps({"request_id": "r", "events": [event] * 1_001}).encode(), name="1,001 events")
    yield Body("/feedback", json.dumps({"request_id": "r", "events": []}).encode(), name="no events")


def _texts() -> Iterator[Body]:
    for bomb in BOMBS:
        yield Body("/search", json.dumps({"query": bomb}).encode(), name=f"query {bomb[:12]!r}")
        yield Body("/recommend", json.dumps({"user_id": bomb[:256] or "x"}).encode(), name=f"user {bomb[:12]!r}")


Bend = Callable[[random.Random, Any], Any]


def _bent(rng: random.Random, value: Any) -> Any:
    """Another value at one place, however deep."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        return {**value, name: _bent(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _bent(rng, value[at]), *value[at + 1 :]]
    return rng.choice((*WRONG, rng.choice(BOMBS), rng.random() * 10 ** rng.randint(-3, 12), rng.choice(ITEMS)))


def _without(rng: random.Random, value: Any) -> Any:
    if not isinstance(value, dict) or not value:
        return value
    name = rng.choice(sorted(value))
    return {key: part for key, part in value.items() if key != name}


def _with_more(rng: random.Random, value: Any) -> Any:
    names = (
        "surface",
        "user_id",
        "query",
        "history",
        "context",
        "candidates",
        "k",
        "explain",
        "events",
        "request_id",
        "extra",
    )
    donor = GOOD[rng.choice(PATHS)]
    name = rng.choice(names)
    return {**value, name: donor.get(name, rng.choice(WRONG))} if isinstance(value, dict) else value


def _longer(rng: random.Random, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    lists = [name for name, part in sorted(value.items()) if isinstance(part, list) and part]
    if not lists:
        return value
    name = rng.choice(lists)
    return {**value, name: (value[name] * rng.randint(2, 400))[: rng.randint(1, 1_200)]}


BENT: tuple[Bend, ...] = (_bent, _bent, _without, _with_more, _longer)


def _damaged(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content)) if content else 0
    return rng.choice(
        (content[:at], content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :], content + content, content[at:])
    )
