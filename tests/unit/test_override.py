"""A person may ship what the gate found inconclusive, never what it refused; and signs for it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision, Outcome, Override, Verdict
from tasks.domain.refresh import override_of, signature_of
from tasks.run import Call
from tasks.settings import Settings
from tasks.steps import STEPS

AT = datetime(2026, 11, 28, 3, 0, tzinfo=UTC)
SIGNED = {"approved_by": "grace", "approved_because": "the holdout is a holiday", "approved_at": AT.isoformat()}


def an_answer(option="Approve", user="grace", reason="the holdout is a holiday"):
    return {
        "chosen_options": [option],
        "params_input": {"reason": reason},
        "responded_at": AT,
        "responded_by_user": user and {"id": "7", "name": user},
    }


def a_decision(weights="inconclusive", shipped="none"):
    verdict = Verdict(kind="weights", outcome=Outcome(weights), reason="too few slates", findings=())
    return Decision(policy="demo", shipped=shipped, reason="too few slates", needs_review=True, verdicts=(verdict,))


def test_an_approval_is_signed_with_name_reason_and_time():
    assert signature_of(an_answer()) == SIGNED
    assert signature_of(an_answer() | {"responded_at": AT.isoformat()}) == SIGNED, "as XCom gives it back"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (an_answer("Reject"), "not an approval"),
        ({}, "not an approval"),
        (an_answer() | {"chosen_options": ["Approve", "Reject"]}, "not an approval"),
        (an_answer(user=None), "a time-out approves nothing"),
    ],
)
def test_neither_a_rejection_nor_a_time_out_approves(answer, message):
    with pytest.raises(InputRejected, match=message):
        signature_of(answer)


def test_the_override_names_the_verdict_that_it_overrides():
    assert override_of(a_decision(), "weights", SIGNED) == Override(
        kind="weights",
        by="grace",
        reason="the holdout is a holiday",
        at=AT.isoformat(),
        verdict=Outcome.INCONCLUSIVE,
        verdict_reason="too few slates",
    )


@pytest.mark.parametrize("missing", sorted(SIGNED))
def test_an_override_without_a_name_a_reason_or_a_time_is_refused(missing):
    with pytest.raises(InputRejected, match=missing):
        override_of(a_decision(), "weights", SIGNED | {missing: ""})


@pytest.mark.parametrize(
    ("decision", "options", "message"),
    [
        pytest.param(a_decision(), {}, "nothing may be packaged: too few slates", id="nobody approved"),
        pytest.param(a_decision(), {"approved": "weights"}, "without approved_by", id="nobody signed"),
        pytest.param(
            a_decision(),
            {"approved": "weights"} | SIGNED | {"approved_because": ""},
            "approved_because",
            id="no reason",
        ),
        pytest.param(
            a_decision("fail"), {"approved": "weights"} | SIGNED, "nothing may be packaged", id="a refusal is no offer"
        ),
    ],
)
def test_package_builds_nothing_against_the_gate_without_a_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decision, options, message
):
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path / "home"))
    (tmp_path / "decision.json").write_text(decision.model_dump_json())
    out = tmp_path / "out"
    out.mkdir()
    call = Call(
        settings=Settings(),
        store=MemoryStore(),
        partition="2017-07-01",
        inputs={"gate": tmp_path},
        manifests={},
        out=out,
        work=tmp_path,
        options=options,
    )
    with pytest.raises(InputRejected, match=message):
        STEPS["package"].execute(call)
    assert not list(out.iterdir())
