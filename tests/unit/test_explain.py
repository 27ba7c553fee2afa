"""Every way a run can end is one page that says why, and no finding on it lacks a number, a bound or a next step."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from tasks.decisions import as_markdown, explanation, find_run
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision
from tasks.explain.candidate import facts, next_step
from tasks.explain.commands import explain
from tasks.explain.page import html
from tasks.explain.text import finding_lines
from tasks.run import Step, run
from tests.decision_builders import DAY, a_run, a_stopped_day

LOSES = {"weights": -0.08, "state": -0.07}


@pytest.fixture(scope="module")
def told_of(tmp_path_factory):
    known = {}

    def told(name, **given):
        if name not in known:
            store, _, uris = a_run(tmp_path_factory.mktemp(name), **given)
            known[name] = explanation(store, uris["gate"])
        return known[name]

    return told


RUNS = [
    ("ships", {"gain": {"weights": 0.02}}),
    ("fails", {"gain": LOSES, "slower": 4}),
    ("first", {"kinds": ("bootstrap",)}),
]


class Tags(HTMLParser):
    """Every tag is closed where it was opened; what is asked of elsewhere is kept."""

    VOID = ("meta", "br")

    def __init__(self, page):
        super().__init__()
        self.open, self.asked = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.asked += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        self.asked += [tag] if tag in ("script", "link", "iframe", "img", "object") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in ("circle", "rect", "line", "polyline")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(("name", "given"), RUNS)
def test_a_page_is_whole_and_asks_nothing_of_anybody(name, given, told_of):
    page = html(told_of(name, **given))
    tags = Tags(page)
    assert tags.open == [] and tags.asked == []
    assert "url(" not in page and "@import" not in page and "http" not in page
    assert "width=device-width" in page and "color-scheme:light dark" in page and "@media print" in page
    numbers = re.findall(r"(?:x|y|cx|cy|x1|x2|y1|y2|width|height|points)='([^']*)'", page)
    assert len(numbers) > 20 and not [one for one in numbers if "nan" in one or "inf" in one]


@pytest.mark.parametrize(("name", "given"), RUNS)
def test_every_finding_has_numbers_bound_margin_sample_and_next_step(name, given, told_of):
    told = told_of(name, **given)
    findings = [(one["kind"], finding) for one in told["candidates"] for finding in one["findings"]]
    assert findings
    page = html(told)
    for kind, finding in findings:
        about = told["bounds"][kind].get(f"{finding['name']}[{finding['slice']}]", {})
        said = facts(finding, about)
        assert "sample none" not in said and "bound" in said and "allowed" in said, said
        assert said.replace("'", "&#x27;") in page
        changes = next(one["changes"] for one in told["changes"] if one["kind"] == kind)
        step = next_step(finding, changes)
        assert step and (step.startswith("nothing") == (finding["outcome"] == "pass"))
    assert page.count("class='finding'") == len(findings) == page.count("<div><svg")


def test_what_ships_says_so_in_one_sentence_and_shows_all_that_led_to_it(told_of):
    told = told_of("ships", gain={"weights": 0.02})
    assert told["headline"] == "The new weights ship: they proved themselves against the champion."
    page = html(told)
    for part in (
        "What would change",
        "Totals",
        "Slices",
        "Latency",
        "Compression",
        "Data",
        "From partitions to release",
    ):
        assert f">{part}" in page, part
    steps = [row["step"] for row in told["lineage"]]
    assert steps == [
        *(
            "ingest",
            "validate_data",
            "resolve_champion",
            "build_dataset",
            "finetune",
            "compress",
            "evaluate",
            "benchmark",
        ),
        "gate",
    ]
    assert set(told["latency"]["systems"]) == {"champion", "state", "weights"}
    assert told["latency"]["systems"]["champion"]["curve"][25] == told["latency"]["systems"]["champion"]["p50"]


def test_what_is_refused_says_what_would_change_it(told_of):
    told = told_of("fails", gain=LOSES, slower=4)
    assert told["headline"].startswith("Nothing ships, the champion keeps serving. weights: fail on ndcg_at_10[all]")
    text = as_markdown(told)
    assert "What would change the verdict" in text and "less by" in text and "better on the same slates" in text


def test_a_first_champion_has_no_latencies_and_no_champion(told_of):
    told = told_of("first", kinds=("bootstrap",))
    assert told["latency"] is None and "resolve_champion" not in [row["step"] for row in told["lineage"]]
    assert "first champion" in html(told)


@pytest.mark.parametrize(
    ("verdict", "says"),
    [("refuse", "The data was refused"), ("hold", "held for a person"), ("empty", "brought no events")],
)
def test_data_that_was_refused_early_is_a_page_too(verdict, says, tmp_path):
    store, uri = a_stopped_day(tmp_path, verdict, ("row_count: 12 rows, usually 3,900 to 4,500",))
    assert find_run(store, DAY) == find_run(store, None) == uri
    told = explanation(store, uri)
    assert told["shipped"] == "none" and told["candidates"] == [] and f"the day {DAY}" in told["reason"]
    page = html(told)
    assert says in page and "row_count: 12 rows" in page and "From partitions" in page
    assert says in told["headline"] and "12 rows" in as_markdown(told)


def test_a_run_that_never_came_to_its_gate_says_where_it_stands(tmp_path):
    store, settings, uris = a_run(tmp_path)
    for key in [key for key in store.list("runs/") if key.split("/")[1] in ("gate", "benchmark")]:
        store.delete(key)
    told = explanation(store, find_run(store, DAY))
    assert told["headline"].startswith("Not decided: evaluate is complete, benchmark is not.")
    assert "the log of benchmark in Airflow" in html(told)


def test_a_decision_without_candidates_is_a_page_with_a_reason(tmp_path):
    store, settings, uris = a_run(tmp_path)
    none = Decision(policy="tiny", shipped="none", reason="there was no candidate", needs_review=False, verdicts=())

    def write(call):
        (call.out / "decision.json").write_text(none.model_dump_json())
        return {"shipped": "none"}

    uri = run(Step("gate", ("evaluate",), write), DAY, {"evaluate": uris["evaluate"]}, settings, store=store)
    told = explanation(store, uri)
    assert told["headline"] == "Nothing ships, the champion keeps serving: there was no candidate."
    assert "there was no candidate" in html(told) and told["changes"] == []


def test_a_later_refusal_of_the_same_day_is_what_is_told(tmp_path):
    store, _, uris = a_run(tmp_path)
    key = store.key(uris["validate_data"])
    later = json.loads(store.get(key)) | {"started_at": "2999-01-01T00:00:00+00:00"}
    later["summary"]["verdict"] = "hold"
    store.put_new(key.replace(".json", "2.json"), json.dumps(later).encode())
    assert find_run(store, DAY) == uris["validate_data"].replace(".json", "2.json")


def test_nothing_to_explain_is_said():
    from tasks.adapters.store import MemoryStore

    with pytest.raises(InputRejected, match="no gate has run for 2017-07-01"):
        find_run(MemoryStore(), DAY)
    with pytest.raises(InputRejected, match="not a day"):
        find_run(MemoryStore(), "../x")


def test_what_a_person_shipped_against_the_gate_names_the_person(tmp_path):
    store, settings, uris = a_run(tmp_path, gain={"weights": -0.0495}, timed=False)
    signed = {"approved": "weights", "approved_by": "kim", "approved_because": "the benchmark host is down"}
    skew = {
        "name": "train_serve_skew",
        "value": 0.001,
        "limit": 0.01,
        "ok": True,
        "sentence": "differ by at most 0.001",
    }
    package = Step("package", ("gate",), lambda call: {"release": "f" * 64, "skew": skew})
    run(package, DAY, {"gate": uris["gate"]}, settings, options=signed, store=store)
    told = explanation(store, uris["gate"])
    assert told["headline"] == ("The weights ship by the decision of kim, not of the gate: the benchmark host is down.")
    assert [one["release"] for one in told["candidates"] if one["kind"] == "weights"] == ["f" * 64]
    assert told["shipped"] == "none" and "the decision of kim" in html(told)
    found = {one["kind"]: one["findings"][-1]["name"] for one in told["candidates"]}
    assert found["weights"] == "train_serve_skew" != found["state"] and "differ by at most 0.001" in html(told)


def test_what_passed_on_slices_is_two_lines_and_what_did_not_is_told_in_full(told_of):
    told = told_of("folds")
    findings = next(one["findings"] for one in told["candidates"] if one["kind"] == "weights")
    harmed = {**findings[0], "outcome": "fail", "slice": "repeat", "sentence": "ndcg_at_10[repeat]: harmed"}
    lost = {**findings[0], "slice": "deli", "difference": -0.5, "sentence": "not told"}
    unknown = {**findings[0], "slice": "nobody", "difference": None, "sentence": "not told"}
    lines = finding_lines([findings[0], harmed, lost, {**lost, "name": "mrr", "slice": "drug"}, unknown])
    assert lines[0].endswith(findings[0]["sentence"]) and lines[1] == "FAIL  ndcg_at_10[repeat]: harmed"
    assert "ndcg_at_10, mrr on 1 slices" in lines[2] and "-0.5000 on deli" in lines[2]
    assert lines[3] == "pass  1 slices without a comparison: no verdict on them" and len(lines) == 4


def test_the_command_cuts_no_line_where_there_is_no_terminal(told_of, monkeypatch, capsys):
    told = told_of("whole")
    monkeypatch.setattr("tasks.explain.commands._told", lambda run: told)
    explain(run="2017-07-01")
    assert told["candidates"][0]["findings"][0]["sentence"] in capsys.readouterr().out
