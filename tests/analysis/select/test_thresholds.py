"""Thresholds of classes, against published definitions and SciPy."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from support.candidates import CLASSES, make_candidates, make_rows

from e2v_cli.analysis.select.candidates import MILLION
from e2v_cli.analysis.select.thresholds import (
    SampleBound,
    calibrate,
    count_shares,
    mean_scores,
    share_scores,
    smallest_sample,
    wilson_lower_bound,
)

CORPORA = range(300)


def confident_thresholds(labels: NDArray[np.int64], posteriors: NDArray[np.float64]) -> dict[int, float]:
    """The definition of Northcutt et al. (2021), equation 2: the mean probability of a class among those labelled so.

    It is what cleanlab's ``get_confident_thresholds`` returns of classes that have examples; where cleanlab is
    installed, the next test asks itself.
    """
    return {k: float(posteriors[labels == k, k].mean()) for k in np.unique(labels).tolist()}


@pytest.mark.parametrize("seed", CORPORA)
def test_means_are_the_thresholds_of_confident_learning(seed: int) -> None:
    rows = make_rows(seed)
    labels = np.array([CLASSES.index(row.label) for row in rows])
    posteriors = np.array([row.posteriors for row in rows]) / MILLION

    found = mean_scores(make_candidates(rows))

    expected = confident_thresholds(labels, posteriors)
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found).tolist() == [k not in expected for k in range(len(CLASSES))]


def test_means_are_those_of_cleanlab() -> None:
    count = pytest.importorskip("cleanlab.count", reason="cleanlab is not installed; its definition is above")
    for seed in CORPORA:
        rows = make_rows(seed)
        labels = np.array([CLASSES.index(row.label) for row in rows])
        posteriors = np.array([row.posteriors for row in rows]) / MILLION
        theirs = count.get_confident_thresholds(labels=labels, pred_probs=posteriors)
        own = mean_scores(make_candidates(rows))
        assert own[np.unique(labels)] == pytest.approx(theirs[np.unique(labels)], abs=1e-12)


def test_mean_is_exact_in_any_order() -> None:
    """Sums of whole numbers are: scores that are equal are never below their mean."""
    rows = [row for row in make_rows(3, most=60) for _ in range(7)]
    same = make_candidates([rows[0]] * 999)

    assert (same.scores / MILLION >= mean_scores(same)[same.labels]).all()
    assert mean_scores(make_candidates(rows)).tobytes() == mean_scores(make_candidates(rows[::-1])).tobytes()


@pytest.mark.parametrize(
    ("share", "expected"), [("1", 10), ("1/2", 5), ("1/4", 3), ("1/1000", 1), ("99/100", 10), ("7/10", 7)]
)
def test_best_share_is_rounded_up(share: str, expected: int) -> None:
    rows = [row for seed in range(40) for row in make_rows(seed) if row.label == "happy"][:10]
    candidates = make_candidates(rows)

    counts = count_shares(candidates, Fraction(share))

    assert counts.tolist() == [0, expected, 0, 0, 0]
    best = sorted((row.score for row in rows), reverse=True)
    assert share_scores(candidates, counts)[1] == best[expected - 1]


@pytest.mark.parametrize("size", [1, 2, 5, 12, 35, 100, 1234])
def test_bound_is_that_of_scipy(size: int) -> None:
    right = np.unique(np.linspace(0, size, 40).astype(int))

    found = wilson_lower_bound(right, np.full(len(right), size))

    expected = [binomtest(int(k), size).proportion_ci(0.95, "wilson").low for k in right]
    assert found == pytest.approx(expected, abs=1e-12)


def test_bound_of_no_sample_is_zero() -> None:
    assert wilson_lower_bound(np.array([0]), np.array([0])).tolist() == [0.0]


@pytest.mark.parametrize("precision", [0.01, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_smallest_sample(precision: float) -> None:
    size = smallest_sample(precision)

    assert binomtest(size, size).proportion_ci(0.95, "wilson").low >= precision
    assert size == 1 or binomtest(size - 1, size - 1).proportion_ci(0.95, "wilson").low < precision


def calibrate_slowly(scores: list[int], is_right: list[bool], precision: float) -> float | None:
    """Try every score as a threshold."""
    found = None
    for threshold in sorted(set(scores), reverse=True):
        above = [right for score, right in zip(scores, is_right, strict=True) if score >= threshold]
        if binomtest(sum(above), len(above)).proportion_ci(0.95, "wilson").low >= precision:
            found = threshold / MILLION
    return found


@pytest.mark.parametrize("seed", range(20))
def test_lowest_threshold_that_reaches_the_precision(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = int(generator.integers(1, 120))
    scores = (generator.integers(0, 30, size) * 30_000).astype(np.int32)
    is_right = generator.random(size) < 0.6 + scores / 3e6
    precision = float(generator.choice([0.5, 0.7, 0.9]))

    found = calibrate(scores, is_right, precision)

    assert found.threshold == calibrate_slowly(scores.tolist(), is_right.tolist(), precision)
    assert found.sample == size
    assert found.bound == pytest.approx(binomtest(found.right, found.above).proportion_ci(0.95, "wilson").low)
    assert (found.bound >= precision) == (found.threshold is not None)


def test_no_sample_has_no_threshold() -> None:
    none = np.zeros(0, dtype=np.int32)

    assert calibrate(none, none.astype(np.bool_), 0.9) == SampleBound(None, 0, 0, 0, 0.0)


def test_coverage_of_the_bound() -> None:
    """The true precision is above the bound in 97.5 % of samples: the interval of 95 % has two sides.

    That is so at a threshold that is fixed beforehand, and here at the lowest that reaches a value, too, though it is
    chosen among many.
    """
    generator = np.random.default_rng(0)
    true, size = 0.92, 200
    right = generator.binomial(size, true, 20_000)
    fixed = float((wilson_lower_bound(right, np.full(20_000, size)) <= true).mean())

    holds = reached = 0
    for _ in range(1000):
        scores = generator.integers(0, MILLION, 400).astype(np.int32)
        chance = 0.7 + 0.3 * scores / MILLION  # so the precision above t is 0.85 + 0.15 t
        found = calibrate(scores, generator.random(400) < chance, 0.9)
        if found.threshold is not None:
            reached += 1
            holds += 0.85 + 0.15 * found.threshold >= 0.9
    sys.stdout.write(f"\ncoverage: {fixed:.4f} at a fixed threshold, {holds / reached:.4f} at the lowest of many\n")
    assert 0.96 <= fixed <= 0.99
    assert reached > 800
    assert holds / reached >= 0.9
