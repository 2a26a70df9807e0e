"""Posteriors against the reference: NLL, Brier score, expected calibration error, and accuracy by coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Bins of the expected calibration error: of equal width, (low, high]."""

COVERAGES = (0.5, 0.8, 1.0)
"""Shares of the utterances, the most confident ones, whose accuracy is computed."""

LEAST = 5e-7
"""The least probability that counts in the NLL: half of the last of six decimals, so that a rounded 0 is not −inf."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of the probabilities against the reference."""

    utterances: int
    """Utterances whose reference class the model has."""
    nll: float
    """Mean negative natural logarithm of the probability of the reference's class."""
    brier: float
    """Mean of the squared differences to the reference, summed over classes."""
    ece: float
    """Mean distance between confidence and accuracy in each bin, weighted by its utterances."""
    accuracy_at: Mapping[float, float]
    """Accuracy of the most confident utterances, by their share, rounded up to whole ones."""


class CalibrationSums:
    """Sums over utterances that are added some at a time."""

    def __init__(self, bins: int = BINS) -> None:
        self._count = 0
        self._nll = self._brier = 0.0
        self._edges = np.arange(1, bins) / bins
        self._bins = np.zeros((3, bins))
        """(3, bins): utterances, the sum of their confidences, and right utterances, by bin of confidence."""

    def add(
        self,
        posteriors: NDArray[np.float64],
        references: NDArray[np.integer],
        confidences: NDArray[np.float64],
        right: NDArray[np.bool_],
    ) -> None:
        """Add utterances.

        Args:
            posteriors: (utterances, classes).
            references: (utterances,) indices of the reference's class among them.
            confidences: (utterances,) probabilities of the answer.
            right: (utterances,) whether the answer is the reference's class.
        """
        truth = posteriors[np.arange(len(posteriors)), references]
        self._count += len(truth)
        self._nll -= float(np.log(np.maximum(truth, LEAST)).sum())
        self._brier += float(((posteriors**2).sum(1) - 2 * truth + 1).sum())
        found = np.searchsorted(self._edges, confidences, side="left")
        for row, weights in zip(self._bins, (None, confidences, right), strict=True):
            row += np.bincount(found, weights, minlength=len(row))

    def finish(self, confidences: NDArray[np.floating], right: NDArray[np.bool_]) -> Calibration | None:
        """Return the result; None: no utterance was added.

        Args:
            confidences: of all utterances.
            right: whether their answers are the reference's class.
        """
        if not self._count:
            return None
        sizes, confident, num_right = self._bins
        return Calibration(
            utterances=self._count,
            nll=self._nll / self._count,
            brier=self._brier / self._count,
            ece=float(np.abs(confident - num_right).sum() / sizes.sum()),
            accuracy_at={share: accuracy_at(share, confidences, right) for share in COVERAGES},
        )


def accuracy_at(share: float, confidences: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Return the accuracy of the most confident utterances; of those that tie for the last places, their mean counts.

    Args:
        share: of the utterances, rounded up to whole ones.
        confidences: (utterances,).
        right: (utterances,).
    """
    count = int(np.ceil(round(share * len(right), 6)))
    if count == len(right):
        return float(right.mean())
    limit = np.partition(confidences, -count)[-count]
    above, level = confidences > limit, confidences == limit
    left = count - int(above.sum())
    return (int(right[above].sum()) + left * float(right[level].mean())) / count
