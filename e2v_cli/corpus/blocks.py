"""Utterances → blocks, by rules that depend on the list alone.

The content of a batch decides the last bits of its results. So that results don't depend on the process or the time,
the input is cut into blocks from the list alone, and a block into batches (``inference.batches``) from its audio alone.
Segments of the same recording are in the same block, in any order of the list, so that it is decoded once for all of
them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2v_cli.options import Shard
from e2v_cli.records import Utterance

BLOCKS = 1024
"""Approximate number of blocks of a long list: enough for many workers."""

BLOCK_SIZES = (8, 256)
"""Utterances of the largest block, at least and at most: enough for batches of short ones, few enough to decode."""

TAPER = 8
"""A block has at most the remaining utterances divided by this. So blocks get smaller towards the end of a list, down
to a single utterance, and workers end at about the same time."""


class PendingBlock(NamedTuple):
    """A block whose utterances are not read yet."""

    number: int
    indices: NDArray[np.int64]
    """(utterances,): indices in the list."""


class BlockPlan:
    """Which utterances of a list are computed, and in which blocks: fixed by the list alone."""

    def __init__(
        self,
        members: NDArray[np.int64],
        recording_groups: NDArray[np.int64] | None = None,
        costs: NDArray[np.float32] | None = None,
    ) -> None:
        """Cut some utterances of a list into blocks.

        Args:
            members: (members,) indices in the list.
            recording_groups: (utterances,) the group that each is decoded with, which blocks don't cut; None: each by
                itself.
            costs: (utterances,) the time that each takes, in any unit. It decides how blocks are dealt, not how they
                are cut; None: all the same.
        """
        self.members = members
        """(members,): indices in the list, in the order in which utterances are computed."""
        self._firsts = _cut_blocks(len(members))
        """(blocks,): index in ``members`` of the first utterance of each block."""
        if recording_groups is not None:
            self.members = members[np.argsort(recording_groups[members], kind="stable")]
            first_of_group = np.flatnonzero(np.diff(recording_groups[self.members], prepend=-1))
            block_of_group = np.searchsorted(self._firsts, first_of_group, side="right")
            self._firsts = first_of_group[np.flatnonzero(np.diff(block_of_group, prepend=-1))]
        self._costs = costs

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._firsts)

    def deal_blocks(self, shard: Shard) -> Iterator[PendingBlock]:
        """Deal the blocks to shards, and return those of this one, in order."""
        for number in np.flatnonzero(self._deal(shard.count) == shard.index - 1).tolist():
            end = self._firsts[number + 1] if number + 1 < len(self._firsts) else None
            yield PendingBlock(number, self.members[self._firsts[number] : end])

    def deal_indices(self, shard: Shard) -> NDArray[np.int64]:
        """Return the indices in the list of all utterances of this shard, in the order in which they are computed."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(block.indices for block in self.deal_blocks(shard))])

    def count_by_shard(self, members: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        """Count those of the chosen (members,) that each of ``count`` shards has: (count,)."""
        blocks = np.searchsorted(self._firsts, np.flatnonzero(members), side="right") - 1
        return np.bincount(self._deal(count)[blocks], minlength=count)

    def _deal(self, count: int) -> NDArray[np.int64]:
        """Assign each block to one of ``count`` shards: (blocks,), counted from 0.

        The dearest block comes first, each goes to the shard with the least cost until then: no shard ends later than
        another by more than a block (Graham, Bounds on multiprocessing timing anomalies, 1969).
        """
        dealt = np.zeros(len(self._firsts), dtype=np.int64)
        if count == 1:
            return dealt
        costs = self._block_costs()
        loads = [(0.0, shard) for shard in range(count)]
        for block in np.argsort(-costs, kind="stable").tolist():
            load, shard = loads[0]
            dealt[block] = shard
            heapq.heapreplace(loads, (load + float(costs[block]), shard))
        return dealt

    def _block_costs(self) -> NDArray[np.float64]:
        """Return the cost of each block: (blocks,)."""
        if self._costs is None:
            return np.diff(self._firsts, append=len(self.members)).astype(np.float64)
        if not len(self._firsts):
            return np.zeros(0)
        return np.add.reduceat(self._costs[self.members].astype(np.float64), self._firsts)


def estimate_costs(sizes: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """Estimate costs from durations of utterances, or anything they grow with: (utterances,); None if none is known.

    Args:
        sizes: (utterances,) duration of each; NaN if unknown, which counts as the mean of the others.
    """
    known = ~np.isnan(sizes)
    if not known.any():
        return None
    return np.where(known, sizes, sizes[known].mean()).astype(np.float32)


def _cut_blocks(count: int) -> NDArray[np.int64]:
    """Cut a list of ``count`` utterances into blocks: (blocks,), the index of the first of each."""
    fewest, most = BLOCK_SIZES
    largest = min(max(-(-count // BLOCKS), fewest), most)
    bulk = max(0, -(-(count - TAPER * largest) // largest))
    firsts = np.arange(bulk) * largest
    tail = []
    first = bulk * largest
    while first < count:
        tail.append(first)
        first += max(1, (count - first) // TAPER)
    return np.concatenate([firsts, np.array(tail, dtype=np.int64)])


def group_recordings(utterances: Iterable[Utterance]) -> Iterator[tuple[Utterance, ...]]:
    """Group neighbours that are decoded together: segments and channels of one recording."""
    for _, group in groupby(utterances, lambda utterance: utterance.recording):
        yield tuple(group)
