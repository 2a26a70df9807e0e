"""Calibration: golden values, those of scikit-learn, bins and ties."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from e2v_cli.analysis.metrics.calibration import LEAST, Calibration, CalibrationSums, accuracy_at

ROWS = np.array(
    [
        [0.7, 0.2, 0.05, 0.05],
        [0.6, 0.1, 0.2, 0.1],
        [0.1, 0.4, 0.3, 0.2],
        [0.25, 0.25, 0.25, 0.25],
        [0.05, 0.05, 0.85, 0.05],
        [0.3, 0.3, 0.2, 0.2],
        [0.1, 0.1, 0.1, 0.7],
        [0.9, 0.05, 0.03, 0.02],
    ]
)
TRUTH = np.array([0, 2, 1, 0, 2, 1, 3, 3])


def calibrate(posteriors: NDArray[np.float64], truth: NDArray[np.int64], bins: int = 15, step: int = 3) -> Calibration:
    """Add rows, some at a time."""
    sums = CalibrationSums(bins)
    confidences, right = posteriors.max(axis=1), posteriors.argmax(axis=1) == truth
    for first in range(0, len(truth), step):
        part = slice(first, first + step)
        sums.add(posteriors[part], truth[part], confidences[part], right[part])
    found = sums.finish(confidences, right)
    assert found is not None
    return found


def test_eight_rows_have_their_golden_values() -> None:
    found = calibrate(ROWS, TRUTH)

    assert found.utterances == 8
    assert (found.nll, found.brier, found.ece) == pytest.approx((1.237986, 0.623600, 0.4875), abs=1e-6)
    assert found.accuracy_at[1.0] == 0.625
    assert calibrate(ROWS, TRUTH, bins=10).ece == pytest.approx(0.375)


def test_nll_and_brier_are_those_of_scikit_learn_and_of_the_definition() -> None:
    generator = np.random.default_rng(0)
    posteriors, truth = generator.dirichlet(np.full(5, 0.5), 300), generator.integers(5, size=300)

    found = calibrate(posteriors, truth, step=70)

    posteriors = np.maximum(posteriors, LEAST)
    assert found.nll == pytest.approx(-np.log(posteriors[np.arange(300), truth]).mean(), abs=1e-12)
    assert found.nll == pytest.approx(log_loss(truth, posteriors / posteriors.sum(1, keepdims=True)), abs=1e-4)
    assert found.brier == pytest.approx(((posteriors - np.eye(5)[truth]) ** 2).sum(1).mean(), abs=1e-5)


def test_a_probability_of_zero_counts_as_half_of_the_last_decimal() -> None:
    found = calibrate(np.array([[1.0, 0.0]]), np.array([1]))

    assert found.nll == pytest.approx(-np.log(5e-7))


def test_ties_at_the_limit_are_broken_by_the_mean() -> None:
    confidences, right = np.array([0.9, 0.5, 0.5, 0.5, 0.2]), np.array([True, True, False, False, True])

    assert accuracy_at(0.4, confidences, right) == pytest.approx((1 + 1 / 3) / 2)
    assert accuracy_at(0.5, confidences, right) == pytest.approx((1 + 2 / 3) / 3)  # of 2.5 utterances, three
    assert accuracy_at(0.8, confidences, right) == 0.5
    assert accuracy_at(1.0, confidences, right) == 0.6


def test_no_utterances_have_no_calibration() -> None:
    assert CalibrationSums().finish(np.array([]), np.array([], dtype=bool)) is None
