"""The pipeline on one device, on one screen; and the process around it, which takes blocks and gives results."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from types import FrameType
from typing import TYPE_CHECKING, Literal

from e2v_cli.audio.decode import AudioOptions
from e2v_cli.errors import DeviceError, E2vError, OutputError
from e2v_cli.inference.batches import BATCH_SECONDS
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import Weights
from e2v_cli.options import EmbeddingOptions, EngineName, EngineOptions, Shard
from e2v_cli.records import Block
from e2v_cli.results.writer import ResultWriter
from e2v_cli.system.logs import log_to_file, log_to_stderr
from e2v_cli.system.process import die_with_parent, keep_heap
from e2v_cli.system.signals import STOP_SIGNALS

if TYPE_CHECKING:
    from e2v_cli.inference.engine import Engine

from e2v_cli.workers.pipeline import BlockDone, Results, work

logger = logging.getLogger(__name__)


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

        from e2v_cli.inference.load import load_engine
    except (ImportError, OSError) as error:
        raise DeviceError(f"PyTorch can't be loaded: {error}; install it again") from None
    if device == "cpu":
        torch.set_num_threads(1)
        keep_heap()
    engine = load_engine(job.engine, job.model, job.weights, torch.device(device), job.engine_options)
    logger.info("%s is loaded on %s", job.model.name, device)
    return engine
