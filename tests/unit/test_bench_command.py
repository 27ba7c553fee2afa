"""`freshrank bench`: the step's comparison for two releases, and load that is void where it was not sent."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
from typer.testing import CliRunner

from tasks import bench_command, benchmark, footprint, replay
from tasks.adapters import api_keys
from tasks.bench_command import outcome_of
from tasks.cli import app
from tasks.domain.errors import InputRejected
from tasks.domain.evidence import Resource
from tasks.domain.latency import SITTING
from tasks.k6 import Load, binary
from tasks.settings import Settings
from tasks.sources import Trip
from tests.serving_builders import a_release

FEW = (2, 4)  # sittings


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    a_release(root)
    return root


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Fewer looks; memory is measured in processes of its own, which is another test's."""
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(benchmark, "LOOKS", FEW)
    monkeypatch.setattr(bench_command, "LOOKS", FEW)
    same = {"champion_mib": 1.0, "candidate_mib": 1.0, "ratio": 1.0, "lower": 1.0, "upper": 1.0, "runs": 1}
    rows = [Resource(name=name, **same) for name in ("size", "memory")]
    monkeypatch.setattr(footprint, "compare", lambda champion, others, users, threads: dict.fromkeys(others, rows))


def run(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def a_load(**told):
    return Load(
        **{
            "seconds": 1.0,
            "good": 10,
            "refused": 0,
            "failed": 0,
            "dropped": 0,
            "p50": 1.0,
            "p95": 1.0,
            "p99": 1.0,
            "refused_p99": 0.0,
            **told,
        }
    )


def test_a_release_against_itself_is_timed_and_judged_by_the_policy(quick, released):
    done = run("--champion", released, "--candidate", released, "--policy", "tiny", "--json")
    told = json.loads(done.stdout)
    assert told["champion"] == told["candidate"]
    assert {row["name"] for row in told["findings"]} == {"p50", "p95", "p99", "cpu", "size", "memory"}
    assert len(told["measured"]["wall_ms"]["candidate"]) == told["measured"]["requests"] == FEW[-1] * SITTING
    found = {row["name"]: row["outcome"] for row in told["findings"]}
    assert found["p99"] == "inconclusive", "a quantile of so few pairs is not told, and that is no pass"
    assert found["p50"] == "pass"
    assert (told["outcome"], done.exit_code) == ("inconclusive", 1)


def test_a_slower_release_is_named_with_its_numbers(quick, released, monkeypatch):
    real = benchmark.loading
    turns = iter([0, 1])

    def loading(parts, threads):
        load, slow = real(parts, threads), next(turns)

        def more(answer, user):
            for _ in range(8 if slow else 1):
                answer(user)

        return lambda: partial(more, load())

    monkeypatch.setattr(benchmark, "loading", loading)
    done = run("--champion", released, "--candidate", released, "--policy", "tiny")
    assert done.exit_code == 1
    assert "shown to cost more than allowed" in done.stdout and "cpu" in done.stdout


def test_a_run_with_requests_that_were_not_sent_is_void():
    assert outcome_of(a_load()) == "valid"
    assert outcome_of(a_load(refused=5)) == "valid", "a refusal is an answer"
    assert outcome_of(a_load(dropped=1, failed=3)) == "void"
    assert outcome_of(a_load(failed=1)) == "failed"
    assert outcome_of(a_load(good=0)) == "failed", "no answer has no latency"


def test_load_is_sent_at_three_shares_of_the_rate_and_a_void_run_shows_no_times(quick, monkeypatch):
    asked = []

    def sent(url, bodies, rate, seconds, folder, headers):
        asked.append((rate, len(json.loads(bodies.read_text()))))
        return a_load(dropped=int(rate == 10), p95=77.7)

    monkeypatch.setattr(bench_command, "open_loop", sent)
    monkeypatch.setattr(replay, "trips_of", lambda settings, day: [Trip("u1", [])])
    words = ("--load", 10, "--day", "2017-05-02", "--url", "http://127.0.0.1:1", "--seconds", 1)
    told = json.loads(run(*words, "--json").stdout)
    assert [rate for rate, _ in asked] == [5, 8, 10] and asked[0][1] > 0
    assert [one["outcome"] for one in told["runs"]] == ["valid", "valid", "void"]
    done = run(*words)
    assert done.exit_code == 1 and "void" in done.stdout and done.stdout.count("77.7") == 2


def test_the_key_of_this_home_goes_to_its_own_router_and_elsewhere_only_when_told(quick, monkeypatch):
    """An address with a slip of the pen must not learn a secret."""
    settings, sent = Settings(), []
    api_keys.create(settings, "shop")
    own = api_keys.own_headers(settings)
    monkeypatch.setattr(bench_command, "open_loop", lambda *given, headers: sent.append(headers) or a_load())
    monkeypatch.setattr(replay, "trips_of", lambda settings, day: [Trip("u1", [])])
    load = ("--load", 10, "--day", "2017-05-02", "--seconds", 1, "--json")
    elsewhere = ("--url", "http://127.0.0.1:1")
    for words in ((), ("--url", f"{settings.url('router')}/"), (*elsewhere, "--key"), elsewhere):
        assert run(*load, *words).exit_code == 0
    assert [headers == own for headers in sent[::3]] == [True, True, True, False] and sent[-1] == {}
    assert own["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "say what to time"),
        (("--load", 10), "--load needs --day"),
        (("--load", 10, "--day", "2017-05-02", "--candidate", "x"), "neither --candidate"),
        (("--candidate", "/nowhere", "--champion", "/nowhere"), "holds no release"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(quick, words, why):
    done = run(*words)
    assert isinstance(done.exception, InputRejected) and why in str(done.exception)


def test_without_k6_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(InputRejected, match="k6 is not installed"):
        binary()
