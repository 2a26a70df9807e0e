"""Choice of the utterances to listen to: the doubtful ones, and the most typical of each label."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from e2v_cli.report.columns import Columns

FIRST = 4096
"""Candidates that are sorted first."""


def choose_doubtful(columns: Columns, speakers: NDArray[np.int32], count: int) -> list[int]:
    """Choose utterances of least margin: as many of each label as it has, and at most one of a speaker.

    Args:
        columns: of the run.
        speakers: (done,) numbers of speakers; -1 where unknown: each is a speaker of its own.
        count: the most that are chosen.

    Returns:
        Indices in the columns, by ascending margin.
    """
    return _take_turns(columns, speakers, count, taken=())


def choose_next_doubtful(columns: Columns, doubtful: Collection[int], count: int) -> list[int]:
    """Choose further utterances of least margin, whatever their speakers: as many of each label as it has."""
    return _take_turns(columns, np.full(len(columns), -1, dtype=np.int32), count, taken=doubtful)


def choose_typical(columns: Columns, speakers: NDArray[np.int32], count: int, taken: Collection[int]) -> list[int]:
    """Choose utterances of highest score: as many of each label, of different speakers.

    Args:
        columns: of the run.
        speakers: as of ``choose_doubtful``.
        count: the most that are chosen, but at least one of each label.
        taken: indices of utterances that must not be chosen.

    Returns:
        Indices in the columns, by label and by descending score.
    """
    labels = np.unique(columns.labels).tolist()
    each = max(1, count // max(1, len(labels)))
    chosen: list[int] = []
    for label in labels:
        candidates = _rank_speakers(-columns.scores, columns.labels == label, speakers)
        chosen += islice((index for index in candidates if index not in taken), each)
    return chosen


def _take_turns(columns: Columns, speakers: NDArray[np.int32], count: int, taken: Collection[int]) -> list[int]:
    """Choose by turns: each label its next utterance of least margin, of a speaker that has none yet."""
    margins, labels = columns.margins, columns.labels
    waiting = {label: _rank_speakers(margins, labels == label, speakers) for label in np.unique(labels).tolist()}
    chosen: set[int] = set()
    heard: set[int] = set()
    while waiting and len(chosen) < count:
        for label in list(waiting)[: count - len(chosen)]:
            candidates = (index for index in waiting[label] if index not in taken)
            index = next((index for index in candidates if int(speakers[index]) not in heard), None)
            if index is None:
                del waiting[label]
                continue
            chosen.add(index)
            heard.update({int(speakers[index])} - {-1})
    return sorted(chosen, key=lambda index: (margins[index], index))


def _rank_speakers(
    ranks: NDArray[np.float32], members: NDArray[np.bool_], speakers: NDArray[np.int32]
) -> Iterator[int]:
    """Yield members by ascending rank, and of each speaker only the first; (done,) each.

    Few are asked for, so the least are sorted first: all at once would take as much memory as the columns.
    """
    heard: set[int] = set()
    above, size = np.float32(-np.inf), FIRST
    while True:
        waiting = np.flatnonzero(members & (ranks > above))
        if len(waiting) > size:
            above = np.partition(ranks[waiting], size)[size]
            waiting = waiting[ranks[waiting] <= above]
            size *= 16
        else:
            above = np.float32(np.inf)
        for index in waiting[np.argsort(ranks[waiting], kind="stable")].tolist():
            speaker = int(speakers[index])
            if speaker not in heard:
                heard.update({speaker} - {-1})
                yield index
        if above == np.inf:
            return
