"""What may go: outputs of old steps, old releases and views. Pure: what is there, what serves, and the day; out come names.

Two looks decide, not one. What nothing needs is marked; what is still marked a day later goes. So whoever read a manifest
before it was marked has a day to end, and a person who needs it after all has a day to say so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import Field

from tasks.domain.manifest import Record
from tasks.domain.rollout_log import Row
from tasks.domain.rollout_state import RolloutState, needed

GRACE = timedelta(days=1)  # between mark and deletion; longer than any refresh
MARKS = "control/pruned/"
GOING = f"{MARKS}going/"  # what is being deleted at this moment, by whom
DATA_STEPS = (
    "build_dataset",
    "finetune",
    "compress",
)  # rows and weights; what the others write is small, and the record


def mark_of(key: str) -> str:
    """Where it is written that a run's outputs, a release or a view are to go, and for a run: that they are gone."""
    return f"{MARKS}{key}.json"


class RetentionPolicy(Record):
    """How long what nothing needs is kept. Landed days are not meant: `freshrank retention` retires those."""

    decision_days: int = Field(
        default=30, ge=7, le=3650, description="every decision, and what it rests on, can be explained and repeated"
    )
    copy_days: int = Field(
        default=7, ge=2, le=3650, description="unused copies on this machine of what is in the store"
    )
    log_days: int = Field(default=30, ge=7, le=3650, description="Airflow's runs and logs, refused calls of MLflow")


class Run(Record):
    """One completed run of a step. `inputs` are keys of runs; `bytes` what of its outputs is there."""

    key: str  # runs/STEP/PARTITION/DIGEST
    step: str
    made: datetime
    inputs: frozenset[str]
    release: str | None = None  # that it made, or was compared with
    bytes: int
    whole: bool = True  # every output that the manifest names is there


class Published(Record):
    """A release or a view. `published` is false of one that is only half there, and of that nothing but bytes is known."""

    KIND: ClassVar[str]

    digest: str
    made: datetime
    published: bool
    bytes: int

    @property
    def key(self) -> str:
        return f"{self.KIND}/{self.digest}"


class StoredRelease(Published):
    KIND = "releases"

    view: str | None = None
    weights: str | None = None
    kind: str | None = None  # state: the weights came with an earlier release


class StoredView(Published):
    KIND = "views"


class Held(Record):
    """What the store holds, and since when something is marked (keys as in `Choice`)."""

    runs: tuple[Run, ...] = ()
    releases: tuple[StoredRelease, ...] = ()
    views: tuple[StoredView, ...] = ()
    marks: dict[str, datetime] = Field(default={})


def published(held: Held) -> list[Published]:
    return [*held.releases, *held.views]


class Choice(Record):
    """By key: what stays and why, what is marked today, what goes today, whose mark is taken back."""

    kept: dict[str, str]
    mark: tuple[str, ...]
    go: tuple[str, ...]
    unmark: tuple[str, ...]


def choose(held: Held, serving: Mapping[str, str], policy: RetentionPolicy, now: datetime) -> Choice:
    """serving: release -> why the rollout log, or a person, needs it (`releases_needed`)."""
    why = kept(held, serving, policy, now)
    there = {one.key: one.published for one in published(held)}
    there |= {run.key: run.whole for run in held.runs if run.step in DATA_STEPS and run.bytes}
    spare = sorted(key for key in there if key not in why)
    ripe = {key for key, since in held.marks.items() if since <= now - GRACE}
    # a run's mark stays for good once its outputs are gone: it says to make them anew. A release that is made anew is unmarked
    back = {key for key in held.marks if key in why and there.get(key)}
    back |= {key for key in held.marks if key not in there and not key.startswith("runs/")}
    return Choice(
        kept={key: reason for key, reason in sorted(why.items()) if key in there},
        mark=tuple(key for key in spare if key not in held.marks),
        go=tuple(key for key in spare if key in ripe),
        unmark=tuple(sorted(back)),
    )


def kept(held: Held, serving: Mapping[str, str], policy: RetentionPolicy, now: datetime) -> dict[str, str]:
    """Key -> why it stays: what serves or may have to, recent decisions, and whatever these rest on.

    A release rests on its view, on the release that first carried its weights, and on every run that led to it. A recent
    decision rests on its runs, and on the releases that these name; those of older runs are not followed any further.
    """
    since, why = now - timedelta(days=policy.decision_days), dict[str, str]()
    runs = {run.key: run for run in held.runs}
    releases = {one.digest: one for one in held.releases}

    def keep(keys: Iterable[str], reason: str) -> None:
        for key in keys:
            why.setdefault(key, reason)

    for digest, reason in serving.items():
        keep([f"releases/{digest}"], reason)
    newest = {run.step: run.key for run in sorted(held.runs, key=lambda run: run.made)}
    recent = {run.key for run in held.runs if run.made >= since} | set(newest.values())
    keep(
        ancestors(runs, recent),
        f"a run of the last {policy.decision_days} days, or the newest of its step, rests on it",
    )
    named = {runs[key].release for key in recent if key in runs}
    keep(
        (f"releases/{digest}" for digest in named if digest), f"a run of the last {policy.decision_days} days names it"
    )
    keep(
        (one.key for one in (*held.releases, *held.views) if one.made >= since), f"not {policy.decision_days} days old"
    )

    stay = {digest for digest in releases if f"releases/{digest}" in why}
    weights = {releases[digest].weights for digest in stay} - {None}
    carriers = {one.digest for one in held.releases if one.weights in weights and one.kind != "state"}
    keep((f"releases/{digest}" for digest in carriers), "the weights of a release that stays came with it")
    stay |= carriers
    keep(
        (f"views/{releases[digest].view}" for digest in stay if releases[digest].view), "a release that stays needs it"
    )
    packaged = {run.key for run in held.runs if run.step == "package" and run.release in stay | serving.keys()}
    keep(ancestors(runs, packaged), "a release that stays was made from it")
    return why


def ancestors(runs: Mapping[str, Run], roots: Collection[str]) -> set[str]:
    """The roots, and every run that they were made from."""
    found, waiting = set[str](), list(roots)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += runs[key].inputs if key in runs else ()
    return found


def orphans(
    objects: Mapping[str, datetime], named: Collection[str], policy: RetentionPolicy, now: datetime
) -> list[str]:
    """Outputs under runs/ that no manifest names: of attempts that died, or were second. None that may still be written."""
    before = now - timedelta(days=policy.copy_days)
    return sorted(key for key, written in objects.items() if key not in named and written < before)


def releases_needed(
    state: RolloutState, rows: Iterable[Row], pinned: Collection[str], policy: RetentionPolicy, now: datetime
) -> dict[str, str]:
    """Release -> why it must stay: what the log's end says, and what a row of the policy's days names."""
    since, why = now - timedelta(days=policy.decision_days), dict[str, str]()
    for row in rows:
        if row.time >= since:
            for release in (row.from_release, row.to_release):
                if release:
                    why[release] = f"the rollout log names it within {policy.decision_days} days"
    why |= dict.fromkeys(pinned, "pinned")
    why |= dict.fromkeys(needed(state), "among the last champions")
    if state.rollout:
        why[state.rollout.release] = "being rolled out"
    if state.previous:
        why[state.previous.release] = "served before, and is kept warm"
    if state.champion:
        why[state.champion.release] = "serves"
    return why
