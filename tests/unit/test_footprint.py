"""What a system costs beside time, measured for real on small things."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks import footprint
from tasks.domain.errors import Unavailable
from tasks.footprint import MIB, REQUESTS, RUNS, Parts, compare, size_mib


def parts(folder, size):
    made = Parts(folder / "model", folder / "items", folder / "view")
    for at, directory in enumerate((made.model, made.items, made.view)):
        (directory / "deep").mkdir(parents=True)
        (directory / "deep" / "file").write_bytes(bytes(size * (at + 1)))
    return made


def test_size_is_of_model_and_items_and_not_of_the_view(tmp_path):
    assert size_mib(parts(tmp_path, MIB)) == 3.0


def test_systems_are_measured_in_turns_and_bounds_are_the_extremes(tmp_path, monkeypatch):
    champion, state = parts(tmp_path / "champion", 1000), parts(tmp_path / "state", 2000)
    asked = []
    answers = {champion.model: iter([100.0, 110.0]), state.model: iter([120.0, 132.0])}

    def measured(system, users, threads):
        asked.append((system.model, len(users), threads))
        return next(answers[system.model])

    monkeypatch.setattr(footprint, "peak_mib", measured)
    size, memory = compare(champion, {"state": state}, [f"user-{n}" for n in range(50)], 1)["state"]
    assert asked == [(champion.model, REQUESTS, 1), (state.model, REQUESTS, 1)] * RUNS
    assert (size.name, size.ratio, size.lower, size.upper) == ("size", 2.0, 2.0, 2.0)
    assert (memory.ratio, memory.runs) == (1.2, RUNS)
    assert (memory.lower, memory.upper) == (pytest.approx(120 / 110), pytest.approx(1.32))


def test_a_process_that_cannot_load_the_system_says_why(tmp_path):
    with pytest.raises(Unavailable, match="could not be measured"):
        footprint.peak_mib(parts(tmp_path, 10), ["user"], 1)


def test_the_peak_is_that_of_this_program_not_of_what_started_it():
    ballast = bytearray(600 * MIB)  # ru_maxrss of a child would count it
    code = "from tasks.footprint import _peak_kib; print(_peak_kib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400 * 1024 < len(ballast)


def test_a_process_that_does_not_end_is_tried_again_later(tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "WITHIN_S", 0.01)
    with pytest.raises(Unavailable, match="did not end within"):
        footprint.peak_mib(parts(tmp_path, 10), ["user"], 1)
