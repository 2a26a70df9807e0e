"""Where results go: standard output, or OUT with its journal. One process alone has the sink."""

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
from e2v_cli.results.tables import predictions_header
from e2v_cli.system.text import tsv_row
from e2v_cli.system.files import naming

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """What takes results in."""

    status: NDArray[np.uint8]
    """(utterances,): how each one stands, as in the journal."""

    def begin(self) -> None:
        """Note that models are loaded."""

    def commit(self, entries: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Take in results, and make them last."""


class StdoutSink:
    """Rows of predictions on standard output, in input order, each as soon as those before it are there."""

    def __init__(self, labels: Sequence[str], size: int, order: Iterator[int], started: float) -> None:
        """Print the header.

        Args:
            labels: the names of the classes, in the order of the posteriors.
            size: how many utterances the input has.
            order: the places of those that are computed.
            started: when the run began, by ``time.monotonic()``.
        """
        self.status = np.full(size, LEFT, dtype=np.uint8)
        self.elapsed = Elapsed()
        self._order = order
        self._next = next(order, None)
        self._rows: dict[int, str] = {}
        self._started = self._loaded = started
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
        sys.stdout.write(tsv_row(predictions_header(labels)) + "\n")

    def begin(self) -> None:
        """Note that models are loaded."""
        self._loaded = time.monotonic()

    def commit(self, entries: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Print what can be printed; what failed is said on standard error at once."""
        for failure in failures:
            logger.warning(_describe(failure))
            self._rows[failure.utterance.index] = ""
        for entry in entries:
            self._rows[entry.index] = entry.row + "\n"
        _note(self.status, entries, failures)
        self.elapsed = _add_up(self.elapsed, entries, failures, self._started, self._loaded)
        with naming(Path("standard output")):
            while self._next in self._rows:
                sys.stdout.write(self._rows.pop(self._next))
                self._next = next(self._order, None)
            sys.stdout.flush()


class JournalSink:
    """OUT: embeddings are on disk already, and the journal says so."""

    def __init__(self, journal: Journal, status: NDArray[np.uint8], started: float) -> None:
        """Begin an attempt.

        Args:
            journal: its journal.
            status: (utterances,) how each one stands.
            started: when the attempt began, by ``time.monotonic()``.
        """
        self.status = status
        self.elapsed = Elapsed()
        self._journal = journal
        self._started = self._loaded = started

    def begin(self) -> None:
        """Note that models are loaded."""
        self._loaded = time.monotonic()

    def commit(self, entries: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
        """Write to the journal."""
        for failure in failures:
            logger.info(_describe(failure))
        self.elapsed = _add_up(self.elapsed, entries, failures, self._started, self._loaded)
        self._journal.append(entries, failures, self.elapsed)
        _note(self.status, entries, failures)


def _describe(failure: Failure) -> str:
    return f"{failure.utterance.utt_id}: {failure.stage}: {failure.reason}: {failure.detail}"


def _note(status: NDArray[np.uint8], entries: Sequence[DoneRecord], failures: Sequence[Failure]) -> None:
    for entry in entries:
        status[entry.index] = DONE
    for failure in failures:
        status[failure.utterance.index] = failure_status(failure.stage, failure.reason)


def _add_up(
    elapsed: Elapsed, entries: Sequence[DoneRecord], failures: Sequence[Failure], started: float, loaded: float
) -> Elapsed:
    now = time.monotonic()
    return Elapsed(
        wall_seconds=now - started,
        encode_seconds=now - loaded,
        audio_seconds=elapsed.audio_seconds + sum(entry.duration for entry in entries),
        finished=elapsed.finished + len(entries) + len(failures),
    )
