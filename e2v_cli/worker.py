"""The pipeline on one device, on one screen; and the process around it, which takes blocks and gives results."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from types import FrameType
from typing import TYPE_CHECKING, Literal, Protocol

from e2v_cli.audio import AudioOptions
from e2v_cli.batching import BATCH_SECONDS, group_recordings, make_batches
from e2v_cli.checkpoint import Model
from e2v_cli.decoding import decode_ahead
from e2v_cli.errors import DeviceError, E2vError, OutputError
from e2v_cli.logs import log_to_file, log_to_stderr
from e2v_cli.prepared import Weights
from e2v_cli.process import die_with_parent, keep_heap
from e2v_cli.records import Block, Entry, Failure, Prediction, Utterance, Waveform
from e2v_cli.settings import EmbeddingOptions, EngineName, EngineOptions, Shard
from e2v_cli.signals import STOP_SIGNALS
from e2v_cli.writers import ResultWriter

if TYPE_CHECKING:
    from e2v_cli.engine import Engine, Pending

logger = logging.getLogger(__name__)

FINISHING = 2
"""Batches, or ends of blocks, that may wait for their results being on disk while the next one is begun."""


@dataclass(frozen=True)
class Job:
    """What all workers of a run do alike."""

    model: Model
    weights: Weights
    engine: EngineName
    engine_options: EngineOptions
    audio: AudioOptions
    batch_seconds: float | None
    """None: as BATCH_SECONDS says."""
    embeddings: EmbeddingOptions
    output_dir: Path | None
    shard: Shard
    decoders: int
    """Threads that decode, in each worker."""
    log_level: int
    """What of its log the first worker also says on standard error."""


@dataclass(frozen=True)
class Results:
    """Worker → launcher: utterances whose embeddings are on disk, and such as failed."""

    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class BlockDone:
    """Worker → launcher: there is nothing left of a block."""

    number: int


@dataclass(frozen=True)
class Fatal:
    """Worker → launcher: nobody could go on."""

    error: E2vError


@dataclass(frozen=True)
class Crash:
    """Worker → launcher: something is wrong with what it has in hand, or with e2v; it ends."""

    description: str


Wish = Literal["first", "next"]
"""Worker → launcher: a block, please. For the first one it waits, having nothing in hand. For the next one it doesn't:
None says that there is none until it has nothing in hand. None for the first one, or unasked, sends it home."""


class LauncherGoneError(Exception):
    """The launcher is not there any more."""


class Writer(Protocol):
    """What puts results on disk."""

    def write(self, predictions: Sequence[Prediction]) -> tuple[Entry, ...]:
        """Put results on disk for good, and make what the journal is to say of them."""


class Reporter(Protocol):
    """Whom the loop tells what it has done."""

    def report(self, message: Results | BlockDone) -> None:
        """Take in results, or the end of a block."""

    def stopping(self) -> bool:
        """Say whether to stop."""


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

    A block is decoded and batched whole, so that its batches are those of a run that was never interrupted; a batch
    that is finished is not computed again.
    """
    in_hand: deque[Block] = deque()
    decoding = decode_ahead(_recordings(blocks, in_hand), audio, decoders, reporter.stopping)
    with closing(decoding) as decoded, _Finisher(writer, reporter) as finisher:
        for first in decoded:
            block = in_hand.popleft()
            failures: list[Failure] = []
            items = chain([first], islice(decoded, len(block.utterances) - 1))
            for batch in make_batches(_sound(items, failures, reporter), batch_seconds):
                if reporter.stopping():
                    return
                if all(waveform.utterance.index in block.finished for waveform in batch.waveforms):
                    continue
                logger.info("encoding %s", " ".join(waveform.utterance.utt_id for waveform in batch.waveforms))
                finisher.finish(block, engine.start(batch), failures)
            if failures:
                finisher.finish(block, list, failures)
            if reporter.stopping():
                return
            finisher.end(block)


def _recordings(blocks: Iterable[Block], in_hand: deque[Block]) -> Iterator[tuple[Utterance, ...]]:
    """Pass on what is decoded together: segments and channels of one recording."""
    for block in blocks:
        in_hand.append(block)
        yield from group_recordings(block.utterances)


def _sound(decoded: Iterable[Waveform | Failure], failures: list[Failure], reporter: Reporter) -> Iterator[Waveform]:
    """Pass waveforms on, and set failures aside, until told to stop."""
    for item in decoded:
        if reporter.stopping():
            return
        if isinstance(item, Waveform):
            yield item
        else:
            failures.append(item)


class _Finisher:
    """Waits for results, puts them on disk and reports them, in a thread, while the engine is at the next batch."""

    def __init__(self, writer: Writer, reporter: Reporter) -> None:
        self._writer = writer
        self._reporter = reporter
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> _Finisher:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what is pending, also where the work ends early."""
        with self._thread:
            self._wait_for_all_but(0)

    def finish(self, block: Block, pending: Pending, failures: list[Failure]) -> None:
        """Finish a batch, and take over the failures so far.

        Raises:
            E2vError: results of a batch before it could not be put on disk.
            LauncherGoneError: nobody wants to know.
        """
        self._submit(partial(self._finish, block, pending, tuple(failures)))
        failures.clear()

    def end(self, block: Block) -> None:
        """Report, after all its results, that there is nothing left of a block."""
        self._submit(partial(self._reporter.report, BlockDone(block.number)))

    def _submit(self, task: Callable[[], None]) -> None:
        self._pending.append(self._thread.submit(self._run, task))
        self._wait_for_all_but(FINISHING)

    def _run(self, task: Callable[[], None]) -> None:
        """Do one thing after the other, and nothing after one that failed."""
        if not self._failed:
            self._failed = True
            task()
            self._failed = False

    def _wait_for_all_but(self, count: int) -> None:
        while len(self._pending) > count:
            self._pending.popleft().result()

    def _finish(self, block: Block, pending: Pending, failures: Iterable[Failure]) -> None:
        """Put results on disk and report them, and failures, unless they were finished before."""
        results = [result for result in (*pending(), *failures) if result.utterance.index not in block.finished]
        predictions = [result for result in results if isinstance(result, Prediction)]
        new_failures = tuple(result for result in results if isinstance(result, Failure))
        if not block.trial and results:
            self._reporter.report(Results(self._writer.write(predictions), new_failures))


class LauncherLine:
    """A worker's end of the pipe to its launcher."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = Lock()
        self._sent_home = False

    def report(self, message: Results | BlockDone | Fatal | Crash) -> None:
        """Tell the launcher something."""
        self._send(message)

    def stopping(self) -> bool:
        """Say whether to stop: what comes without having been wished for sends a worker home."""
        self._sent_home = self._sent_home or self._connection.poll()
        return self._sent_home

    def ask(self, wish: Wish) -> Block | None:
        """Get a block."""
        if self._sent_home:
            return None
        self._send(wish)
        try:
            block: Block | None = self._connection.recv()
        except (EOFError, OSError):
            raise LauncherGoneError from None
        return block

    def _send(self, message: object) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            raise LauncherGoneError from None


def run_worker(connection: Connection, job: Job, number: int, device: str) -> None:
    """Be a worker process: get blocks from the launcher, and send it the results."""
    _follow_launcher()
    launcher = LauncherLine(connection)
    try:
        _keep_log(job, number)
        engine = _load_engine(job, device)
        output_dir = job.output_dir or Path()  # without OUT there is nothing to be put there
        writer = ResultWriter(output_dir, job.embeddings, job.engine_options.span_samples, job.model.labels, job.shard)
        batch_seconds = job.batch_seconds or BATCH_SECONDS[engine.device.type]
        while block := launcher.ask("first"):
            blocks = chain([block], iter(lambda: launcher.ask("next"), None))
            started, busy_before = time.monotonic(), engine.busy_seconds
            work(blocks, engine, writer, launcher, job.audio, batch_seconds, job.decoders)
            seconds, busy = time.monotonic() - started, engine.busy_seconds - busy_before
            logger.info("the encoder was busy for %.1f of %.1f s (%.1f %%)", busy, seconds, 100 * busy / seconds)
    except LauncherGoneError:
        pass
    except Exception as error:
        logger.info("cannot go on", exc_info=True)
        with suppress(LauncherGoneError):
            launcher.report(_last_words(error))


def _last_words(error: Exception) -> Fatal | Crash:
    """Say whether nobody could go on, or only this worker."""
    if isinstance(error, E2vError):
        return Fatal(error)
    if isinstance(error, OSError):
        return Fatal(OutputError.of(error))
    return Crash(f"{type(error).__name__}: {error}")


def _follow_launcher() -> None:
    """Leave signals to the launcher, which sends word, and die with it."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, _pass_over)  # to ignore them would be inherited by the commands of a list
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    launcher = multiprocessing.parent_process()
    if launcher is not None and launcher.pid is not None:
        die_with_parent(launcher.pid)


def _pass_over(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing."""


def _keep_log(job: Job, number: int) -> None:
    if number == 1:
        log_to_stderr(job.log_level)
    if job.output_dir is not None:
        log_to_file(job.output_dir / "log" / f"worker.{job.shard.name}.{number}.log")


def _load_engine(job: Job, device: str) -> Engine:
    if device == "cpu":  # as many threads as workers: more of them would wait for each other
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    try:
        import torch

        from e2v_cli.engine import load_engine
    except (ImportError, OSError) as error:
        raise DeviceError(f"PyTorch can't be loaded: {error}; install it again") from None
    if device == "cpu":
        torch.set_num_threads(1)
        keep_heap()
    engine = load_engine(job.engine, job.model, job.weights, torch.device(device), job.engine_options)
    logger.info("%s is loaded on %s", job.model.name, device)
    return engine
