"""Golden requests: what this release answered when it was packaged. A replica that answers otherwise never gets ready.

They describe people by made-up histories, never by pseudonym: a release is immutable, a person may ask to be erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json
from tasks.domain.requests import RankRequest, convert_rank

TOLERANCE = 0.01  # int8 kernels differ a little between processors; a wrong model differs a lot
# bf16 summed in another order differs about as much as from fp32: on the demo's golden requests by .021 at most
TOLERANCE_OF_CUDA = 0.05


class Ranks(Protocol):
    def rank(self, request: RankRequest, pseudonym: str | None = None) -> Any: ...


class Case(msgspec.Struct, frozen=True):
    request: dict[str, Any]
    stage: str
    items: list[str]
    scores: list[float]


class Golden(msgspec.Struct, frozen=True):
    version: int
    tolerance: float
    cases: list[Case]


def record(engine: Ranks, requests: Sequence[dict[str, Any]], tolerance: float = TOLERANCE) -> bytes:
    """golden.json: the answers of `engine` to `requests`, and how far those of another machine may lie from them."""
    cases = []
    for request in requests:
        ranking = engine.rank(convert_rank(request))
        scores = [round(score, 6) for score in ranking.scores]
        cases.append(Case(request, ranking.stage, ranking.items, scores))
    return canonical_json(msgspec.to_builtins(Golden(1, tolerance, cases)))


def replay(engine: Ranks, path: Path) -> int:
    """Ask again and compare; return how many were asked.

    Raises:
        InputRejected: an answer differs by more than the tolerance, or there is nothing to compare with.
    """
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    except (OSError, msgspec.DecodeError):
        raise InputRejected(
            f"{path.name} is missing or broken: the release cannot prove itself; package it again"
        ) from None
    if not golden.cases:
        raise InputRejected(f"{path.name} holds no request; the release cannot prove itself, package it again")
    difference = first_difference(engine, golden.cases, golden.tolerance)
    if difference:
        raise InputRejected(
            f"{difference}; this machine does not compute what was packaged. The release was not put to use; serve the "
            f"previous one and package again"
        )
    return len(golden.cases)


def first_difference(engine: Ranks, cases: Sequence[Case], tolerance: float) -> str:
    """What the first case that is answered otherwise got, in words; empty when there is none."""
    for number, case in enumerate(cases):
        ranking = engine.rank(convert_rank(case.request))
        difference = disagreement(case.items, case.scores, ranking.items, ranking.scores, tolerance)
        if ranking.stage != case.stage:
            difference = f"stage {ranking.stage} instead of {case.stage}"
        if difference:
            return f"golden request {number} of {len(cases)} got {difference}"
    return ""


def disagreement(
    items: Sequence[str], scores: Sequence[float], got: Sequence[str], got_scores: Sequence[float], tolerance: float
) -> str:
    """What differs, in words; empty when nothing does. Items may swap places only where scores are that close."""
    expected, answered = dict(zip(items, scores, strict=True)), dict(zip(got, got_scores, strict=True))
    cut = min(expected.values(), default=0.0)  # the last item of a retrieved list may be another of the same score
    for item, score in answered.items():
        if item in expected and abs(score - expected[item]) > tolerance:
            return f"score {score:.4f} for an item, expected {expected[item]:.4f}"
        if item not in expected and abs(score - cut) > tolerance:
            return f"an item that was not there before, with score {score:.4f}"
    if len(got) != len(items) or len(answered) != len(got):
        return f"{len(got)} items, expected {len(items)}"
    if any(a < b for a, b in pairwise(got_scores)):
        return "items out of order"
    return ""
