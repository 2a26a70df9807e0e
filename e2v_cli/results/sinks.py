"""Sinks of the launcher's results: standard output, or the journal of OUT. Only one process has the sink."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.journal.journal import DONE, LEFT, Elapsed, Journal, failure_status
from e2v_cli.journal.reasons import Reasons
from e2v_cli.records import DoneRecord, Failure
from e2v_cli.results.rows import RowPrinter
from e2v_cli.results.tables import prediction_row

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """The receiver of results."""

    status: NDArray[np.uint8]
    """(utterances,): the status of each, as in the journal."""
    reasons: Reasons
    """Reasons of the failures."""

    def begin(self) -> None:
        """Note that models are loaded."""

    def commit(self, done: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Commit results: print them, or record them durably."""


class StdoutSink:
    """Rows of predictions, or of spans, on standard output, in input order, each as soon as all before it are."""

    def __init__(self, printer: RowPrinter, size: int, order: Iterator[int], started: float) -> None:
        """Begin without results.

        Args:
            printer: printer of rows with the cells of ``prediction_row``, or of ``timeline.tsv``.
            size: number of utterances of the input.
            order: indexes of the utterances that are computed.
            started: when the run began, by ``time.monotonic()``.
        """
        self.status = np.full(size, LEFT, dtype=np.uint8)
        self.reasons = Reasons(size)
        self.elapsed = Elapsed()
        self._order = order
        self._next = next(order, None)
        self._printer = printer
        self._rows: dict[int, Sequence[Sequence[str]]] = {}
        """Rows, by index, of utterances that wait for earlier ones; empty for one that failed."""
        self._started = self._loaded = started

    def begin(self) -> None:
        """Note that models are loaded."""
        self._loaded = time.monotonic()

    def commit(self, done: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Print all rows that are next in input order; failures are logged at once, since nothing else keeps them."""
        for failure in failures:
            logger.error(_describe_failure(failure))
            self._rows[failure.utterance.index] = ()
        for record in done:
            spans = record.rows.split("\n")[:-1]
            self._rows[record.index] = [span.split("\t") for span in spans] or [prediction_row(record)]
        _note_status(self, done, failures)
        self.elapsed = _add_elapsed(self.elapsed, done, failures, self._started, self._loaded)
        rows: list[Sequence[str]] = []
        while self._next in self._rows:
            rows += self._rows.pop(self._next)
            self._next = next(self._order, None)
        self._printer.print(rows)

    def end(self) -> None:
        """Print the rows that wait for others before them: a run that was stopped leaves gaps."""
        self._printer.print(row for index in sorted(self._rows) for row in self._rows.pop(index))


class JournalSink:
    """The journal of OUT; embeddings are on disk before a commit."""

    def __init__(self, journal: Journal, status: NDArray[np.uint8], reasons: Reasons, started: float) -> None:
        """Begin an attempt.

        Args:
            journal: journal of the attempt.
            status: (utterances,): the status of each.
            reasons: reasons of the failures so far.
            started: when the attempt began, by ``time.monotonic()``.
        """
        self.status, self.reasons = status, reasons
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
        _note_status(self, done, failures)

    def rewrite(self, done: Sequence[DoneRecord]) -> None:
        """Append results to the journal again that have other timelines now; no audio was encoded for them."""
        self._journal.append(done, (), self.elapsed)
        _note_status(self, done, ())


def _describe_failure(failure: Failure) -> str:
    return f"{failure.utterance.utt_id}: {failure.stage}: {failure.reason}: {failure.detail}"


def _note_status(sink: Sink, done: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
    for record in done:
        sink.status[record.index] = DONE
    for failure in failures:
        index = failure.utterance.index
        sink.status[index] = failure_status(failure.stage, failure.reason)
        sink.reasons.numbers[index] = sink.reasons.number(failure.reason)


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
