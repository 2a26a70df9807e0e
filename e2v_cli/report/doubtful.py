"""Which utterances to listen to: the doubtful ones, and the most typical of each label."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from e2v_cli.report.columns import Columns


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
        taken: indices of those that are not chosen.

    Returns:
        Indices in the columns, by label and by descending score.
    """
    labels = np.unique(columns.labels).tolist()
    each = max(1, count // max(1, len(labels)))
    chosen: list[int] = []
    for label in labels:
        candidates = _rank_speakers(-columns.scores, np.flatnonzero(columns.labels == label), speakers)
        chosen += islice((index for index in candidates if index not in taken), each)
    return chosen


def _take_turns(columns: Columns, speakers: NDArray[np.int32], count: int, taken: Collection[int]) -> list[int]:
    """Choose by turns: each label its next utterance of least margin, of a speaker that has none yet."""
    margins, labels = columns.margins, columns.labels
    waiting = {
        label: _rank_speakers(margins, np.flatnonzero(labels == label), speakers)
        for label in np.unique(labels).tolist()
    }
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
    ranks: NDArray[np.float32], members: NDArray[np.int64], speakers: NDArray[np.int32]
) -> Iterator[int]:
    """Yield members by ascending rank, and of each speaker only the first."""
    order = members[np.argsort(ranks[members], kind="stable")]
    own = np.where(speakers[order] < 0, -1 - np.arange(len(order)), speakers[order])
    firsts = np.sort(np.unique(own, return_index=True)[1])
    for position in firsts:
        yield int(order[position])
