"""The reasons of failures: few texts, and a number for each utterance of a list."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2v_cli.records import FailureReason


class Reasons:
    """Reasons of the last failures of utterances; a reason counts only while the utterance's status is failed."""

    def __init__(self, size: int) -> None:
        """Begin without failures of ``size`` utterances."""
        self.numbers: NDArray[np.uint16] = np.zeros(size, dtype=np.uint16)
        """(utterances,): number of the reason for which each failed last; 0: no known reason."""
        self._texts = [""]

    def number(self, reason: str) -> int:
        """Return the number of a reason; a new one gets the next."""
        if reason not in self._texts:
            self._texts.append(reason)
        return self._texts.index(reason)

    def copy(self) -> Reasons:
        """Return a copy with the same numbers of reasons, in which others can be noted."""
        copied = Reasons(0)
        copied.numbers, copied._texts = self.numbers.copy(), list(self._texts)
        return copied

    def count(self, failed: NDArray[np.int64]) -> tuple[FailureReason, ...]:
        """Count the reasons of utterances that failed, given by their indexes: the most frequent first."""
        found, first, counts = np.unique(self.numbers[failed], return_index=True, return_counts=True)
        reasons = [
            FailureReason(self._texts[number], count, int(failed[index]))
            for number, index, count in zip(found.tolist(), first.tolist(), counts.tolist(), strict=True)
        ]
        return tuple(sorted(reasons, key=lambda reason: (-reason.count, reason.reason)))
