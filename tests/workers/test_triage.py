"""Crash triage: the state machine alone, and in a simulation of workers that some utterances kill."""

from __future__ import annotations

import math
import random
import re
from collections import deque

import numpy as np
import pytest

from e2v_cli.corpus.blocks import PendingBlock
from e2v_cli.errors import WorkerError
from e2v_cli.workers.triage import CRASHES_TO_BLAME, MAX_BLOCK_CRASHES, MAX_IDLE_CRASHES, Indices, Triage

NEXT_MOVE = "Try a smaller --jobs or --batch-seconds; what is done is safe, the same command goes on"


def make_triage(num_workers: int = 2) -> Triage:
    return Triage(num_workers, "utt{}".format)


def make_block(number: int, *indices: int) -> PendingBlock:
    return PendingBlock(number, np.array(indices, dtype=np.int64))


def crash(triage: Triage, *blocks: PendingBlock, cause: str = "killed by SIGKILL") -> None:
    """Report a worker that crashed before any result of its blocks."""
    triage.worker_crashed([(block, block.indices) for block in blocks], cause)


def next_probe(triage: Triage) -> list[int] | None:
    indices = triage.next_probe()
    return None if indices is None else indices.tolist()


def probe_crashed(triage: Triage, *indices: int) -> int | None:
    return triage.probe_crashed(np.array(indices, dtype=np.int64))


def release(triage: Triage) -> list[int]:
    return [block.number for block in triage.release()]


def test_no_crash_means_no_probe_and_no_release() -> None:
    triage = make_triage()

    assert next_probe(triage) is None
    assert release(triage) == []
    assert not triage.holds_blocks()


def test_block_is_held_back_while_its_rest_is_probed() -> None:
    triage, block = make_triage(), make_block(7, 10, 11, 12, 13)

    triage.worker_crashed([(block, np.array([12, 13]))], "exit code 9")

    assert triage.holds_blocks()
    assert release(triage) == []
    assert next_probe(triage) == [12, 13]
    assert next_probe(triage) is None
    assert release(triage) == []  # the probe is under way
    assert triage.holds_blocks()
    triage.probe_ended()
    assert triage.release() == [block]
    assert not triage.holds_blocks()
    assert release(triage) == []


def test_blocks_of_a_worker_are_probed_apart_and_released_together() -> None:
    triage = make_triage()

    crash(triage, make_block(3, 0, 1), make_block(4, 2, 3))

    assert next_probe(triage) == [0, 1]
    triage.probe_ended()
    assert release(triage) == []
    assert next_probe(triage) == [2, 3]
    triage.probe_ended()
    assert release(triage) == [3, 4]


def test_finished_block_is_not_held_back() -> None:
    """Its worker died just before it reported the end."""
    triage = make_triage()

    triage.worker_crashed([(make_block(3, 0, 1), np.array([], dtype=np.int64))], "exit code 9")

    assert not triage.holds_blocks()
    assert next_probe(triage) is None


def test_halves_are_probed_down_to_single_utterances() -> None:
    """The sixth of seven is to blame."""
    triage = make_triage()
    crash(triage, make_block(0, *range(7)))
    probed = []

    while (indices := next_probe(triage)) is not None:
        probed.append(indices)
        if 5 not in indices:
            triage.probe_ended()
        elif probe_crashed(triage, *indices) is not None:
            break

    assert probed == [[*range(7)], [0, 1, 2, 3], [4, 5, 6], [4, 5], [4], [5], [5]]
    assert next_probe(triage) == [6]
    triage.probe_ended()
    assert release(triage) == [0]


def test_halves_come_before_other_candidates() -> None:
    triage = make_triage()
    crash(triage, make_block(0, 0, 1), make_block(1, 2, 3))
    assert next_probe(triage) == [0, 1]

    assert probe_crashed(triage, 0, 1) is None

    assert [next_probe(triage) for _ in range(4)] == [[0], [1], [2, 3], None]


def test_utterance_is_blamed_after_two_crashes_alone() -> None:
    assert CRASHES_TO_BLAME == 2
    triage = make_triage()
    crash(triage, make_block(5, 3))
    assert next_probe(triage) == [3]
    assert probe_crashed(triage, 3) is None
    assert release(triage) == []
    assert next_probe(triage) == [3]

    assert probe_crashed(triage, 3) == 3

    assert next_probe(triage) is None
    assert release(triage) == [5]


def test_one_crash_alone_is_not_enough_for_blame() -> None:
    """The machine may be short of memory for a moment."""
    triage = make_triage()
    crash(triage, make_block(5, 3))
    assert next_probe(triage) == [3]
    assert probe_crashed(triage, 3) is None
    assert next_probe(triage) == [3]

    triage.probe_ended()

    assert next_probe(triage) is None
    assert release(triage) == [5]


def test_crashes_of_an_utterance_alone_are_remembered() -> None:
    """It survived its second probe, and then its block killed a worker again."""
    triage = make_triage()
    for survives in (True, False):
        crash(triage, make_block(5, 3))
        assert next_probe(triage) == [3]
        blamed = probe_crashed(triage, 3)
        if survives:
            assert blamed is None
            assert next_probe(triage) == [3]
            triage.probe_ended()
        else:
            assert blamed == 3
        assert release(triage) == [5]


def test_several_workers_probe_at_once() -> None:
    """Blocks wait for the last probe; a worker may crash meanwhile."""
    triage = make_triage(3)
    crash(triage, make_block(0, 0, 1, 2, 3), make_block(1, 4, 5))
    assert [next_probe(triage) for _ in range(3)] == [[0, 1, 2, 3], [4, 5], None]
    assert probe_crashed(triage, 0, 1, 2, 3) is None
    assert next_probe(triage) == [0, 1]
    crash(triage, make_block(2, 6))
    triage.probe_ended()  # the probe of 4, 5
    assert release(triage) == []
    assert [next_probe(triage) for _ in range(3)] == [[2, 3], [6], None]
    triage.probe_ended()
    triage.probe_ended()
    assert release(triage) == []
    triage.probe_ended()
    assert release(triage) == [0, 1, 2]


# -- workers that crash again and again --------------------------------------------------------------------------------


def test_workers_that_crash_without_a_block_end_the_run() -> None:
    assert MAX_IDLE_CRASHES == 10
    triage = make_triage(3)
    for _ in range(9):
        crash(triage)
    assert not triage.holds_blocks()
    assert next_probe(triage) is None

    message = (
        f"10 workers died in a row before they did anything, the last: exit code 9. "
        f"Memory may be short for 3 of them. {NEXT_MOVE}"
    )
    with pytest.raises(WorkerError, match=f"^{re.escape(message)}$"):
        crash(triage, cause="exit code 9")


def test_progress_resets_the_crashes_without_a_block() -> None:
    triage = make_triage()
    for _ in range(5):
        for _ in range(9):
            crash(triage)
        triage.note_progress()
    for _ in range(9):
        crash(triage)

    with pytest.raises(WorkerError, match=r"^10 workers died in a row"):
        crash(triage)


def test_crashes_with_a_block_do_not_count_as_idle() -> None:
    triage = make_triage()
    for number in range(20):
        crash(triage, make_block(number, number))
        triage.worker_crashed([(make_block(100, 100), np.array([], dtype=np.int64))], "exit code 9")
    for _ in range(9):
        crash(triage)

    with pytest.raises(WorkerError, match=r"^10 workers died in a row"):
        crash(triage)


def survive_probes(triage: Triage) -> None:
    while next_probe(triage) is not None:
        triage.probe_ended()


def test_block_that_kills_only_as_a_whole_is_named() -> None:
    assert MAX_BLOCK_CRASHES == 5
    triage, block = make_triage(), make_block(2, 8, 9, 10)
    for _ in range(4):
        crash(triage, block)
        survive_probes(triage)
        assert release(triage) == [2]

    message = (
        f"5 workers died over the 3 utterances from utt8, the last: exit code 5; none of them crashes a worker alone. "
        f"{NEXT_MOVE}"
    )
    with pytest.raises(WorkerError, match=f"^{re.escape(message)}$"):
        crash(triage, block, cause="exit code 5")


def test_progress_in_a_block_resets_its_crashes() -> None:
    triage, block = make_triage(), make_block(2, *range(20))
    for left in range(20, 14, -1):
        for _ in range(4):
            triage.worker_crashed([(block, block.indices[-left:])], "exit code 5")
            survive_probes(triage)
            assert release(triage) == [2]

    with pytest.raises(WorkerError, match=r"^5 workers died over the 15 utterances from utt5, the last: exit code 5; "):
        triage.worker_crashed([(block, block.indices[-15:])], "exit code 5")


def test_progress_elsewhere_does_not_reset_the_crashes_of_a_block() -> None:
    triage, block = make_triage(), make_block(2, 8, 9)
    for number in range(4):
        crash(triage, block, make_block(100 + number, 100 + number))
        triage.note_progress()
        survive_probes(triage)
        assert release(triage) == [2, 100 + number]

    with pytest.raises(WorkerError, match=r"^5 workers died over the 2 utterances from utt8, "):
        crash(triage, block)


# -- simulation --------------------------------------------------------------------------------------------------------


class Simulation:
    """Workers that take turns at random; some utterances kill them whenever computed, and some stray crashes happen."""

    def __init__(self, seed: int, stray_crashes: int) -> None:
        self.random = random.Random(seed)
        self.count = self.random.randint(1, 120)
        share = self.random.choice([0.02, 0.1, 0.5, 1.0])
        self.killers = {index for index in range(self.count) if self.random.random() < share}
        self.blocks = self._cut()
        self.num_workers = self.random.randint(1, 5)
        self.in_hand: list[list[PendingBlock]] = [[] for _ in range(self.num_workers)]
        self.probes: list[Indices | None] = [None] * self.num_workers
        self.queue = deque(self.blocks)
        self.triage = make_triage(self.num_workers)
        self.done: set[int] = set()
        self.blamed: list[int] = []
        self.crashes = 0
        self.stray_crashes, self._stray_rate = stray_crashes, self.random.choice([0.3, 0.05, 0.01])

    def run(self) -> None:
        while self.queue or any(self.in_hand) or self.triage.holds_blocks():
            self._step(self.random.randrange(self.num_workers))
        assert self.probes == [None] * self.num_workers
        assert self.triage.next_probe() is None

    @property
    def most_crashes(self) -> int:
        """Each killer causes a crash with blocks, one in each larger group it is probed in, and two alone.

        A stray crash adds one: its groups of candidates survive their probes.
        """
        largest = max(len(block.indices) for block in self.blocks)
        return len(self.killers) * (1 + math.ceil(math.log2(largest)) + CRASHES_TO_BLAME)

    def _cut(self) -> list[PendingBlock]:
        blocks: list[PendingBlock] = []
        first = 0
        while first < self.count:
            end = min(self.count, first + self.random.randint(1, 40))
            blocks.append(make_block(len(blocks), *range(first, end)))
            first = end
        return blocks

    def _step(self, worker: int) -> None:
        blocks = self.in_hand[worker]
        if blocks and self.stray_crashes and self.random.random() < self._stray_rate:
            self.stray_crashes -= 1
            self._crash(worker)
        elif self.probes[worker] is not None:
            self._probe(worker)
        elif not blocks:
            self._hand_out(worker)
        elif len(blocks) < 2 and self.queue and self.random.random() < 0.3:  # one ahead
            blocks.append(self.queue.popleft())
        else:
            self._compute(worker)

    def _hand_out(self, worker: int) -> None:
        if (indices := self.triage.next_probe()) is not None:
            assert not self.done.intersection(indices.tolist())
            self.probes[worker] = indices
            self.in_hand[worker] = [PendingBlock(-1, indices)]
            return
        self.queue.extendleft(block for block in self.triage.release() if self._left_of(block))
        if self.queue:
            self.in_hand[worker] = [self.queue.popleft()]

    def _probe(self, worker: int) -> None:
        indices = self.probes[worker]
        assert indices is not None
        if self.killers.intersection(indices.tolist()):
            self._crash(worker)
        else:
            self.probes[worker], self.in_hand[worker] = None, []
            self.triage.probe_ended()

    def _compute(self, worker: int) -> None:
        left = self._left_of(self.in_hand[worker][0])
        if not left:
            self.in_hand[worker].pop(0)
            return
        batch = self.random.sample(left, self.random.randint(1, len(left)))
        if self.killers.intersection(batch):
            self._crash(worker)
        else:
            assert not self.done.intersection(batch)
            self.done.update(batch)
            self.triage.note_progress()

    def _crash(self, worker: int) -> None:
        self.crashes += 1
        indices, blocks = self.probes[worker], self.in_hand[worker]
        self.probes[worker], self.in_hand[worker] = None, []
        if indices is None:
            self.triage.worker_crashed([(block, np.array(self._left_of(block), np.int64)) for block in blocks], "9")
        elif (to_blame := self.triage.probe_crashed(indices)) is not None:
            self.blamed.append(to_blame)
            self.triage.note_progress()

    def _left_of(self, block: PendingBlock) -> list[int]:
        return [index for index in block.indices.tolist() if index not in self.done and index not in self.blamed]


@pytest.mark.parametrize("seed", range(60))
def test_only_killers_are_blamed_and_all_others_computed(seed: int) -> None:
    simulation = Simulation(seed, stray_crashes=0)

    simulation.run()

    assert sorted(simulation.blamed) == sorted(simulation.killers)
    assert simulation.done == set(range(simulation.count)) - simulation.killers
    assert simulation.crashes <= simulation.most_crashes


@pytest.mark.parametrize("seed", range(60))
def test_stray_crash_blames_no_utterance_and_costs_one_crash(seed: int) -> None:
    """The system may kill a worker for lack of memory while utterances kill others."""
    simulation = Simulation(seed, stray_crashes=1)

    simulation.run()

    assert sorted(simulation.blamed) == sorted(simulation.killers)
    assert simulation.done == set(range(simulation.count)) - simulation.killers
    assert simulation.crashes <= simulation.most_crashes + 1
