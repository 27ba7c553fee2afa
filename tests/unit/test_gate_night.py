"""Which run a night measures, that it measures it once, and what it refuses to measure."""

from __future__ import annotations

import json

import pytest

from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import load_recipe
from tasks.gate_trials import nightly
from tasks.gate_trials.commands import rates_table
from tasks.gate_trials.error_rates import HEAD
from tasks.gate_trials.rows import trained
from tasks.policies import load_policy
from tasks.ranker.runtime import PARENT
from tasks.run import Step, read_manifest, run
from tasks.settings import Settings

DAY = "2017-07-01"
TOLD = {"sentence": "of 200 sound candidates 0.0 % fail", "broken": False, "false_block": 0.0}


class Night:
    """A store with the steps of one run, and a count of how often trials were made."""

    def __init__(self, home, monkeypatch):
        self.store, self.settings, self.made = MemoryStore(), Settings(home=home), []
        monkeypatch.setattr(nightly, "open_store", lambda settings: self.store)
        monkeypatch.setattr(nightly, "error_rates", self._error_rates)

    def _error_rates(self, dataset, model, recipe, policy, times, work, out, *, seed, threads):
        self.made.append((recipe.name, policy.name, seed, (model / PARENT).read_bytes()))
        (out / nightly.REPORT).write_text(json.dumps(TOLD))
        return TOLD

    def step(self, name, files=None, options=None, **inputs):
        def write(call):
            for file, content in (files or {}).items():
                (call.out / file).write_bytes(content)
            return {}

        made = Step(name, tuple(inputs), write)
        return run(made, DAY, inputs, self.settings, options=options, store=self.store)

    def a_run(self, digest=None, files=(PARENT,)):
        told = {"recipe": "tiny", "recipe_digest": digest or load_recipe("tiny").digest[:16]}
        dataset = self.step("build_dataset", {"dataset.json": b"{}"})
        model = self.step("finetune", dict.fromkeys(files, b"weights"), told, build_dataset=dataset)
        policy = load_policy("tiny").gate.model_dump_json().encode()
        return self.step("gate", {"policy.json": policy}, finetune=model, build_dataset=dataset)


@pytest.fixture
def night(tmp_path, monkeypatch):
    return Night(tmp_path, monkeypatch)


def test_the_latest_run_that_trained_is_measured_by_its_own_policy_and_only_once(night):
    gate = night.a_run()
    night.step("gate", {"decision.json": b"{}"})  # of a day with new state only: nothing was trained
    uri, summary = nightly.measure(night.settings)
    assert read_manifest(night.store, uri).inputs["gate"] == gate and summary == TOLD
    assert nightly.measure(night.settings, DAY, run_key="scheduled__2") == (uri, summary)
    assert [one[:2] for one in night.made] == [("tiny", "tiny")] and night.made[0][3] == b"weights"
    kept = [json.loads(path.read_text()) for path in (night.settings.home / "spool" / "mlflow").glob("*.json")]
    assert {one["arguments"]["run_key"] for one in kept} == {f"gate_error_rates {DAY}", "scheduled__2"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"digest": "0" * 16}, "recipe tiny is .* now and was 0000000000000000 in the run"),
        ({"files": ()}, f"left no {PARENT}"),
    ],
)
def test_a_run_that_cannot_be_trained_again_is_refused(night, given, message):
    night.a_run(**given)
    with pytest.raises(InputRejected, match=message):
        nightly.measure(night.settings)


def test_without_a_run_there_is_nothing_to_measure(night):
    with pytest.raises(InputRejected, match="none of 0 gate runs of 2017-07-01 judged newly trained weights"):
        nightly.measure(night.settings, DAY)


def test_the_table_says_what_each_column_is_though_the_record_sorts_its_keys():
    recorded = json.loads(json.dumps([dict(zip(HEAD, "abcdefgh", strict=True))], sort_keys=True))
    table = rates_table(recorded)
    assert tuple(column.header for column in table.columns) == HEAD
    assert [next(iter(column.cells)) for column in table.columns] == list("abcdefgh")


def test_a_training_that_was_killed_half_written_is_done_again(tmp_path, monkeypatch):
    calls = []

    def finetune(data, recipe, workdir, out, seed, threads):
        calls.append(seed)
        (out / PARENT).write_bytes(b"weights")
        if len(calls) == 1:
            raise KeyboardInterrupt
        (out / "config.json").write_text("{}")

    monkeypatch.setattr("tasks.finetune.finetune", finetune)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, tmp_path, load_recipe("tiny"), "seed-1", 1, 1)
    for _ in range(2):
        model = trained(tmp_path, tmp_path, load_recipe("tiny"), "seed-1", 1, 1)
    assert (model / "config.json").exists() and calls == [1, 1]
