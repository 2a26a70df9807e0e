"""Thresholds of scores, one for each class: its mean, its best share, or a bound of its precision on a sample.

Scores of these models are saturated, so that a threshold for all classes keeps mostly those that are easy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.select.candidates import MILLION, Candidates
from e2v_cli.analysis.select.quotas import rank_best

CONFIDENCE_QUANTILE = 1.959963984540054
"""Quantile of the normal distribution, for two-sided intervals of 95 %."""


def mean_scores(candidates: Candidates) -> NDArray[np.float64]:
    """Return the mean score of the utterances of each class: (classes,), NaN without utterances.

    With the predicted labels taken for given ones, these are the thresholds of confident learning (Northcutt et al.,
    Confident Learning: Estimating Uncertainty in Dataset Labels, 2021, section 3.1).
    """
    sums = np.bincount(candidates.labels, candidates.scores, minlength=len(candidates.classes))  # exact: whole numbers
    means = np.full(len(sums), np.nan)
    np.divide(sums, candidates.count(), out=means, where=sums > 0)
    return means / MILLION


def count_shares(candidates: Candidates, share: Fraction) -> NDArray[np.int64]:
    """Return the number of utterances in a share of each class, rounded up: (classes,)."""
    counts = [-(-count * share.numerator // share.denominator) for count in candidates.count().tolist()]
    return np.array(counts, dtype=np.int64)


def share_scores(candidates: Candidates, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the score of the last of each class's best utterances: (classes,), NaN without utterances.

    Args:
        candidates: all utterances.
        counts: (classes,) how many are best.
    """
    thresholds = np.full(len(counts), np.nan)
    is_last = rank_best(candidates, candidates.labels) == counts[candidates.labels]
    thresholds[candidates.labels[is_last]] = candidates.scores[is_last] / MILLION
    return thresholds


def wilson_lower_bound(right: NDArray[np.integer], size: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the lower end of Wilson's score interval of 95 % for a proportion; 0 for a sample of size 0.

    E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.

    Args:
        right: successes.
        size: trials, in the same shape.
    """
    z, n = CONFIDENCE_QUANTILE, np.maximum(size, 1)
    spread = z * np.sqrt(right * (n - right) / n + z * z / 4)
    bound: NDArray[np.float64] = np.where(size > 0, (right + z * z / 2 - spread) / (n + z * z), 0.0)
    return np.maximum(bound, 0.0)


def smallest_sample(precision: float) -> int:
    """Return the size of the smallest sample whose bound reaches a precision, if all of it is right."""
    size = math.floor(CONFIDENCE_QUANTILE**2 * precision / (1 - precision))
    while wilson_lower_bound(np.array(size), np.array(size)) < precision:
        size += 1
    return size


@dataclass(frozen=True)
class SampleBound:
    """The precision of a class's threshold on a labelled sample."""

    threshold: float | None
    """Lowest score whose bound reaches the precision; None: no score does."""
    sample: int
    """Labelled utterances that have the class as their label."""
    above: int
    """Utterances of the sample with at least this score; without a threshold, with at least that of the best bound."""
    right: int
    """Utterances of ``above`` that the reference agrees with."""
    bound: float
    """Lower bound of the precision of the utterances ``above``."""


def calibrate(scores: NDArray[np.int32], is_right: NDArray[np.bool_], precision: float) -> SampleBound:
    """Find the lowest threshold of a class whose lower bound of precision on a sample reaches a value.

    Args:
        scores: (sample,) in millionths.
        is_right: (sample,) whether the reference has the class, too.
        precision: the value.
    """
    if not len(scores):
        return SampleBound(None, 0, 0, 0, 0.0)
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order], np.cumsum(is_right[order], dtype=np.int64)
    last_of_score = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # equal scores are on one side
    bounds = wilson_lower_bound(right[last_of_score], last_of_score + 1)
    reaching = np.flatnonzero(bounds >= precision)
    chosen = int(reaching[-1]) if len(reaching) else int(bounds.argmax())
    last = int(last_of_score[chosen])
    threshold = float(ordered[last]) / MILLION if len(reaching) else None
    return SampleBound(threshold, len(scores), last + 1, int(right[last]), float(bounds[chosen]))
