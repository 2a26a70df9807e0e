"""Which utterances are listened to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from e2v_cli.report.columns import Columns
from e2v_cli.report.doubtful import choose_doubtful, choose_next_doubtful, choose_typical


def make_columns(margins: list[float], labels: list[int]) -> Columns:
    """Make columns whose scores are in the order of the margins."""
    size = len(margins)
    values = np.array(margins, dtype=np.float32)
    return Columns(
        list_indices=np.arange(size, dtype=np.int32),
        labels=np.array(labels, dtype=np.uint16),
        scores=((1 + values) / 2).astype(np.float32),
        margins=values,
        durations=np.ones(size, dtype=np.float32),
    )


def numbers(*speakers: int) -> NDArray[np.int32]:
    return np.array(speakers, dtype=np.int32)


def test_least_margins_come_first() -> None:
    columns = make_columns([0.5, 0.1, 0.9, 0.3], [0, 0, 0, 0])
    assert choose_doubtful(columns, numbers(0, 1, 2, 3), 3) == [1, 3, 0]


def test_labels_take_turns() -> None:
    """The frequent label has all small margins, and gets half of the places."""
    columns = make_columns([0.01, 0.02, 0.03, 0.04, 0.8, 0.9], [0, 0, 0, 0, 1, 1])
    assert choose_doubtful(columns, numbers(*range(6)), 4) == [0, 1, 4, 5]


def test_speaker_has_one_utterance_whatever_the_label() -> None:
    columns = make_columns([0.01, 0.02, 0.03, 0.04], [0, 0, 1, 1])
    assert choose_doubtful(columns, numbers(7, 7, 7, 8), 4) == [0, 3]


def test_unknown_speakers_are_all_different() -> None:
    columns = make_columns([0.01, 0.02, 0.03], [0, 0, 0])
    assert choose_doubtful(columns, numbers(-1, -1, -1), 3) == [0, 1, 2]


def test_next_doubtful_are_of_any_speaker_and_not_listed_twice() -> None:
    columns = make_columns([0.01, 0.02, 0.03, 0.04], [0, 0, 1, 1])
    assert choose_next_doubtful(columns, {0, 3}, 9) == [1, 2]


def test_typical_are_the_highest_scores_of_each_label_by_different_speakers() -> None:
    columns = make_columns([0.9, 0.8, 0.7, 0.95, 0.6], [0, 0, 0, 1, 1])
    assert choose_typical(columns, numbers(1, 1, 2, 1, 2), 4, taken=set()) == [0, 2, 3, 4]
    assert choose_typical(columns, numbers(1, 1, 2, 1, 2), 2, taken={3}) == [0, 4]


def test_empty_run_gives_an_empty_choice() -> None:
    columns = make_columns([], [])
    assert choose_doubtful(columns, numbers(), 5) == choose_typical(columns, numbers(), 5, taken=()) == []


@pytest.mark.parametrize("seed", range(30))
def test_choice_equals_a_plain_search(seed: int) -> None:
    """Compare with the definition: labels take turns, each with its least margin of an unheard speaker."""
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 60))
    columns = make_columns(
        random.integers(0, 8, size).astype(float).tolist(), random.integers(0, 4, size).tolist()
    )  # many equal margins
    speakers = random.integers(-1, 9, size).astype(np.int32)
    count = int(random.integers(1, 20))

    expected: list[int] = []
    queues = {
        label: sorted(
            np.flatnonzero(columns.labels == label).tolist(), key=lambda index: (columns.margins[index], index)
        )
        for label in np.unique(columns.labels).tolist()
    }
    while queues and len(expected) < count:
        for label in list(queues)[: count - len(expected)]:
            heard = {int(speakers[index]) for index in expected} - {-1}
            free = [index for index in queues[label] if index not in expected and int(speakers[index]) not in heard]
            if free:
                expected.append(free[0])
            else:
                del queues[label]
    found = choose_doubtful(columns, speakers, count)

    assert sorted(found) == sorted(expected)
    assert max(Counter(int(speakers[index]) for index in found if speakers[index] >= 0).values(), default=1) == 1
