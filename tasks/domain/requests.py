"""What a caller may send to the ranker and what it gets back: decoded and limited in one pass, before any work is done.

A body that does not fit the schema is refused with 422 (unknown fields by name); one that fits but makes no sense with
400; a body that is not JSON at all with 400. Texts never repeat a user id.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from tasks.domain.errors import InputRejected

MAX_BODY_BYTES = 256 * 1024
MAX_CANDIDATES = 1_000
MAX_K = 1_000
DEFAULT_K = 10
MAX_HISTORY = 10_000
MAX_FEEDBACK_EVENTS = 1_000
MAX_QUERY_CHARACTERS = 512
MAX_CONTEXT_KEYS = 32
MAX_REQUEST_ID = 128
FIRST_YEAR, LAST_YEAR = 2000, 2100

ItemId = Annotated[str, Meta(min_length=1, max_length=128, description="others than the catalogue's go last")]
UserId = Annotated[str, Meta(min_length=1, max_length=256, description="raw user id; hashed on entry, never stored")]
RequestId = Annotated[str, Meta(min_length=1, max_length=MAX_REQUEST_ID, pattern=r"^[\x21-\x7e]+$")]
Amount = Annotated[float, Meta(ge=0, le=1e9)]
Moment = Annotated[datetime, Meta(tz=True, description="with its offset, e.g. 2017-07-02T18:00:00Z")]
Surface = Literal["recommendation", "search"]
EventType = Literal["impression", "click", "add_to_cart", "purchase", "rating"]
Query = Annotated[str, Meta(max_length=MAX_QUERY_CHARACTERS)]
ContextValue = Annotated[str, Meta(max_length=256)] | int | float | bool | None
Context = Annotated[dict[Annotated[str, Meta(max_length=64)], ContextValue], Meta(max_length=MAX_CONTEXT_KEYS)]
K = Annotated[int, Meta(ge=1, le=MAX_K)]


class RequestRefused(InputRejected):
    """The caller's mistake, with the HTTP status that says which kind."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class HistoryEvent(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing the user bought or did. Without a time it counts as the latest; times after the state's morning too."""

    item_id: ItemId
    event_time: Moment | None = None
    event_type: EventType = "purchase"
    quantity: Amount | None = None
    value: Amount | None = None
    discount: Amount | None = None
    store_id: Annotated[str, Meta(max_length=64)] | None = None


History = Annotated[list[HistoryEvent], Meta(max_length=MAX_HISTORY)]


class RankRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Rank `candidates`, or retrieve and rank the best `k`. With both, the best `k` of the candidates.

    A user is named by `user_id`, or described by `history`, or left out (popularity answers). `context` is a flat map;
    the part 1 model reads nothing from it. `explain` adds to each of the best 10 items what moved it.
    """

    surface: Surface
    user_id: UserId | None = None
    query: Query | None = None
    history: History | None = None
    context: Context | None = None
    candidates: list[ItemId] | None = None
    k: K | None = None
    explain: bool = False


class RecommendRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Retrieve and rank the best `k` (10) for a user, for what `history` tells, or for nobody in particular."""

    user_id: UserId | None = None
    history: History | None = None
    context: Context | None = None
    k: K | None = None
    explain: bool = False


class SearchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The best `k` (10) items for a query text; with `candidates`, the order of those."""

    query: Query
    user_id: UserId | None = None
    history: History | None = None
    context: Context | None = None
    candidates: list[ItemId] | None = None
    k: K | None = None
    explain: bool = False


class Reason(Struct, frozen=True):
    """What one input did to one score: the score as it is, less the score with this input as it typically is."""

    feature: str
    effect: float


class RankedItem(Struct, frozen=True, omit_defaults=True):
    """`because` holds what moved the item most, on request; its effects need not add up to the score."""

    item_id: str
    score: float
    because: list[Reason] | None = None


class RankReply(Struct, frozen=True):
    """The caller's own items, best first, without those that merchandising rules hide; scores are finite and never rise.

    `stage` is the last stage that set the order: `full` (history transformer), `base` (feature head), `retrieved`
    (counters only), each the fallback of the one before it when the deadline has passed; `popularity` is the feature
    head when nothing is known about the user. For a query `search`, and `cosine` past the deadline. `cut_short` says
    that the deadline left a stage out.
    """

    request_id: str
    release: str
    items: list[RankedItem]
    stage: str
    cut_short: bool
    latency_ms: float


class FeedbackEvent(Struct, frozen=True, forbid_unknown_fields=True):
    item_id: ItemId
    event_type: EventType
    value: Amount | None = None
    event_time: Moment | None = None


class Feedback(Struct, frozen=True, forbid_unknown_fields=True):
    """What the user did with the slate `request_id`. The same events again change nothing: their ids are the same.

    `user_id` helps only when no replica of the machine remembers the slate, and is hashed on entry.
    """

    request_id: RequestId
    events: list[FeedbackEvent]
    user_id: UserId | None = None


class FeedbackAccepted(Struct, frozen=True):
    """`accepted` events are on disk; `joined` says whether a replica of this machine remembers the slate."""

    accepted: int
    joined: bool


_rank_decoder = msgspec.json.Decoder(RankRequest)
_recommend_decoder = msgspec.json.Decoder(RecommendRequest)
_search_decoder = msgspec.json.Decoder(SearchRequest)
_feedback_decoder = msgspec.json.Decoder(Feedback)


def decode_rank(body: bytes) -> RankRequest:
    return checked_rank(_decode(_rank_decoder, body))


def decode_recommend(body: bytes) -> RankRequest:
    """A body of POST /recommend as the rank request that it stands for."""
    sent: RecommendRequest = _decode(_recommend_decoder, body)
    return checked_rank(RankRequest(surface="recommendation", **msgspec.structs.asdict(sent)))


def decode_search(body: bytes) -> RankRequest:
    """A body of POST /search as the rank request that it stands for."""
    sent: SearchRequest = _decode(_search_decoder, body)
    return checked_rank(RankRequest(surface="search", **msgspec.structs.asdict(sent)))


def decode_feedback(body: bytes) -> Feedback:
    return checked_feedback(_decode(_feedback_decoder, body))


DECODERS: Mapping[str, Callable[[bytes], RankRequest]] = {
    "/rank": decode_rank,
    "/recommend": decode_recommend,
    "/search": decode_search,
}


def convert_rank(value: Any, path: str = "/rank") -> RankRequest:
    """The same limits for a body that something else has parsed already."""
    return DECODERS[path](_strict_json(value))


def convert_feedback(value: Any) -> Feedback:
    return decode_feedback(_strict_json(value))


def checked_rank(request: RankRequest) -> RankRequest:
    """Refuse what fits the schema but makes no sense; return the request with its query in normal form."""
    if request.user_id is not None and request.history is not None:
        raise RequestRefused(400, "user_id and history exclude each other; send one of them or neither")
    if request.candidates is not None:
        _check_slate(request.candidates)
    _check_times(request.history or ())
    if request.surface == "recommendation":
        if request.query is not None:
            raise RequestRefused(400, "surface recommendation takes no query; send surface search with it")
        return request
    query = " ".join(unicodedata.normalize("NFC", request.query or "").split())
    if not query:
        raise RequestRefused(400, "surface search needs a query; send its text as query")
    if len(query) > MAX_QUERY_CHARACTERS:  # normalisation can make a text longer
        raise RequestRefused(400, f"query has {len(query)} characters; send at most {MAX_QUERY_CHARACTERS}")
    return msgspec.structs.replace(request, query=query)


def checked_feedback(feedback: Feedback) -> Feedback:
    if not 1 <= len(feedback.events) <= MAX_FEEDBACK_EVENTS:
        raise RequestRefused(400, f"feedback has {len(feedback.events)} events; send 1 to {MAX_FEEDBACK_EVENTS:,}")
    _check_times(feedback.events)
    return feedback


def _check_times(events: Sequence[HistoryEvent | FeedbackEvent]) -> None:
    for position, event in enumerate(events):
        if event.event_time is not None and not FIRST_YEAR <= event.event_time.year <= LAST_YEAR:
            text = f"event {position} is of the year {event.event_time.year}; send {FIRST_YEAR} to {LAST_YEAR}"
            raise RequestRefused(400, text)


def _check_slate(candidates: list[str]) -> None:
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise RequestRefused(400, f"slate has {len(candidates):,} items; send 1 to {MAX_CANDIDATES:,}")
    if len(set(candidates)) != len(candidates):
        first: dict[str, int] = {}
        for position, item in enumerate(candidates):
            if first.setdefault(item, position) != position:
                text = f"candidates {first[item]} and {position} are the same item; send each item once"
                raise RequestRefused(400, text)


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as err:
        raise RequestRefused(422, _sentence(err)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise RequestRefused(400, f"the body is not JSON: {_sentence(err)}") from None


def _strict_json(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()  # other parsers let NaN and lone surrogates through
    except (ValueError, TypeError, RecursionError):
        raise RequestRefused(400, "the body is not JSON: numbers must be finite") from None


def _sentence(err: Exception) -> str:
    """msgspec's own words, which name the field; cut, because an unknown field's name can be any length."""
    if isinstance(err, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(err)[:300].encode(errors="replace").decode()
