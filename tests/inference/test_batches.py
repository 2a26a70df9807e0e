"""Batches depend on the audio of a block alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest

from e2v_cli.inference.batches import PORTION_SECONDS, make_batches
from e2v_cli.records import SAMPLE_RATE, Utterance, Waveform
from e2v_cli.system.spool import DiskWaveform


def make_waveforms(seconds: list[float]) -> list[Waveform]:
    """Make waveforms of these lengths in seconds; they share their memory."""
    zeros = np.zeros(round(max(seconds, default=0) * SAMPLE_RATE), np.float32)
    return [
        Waveform(Utterance(index, f"utt{index}", f"{index}.wav"), zeros[: round(duration * SAMPLE_RATE)], duration)
        for index, duration in enumerate(seconds)
    ]


def indices(
    waveforms: list[Waveform], batch_seconds: float, portion_seconds: float = PORTION_SECONDS
) -> list[list[int]]:
    """Make batches, and return the indexes of their waveforms in the input."""
    batches = make_batches(waveforms, batch_seconds, portion_seconds)
    return [[waveform.utterance.index for waveform in batch.waveforms] for batch in batches]


def random_lengths(seed: int) -> list[float]:
    """Draw the lengths of 1 to 99 utterances, some of them equal, some longer than a batch."""
    generator = random.Random(seed)
    return [
        generator.choice([1.0, 2.5, generator.uniform(0.03, 8), generator.uniform(8, 30)])
        for _ in range(generator.randrange(1, 100))
    ]


@pytest.mark.parametrize(
    ("seconds", "batches"),
    [
        ([], []),
        ([3], [[0]]),
        ([11], [[0]]),
        ([5, 5], [[0, 1]]),
        ([5, 5.1], [[0], [1]]),
        ([9, 4, 2, 4], [[2, 1, 3], [0]]),
        ([12, 1, 30, 1], [[1, 3], [0], [2]]),
        ([2, 2, 2, 2, 2, 2], [[0, 1, 2, 3, 4], [5]]),
    ],
)
def test_batches_match_manual_calculation(seconds: list[float], batches: list[list[int]]) -> None:
    """Batches of at most 10 seconds: the shortest first, equal lengths in the order of the input."""
    assert indices(make_waveforms(seconds), 10) == batches


@pytest.mark.parametrize("batch_seconds", [0.01, 5.0, 10.0, 1e9])
@pytest.mark.parametrize("seed", range(20))
def test_batches_are_sorted_and_filled_up_to_the_limit(seed: int, batch_seconds: float) -> None:
    seconds = random_lengths(seed)
    waveforms = make_waveforms(seconds)

    batches = [batch.waveforms for batch in make_batches(waveforms, batch_seconds)]
    flat = list(itertools.chain(*batches))
    totals = [sum(len(waveform.samples) for waveform in batch) for batch in batches]

    # every waveform once, the shortest first
    assert [waveform.utterance.index for waveform in flat] == sorted(range(len(seconds)), key=lambda i: (seconds[i], i))
    assert all(waveform is waveforms[waveform.utterance.index] for waveform in flat)
    # no batch above the limit, unless it is a single utterance
    limit = batch_seconds * SAMPLE_RATE
    assert all(total <= limit or len(batch) == 1 for total, batch in zip(totals, batches, strict=True))
    # and no batch with room for the next utterance
    assert all(total + len(following[0].samples) > limit for total, following in zip(totals, batches[1:], strict=False))


@pytest.mark.parametrize("seed", range(5))
def test_batches_do_not_depend_on_how_waveforms_arrive(seed: int) -> None:
    waveforms = make_waveforms(random_lengths(seed))

    one_by_one = list(make_batches(iter(waveforms), 10, 40))

    assert one_by_one == list(make_batches(waveforms, 10, 40)) == list(make_batches(tuple(waveforms), 10, 40))


def test_failed_utterances_leave_no_gap() -> None:
    """The batches are those of the remaining audio; indexes in the input stay the same."""
    waveforms = [
        waveform for waveform in make_waveforms([3, 1, 4, 1, 5, 9, 2]) if waveform.utterance.index not in (1, 4)
    ]

    assert indices(waveforms, 10) == [[3, 6, 0, 2], [5]]


def test_waveform_on_disk_is_batched_alone() -> None:
    """At any length: it is encoded in windows."""
    waveforms = make_waveforms([1.0, 1.0, 2.0, 1.0])
    on_disk = DiskWaveform()
    on_disk.append(np.zeros(SAMPLE_RATE, np.float32))
    waveforms[1] = Waveform(waveforms[1].utterance, on_disk, 1.0)

    assert sorted(indices(waveforms, 10)) == [[0], [1], [3, 2]]


def test_block_is_sorted_in_portions() -> None:
    # portions: 6 4 | 7 1 2 | 20 | 3 2
    assert indices(make_waveforms([6, 4, 7, 1, 2, 20, 3, 2]), 5, portion_seconds=10) == [
        [1],
        [0],
        [3, 4],
        [2],
        [5],
        [7, 6],
    ]


@pytest.mark.parametrize("seed", range(10))
def test_portions_match_their_definition(seed: int) -> None:
    seconds = random_lengths(seed)

    flat = list(itertools.chain(*indices(make_waveforms(seconds), 10, portion_seconds=60)))

    # portions by their definition: as many neighbours as fit into 60 seconds, and at least one
    portions: list[list[int]] = [[]]
    for index, duration in enumerate(seconds):
        if portions[-1] and sum(seconds[i] for i in portions[-1]) + duration > 60:
            portions.append([])
        portions[-1].append(index)
    assert flat == [index for portion in portions for index in sorted(portion, key=lambda i: (seconds[i], i))]


def test_only_one_portion_is_held_in_memory() -> None:
    """The first batch needs the first portion and one more waveform."""
    taken: list[int] = []

    def source() -> Iterator[Waveform]:
        for waveform in make_waveforms([2.0] * 50):
            taken.append(waveform.utterance.index)
            yield waveform

    next(make_batches(source(), 4, portion_seconds=10))

    assert taken == [0, 1, 2, 3, 4, 5]
