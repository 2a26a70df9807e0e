"""The launcher: start worker processes, send them blocks, receive their results, and replace workers that die.

A worker that dies loses no more than its unfinished blocks. Before these are computed again, ``triage`` finds out
whether one of their utterances killed it.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from e2v_cli.corpus.blocks import PendingBlock
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.journal.journal import FAILED, LEFT, WORKER_DIED
from e2v_cli.records import Block, DoneRecord, Failure
from e2v_cli.results.sinks import Sink
from e2v_cli.system.process import AdoptedProcess
from e2v_cli.system.progress import Progress
from e2v_cli.system.signals import StopSignals
from e2v_cli.system.text import redact
from e2v_cli.workers.messages import BlockDone, Crash, Fatal, Results, Started
from e2v_cli.workers.starter import Starter
from e2v_cli.workers.triage import CRASHES_TO_BLAME, Indices, Triage

logger = logging.getLogger(__name__)

STOP_SECONDS = 4.0
"""Seconds that workers have to finish their batches when e2v is asked to stop."""

WARNED_SECONDS = 50.0
"""Seconds that workers have to finish their batches when e2v is warned a minute before it is killed."""

_REAP_SECONDS = 5.0
"""Seconds that a process has to end after it has closed its pipe."""

_TICK = 0.2
"""Seconds after which signals are looked at when workers are silent."""

_PROBE = -1
"""The number of a block that is a probe."""


@dataclass(eq=False)
class _Worker:
    """A worker process, as its launcher sees it."""

    number: int
    process: BaseProcess | AdoptedProcess
    """The process of the worker; until it has been forked, that of the template."""
    connection: Connection
    waiting: bool = False
    """Whether the worker has no block and waits for one."""
    has_worked: bool = False
    """Whether the worker was sent a block: it asks for another when it has finished."""
    blocks: dict[int, PendingBlock] = field(default_factory=dict)
    """Blocks that the worker has not finished, by number."""
    probe: Indices | None = None
    """Indexes of the utterances that the worker probes; None: no probe."""
    error: str = ""
    """Unexpected error that the worker reported before it ended; empty: no report."""


class Launcher:
    """Distributes blocks among workers, one for each device, and commits their results to a sink."""

    def __init__(
        self,
        starter: Starter,
        corpus: Corpus,
        blocks: Iterator[PendingBlock],
        sink: Sink,
        progress: Progress,
        stop: StopSignals,
    ) -> None:
        self._starter = starter
        self._corpus = corpus
        self._blocks = blocks
        self._sink = sink
        self._progress = progress
        self._stop = stop
        self.in_hand: list[int] = []
        """Indexes of the unfinished utterances of workers when they were told to stop."""
        self._workers: list[_Worker] = []
        self._queue: deque[PendingBlock] = deque()
        """The next blocks to be sent."""
        self._triage = Triage(len(starter.devices), lambda index: corpus[index].utt_id)
        self._begun = False

    def run(self) -> None:
        """Have all blocks computed, or stop as soon as asked to.

        Raises:
            E2vError: a worker met an error that every worker would meet, workers die again and again, or results can't
                be written.
        """
        try:
            self._start_up_to(self._starter.num_at_once)
            while not self._stop.received:
                self._receive()
                self._distribute()
                if self._is_finished():
                    return
            self._stop_workers()
        finally:
            self._starter.close()
            for worker in self._workers:
                worker.process.kill()
            for worker in self._workers:
                worker.process.join()

    # -- start and stop ------------------------------------------------------------------------------------------------

    def _start_up_to(self, count: int) -> None:
        """Start the first workers, as far as they are not started yet."""
        for number in range(len(self._workers) + 1, count + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        self._workers.append(_Worker(number, *self._starter.start(number)))

    def _stop_workers(self) -> None:
        """Tell all workers to stop, and receive the results of their last batches for a while."""
        for worker in self._workers:
            self._answer(worker, None)
            for block in worker.blocks.values():
                self.in_hand += self._left_of(block).tolist()
        begun = time.monotonic()
        while any(worker.blocks for worker in self._workers):
            if time.monotonic() - begun > (WARNED_SECONDS if self._stop.warned else STOP_SECONDS):
                break
            self._receive()

    # -- receive -------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Handle all messages that have arrived, or wait a moment for one; then reap the workers that died."""
        done: list[DoneRecord] = []
        failures: list[Failure] = []
        dead: list[_Worker] = []
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout=_TICK):
            worker = by_connection[connection]  # type: ignore[index]
            for message in _read_messages(worker.connection):
                if message is None:
                    dead.append(worker)
                else:
                    self._handle(worker, message, done, failures)
        self._commit(done, failures)
        for worker in dead:
            self._reap(worker)

    def _handle(self, worker: _Worker, message: object, done: list[DoneRecord], failures: list[Failure]) -> None:
        """Handle a message; results are collected to be committed together."""
        match message:
            case Results():
                done += message.done
                failures += message.failures
            case BlockDone():
                worker.blocks.pop(message.number, None)
                if worker.probe is not None:
                    self._triage.probe_ended()
                    worker.probe = None
            case Started():
                worker.process = AdoptedProcess(message.pid)
            case "first":
                if not self._begun:
                    self._begun = True
                    self._sink.begin()
                    self._start_up_to(len(self._starter.devices))
                worker.waiting = not self._stop.received
            case "next":
                # At the end of the list no worker gets a block ahead that another one could begin.
                ahead = (
                    worker.probe is None
                    and not self._stop.received
                    and self._fill_queue(len(self._starter.devices) + 1)
                )
                self._answer(worker, self._queue.popleft() if ahead else None)
            case Crash():
                worker.error = message.description
            case Fatal():
                self._commit(done, failures)
                raise message.error

    def _commit(self, done: list[DoneRecord], failures: list[Failure]) -> None:
        """Commit results to the sink, and empty the lists."""
        if done or failures:
            self._sink.commit(done, failures)
            self._progress.advance(len(done) + len(failures), sum(record.duration for record in done))
            self._triage.note_progress()
            done.clear()
            failures.clear()

    def _reap(self, worker: _Worker) -> None:
        """Reap a dead worker, pass its blocks or its probe to the triage, and replace it.

        Raises:
            WorkerError: workers die again and again.
        """
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join(_REAP_SECONDS)
        cause = worker.error or _describe_exit(worker.process.exitcode)
        worker.process.kill()  # should it hang
        worker.process.join()
        if self._stop.received:
            return
        if worker.probe is None:
            logger.warning("worker %d died (%s); it is replaced, and its work is repeated", worker.number, cause)
            self._triage.worker_crashed([(block, self._left_of(block)) for block in worker.blocks.values()], cause)
        else:
            self._probe_crashed(worker.probe, cause)
        self._start(worker.number)

    def _probe_crashed(self, indices: Indices, cause: str) -> None:
        """Narrow down the candidates; the utterance that is to blame fails."""
        if len(indices) > 1:
            logger.warning("a worker died (%s) over one of %d utterances", cause, len(indices))
        else:
            logger.warning("a worker died (%s) over the utterance %s", cause, self._corpus[int(indices[0])].utt_id)
        to_blame = self._triage.probe_crashed(indices)
        if to_blame is not None:
            utterance = self._corpus[to_blame]
            detail = f"{redact(utterance.source)}: {CRASHES_TO_BLAME} workers died over it, the last: {cause}"
            self._commit([], [Failure(utterance, "model", WORKER_DIED, detail)])

    # -- send ----------------------------------------------------------------------------------------------------------

    def _distribute(self) -> None:
        """Send probes, and then blocks, to the workers that wait."""
        for worker in self._workers:
            if worker.waiting and (indices := self._triage.next_probe()) is not None:
                worker.probe = indices
                self._answer(worker, PendingBlock(_PROBE, indices))
        self._queue.extendleft(block for block in self._triage.release() if len(self._left_of(block)))
        for worker in self._workers:
            if worker.waiting and self._fill_queue(1):
                self._answer(worker, self._queue.popleft())

    def _is_finished(self) -> bool:
        """Whether all blocks are done and all their results received."""
        at_work = any(worker.blocks or (worker.has_worked and not worker.waiting) for worker in self._workers)
        return not at_work and not self._triage.holds_blocks() and not self._fill_queue(1)

    def _fill_queue(self, count: int) -> bool:
        """Fill the queue up to ``count`` blocks; return True if it has as many."""
        while len(self._queue) < count and (block := next(self._blocks, None)):
            self._queue.append(block)
        return len(self._queue) >= count

    def _answer(self, worker: _Worker, pending: PendingBlock | None) -> None:
        """Send a worker a block, or None."""
        block = None
        if pending is not None:
            worker.blocks[pending.number] = pending
            worker.has_worked = True
            block = self._read_block(pending, probe=worker.probe is not None)
        worker.waiting = False
        with suppress(OSError):  # a dead worker is found when its pipe is read
            worker.connection.send(block)

    def _read_block(self, pending: PendingBlock, probe: bool) -> Block:
        """Read the utterances of a block, except those that failed before they were in a batch."""
        indices = pending.indices
        status = self._sink.status[indices]
        utterances = tuple(self._corpus[index] for index in indices[status != FAILED].tolist())
        finished = frozenset(indices[(status != LEFT) & (status != FAILED)].tolist())
        return Block(pending.number, utterances, finished, probe)

    def _left_of(self, block: PendingBlock) -> Indices:
        """Return the utterances of a block that have no result yet."""
        left: Indices = block.indices[self._sink.status[block.indices] == LEFT]
        return left


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "it hangs"
    if code >= 0:
        return f"exit code {code}"
    known = {signum.value: signum.name for signum in signal.Signals}
    return f"killed by {known.get(-code, f'signal {-code}')}"


def _read_messages(connection: Connection) -> Iterator[object]:
    """Read the messages that have arrived; then None if the worker is gone."""
    try:
        while connection.poll():
            yield connection.recv()
    except (EOFError, OSError):
        yield None
