"""The pipeline on one device, on one screen: blocks → recordings → waveforms → batches → predictions → done records."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Protocol

from e2v_cli.audio.decode import AudioOptions
from e2v_cli.audio.prefetch import decode_ahead
from e2v_cli.corpus.blocks import group_recordings
from e2v_cli.inference.batches import make_batches
from e2v_cli.records import Block, DoneRecord, Failure, Prediction, Utterance, Waveform
from e2v_cli.system.process import trim_heap
from e2v_cli.workers.messages import BlockDone, Results

if TYPE_CHECKING:
    from e2v_cli.inference.engine import Engine, Pending

logger = logging.getLogger(__name__)

TRIMMING = 4
"""Batches between two calls of ``trim_heap``, each of which takes 1 to 3 % of the time of a batch on a CPU."""

FINISHING = 2
"""Batches, or ends of blocks, that may wait until their results are on disk while the next batch is computed."""


class Writer(Protocol):
    """The disk, for the pipeline."""

    def write(self, predictions: Sequence[Prediction]) -> tuple[DoneRecord, ...]:
        """Write predictions to disk durably, and return their done records."""


class Reporter(Protocol):
    """The launcher, for the pipeline."""

    def report(self, message: Results | BlockDone) -> None:
        """Report results, or the end of a block."""

    def stopping(self) -> bool:
        """Whether to stop."""


def work(
    blocks: Iterable[Block],
    engine: Engine,
    writer: Writer,
    reporter: Reporter,
    audio: AudioOptions,
    batch_seconds: float,
    decoders: int,
) -> None:
    """Recognise the utterances of blocks that are not finished yet, until there are no more or told to stop.

    A block is decoded and batched whole, so that its batches are the same as in a run that was never interrupted.
    Batches that are finished are not computed again.
    """
    in_hand: deque[Block] = deque()
    numbers = count(1)
    decoding = decode_ahead(_read_recordings(blocks, in_hand), audio, decoders, reporter.stopping)
    with closing(decoding) as decoded, _Finisher(writer, reporter) as finisher:
        for first in decoded:
            block = in_hand.popleft()
            failures: list[Failure] = []
            items = chain([first], islice(decoded, len(block.utterances) - 1))
            for batch in make_batches(_separate(items, failures, reporter), batch_seconds):
                if reporter.stopping():
                    return
                if all(waveform.utterance.index in block.finished for waveform in batch.waveforms):
                    continue
                logger.info("encoding %s", " ".join(waveform.utterance.utt_id for waveform in batch.waveforms))
                finisher.finish(block, engine.start(batch), failures)
                if next(numbers) % TRIMMING == 0:
                    trim_heap()
            if failures:
                finisher.finish(block, list, failures)
            if reporter.stopping():
                return
            finisher.end(block)


def _read_recordings(blocks: Iterable[Block], in_hand: deque[Block]) -> Iterator[tuple[Utterance, ...]]:
    """Yield the utterances of each recording, which are decoded together, and note their blocks."""
    for block in blocks:
        in_hand.append(block)
        yield from group_recordings(block.utterances)


def _separate(decoded: Iterable[Waveform | Failure], failures: list[Failure], reporter: Reporter) -> Iterator[Waveform]:
    """Yield waveforms, and append failures to the list, until told to stop."""
    for item in decoded:
        if reporter.stopping():
            return
        if isinstance(item, Waveform):
            yield item
        else:
            failures.append(item)


class _Finisher:
    """A thread that waits for results, writes and reports them, while the engine computes the next batch."""

    def __init__(self, writer: Writer, reporter: Reporter) -> None:
        self._writer = writer
        self._reporter = reporter
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> _Finisher:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish all pending batches, also after an error."""
        with self._thread:
            self._wait_for_all_but(0)

    def finish(self, block: Block, pending: Pending, failures: list[Failure]) -> None:
        """Finish a batch together with the failures so far, and empty their list.

        Raises:
            E2vError: results of an earlier batch could not be written.
            LauncherGoneError: the launcher has ended.
        """
        self._submit(partial(self._finish, block, pending, tuple(failures)))
        failures.clear()

    def end(self, block: Block) -> None:
        """Report the end of a block, after all its results."""
        self._submit(partial(self._reporter.report, BlockDone(block.number)))

    def _submit(self, task: Callable[[], None]) -> None:
        self._pending.append(self._thread.submit(self._run, task))
        self._wait_for_all_but(FINISHING)

    def _run(self, task: Callable[[], None]) -> None:
        """Run a task, unless an earlier one failed."""
        if not self._failed:
            self._failed = True
            task()
            self._failed = False

    def _wait_for_all_but(self, count: int) -> None:
        while len(self._pending) > count:
            self._pending.popleft().result()

    def _finish(self, block: Block, pending: Pending, failures: Iterable[Failure]) -> None:
        """Write and report the results and failures of utterances that were not finished before; none of a probe."""
        results = [result for result in (*pending(), *failures) if result.utterance.index not in block.finished]
        predictions = [result for result in results if isinstance(result, Prediction)]
        new_failures = tuple(result for result in results if isinstance(result, Failure))
        if not block.probe and results:
            self._reporter.report(Results(self._writer.write(predictions), new_failures))
