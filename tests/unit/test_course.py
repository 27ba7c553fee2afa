"""Which slates a training reads, in which order and at which rate: all from the seed."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.domain.recipe import WarmStart, load_recipe
from tasks.ranker.course import Course

TRAINING = load_recipe("tiny").training  # 3 epochs, 8 slates a step, 5 steps of warm-up


def changed(**values):
    return TRAINING.model_copy(update=values)


def test_every_epoch_reads_every_slate_once_in_an_order_of_its_own():
    course = Course.fresh(TRAINING, 37, seed=1)
    epochs = [course.order(epoch) for epoch in range(3)]
    assert [len(step) for step in epochs[0]] == [8, 8, 8, 8, 5] and course.steps == 15
    assert all(sorted(np.concatenate(epoch)) == list(range(37)) for epoch in epochs)
    assert np.concatenate(epochs[0]).tolist() != np.concatenate(epochs[1]).tolist()
    assert np.array_equal(np.concatenate(epochs[0]), np.concatenate(Course.fresh(TRAINING, 37, seed=1).order(0)))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_rises_falls_and_ends_at_its_final_share(schedule):
    course = Course.fresh(changed(schedule=schedule), 800, seed=1)
    rates = np.array([course.rate(step) for step in range(course.steps + 1)])
    assert rates[0] == pytest.approx(TRAINING.learning_rate / 5) and rates.max() == rates[5] == TRAINING.learning_rate
    assert (np.diff(rates[5:]) < 0).all()
    assert rates[-1] == pytest.approx(TRAINING.learning_rate * TRAINING.final_share)


def test_a_cosine_stays_higher_at_first_and_falls_below_the_line_later():
    line, curve = (Course.fresh(changed(schedule=name), 800, seed=1) for name in ("linear", "cosine"))
    assert curve.rate(50) > line.rate(50) and curve.rate(250) < line.rate(250)


def test_a_warm_start_reads_all_new_slates_and_some_old_ones():
    is_new = np.arange(100) >= 90
    training = changed(warm=WarmStart(share=0.2, rate=0.5))
    course = Course.warm(training, is_new, seed=3)
    assert len(course.slates) == 60, "a fifth of three epochs"
    assert set(range(90, 100)) <= set(course.slates.tolist()) and course.epochs == 1
    assert max(course.rate(step) for step in range(course.steps)) <= 0.5 * TRAINING.learning_rate
    assert not np.array_equal(course.slates, Course.warm(training, is_new, seed=4).slates)


def test_a_warm_start_never_reads_a_slate_twice():
    course = Course.warm(changed(warm=WarmStart(share=1.0)), np.ones(10, bool), seed=1)
    assert sorted(course.slates.tolist()) == list(range(10))
