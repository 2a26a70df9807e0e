"""Posteriors of utterances → emotions of groups of them, such as a speaker's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


class GroupSums:
    """Sums over the utterances of each group, each weighted by its duration."""

    def __init__(self, num_groups: int, num_labels: int) -> None:
        self.utterances: NDArray[np.int64] = np.zeros(num_groups, dtype=np.int64)
        """(groups,)"""
        self.seconds: NDArray[np.float64] = np.zeros(num_groups)
        """(groups,)"""
        self._posteriors: NDArray[np.float64] = np.zeros((num_groups, num_labels))
        self._labelled: NDArray[np.float64] = np.zeros((num_groups, num_labels))

    def add(
        self,
        groups: NDArray[np.int32],
        seconds: NDArray[np.float64],
        labels: NDArray[np.int64],
        posteriors: NDArray[np.float64],
    ) -> None:
        """Add utterances.

        Args:
            groups: (utterances,) the group of each.
            seconds: (utterances,) durations.
            labels: (utterances,) the index of each one's label.
            posteriors: (utterances, labels).
        """
        np.add.at(self.utterances, groups, 1)
        np.add.at(self.seconds, groups, seconds)
        np.add.at(self._posteriors, groups, posteriors * seconds[:, None])
        np.add.at(self._labelled, (groups, labels), seconds)

    def means(self) -> NDArray[np.float64]:
        """Return the mean posteriors of each group: (groups, labels); NaN of one without utterances."""
        return _divided(self._posteriors, self.seconds)

    def shares(self) -> NDArray[np.float64]:
        """Return the part of each group's time that has each label: (groups, labels); NaN without utterances."""
        return _divided(self._labelled, self.seconds)


def _divided(sums: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        quotients: NDArray[np.float64] = sums / seconds[:, None]
    return quotients


def emotion_columns(keys: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a group's row; ``keys`` are the columns of its names."""
    return (*keys, "utterances", "duration", "label", "score", *labels, *(f"share_{label}" for label in labels))


def emotion_rows(sums: GroupSums, names: Sequence[tuple[str, ...]], labels: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Format the row of each group that has utterances, sorted by names as Kaldi sorts.

    The label is the class of the highest mean, which is the score; of equal ones the first.
    """
    means, shares = sums.means(), sums.shares()
    for group in sorted(np.flatnonzero(sums.utterances).tolist(), key=lambda group: [n.encode() for n in names[group]]):
        best = int(means[group].argmax())
        numbers = (means[group, best], *means[group], *shares[group])
        score, *cells = (f"{number:.6f}" for number in numbers)
        counted = (str(sums.utterances[group]), f"{sums.seconds[group]:.4f}")
        yield (*names[group], *counted, labels[best], score, *cells)
