"""Paired comparisons: McNemar's test by SciPy's, and differences of resamples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from e2v_cli.analysis.metrics.compare import binomial_p, bootstrap_p, compare_accuracies, paired_differences


@pytest.mark.parametrize(
    ("heads", "tails"),
    [(0, 0), (1, 0), (0, 1), (4, 4), (3, 9), (9, 3), (0, 60), (100, 140), (5000, 5300), (1_000_000, 1_002_000)],
)
def test_the_p_of_mcnemars_test_is_that_of_scipy(heads: int, tails: int) -> None:
    expected = binomtest(heads, heads + tails).pvalue if heads + tails else 1.0

    assert binomial_p(heads, tails) == pytest.approx(expected, rel=1e-7)


def test_random_tosses_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    for heads, tails in generator.integers(0, 300, size=(200, 2)).tolist():
        assert binomial_p(heads, tails) == pytest.approx(binomtest(heads, max(1, heads + tails)).pvalue, rel=1e-9)


def test_mcnemars_test_counts_utterances_that_one_system_alone_has_right() -> None:
    found = compare_accuracies(np.array([True, True, True, False, False]), np.array([True, False, False, True, False]))

    assert (found.only_first, found.only_second, found.p) == (2, 1, 1.0)


def test_the_p_of_resamples_is_twice_the_rarer_side() -> None:
    assert bootstrap_p(np.array([-1.0] * 5 + [1.0] * 994)) == pytest.approx(2 * 6 / 1000)
    assert bootstrap_p(np.zeros(99)) == 1.0
    assert bootstrap_p(np.ones(99)) == pytest.approx(0.02)


def test_differences_have_intervals_only_of_resamples() -> None:
    values = np.array([[0.75] * 6, [0.5] * 6])
    drawn = np.stack([np.tile([[0.7], [0.8]], (50, 6)), np.full((100, 6), 0.5)], axis=1)

    with_interval = paired_differences(values, drawn, 0.95)["UA"]
    without = paired_differences(values, None, 0.95)["UA"]

    assert (with_interval.value, with_interval.low, with_interval.high) == pytest.approx((0.25, 0.2, 0.3))
    assert (without.value, without.low, without.high, without.p) == (0.25, None, None, None)
