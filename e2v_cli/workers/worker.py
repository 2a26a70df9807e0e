"""The worker process: set-up, the pipe to the launcher, and the pipeline for the blocks that come through it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from threading import Lock
from typing import TYPE_CHECKING

from e2v_cli.audio.decode import AudioOptions
from e2v_cli.errors import E2vError, OutputError
from e2v_cli.inference.load import load_engine, prepare_process
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import Weights
from e2v_cli.options import ComputeOptions, ResultOptions, Shard
from e2v_cli.records import Block
from e2v_cli.results.writer import ResultWriter
from e2v_cli.system.logs import log_library_notes, log_to_file, log_to_stderr
from e2v_cli.system.process import follow_parent
from e2v_cli.workers.messages import BlockDone, Crash, Fatal, Results, Wish
from e2v_cli.workers.pipeline import work

if TYPE_CHECKING:
    from e2v_cli.inference.engine import Engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSetup:
    """The set-up that all workers of a run share."""

    model: Model
    weights: Weights
    compute: ComputeOptions
    results: ResultOptions
    audio: AudioOptions
    shard: Shard
    decoders: int
    """Threads that decode, in each worker."""
    log_level: int
    """The lowest level that the first worker logs to standard error."""


class LauncherGoneError(Exception):
    """The launcher has ended."""


class LauncherLine:
    """A worker's end of the pipe to its launcher."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = Lock()
        self._stopping = False

    def report(self, message: Results | BlockDone | Fatal | Crash) -> None:
        """Send the launcher a message.

        Raises:
            LauncherGoneError: it has ended.
        """
        self._send(message)

    def stopping(self) -> bool:
        """Whether to stop: the launcher has sent something without a request."""
        self._stopping = self._stopping or self._connection.poll()
        return self._stopping

    def ask(self, wish: Wish) -> Block | None:
        """Request a block and return the answer; None, without a request, if told to stop before.

        Raises:
            LauncherGoneError: the launcher has ended.
        """
        if self._stopping:
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


def run_worker(connection: Connection, setup: WorkerSetup, number: int, load: Callable[[], Engine]) -> None:
    """Run a worker process: receive blocks from the launcher, and send it their results, until there are no more."""
    follow_parent()
    launcher = LauncherLine(connection)
    try:
        _open_logs(setup, number)
        engine = load()
        logger.info("%s is loaded on %s", setup.model.name, engine.device)
        writer = ResultWriter(setup.model.labels, setup.results, setup.shard)
        batch_seconds = setup.compute.batch_seconds_on(engine.device.type)
        while block := launcher.ask("first"):
            blocks = chain([block], iter(lambda: launcher.ask("next"), None))
            started, busy_before = time.monotonic(), engine.busy_seconds
            work(blocks, engine, writer, launcher, setup.audio, batch_seconds, setup.decoders)
            seconds, busy = time.monotonic() - started, engine.busy_seconds - busy_before
            logger.info("the encoder was busy for %.1f of %.1f s (%.1f %%)", busy, seconds, 100 * busy / seconds)
    except LauncherGoneError:
        pass
    except Exception as error:
        logger.info("cannot go on", exc_info=True)
        with suppress(LauncherGoneError):
            launcher.report(_classify(error))


def _classify(error: Exception) -> Fatal | Crash:
    """Return the message for an error: fatal if every worker would meet it, else a crash of this one."""
    if isinstance(error, E2vError):
        return Fatal(error)
    if isinstance(error, OSError):
        return Fatal(OutputError.of(error))
    return Crash(f"{type(error).__name__}: {error}")


def _open_logs(setup: WorkerSetup, number: int) -> None:
    if number == 1:
        log_to_stderr(setup.log_level)
    output_dir = setup.results.output_dir
    if output_dir is not None:
        path = output_dir / "log" / f"worker.{setup.shard.name}.{number}.log"
        log_to_file(path)
        log_library_notes(path)
    elif setup.log_level >= logging.ERROR:
        log_library_notes(os.devnull)


def load_for_worker(setup: WorkerSetup, device: str) -> Engine:
    """Prepare this process to compute on a device, and load the engine.

    Raises:
        E2vError: that of ``prepare_process`` or ``load_engine``.
    """
    prepare_process(device)
    return load_engine(setup.model, setup.weights, device, setup.compute, setup.results)
