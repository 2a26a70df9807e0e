"""Utterances → blocks → batches, by rules that see nothing but the list and the audio.

What is in a batch decides the last bits of its results. So that results don't depend on who computed what, or when,
the input is cut into blocks from the list alone, and a block into batches from its audio alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2v_cli.records import SAMPLE_RATE, Batch, Waveform
from e2v_cli.settings import Shard

BLOCKS = 1024
"""A list is cut into about so many blocks: enough for many workers to end at about the same time."""

BLOCK_SIZES = (2, 256)
"""Fewest and most utterances of a block: few lists are so short, and a worker decodes no more at once."""

PORTION_SECONDS = 1200.0
"""Audio of a block that is held in memory and sorted by length (77 MB); only a single longer utterance exceeds it."""


class Share(NamedTuple):
    """A block that is not read yet."""

    number: int
    places: NDArray[np.int64]
    """(utterances,): where they stand in the list."""


class Plan:
    """Which utterances of a list are computed, and in which blocks: fixed by their number alone."""

    def __init__(self, members: NDArray[np.int64]) -> None:
        """Plan for (members,) places in the list."""
        fewest, most = BLOCK_SIZES
        self.members = members
        self.block_size = min(max(-(-len(members) // BLOCKS), fewest), most)

    def deal_blocks(self, shard: Shard) -> Iterator[Share]:
        """Deal blocks to shards in turn: those that this one gets."""
        for number in range(shard.index - 1, -(-len(self.members) // self.block_size), shard.count):
            yield Share(number, self.members[number * self.block_size : (number + 1) * self.block_size])

    def count_by_shard(self, members: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        """Count how many of the chosen (members,) each of so many shards has: (count,)."""
        shards = np.flatnonzero(members) // self.block_size % count
        return np.bincount(shards, minlength=count)


def make_batches(block: Iterable[Waveform], batch_seconds: float) -> Iterator[Batch]:
    """Pack a block's waveforms into batches of at most so many seconds; a longer one goes alone.

    The block is read in portions. Within a portion the shortest come first, so that utterances of the same length,
    which attention takes together, are in one batch.
    """
    for portion in _cut(block, PORTION_SECONDS):
        by_length = sorted(portion, key=lambda waveform: (len(waveform.samples), waveform.utterance.index))
        for batch in _cut(by_length, batch_seconds):
            yield Batch(tuple(batch))


def _cut(waveforms: Iterable[Waveform], seconds: float) -> Iterator[list[Waveform]]:
    """Cut neighbours into runs of at most so many seconds, and at least one waveform."""
    run: list[Waveform] = []
    num_samples = 0
    for waveform in waveforms:
        if run and num_samples + len(waveform.samples) > seconds * SAMPLE_RATE:
            yield run
            run, num_samples = [], 0
        run.append(waveform)
        num_samples += len(waveform.samples)
    if run:
        yield run
