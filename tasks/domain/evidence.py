"""What the gate may know about one candidate: paired numbers with bounds, and where they come from. Pure values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.domain.manifest import Record
from tasks.domain.verdict import CandidateKind


class Comparison(Record):
    """One metric of one slice, candidate against champion on the same slates, with one-sided 95 % bounds.

    difference, lower and upper are gains: positive is better, also of a metric whose lower values are better.
    """

    name: str
    slice: str
    champion: float
    candidate: float
    difference: float
    lower: float
    upper: float
    p_harm_beyond: float = Field(description="bootstrap p-value of 'the loss is within the allowance of this slice'")
    smallest_detectable: float
    slates: int
    users: int | None = None  # not told by evidence from before


class Rival(Record):
    """What stands beside the candidate on the same slates, in the policy's leading metric on `all`; one-sided 95 % bounds.

    difference, lower and upper are gains of the candidate over the rival.
    """

    name: str
    metric: str
    rival: float
    candidate: float
    difference: float
    lower: float
    upper: float
    slates: int


class LatencyRatio(Record):
    """candidate / champion of one latency number over interleaved pairs, with one-sided 95 % bounds."""

    name: str
    champion_ms: float
    candidate_ms: float
    ratio: float
    lower: float
    upper: float
    pairs: int


class Resource(Record):
    """candidate / champion of bytes on disk or in memory; the bounds are the extremes of `runs` measurements."""

    name: str
    champion_mib: float
    candidate_mib: float
    ratio: float
    lower: float
    upper: float
    runs: int


class History(Record):
    """What the champion's latency was in earlier benches of this machine, in yardsticks; the newest last."""

    days: tuple[str, ...]
    relative: dict[str, tuple[float, ...]] = Field(
        description="p50, p95, p99, cpu -> [benches] times a fixed computation"
    )


class Check(Record):
    """A fact that holds or does not: coverage, size, finiteness, skew, golden requests."""

    name: str
    value: float
    limit: float
    ok: bool
    sentence: str


class Equivalence(Record):
    """The compressed model against its fp32 parent on validation slates; both one-sided 95 % bounds count."""

    metric: str
    variant: str
    parent: float
    compressed: float
    difference: float
    lower: float
    upper: float
    margin: float = Field(gt=0)
    slates: int


class Change(Record):
    """Something that makes this candidate another kind of model than the champion, so that its own policy judges it."""

    what: Literal["architecture", "labels"]
    champion: str
    candidate: str
    shared: tuple[str, ...] = Field(default=(), description="labels that both know")
    counted: tuple[str, ...] = Field(default=(), description="labels that the holdout counts")


class Evidence(Record):
    """Everything the gate may know about one candidate."""

    kind: CandidateKind
    holdout_digest: str = Field(description="digest of the slates that the candidate was scored on")
    champion_holdout_digest: str = Field(description="digest of the slates that the champion was scored on")
    holdout_first_day: str
    champion_train_end: str | None = Field(description="last day the champion's weights saw; None: no champion")
    comparisons: tuple[Comparison, ...]
    slices: dict[str, int] = Field(
        default={}, description="slices that the evaluation tells apart -> their slates, 0 included"
    )
    rivals: tuple[Rival, ...] = Field(default=(), description="simpler models, and the champion before")
    slates: int | None = Field(default=None, ge=0, description="of the holdout; not told by evidence from before")
    champion_release: str | None = Field(default=None, description="the champion that this run pinned")
    compared_with: dict[str, str] = Field(
        default={}, description="step -> the release that it compared the candidate with"
    )
    latencies: tuple[LatencyRatio, ...] = ()
    resources: tuple[Resource, ...] = ()
    growth: float = Field(default=1.0, ge=1, description="catalogue or histories over the champion's, where more")
    history: History | None = Field(default=None, description="of the champion; on the first candidate only")
    checks: tuple[Check, ...] = ()
    compression: Equivalence | None = None
    unserved: str | None = Field(
        default=None, description="why compress let no variant go forward: nothing was measured"
    )
    changes: tuple[Change, ...] = ()
