"""What was seen of both releases in one step of a rollout. Values only; tasks.domain.rollout_judgement judges them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.domain.confidence_sequence import Sketch
from tasks.domain.gate import Outcome
from tasks.domain.manifest import Record


@dataclass(slots=True)
class Sample:
    """What one release did in the window: counts as the router saw them, the rest as the service measured it."""

    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    answered: int = 0  # answers read from the service, of any status; without copies for which it had no room
    no_room: int = 0  # 429, to callers and to copies
    refused: int = 0  # of those, 4xx
    slates: int = 0  # of those, lists
    short: int = 0  # lists with fewer than 10 items, empty ones included
    empty: int = 0
    whole: int = 0  # lists that were worked out for their request, by every stage
    latencies_ms: Sketch = field(
        default_factory=Sketch
    )  # of lists that were worked out, whole or cut short by the deadline
    kept_ms: Sketch = field(default_factory=Sketch)  # of lists that were kept from an earlier request
    best_scores: Sketch = field(default_factory=Sketch)
    spreads: Sketch = field(default_factory=Sketch)  # best score - worst served score, of each list
    shown: int = 0  # lists that a user saw: not the copies of a shadow
    ndcg: float = 0.0  # sum of NDCG@10 over shown lists with feedback
    told: int = 0  # shown lists with feedback
    converted: int = 0  # shown lists with a purchase


@dataclass(slots=True)
class Window:
    """Everything observed since the step began. `paired` counts requests that both releases answered."""

    challenger: Sample = field(default_factory=Sample)
    champion: Sample = field(default_factory=Sample)
    paired: int = 0
    asked_by: set[int] = field(
        default_factory=set
    )  # buckets of users, of the champion's lists; empty where it tells none
    paired_of: set[int] = field(default_factory=set)  # buckets of users, of the pairs
    overlap: float = 0.0  # sum over pairs of the share of common items in the top 10
    correlated: int = 0  # pairs with enough common items to compare their order
    correlation: float = 0.0  # sum over those of Kendall's tau, of the common items
    unusable: int = 0  # lists of the challenger with a score that is missing or not finite
    constant: int = 0  # lists of the challenger whose scores are all equal
    restarts: int = 0


class Finding(Record):
    """One rule, with its numbers, as a sentence."""

    name: str
    outcome: Outcome
    said: str
