"""Two systems on the same utterances: paired differences with intervals, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.metrics.intervals import percentile_interval
from e2v_cli.options import METRIC_NAMES

TERMS = 1 << 16
"""Terms of a binomial sum that are computed at a time."""


@dataclass(frozen=True)
class Difference:
    """A metric of one system minus the metric of the other."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    """Two-sided p of the resamples: how rarely the difference has the other sign; None without an interval."""


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of two accuracies, on the utterances that only one system has right."""

    only_first: int
    only_second: int
    p: float


def paired_differences(
    values: NDArray[np.float64], resampled: NDArray[np.float64] | None, confidence: float
) -> Mapping[str, Difference]:
    """Compare the metrics of two systems.

    Args:
        values: (2, metrics).
        resampled: (resamples, 2, metrics); None: without intervals.
        confidence: of the intervals.
    """
    differences = {}
    for index, name in enumerate(METRIC_NAMES):
        value = float(values[0, index] - values[1, index])
        if resampled is None:
            differences[name] = Difference(value, None, None, None)
            continue
        drawn = resampled[:, 0, index] - resampled[:, 1, index]
        low, high = percentile_interval(drawn, confidence)
        differences[name] = Difference(value, low, high, bootstrap_p(drawn))
    return differences


def bootstrap_p(drawn: NDArray[np.float64]) -> float:
    """Return the two-sided p of resampled differences: 2 · (rarer + 1) / (finite + 1), at most 1; 0 counts on both."""
    finite = drawn[np.isfinite(drawn)]
    rarer = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(finite) + 1))


def compare_accuracies(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Test whether two systems are equally often right; (utterances,) whether each is."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(only_first, only_second, binomial_p(only_first, only_second))


def binomial_p(heads: int, tails: int) -> float:
    """Return the two-sided p of tosses of a fair coin: exact, the sum of the terms of the rarer side, twice."""
    tosses, rarer = heads + tails, min(heads, tails)
    if heads == tails:
        return 1.0
    log_term = math.lgamma(tosses + 1) - math.lgamma(rarer + 1) - math.lgamma(tosses - rarer + 1)
    term = total = math.exp(log_term - tosses * math.log(2))
    for last in range(rarer, 0, -TERMS):
        k = np.arange(last, max(0, last - TERMS), -1)
        terms = term * np.cumprod(k / (tosses - k + 1))
        total, term = total + float(terms.sum()), float(terms[-1])
        if term < 1e-20 * total:
            break
    return min(1.0, 2 * total)
