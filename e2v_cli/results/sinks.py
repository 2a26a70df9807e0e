"""Sinks of the launcher's results: standard output, or the journal of OUT. Only one process has the sink."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.journal.journal import DONE, LEFT, Elapsed, Journal, failure_status
from e2v_cli.records import DoneRecord, Failure
from e2v_cli.results.tables import predictions_row
from e2v_cli.system.files import naming
from e2v_cli.system.text import tsv_row

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """The receiver of results."""

    status: NDArray[np.uint8]
    """(utterances,): the status of each, as in the journal."""

    def begin(self) -> None:
        """Note that models are loaded."""

    def commit(self, done: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Commit results: print them, or record them durably."""


class StdoutSink:
    """Rows of predictions, or of spans, on standard output, in input order, each as soon as all before it are."""

    def __init__(self, header: Sequence[str], size: int, order: Iterator[int], started: float) -> None:
        """Print the header.

        Args:
            header: the columns.
            size: number of utterances of the input.
            order: indexes of the utterances that are computed.
            started: when the run began, by ``time.monotonic()``.
        """
        self.status = np.full(size, LEFT, dtype=np.uint8)
        self.elapsed = Elapsed()
        self._order = order
        self._next = next(order, None)
        self._lines: dict[int, str] = {}
        self._started = self._loaded = started
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
        sys.stdout.write(tsv_row(header) + "\n")

    def begin(self) -> None:
        """Note that models are loaded."""
        self._loaded = time.monotonic()

    def commit(self, done: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Print all rows that are next in input order; failures are logged at once."""
        for failure in failures:
            logger.warning(_describe_failure(failure))
            self._lines[failure.utterance.index] = ""
        for record in done:
            self._lines[record.index] = record.rows or tsv_row(predictions_row(record)) + "\n"
        _note_status(self.status, done, failures)
        self.elapsed = _add_elapsed(self.elapsed, done, failures, self._started, self._loaded)
        with naming(Path("standard output")):
            while self._next in self._lines:
                sys.stdout.write(self._lines.pop(self._next))
                self._next = next(self._order, None)
            sys.stdout.flush()

    def end(self) -> None:
        """Print the rows that wait for others before them: a run that was stopped leaves gaps."""
        with naming(Path("standard output")):
            for index in sorted(self._lines):
                sys.stdout.write(self._lines.pop(index))
            sys.stdout.flush()


class JournalSink:
    """The journal of OUT; embeddings are on disk before a commit."""

    def __init__(self, journal: Journal, status: NDArray[np.uint8], started: float) -> None:
        """Begin an attempt.

        Args:
            journal: its journal.
            status: (utterances,): the status of each.
            started: when the attempt began, by ``time.monotonic()``.
        """
        self.status = status
        self.elapsed = Elapsed()
        self._journal = journal
        self._started = self._loaded = started

    def begin(self) -> None:
        """Note that models are loaded."""
        self._loaded = time.monotonic()

    def commit(self, done: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Append results to the journal."""
        for failure in failures:
            logger.info(_describe_failure(failure))
        self.elapsed = _add_elapsed(self.elapsed, done, failures, self._started, self._loaded)
        self._journal.append(done, failures, self.elapsed)
        _note_status(self.status, done, failures)


def _describe_failure(failure: Failure) -> str:
    return f"{failure.utterance.utt_id}: {failure.stage}: {failure.reason}: {failure.detail}"


def _note_status(status: NDArray[np.uint8], done: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
    for record in done:
        status[record.index] = DONE
    for failure in failures:
        status[failure.utterance.index] = failure_status(failure.stage, failure.reason)


def _add_elapsed(
    elapsed: Elapsed, done: Sequence[DoneRecord], failures: Sequence[Failure], started: float, loaded: float
) -> Elapsed:
    now = time.monotonic()
    return Elapsed(
        wall_seconds=now - started,
        encode_seconds=now - loaded,
        audio_seconds=elapsed.audio_seconds + sum(record.duration for record in done),
        finished=elapsed.finished + len(done) + len(failures),
    )
