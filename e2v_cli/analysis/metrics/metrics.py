"""Confusion matrices → metrics, metrics of each class, and metrics of two trivial answers.

A confusion matrix is (classes, answers): counts of utterances by the class of the reference and the answer. The first
answers are the classes, in the same order; any other answers are no classes, and wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.options import METRIC_NAMES

MAIN_METRICS = METRIC_NAMES[:4]
"""Names of the metrics that are in every table."""


def compute_metrics(confusions: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute all metrics of confusion matrices: (…, classes, answers) → (…, METRIC_NAMES).

    A class without utterances counts in none; a metric of no utterances is NaN. Kappa is NaN if chance alone gives the
    observed agreement of 1, and MCC is 0 if all of the reference or all answers are one label.
    """
    counts = confusions.astype(np.float64)
    support = counts.sum(-1)
    answered = counts.sum(-2)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    has_support = support > 0
    total, num_right, num_classes = support.sum(-1), right.sum(-1), has_support.sum(-1)
    by_chance = (support * answered[..., : support.shape[-1]]).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(has_support, right / support, 0.0)
        f1 = np.where(has_support, 2 * right / (support + answered[..., : support.shape[-1]]), 0.0)
        product = (total**2 - (answered**2).sum(-1)) * (total**2 - (support**2).sum(-1))
        covariance = total * num_right - by_chance
        values = (
            num_right / total,
            recall.sum(-1) / num_classes,
            (support * f1).sum(-1) / total,
            f1.sum(-1) / num_classes,
            covariance / (total**2 - by_chance),
            np.where((product == 0) & (total > 0), 0.0, covariance / np.sqrt(product)),
        )
    metrics: NDArray[np.float64] = np.stack(values, axis=-1)
    return metrics


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of a class; recall and F1 are NaN for a class without utterances in the reference."""

    name: str
    precision: float
    """Precision; 0 for a class that is never the answer."""
    recall: float
    f1: float
    support: int
    """Number of utterances of the class in the reference."""


def class_metrics(confusion: NDArray[np.int64], names: tuple[str, ...]) -> tuple[ClassMetrics, ...]:
    """Compute the metrics of each class of a confusion matrix."""
    support, answered = confusion.sum(1).tolist(), confusion.sum(0).tolist()
    right = np.diagonal(confusion).tolist()
    return tuple(
        ClassMetrics(
            name=name,
            precision=right[index] / answered[index] if answered[index] else 0.0,
            recall=right[index] / support[index] if support[index] else np.nan,
            f1=2 * right[index] / (support[index] + answered[index]) if support[index] else np.nan,
            support=support[index],
        )
        for index, name in enumerate(names)
    )


def majority_confusion(support: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the confusion matrix of an answer that is always the largest class."""
    confusion = np.zeros((len(support), len(support)), dtype=np.int64)
    confusion[:, int(support.argmax())] = support
    return confusion


def chance_accuracy(support: NDArray[np.int64]) -> float:
    """Return the WA and UA that are expected of uniformly random answers among the reference's classes."""
    return 1 / int((support > 0).sum())
