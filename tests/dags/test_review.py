"""What Airflow hands on when a person answers, or nobody does, is what `package` signs with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.domain.errors import InputRejected
from tasks.domain.refresh import signature_of
from tests.dags.conftest import DAGS


@pytest.fixture
def review(airflow_home: Path, home: Path):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS)).dags["model_refresh"].get_task("request_review")


def event(option: str, reason: str | None, user: dict[str, str] | None) -> dict[str, object]:
    return {
        "chosen_options": [option],
        "params_input": {"reason": reason},
        "responded_at": datetime(2026, 11, 28, tzinfo=UTC),
        "responded_by_user": user,
        "timedout": user is None,
    }


def test_an_approval_reaches_package_with_name_and_reason(review):
    handed_on = review.execute_complete({}, event("Approve", "checked by hand", {"id": "1", "name": "grace"}))
    assert signature_of(handed_on) == {
        "approved_by": "grace",
        "approved_because": "checked by hand",
        "approved_at": "2026-11-28T00:00:00+00:00",
    }


def test_nobody_answering_is_a_no(review):
    assert review.defaults == ["Reject"] and review.response_timeout is not None
    handed_on = review.execute_complete({}, event("Approve", None, None))
    with pytest.raises(InputRejected, match="a time-out approves nothing"):
        signature_of(handed_on)
