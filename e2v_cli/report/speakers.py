"""Speakers of a run, and the labels of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from e2v_cli.report.columns import CHUNK, RunResults

MAX_SPEAKERS = 40
"""Speakers that are shown, those with the most utterances."""

MIN_UTTERANCES = 5
"""Utterances of a speaker from which on a single label is remarkable."""


@dataclass(frozen=True)
class SpeakerLabels:
    """The labels of a speaker."""

    name: str
    counts: Sequence[int]
    """(labels,) utterances."""
    seconds: float

    @property
    def utterances(self) -> int:
        """Number of utterances of the speaker."""
        return sum(self.counts)

    @property
    def has_one_label(self) -> bool:
        """Whether many utterances have the same label: perhaps a fault of the recordings, not an emotion."""
        return self.utterances >= MIN_UTTERANCES and max(self.counts) == self.utterances


@dataclass(frozen=True)
class SpeakerTable:
    """The speakers with the most utterances, and counts of all."""

    rows: Sequence[SpeakerLabels]
    count: int
    of_one_label: int
    """Number of speakers with a single label and at least MIN_UTTERANCES utterances."""
    unknown: int
    """Number of utterances whose speaker is not known."""


def tabulate_speakers(run: RunResults) -> SpeakerTable:
    """Count labels by speaker."""
    columns, speakers, num_labels = run.columns, run.speakers, len(run.header.labels)
    numbers, size = speakers.numbers, len(speakers.names)
    utterances, seconds = np.zeros(size, dtype=np.int64), np.zeros(size)
    for first in range(0, len(columns), CHUNK):  # of all at once, the sums would take several times their memory
        part = slice(first, first + CHUNK)
        known = numbers[part] >= 0
        np.add.at(utterances, numbers[part][known], 1)
        np.add.at(seconds, numbers[part][known], columns.durations[part][known])
    kinds = np.zeros(size, dtype=np.uint16)
    for label in range(num_labels):
        has_label = np.zeros(size, dtype=np.bool_)
        has_label[numbers[(columns.labels == label) & (numbers >= 0)]] = True
        kinds += has_label
    largest = np.argsort(-utterances, kind="stable")[:MAX_SPEAKERS]
    rows = [
        SpeakerLabels(
            speakers.names[number],
            np.bincount(columns.labels[numbers == number], minlength=num_labels).tolist(),
            float(seconds[number]),
        )
        for number in largest.tolist()
        if utterances[number]
    ]
    return SpeakerTable(
        rows=rows,
        count=int((utterances > 0).sum()),
        of_one_label=int(((kinds == 1) & (utterances >= MIN_UTTERANCES)).sum()),
        unknown=int((numbers < 0).sum()),
    )
