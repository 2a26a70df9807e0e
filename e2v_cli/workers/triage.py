"""Crash triage: a state machine that finds utterances that kill workers, without processes, files or clocks.

An utterance to blame for a crash is found before the worker's blocks are computed again. The rest of each block is
probed: it is computed by a worker that has no other block, and the results are discarded. If a probe of several
utterances crashes, too, each half is probed next, down to single utterances. An utterance is to blame if two workers
crashed while probing it alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.blocks import PendingBlock
from e2v_cli.errors import WorkerError

MAX_IDLE_CRASHES = 10
"""Crashes in a row of workers without a block at which the run ends; most likely they load the model."""

MAX_BLOCK_CRASHES = 5
"""Crashes over a block without progress in it at which the run ends, although no utterance is to blame."""

CRASHES_TO_BLAME = 2
"""Crashes under an utterance that is probed alone, after which it is to blame."""

_NEXT_MOVE = "Try a smaller --jobs or --batch-seconds; what is done is safe, the same command goes on"

Indices = NDArray[np.int64]
"""(utterances,): indexes in the list."""


class Triage:
    """The candidates for the blame, and the blocks that are held back until all of them are probed."""

    def __init__(self, num_workers: int, name: Callable[[int], str]) -> None:
        """Begin without candidates.

        Args:
            num_workers: the workers of the run, for messages.
            name: the id of the utterance with an index, for messages.
        """
        self._num_workers = num_workers
        self._name = name
        self._candidates: deque[Indices] = deque()
        """Groups of utterances to be probed together, each with perhaps one to blame."""
        self._probes = 0
        """Number of probes under way."""
        self._held: list[PendingBlock] = []
        self._crashes: Counter[int] = Counter()
        """Crashes under each utterance that was probed alone, by its index in the list."""
        self._idle_crashes = 0
        self._block_crashes: dict[int, tuple[int, int]] = {}
        """Utterances left at the last crash, and successive crashes with that many left, by block number."""

    def holds_blocks(self) -> bool:
        """Whether blocks are held back."""
        return bool(self._held)

    def note_progress(self) -> None:
        """Note that an utterance was done or has failed."""
        self._idle_crashes = 0

    def worker_crashed(self, blocks: Iterable[tuple[PendingBlock, Indices]], cause: str) -> None:
        """Hold back the blocks of a crashed worker, and make the rest of each a group of candidates.

        Args:
            blocks: the worker's unfinished blocks, and the utterances of each without a result.
            cause: how the worker ended, for messages.

        Raises:
            WorkerError: workers crash again and again.
        """
        blocks = list(blocks)
        if not blocks:
            self._count_idle_crash(cause)
        for block, left in blocks:
            if len(left):
                self._count_block_crash(block, left, cause)
                self._held.append(block)
                self._candidates.append(left)

    def next_probe(self) -> Indices | None:
        """Begin the next probe: return the utterances to compute together, or None if there are no candidates."""
        if not self._candidates:
            return None
        self._probes += 1
        return self._candidates.popleft()

    def probe_ended(self) -> None:
        """Clear the utterances of a probe that ended without a crash."""
        self._probes -= 1

    def probe_crashed(self, indices: Indices) -> int | None:
        """Narrow down the candidates after a crash; return the index of the utterance to blame if it is certain.

        Args:
            indices: the utterances that were probed.
        """
        self._probes -= 1
        if len(indices) > 1:
            self._candidates.extendleft(reversed(np.array_split(indices, 2)))
            return None
        index = int(indices[0])
        self._crashes[index] += 1
        if self._crashes[index] < CRASHES_TO_BLAME:
            self._candidates.appendleft(indices)
            return None
        return index

    def release(self) -> list[PendingBlock]:
        """Return the blocks to be computed again, and hold them no longer; empty until all candidates are probed."""
        if self._candidates or self._probes:
            return []
        released, self._held = self._held, []
        return released

    def _count_idle_crash(self, cause: str) -> None:
        self._idle_crashes += 1
        if self._idle_crashes == MAX_IDLE_CRASHES:
            raise WorkerError(
                f"{MAX_IDLE_CRASHES} workers died in a row before they did anything, the last: {cause}. "
                f"Memory may be short for {self._num_workers} of them. {_NEXT_MOVE}"
            )

    def _count_block_crash(self, block: PendingBlock, left: Indices, cause: str) -> None:
        left_before, crashes = self._block_crashes.get(block.number, (0, 0))
        crashes = crashes + 1 if len(left) == left_before else 1
        self._block_crashes[block.number] = (len(left), crashes)
        if crashes == MAX_BLOCK_CRASHES:
            raise WorkerError(
                f"{crashes} workers died over the {len(left)} utterances from {self._name(int(left[0]))}, "
                f"the last: {cause}; none of them crashes a worker alone. {_NEXT_MOVE}"
            )
