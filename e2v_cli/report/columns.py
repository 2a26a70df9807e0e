"""The predictions of a run as columns: a few numbers for each utterance that is done, in one pass over the journals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.journal.history import DoneLine, History, parse_done
from e2v_cli.journal.journal import DONE, Header
from e2v_cli.results.tables import number_labels

CHUNK = 1 << 14
"""Utterances whose lines are read together."""


@dataclass(frozen=True)
class Columns:
    """The predictions of a run; of a model without a head, all but indices and durations are zeros."""

    list_indices: NDArray[np.int32]
    """(done,): indices in the list."""
    labels: NDArray[np.uint16]
    """(done,): indices among the model's labels."""
    scores: NDArray[np.float32]
    """(done,): probabilities of the labels."""
    margins: NDArray[np.float32]
    """(done,): the highest probability minus the second."""
    durations: NDArray[np.float32]
    """(done,) seconds."""

    def __len__(self) -> int:
        return len(self.list_indices)


@dataclass(frozen=True)
class Speakers:
    """Speakers of the utterances that are done."""

    numbers: NDArray[np.int32]
    """(done,): indices of names; -1 where unknown."""
    names: Sequence[str]

    def name_of(self, index: int) -> str:
        """Return the speaker of an utterance, by its index in the columns; empty if unknown."""
        number = int(self.numbers[index])
        return self.names[number] if number >= 0 else ""


@dataclass(frozen=True)
class RunResults:
    """The results of a run, those of all utterances at hand."""

    output_dir: Path
    header: Header
    history: History
    columns: Columns
    speakers: Speakers


def read_columns(history: History, labels: Sequence[str]) -> Columns:
    """Read the predictions of all utterances that are done.

    Raises:
        OSError: a journal can't be read.
    """
    indices = np.flatnonzero(history.status == DONE).astype(np.int32)
    columns = Columns(
        indices,
        np.zeros(len(indices), dtype=np.uint16),
        *(np.zeros(len(indices), dtype=np.float32) for _ in range(3)),
    )
    numbers = number_labels(labels)
    with history.reading():
        for first in range(0, len(indices), CHUNK):
            part = slice(first, first + CHUNK)
            done = read_done(history, indices[part])
            columns.durations[part] = [float(line.duration) for line in done]
            if labels:
                columns.labels[part] = [numbers[line.label] for line in done]
                columns.scores[part], columns.margins[part] = _find_best(done)
    return columns


def read_done(history: History, indices: NDArray[np.int32]) -> list[DoneLine]:
    """Read the lines of utterances that are done, at ascending indices of the list."""
    if not len(indices):
        return []
    first = int(indices[0])
    lines = history.read_lines(first, int(indices[-1]) + 1)
    return [parse_done(lines[index - first]) for index in indices.tolist()]


def _find_best(done: Sequence[DoneLine]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the highest probability of each line, and by how much it is above the second: (lines,) each."""
    text = b"\t".join([line.posteriors for line in done])
    posteriors: NDArray[np.float32] = np.fromstring(text, dtype=np.float32, sep="\t").reshape(len(done), -1)
    if posteriors.shape[1] == 1:
        return posteriors[:, 0], posteriors[:, 0]
    second, first = np.partition(posteriors, -2, axis=1)[:, -2:].T
    return first, first - second
