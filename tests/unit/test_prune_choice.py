"""What may go, and what never may: by example, and as properties of any history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.domain.prune import (
    DATA_STEPS,
    GRACE,
    Choice,
    Held,
    RetentionPolicy,
    Run,
    StoredRelease,
    StoredView,
    choose,
    orphans,
    releases_needed,
)
from tasks.domain.rollout_log import Kind, Row, sealed
from tasks.domain.rollout_state import fold
from tests.rollout_builders import NOON, A, B, C, a_draft, a_policy

NOW = datetime(2026, 11, 29, tzinfo=UTC)
POLICY = RetentionPolicy(decision_days=30)
STEPS = ("resolve_champion", "build_dataset", "finetune", "compress", "evaluate", "gate", "package")


def a_log(*drafts: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for number, draft in enumerate(drafts, start=1):
        rows.append(sealed(a_draft(f"op-{number}", **draft), rows[-1] if rows else None, NOON))
    return rows


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def a_refresh(day: int, release: str | None, compared: str | None = None) -> list[Run]:
    """The runs of one refresh, `day` days ago, each made from those before it."""
    runs: list[Run] = []
    for step in STEPS if release else STEPS[:-1]:
        made_of = frozenset(run.key for run in runs)
        says = release if step == "package" else compared if step == "resolve_champion" else None
        runs.append(Run(key=f"runs/{step}/{day}", step=step, made=ago(day), inputs=made_of, release=says, bytes=10))
    return runs


def a_release(digest: str, day: int, weights: str = "", kind: str = "weights", view: str = "") -> StoredRelease:
    return StoredRelease(
        digest=digest,
        made=ago(day),
        published=True,
        view=view or f"v{digest}",
        weights=weights or f"w{digest}",
        kind=kind,
        bytes=100,
    )


def a_view(digest: str, day: int) -> StoredView:
    return StoredView(digest=digest, made=ago(day), published=True, bytes=50)


def history(*days: int, marks: dict[str, datetime] | None = None) -> Held:
    """A refresh on each of these days, oldest first; each was compared with the one before, and shipped."""
    runs, before = list[Run](), None
    for day in days:
        runs += a_refresh(day, f"r{day}", before)
        before = f"r{day}"
    return Held(
        runs=tuple(runs),
        releases=tuple(a_release(f"r{day}", day) for day in days),
        views=tuple(a_view(f"vr{day}", day) for day in days),
        marks=marks or {},
    )


def data_of(*days: int) -> set[str]:
    return {f"runs/{step}/{day}" for step in DATA_STEPS for day in days}


def test_what_nothing_needs_is_marked_first_and_goes_a_day_later():
    held = history(90, 60, 50, 2, 1)  # the decision of two days ago names the release of fifty days ago
    first = choose(held, {"r1": "serves", "r2": "served before"}, POLICY, NOW)
    unneeded = data_of(90, 60) | {"releases/r90", "releases/r60", "views/vr90", "views/vr60"}
    assert set(first.mark) == unneeded and first.go == () and first.unmark == ()
    assert first.kept["releases/r1"] == "serves" and first.kept["runs/finetune/1"].startswith(
        "a run of the last 30 days"
    )
    soon = choose(held.model_copy(update={"marks": dict.fromkeys(unneeded, ago(0.9))}), {"r1": ""}, POLICY, NOW)
    assert (soon.mark, soon.go) == ((), ())
    later = choose(held.model_copy(update={"marks": dict.fromkeys(unneeded, NOW - GRACE)}), {"r1": ""}, POLICY, NOW)
    assert set(later.go) == unneeded


def test_the_lineage_of_an_old_champion_stays_and_ends_with_its_own_refresh():
    held = history(300, 200, 100)
    choice = choose(held, {"r100": "serves"}, POLICY, NOW)
    assert {"releases/r100", "views/vr100"} | data_of(100) <= choice.kept.keys()
    assert set(choice.mark) == data_of(300) | {"releases/r300", "views/vr300"}, (
        "r200 was the last that it was compared with"
    )


def test_the_release_that_brought_the_weights_of_a_new_state_stays_with_its_runs():
    old, other, state = a_release("old", 400), a_release("other", 400), a_release("now", 50, "wold", "state")
    held = Held(
        runs=(*a_refresh(400, "old"), *a_refresh(50, "now"), *a_refresh(1, None)),
        releases=(old, other, state),
        views=(a_view("vold", 400), a_view("vnow", 50), a_view("vother", 400)),
    )
    choice = choose(held, {"now": "serves"}, POLICY, NOW)
    assert choice.mark == ("releases/other", "views/vother")
    assert data_of(400) <= choice.kept.keys()


def test_only_rows_and_weights_go_the_records_of_decisions_stay():
    choice = choose(history(200, 90, 1), {"r1": "serves"}, POLICY, NOW)
    assert {key.split("/")[1] for key in choice.mark if key.startswith("runs/")} == set(DATA_STEPS)


def test_what_is_needed_again_is_unmarked_unless_it_is_half_gone():
    marks = {"releases/r90": ago(0.5), "runs/finetune/90": ago(0.5), "views/gone": ago(9), "runs/finetune/gone": ago(9)}
    choice = choose(history(90, 1, marks=marks), {"r90": "rolled back to", "r1": "served before"}, POLICY, NOW)
    assert choice.unmark == ("releases/r90", "runs/finetune/90", "views/gone")
    half = history(90, 1, marks=marks)
    runs = tuple(run.model_copy(update={"whole": run.key != "runs/finetune/90"}) for run in half.runs)
    choice = choose(half.model_copy(update={"runs": runs}), {"r90": "rolled back to"}, POLICY, NOW)
    assert "runs/finetune/90" not in choice.unmark, "its mark lets the step be run again"


def test_a_stack_that_stood_still_for_months_keeps_its_last_decision():
    choice = choose(history(200, 100), {}, POLICY, NOW)
    assert data_of(100) | {"releases/r100", "releases/r200"} <= choice.kept.keys() and choice.mark == ()


def test_attempts_that_no_manifest_names_go_once_nobody_can_still_be_writing_them():
    objects = {"runs/x/1/a": ago(9), "runs/x/1/b": ago(9), "runs/x/2/c": ago(1)}
    assert orphans(objects, {"runs/x/1/b"}, POLICY, NOW) == ["runs/x/1/a"]


def test_the_log_names_what_serves_what_did_and_what_is_on_its_way():
    policy = a_policy().model_dump(mode="json")
    start = {"kind": Kind.START, "details": {"kind": "bootstrap", "policy": policy}}
    rows = a_log(
        start | {"to_release": A}, {"kind": Kind.BOOT, "to_release": A, "weight": 100}, start | {"to_release": B}
    )
    needs = releases_needed(fold(rows), rows, [C], POLICY, rows[-1].time + timedelta(days=90))
    assert needs == {A: "serves", B: "being rolled out", C: "pinned"}
    assert set(releases_needed(fold(rows), rows, [], POLICY, rows[-1].time)) == {A, B}


digests = st.sampled_from([f"r{n}" for n in range(6)])


@st.composite
def histories(draw: st.DrawFn) -> tuple[Held, dict[str, str]]:
    runs: list[Run] = []
    for number in range(draw(st.integers(0, 14))):
        step = draw(st.sampled_from(STEPS))
        inputs = draw(st.sets(st.sampled_from([run.key for run in runs]), max_size=3)) if runs else set()
        says = draw(st.none() | digests) if step in ("package", "resolve_champion") else None
        runs.append(
            Run(
                key=f"runs/{step}/{number}",
                step=step,
                made=ago(draw(st.integers(0, 200))),
                inputs=frozenset(inputs),
                release=says,
                bytes=draw(st.sampled_from([0, 10])),
                whole=draw(st.booleans()),
            )
        )
    releases = [
        a_release(
            digest,
            draw(st.integers(0, 200)),
            draw(st.sampled_from(["w1", "w2", "w3"])),
            draw(st.sampled_from(["state", "weights"])),
            draw(st.sampled_from(["v1", "v2", "v3"])),
        )
        for digest in draw(st.sets(digests))
    ]
    views = [a_view(digest, draw(st.integers(0, 200))) for digest in draw(st.sets(st.sampled_from(["v1", "v2", "v3"])))]
    keys = [one.key for one in (*runs, *releases, *views)]
    marks = {
        key: ago(draw(st.sampled_from([0, 0.5, 1, 40])))
        for key in draw(st.sets(st.sampled_from(keys)) if keys else st.just(set()))
    }
    held = Held(runs=tuple(runs), releases=tuple(releases), views=tuple(views), marks=marks)
    return held, dict.fromkeys(draw(st.sets(digests, max_size=3)), "serves")


def reachable(held: Held, serving: dict[str, str]) -> set[str]:
    """Independent of the code under test: steps along every edge until nothing is new."""
    found = {f"releases/{digest}" for digest in serving}
    while True:
        new = set(found)
        for one in held.releases:
            if one.key in found and one.view:
                new.add(f"views/{one.view}")
            if one.kind != "state" and any(o.weights == one.weights and o.digest in serving for o in held.releases):
                new.add(one.key)
        for run in held.runs:
            if run.step == "package" and f"releases/{run.release}" in found:
                new.add(run.key)
            if run.key in found:
                new |= run.inputs
        if new == found:
            return found
        found = new


def gone(held: Held, choice: Choice) -> Held:
    """What the store holds once the choice was carried out."""
    marks = {key: since for key, since in held.marks.items() if key not in choice.unmark}
    return Held(
        runs=tuple(r.model_copy(update={"bytes": 0, "whole": False}) if r.key in choice.go else r for r in held.runs),
        releases=tuple(one for one in held.releases if one.key not in choice.go),
        views=tuple(one for one in held.views if one.key not in choice.go),
        marks=marks | dict.fromkeys(choice.mark, NOW),
    )


@settings(max_examples=150, deadline=None)
@given(histories())
def test_nothing_that_serves_or_led_to_it_is_ever_chosen(drawn: tuple[Held, dict[str, str]]):
    held, serving = drawn
    choice = choose(held, serving, POLICY, NOW)
    safe = reachable(held, serving)
    assert not safe & ({*choice.mark, *choice.go}), "reachable from what serves"
    young = {one.key for one in (*held.runs, *held.releases, *held.views) if one.made > ago(30)}
    assert not young & ({*choice.mark, *choice.go}), "younger than the policy's days"
    assert all(held.marks[key] <= NOW - GRACE for key in choice.go), "never at first sight"
    assert not {*choice.go} & {*choice.unmark} and not {*choice.mark} & held.marks.keys()


@settings(max_examples=100, deadline=None)
@given(histories())
def test_carried_out_and_looked_at_again_there_is_nothing_to_do_today(drawn: tuple[Held, dict[str, str]]):
    held, serving = drawn
    after = gone(held, choose(held, serving, POLICY, NOW))
    again = choose(after, serving, POLICY, NOW)
    assert (again.mark, again.go) == ((), ())
