"""Worker processes: blocks handed out as they become free, deaths, and the way home.

A worker that dies takes nothing along but what it had in hand. Whether an utterance is to blame is found out before
its blocks are given to anybody again: what was left of them is tried one at a time, by workers that have nothing else
in hand, and an utterance under which a worker dies twice is not touched any more.
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

from e2v_cli.corpus import Corpus
from e2v_cli.errors import WorkerError
from e2v_cli.journal import FAILED, LEFT, WORKER_DIED
from e2v_cli.progress import Progress
from e2v_cli.records import Block, Entry, Failure
from e2v_cli.sinks import Sink
from e2v_cli.worker import STOP_SIGNALS, BlockDone, Crash, Fatal, Job, Results, run_worker

logger = logging.getLogger(__name__)

MAX_DEATHS = 10
"""So many workers may die in a row without any result in between."""

STRIKES = 2
"""An utterance under which so many workers died, alone, is to blame."""

STOP_SECONDS = 4.0
"""So long workers may take to finish their batch when e2v is asked to stop."""

_BURIAL_SECONDS = 5.0
"""So long a process that has closed its pipe may take to end."""

_TICK = 0.2
"""Seconds after which signals are looked at when workers are silent."""

Places = tuple[int, NDArray[np.int64]]
"""A block that is not read yet: its number, and the places of its utterances."""


@dataclass(eq=False)
class _Worker:
    """A worker process, as its launcher sees it."""

    number: int
    device: str
    process: BaseProcess
    connection: Connection
    loaded: bool = False
    waiting: bool = False
    """It has nothing in hand, and wished for a block."""
    in_hand: dict[int, Places] = field(default_factory=dict)
    """Blocks it has not finished."""
    trial: int | None = None
    """The place of the utterance that it tries alone."""
    last_words: str = ""


class Launcher:
    """Gives blocks to workers, one for each device, and what they return to a sink."""

    def __init__(
        self,
        job: Job,
        devices: Sequence[str],
        corpus: Corpus,
        sink: Sink,
        progress: Progress,
        stopping: Callable[[], bool],
    ) -> None:
        self._job = job
        self._devices = devices
        self._corpus = corpus
        self._sink = sink
        self._progress = progress
        self._stopping = stopping
        self._workers: list[_Worker] = []
        self._queue: deque[Places] = deque()
        """Blocks to be given out next."""
        self._held: list[Places] = []
        """Blocks that wait until none of their utterances is suspected any more."""
        self._suspects: deque[int] = deque()
        self._strikes: Counter[int] = Counter()
        self._deaths = 0
        """Since the last result."""

    def run(self, blocks: Iterator[Places]) -> None:
        """Have all blocks computed, or stop as soon as told to.

        Raises:
            E2vError: a worker could not go on, or results can't be kept.
        """
        self._blocks = blocks
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
        entries: list[Entry] = []
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

    def _take_in(self, worker: _Worker, message: object, entries: list[Entry], failures: list[Failure]) -> None:
        match message:
            case Results():
                entries += message.entries
                failures += message.failures
            case BlockDone():
                worker.in_hand.pop(message.number, None)
                worker.trial = None
            case "first":
                if not any(other.loaded for other in self._workers):
                    self._sink.begin()
                worker.loaded = True
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
                self._give(worker, (-1, np.array([worker.trial])))
        if not self._suspects and not any(worker.trial is not None for worker in self._workers):
            self._queue.extendleft(block for block in self._held if self._is_left(block))
            self._held = []
        for worker in self._workers:
            if worker.waiting and self._fill_queue(1):
                self._give(worker, self._queue.popleft())
        at_work = any(worker.in_hand for worker in self._workers)
        return not at_work and not self._held and not self._fill_queue(1)

    def _fill_queue(self, count: int) -> bool:
        """Have so many blocks ready of which something is left, and say whether there are."""
        while len(self._queue) < count and (block := next(self._blocks, None)):
            if self._is_left(block):
                self._queue.append(block)
        return len(self._queue) >= count

    def _is_left(self, block: Places) -> bool:
        return bool((self._sink.status[block[1]] == LEFT).any())

    def _give(self, worker: _Worker, places: Places | None) -> None:
        block = None
        if places is not None:
            worker.in_hand[places[0]] = places
            block = self._make_block(*places, trial=worker.trial is not None)
        worker.waiting = False
        with suppress(OSError):  # where it is dead, that shows when it is listened to
            worker.connection.send(block)

    def _make_block(self, number: int, places: NDArray[np.int64], trial: bool) -> Block:
        """Read a block, without utterances that are not to be touched."""
        status = self._sink.status[places]
        utterances = tuple(self._corpus[place] for place in places[status != FAILED].tolist())
        finished = frozenset(places[(status != LEFT) & (status != FAILED)].tolist())
        return Block(number, utterances, finished, trial)

    def _commit(self, entries: list[Entry], failures: list[Failure]) -> None:
        """Make results last."""
        if entries or failures:
            self._sink.commit(entries, failures)
            self._progress.advance(len(entries) + len(failures), sum(entry.duration for entry in entries))
            self._deaths = 0
            entries.clear()
            failures.clear()

    def _bury(self, worker: _Worker) -> None:
        """See to what a worker leaves behind that has ended."""
        self._workers.remove(worker)
        worker.process.join(_BURIAL_SECONDS)
        if self._stopping():
            return
        cause = worker.last_words or _describe_exit(worker.process.exitcode)
        self._deaths += 1
        if worker.trial is None:
            logger.warning(
                "worker %d died (%s); it is replaced, and what it was at is done again", worker.number, cause
            )
            for places in worker.in_hand.values():
                self._held.append(places)
                self._suspects += places[1][self._sink.status[places[1]] == LEFT].tolist()
        else:
            self._strike(worker.trial, cause)
        if self._deaths == MAX_DEATHS:
            raise WorkerError(
                f"{MAX_DEATHS} workers died in a row, the last: {cause}. Is there memory for {len(self._devices)} of "
                "them? Try a smaller --jobs or --batch-seconds; what is done is safe, the same command goes on"
            )
        self._start(worker.number, worker.device)

    def _strike(self, place: int, cause: str) -> None:
        """Count a death against the utterance that was tried alone."""
        self._strikes[place] += 1
        utterance = self._corpus[place]
        logger.warning("a worker died (%s) over nothing but %s", cause, utterance.utt_id)
        if self._strikes[place] < STRIKES:
            self._suspects.appendleft(place)
        else:
            detail = f"{utterance.path}: {STRIKES} workers died over it, the last: {cause}"
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
    return f"killed by {signal.Signals(-code).name}"


def _messages(connection: Connection) -> Iterator[object]:
    """Read the messages that are there; None at the end, when the other side is gone."""
    try:
        while connection.poll():
            yield connection.recv()
    except (EOFError, OSError):
        yield None
