"""The predictions of a run → columns of numbers, in C order of the ids."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.answers import AnswerChunk, Predictions
from e2v_cli.analysis.select.sorted_ids import SortedIds
from e2v_cli.errors import CorpusError
from e2v_cli.results.tables import number_labels

MILLION = 1_000_000
"""Probabilities are whole millionths, as tables have them, so that sums are exact in any order."""

TICKS = 10_000
"""Ticks in a second: durations are whole ten-thousandths."""


@dataclass(frozen=True)
class Candidates:
    """The utterances of a run that have a prediction, in C order of their ids."""

    classes: tuple[str, ...]
    """The model's labels, in its order."""
    labels: NDArray[np.int16]
    """(utterances,): indices among the classes."""
    scores: NDArray[np.int32]
    """(utterances,): probabilities of the labels, in millionths."""
    margins: NDArray[np.int32]
    """(utterances,): the highest probability minus the second, in millionths."""
    durations: NDArray[np.int64]
    """(utterances,): in ten-thousandths of a second."""

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Count all utterances of each class, or those chosen: (classes,)."""
        labels = self.labels if chosen is None else self.labels[chosen]
        return np.bincount(labels, minlength=len(self.classes))

    def seconds(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Sum up the durations of all utterances of each class, or of those chosen: (classes,)."""
        rows = slice(None) if chosen is None else chosen
        sums = np.bincount(self.labels[rows], self.durations[rows], minlength=len(self.classes))
        return sums / TICKS  # sums of whole numbers are exact


class _Columns:
    """The numbers of predictions, in the order of their table."""

    def __init__(self, predictions: Predictions) -> None:
        self.labels, self.scores, self.margins, self.durations = array("h"), array("i"), array("i"), array("q")
        self._predictions = predictions
        self._numbers = number_labels(predictions.labels)

    def read(self) -> Iterator[list[bytes]]:
        """Read all rows, and yield their ids.

        Raises:
            CorpusError: a row has another form.
        """
        for chunk in self._predictions.chunks():
            labels = np.array([self._numbers.get(word, -1) for word in chunk.words], dtype=np.int16)
            try:
                seconds = np.array(chunk.durations, dtype=np.float64)
            except ValueError:
                seconds = np.array([_parse_seconds(cell) for cell in chunk.durations])
            is_right = (labels >= 0) & (seconds >= 0) & np.isfinite(seconds)
            if chunk.posteriors is None or not is_right.all():
                raise self._describe(chunk, int(is_right.argmin()))
            posteriors = _whole(chunk.posteriors, MILLION).astype(np.int32)
            first, second = np.partition(posteriors, -2, axis=1)[:, :-3:-1].T
            self.labels.frombytes(labels.tobytes())
            self.scores.frombytes(posteriors[np.arange(len(labels)), labels].tobytes())
            self.margins.frombytes((first - second).tobytes())
            self.durations.frombytes(_whole(seconds, TICKS).tobytes())
            yield chunk.keys

    def _describe(self, chunk: AnswerChunk, row: int) -> CorpusError:
        """Describe a row with an invalid label or duration."""
        word, duration = (cell.decode(errors="backslashreplace") for cell in (chunk.words[row], chunk.durations[row]))
        origin = f"{self._predictions.text.name}:{chunk.numbers[row]}"
        if chunk.words[row] not in self._numbers:
            return CorpusError(
                f"{origin}: label {word!r} is none of the columns: {', '.join(self._predictions.labels)}"
            )
        return CorpusError(f"{origin}: duration {duration!r} is no number of seconds")


def _whole(numbers: NDArray[np.float64], factor: int) -> NDArray[np.int64]:
    whole: NDArray[np.int64] = np.rint(numbers * factor).astype(np.int64)
    return whole


def _parse_seconds(cell: bytes) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def read_candidates(predictions: Predictions) -> tuple[Candidates, SortedIds]:
    """Read predictions: their numbers, and their ids.

    Raises:
        CorpusError: they have no probabilities, a row has another form, or an utterance has two.
    """
    if len(predictions.labels) < 2 or predictions.duration_column is None:
        raise CorpusError(f"{predictions.name}: no probabilities of two or more classes; choose an OUT of e2v predict")
    columns = _Columns(predictions)
    ids = SortedIds(columns.read())
    return (
        Candidates(
            predictions.labels,
            np.frombuffer(columns.labels, dtype=np.int16)[ids.order],
            np.frombuffer(columns.scores, dtype=np.int32)[ids.order],
            np.frombuffer(columns.margins, dtype=np.int32)[ids.order],
            np.frombuffer(columns.durations, dtype=np.int64)[ids.order],
        ),
        ids,
    )
