"""Intervals and floors: coverage, resampling of whole stories, and edge cases."""

from __future__ import annotations

import numpy as np
import pytest

from modules.evaluation.metrics.statistics import bootstrap_mean, jackknife, rows_of_other_stories


def test_interval_has_its_nominal_coverage():
    """Steps of a story share the story's own chance: the interval is over stories, not over steps."""
    rng, covered = np.random.default_rng(0), 0
    for experiment in range(100):
        counts = rng.integers(2, 9, size=60)
        sums = rng.binomial(counts, rng.beta(2, 2, size=60))
        figure = bootstrap_mean(sums, counts, seed=experiment)
        assert figure.value == pytest.approx(sums.sum() / counts.sum())
        covered += figure.low <= 0.5 <= figure.high
    assert 87 <= covered <= 100


def test_whole_stories_are_resampled():
    values = np.random.default_rng(1).random(30)
    once, often = bootstrap_mean(values, np.ones(30)), bootstrap_mean(10 * values, np.full(30, 10))
    assert once.low < once.value < once.high
    assert (often.low, often.high) == pytest.approx(
        (once.low, once.high)
    )  # Ten equal steps a story tell no more than one.
    same = bootstrap_mean([1, 2, 4], [2, 4, 8])
    assert (same.low, same.value, same.high) == (0.5, 0.5, 0.5)


def test_interval_is_the_same_for_the_same_seed_only():
    values = np.random.default_rng(1).random(30)
    assert bootstrap_mean(values, np.ones(30), seed=1) == bootstrap_mean(values, np.ones(30), seed=1)
    assert bootstrap_mean(values, np.ones(30), seed=1) != bootstrap_mean(values, np.ones(30), seed=2)


def test_interval_of_nothing_and_of_one_story():
    assert bootstrap_mean([0, 0], [0, 0], floor=0.1).to_dict() == {
        "value": None,
        "low": None,
        "high": None,
        "floor": 0.1,
        "ceiling": None,
    }
    rare = bootstrap_mean([0, 3, 0], [0, 4, 0]).to_dict()
    assert (rare["low"], rare["value"], rare["high"]) == (None, 0.75, None)


def test_rows_of_other_stories_are_any_but_ones_own():
    stories = np.repeat([0, 2, 3], [2, 1, 3])
    seen = np.zeros((6, 6))
    for seed in range(600):
        seen[np.arange(6), rows_of_other_stories(stories, seed)] += 1
    own = stories[:, None] == stories
    assert (seen[own] == 0).all()
    expected = 600 / (~own).sum(1, keepdims=True)
    assert (np.abs(seen - expected)[~own] < 0.35 * expected.max()).all()
    assert (rows_of_other_stories(stories, 7) == rows_of_other_stories(stories, 7)).all()
    assert rows_of_other_stories(np.zeros(5), 0) is None
    assert rows_of_other_stories([], 0) is None


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=12)
    figure = jackknife(values.mean(), (values.sum() - values) / 11, floor=-1, ceiling=1)
    half = 2.2010 * values.std(ddof=1) / np.sqrt(12)
    assert (figure.low, figure.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4)
    assert (figure.floor, figure.ceiling) == (-1, 1)
    bounded = jackknife(0.1, [0.0, 0.2, np.nan], bounds=(0, 1))
    assert (bounded.low, bounded.high) == (0, 1)


def test_a_share_without_a_failure_has_the_exact_interval():
    """Resampling what never failed shows no spread, though 10 stories can hide a failure in four."""
    figure = bootstrap_mean([2] * 10, [2] * 10, is_share=True)
    assert (figure.value, figure.low, figure.high) == (1, pytest.approx(0.6915, abs=1e-4), 1)
    figure = bootstrap_mean([0] * 10, [2] * 10, is_share=True)
    assert (figure.value, figure.low, figure.high) == (0, 0, pytest.approx(0.3085, abs=1e-4))
    assert bootstrap_mean([0] * 10, [2] * 10).high == 0  # A difference of 0 nats is one.
    failed = bootstrap_mean([1] + [2] * 9, [2] * 10)
    assert bootstrap_mean([1] + [2] * 9, [2] * 10, is_share=True) == failed
