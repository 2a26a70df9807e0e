"""Worker processes: blocks handed out as they become free, deaths, and the way home.

A worker that dies takes nothing along but what it had in hand. Whether an utterance is to blame is found out before
its blocks are given to anybody again: what was left of each is tried by workers that have nothing else in hand, then
halves of what a worker died over, down to single utterances; one under which a worker dies twice, alone, is not touched
any more.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.blocks import PendingBlock
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.errors import WorkerError
from e2v_cli.journal.journal import FAILED, LEFT, WORKER_DIED
from e2v_cli.records import Block, DoneRecord, Failure
from e2v_cli.results.sinks import Sink
from e2v_cli.system.progress import Progress
from e2v_cli.system.signals import STOP_SIGNALS
from e2v_cli.workers.pipeline import BlockDone, Results
from e2v_cli.workers.worker import Crash, Fatal, Job, run_worker

logger = logging.getLogger(__name__)

MAX_DEATHS = 10
"""So many workers may die with nothing in hand, most likely while they load the model, without any result."""

MAX_BLOCK_DEATHS = 5
"""So many workers may die over a block, of which no utterance alone is to blame, without any result of it."""

STRIKES = 2
"""An utterance under which so many workers died, alone, is to blame."""

STOP_SECONDS = 4.0
"""So long workers may take to finish their batch when e2v is asked to stop."""

_BURIAL_SECONDS = 5.0
"""So long a process that has closed its pipe may take to end."""

_TICK = 0.2
"""Seconds after which signals are looked at when workers are silent."""


@dataclass(eq=False)
class _Worker:
    """A worker process, as its launcher sees it."""

    number: int
    device: str
    process: BaseProcess
    connection: Connection
    waiting: bool = False
    """It has nothing in hand, and wished for a block."""
    has_worked: bool = False
    """It was given a block, and so has something to say when it comes to an end."""
    in_hand: dict[int, PendingBlock] = field(default_factory=dict)
    """Blocks it has not finished."""
    trial: NDArray[np.int64] | None = None
    """The places of the utterances that it tries."""
    last_words: str = ""


class Launcher:
    """Gives blocks to workers, one for each device, and what they return to a sink."""

    def __init__(
        self,
        job: Job,
        devices: Sequence[str],
        corpus: Corpus,
        blocks: Iterator[PendingBlock],
        sink: Sink,
        progress: Progress,
        stopping: Callable[[], bool],
    ) -> None:
        self._job = job
        self._devices = devices
        self._corpus = corpus
        self._blocks = blocks
        self._sink = sink
        self._progress = progress
        self._stopping = stopping
        self._workers: list[_Worker] = []
        self._queue: deque[PendingBlock] = deque()
        """Blocks to be given out next."""
        self._held: list[PendingBlock] = []
        """Blocks that wait until none of their utterances is suspected any more."""
        self._suspects: deque[NDArray[np.int64]] = deque()
        """Places of utterances that are to be tried together, one of which may be to blame."""
        self._strikes: Counter[int] = Counter()
        self._idle_deaths = 0
        self._block_deaths: dict[int, tuple[int, int]] = {}
        """Of each block, how much of it was left when a worker died, and how many died with so much left."""
        self._begun = False

    def run(self) -> None:
        """Have all blocks computed, or stop as soon as told to.

        Raises:
            E2vError: a worker could not go on, or results can't be kept.
        """
        try:
            for number, device in enumerate(self._devices, 1):
                self._start(number, device)
            while not self._stopping():
                self._receive()
                if self._hand_out():
                    return
            self._send_home()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()

    def _start(self, number: int, device: str) -> None:
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=run_worker, args=(there, self._job, number, device), daemon=True)
        # Until it can ignore them, a signal to the whole group would kill it. Starting the tracker unblocks them.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        self._workers.append(_Worker(number, device, process, here))

    def _receive(self) -> None:
        """Take in all messages that are there, or wait a moment for one; then see to who died."""
        entries: list[DoneRecord] = []
        failures: list[Failure] = []
        dead: list[_Worker] = []
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout=_TICK):
            worker = by_connection[connection]  # type: ignore[index]
            for message in _messages(worker.connection):
                if message is None:
                    dead.append(worker)
                else:
                    self._take_in(worker, message, entries, failures)
        self._commit(entries, failures)
        for worker in dead:
            self._bury(worker)

    def _take_in(self, worker: _Worker, message: object, entries: list[DoneRecord], failures: list[Failure]) -> None:
        match message:
            case Results():
                entries += message.entries
                failures += message.failures
            case BlockDone():
                worker.in_hand.pop(message.number, None)
                worker.trial = None
            case "first":
                if not self._begun:
                    self._sink.begin()
                self._begun = True
                worker.waiting = not self._stopping()
                if not worker.waiting:
                    self._give(worker, None)
            case "next":
                # At the end of the list nobody gets a block ahead that another one could begin.
                ahead = worker.trial is None and not self._stopping() and self._fill_queue(len(self._workers) + 1)
                self._give(worker, self._queue.popleft() if ahead else None)
            case Crash():
                worker.last_words = message.description
            case Fatal():
                self._commit(entries, failures)
                raise message.error

    def _hand_out(self) -> bool:
        """Give work to who waits for it; say whether there is nothing left, and nobody at work."""
        for worker in self._workers:
            if worker.waiting and self._suspects:
                worker.trial = self._suspects.popleft()
                self._give(worker, PendingBlock(-1, worker.trial))
        if not self._suspects and not any(worker.trial is not None for worker in self._workers):
            self._queue.extendleft(block for block in self._held if self._is_left(block))
            self._held = []
        for worker in self._workers:
            if worker.waiting and self._fill_queue(1):
                self._give(worker, self._queue.popleft())
        at_work = any(worker.in_hand or (worker.has_worked and not worker.waiting) for worker in self._workers)
        return not at_work and not self._held and not self._fill_queue(1)

    def _fill_queue(self, count: int) -> bool:
        """Have so many blocks ready, and say whether there are."""
        while len(self._queue) < count and (block := next(self._blocks, None)):
            self._queue.append(block)
        return len(self._queue) >= count

    def _is_left(self, block: PendingBlock) -> bool:
        return bool((self._sink.status[block.places] == LEFT).any())

    def _give(self, worker: _Worker, share: PendingBlock | None) -> None:
        block = None
        if share is not None:
            worker.in_hand[share.number] = share
            worker.has_worked = True
            block = self._make_block(share, trial=worker.trial is not None)
        worker.waiting = False
        with suppress(OSError):  # where it is dead, that shows when it is listened to
            worker.connection.send(block)

    def _make_block(self, share: PendingBlock, trial: bool) -> Block:
        """Read a block, without utterances that are not to be touched."""
        places = share.places
        status = self._sink.status[places]
        utterances = tuple(self._corpus[place] for place in places[status != FAILED].tolist())
        finished = frozenset(places[(status != LEFT) & (status != FAILED)].tolist())
        return Block(share.number, utterances, finished, trial)

    def _commit(self, entries: list[DoneRecord], failures: list[Failure]) -> None:
        """Make results last."""
        if entries or failures:
            self._sink.commit(entries, failures)
            self._progress.advance(len(entries) + len(failures), sum(entry.duration for entry in entries))
            self._idle_deaths = 0
            entries.clear()
            failures.clear()

    def _bury(self, worker: _Worker) -> None:
        """See to what a worker leaves behind that has ended."""
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join(_BURIAL_SECONDS)
        cause = worker.last_words or _describe_exit(worker.process.exitcode)
        worker.process.kill()  # should it hang
        worker.process.join()
        if self._stopping():
            return
        if worker.trial is None:
            logger.warning(
                "worker %d died (%s); it is replaced, and what it was at is done again", worker.number, cause
            )
            self._suspect(worker, cause)
        else:
            self._strike(worker.trial, cause)
        self._start(worker.number, worker.device)

    def _suspect(self, worker: _Worker, cause: str) -> None:
        """Hold back what a dead worker had in hand, until it is known whether an utterance is to blame.

        Raises:
            WorkerError: workers die again and again.
        """
        next_move = "Try a smaller --jobs or --batch-seconds; what is done is safe, the same command goes on"
        if not worker.in_hand:
            self._idle_deaths += 1
            if self._idle_deaths == MAX_DEATHS:
                raise WorkerError(
                    f"{MAX_DEATHS} workers died in a row before they did anything, the last: {cause}. "
                    f"Is there memory for {len(self._devices)} of them? {next_move}"
                )
        for share in worker.in_hand.values():
            left = share.places[self._sink.status[share.places] == LEFT]
            left_before, deaths = self._block_deaths.get(share.number, (0, 0))
            deaths = deaths + 1 if len(left) == left_before else 1
            self._block_deaths[share.number] = (len(left), deaths)
            if deaths == MAX_BLOCK_DEATHS:
                raise WorkerError(
                    f"{deaths} workers died over the {len(left)} utterances from {self._corpus[left[0]].utt_id}, "
                    f"the last: {cause}; each of them alone does no harm. {next_move}"
                )
            self._held.append(share)
            if len(left):
                self._suspects.append(left)

    def _strike(self, places: NDArray[np.int64], cause: str) -> None:
        """Count a death against an utterance that was tried alone; of several, try each half."""
        if len(places) > 1:
            logger.warning("a worker died (%s) over one of %d utterances", cause, len(places))
            self._suspects.extendleft(reversed(np.array_split(places, 2)))
            return
        place = int(places[0])
        self._strikes[place] += 1
        utterance = self._corpus[place]
        logger.warning("a worker died (%s) over nothing but %s", cause, utterance.utt_id)
        if self._strikes[place] < STRIKES:
            self._suspects.appendleft(places)
        else:
            detail = f"{utterance.source}: {STRIKES} workers died over it, the last: {cause}"
            self._commit([], [Failure(utterance, "model", WORKER_DIED, detail)])

    def _send_home(self) -> None:
        """Let workers finish and report the batch that they are at, for a few seconds."""
        for worker in self._workers:
            self._give(worker, None)
        deadline = time.monotonic() + STOP_SECONDS
        while any(worker.in_hand for worker in self._workers) and time.monotonic() < deadline:
            self._receive()


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "it hangs"
    if code >= 0:
        return f"exit code {code}"
    known = {signum.value: signum.name for signum in signal.Signals}
    return f"killed by {known.get(-code, f'signal {-code}')}"


def _messages(connection: Connection) -> Iterator[object]:
    """Read the messages that are there; None at the end, when the other side is gone."""
    try:
        while connection.poll():
            yield connection.recv()
    except (EOFError, OSError):
        yield None
