"""Where results go: standard output, or OUT with its embeddings and its journal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence, Set
from typing import Protocol

from e2v_cli.journal import Elapsed, Journal, Line
from e2v_cli.records import Failure, FailureEntry, Prediction, Utterance
from e2v_cli.tables import make_entry, predictions_header, predictions_row, tsv_line
from e2v_cli.writers import EmbeddingWriter

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """What takes results in."""

    def is_finished(self, utterance: Utterance, /) -> bool:
        """Say whether an utterance is already finished."""

    def fail(self, failure: Failure) -> None:
        """Take in a failure."""

    def commit(self, results: Sequence[Prediction | Failure]) -> None:
        """Take in new results, and make them and all failures so far last."""


class StdoutSink:
    """Rows of predictions on standard output, in input order, each as soon as those before it are there."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.done = self.failed = 0
        self.audio_seconds = 0.0
        self._rows: dict[int, str] = {}
        self._next = 0
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
        sys.stdout.write(tsv_line(predictions_header(labels)))

    def is_finished(self, _utterance: Utterance, /) -> bool:
        """Nothing is known of earlier runs."""
        return False

    def fail(self, failure: Failure) -> None:
        """Say on standard error what failed, at once."""
        logger.warning("%s: %s: %s: %s", failure.utterance.utt_id, failure.stage, failure.reason, failure.detail)
        self.failed += 1
        self._rows[failure.utterance.index] = ""

    def commit(self, results: Sequence[Prediction | Failure]) -> None:
        """Print what can be printed."""
        for result in results:
            if isinstance(result, Failure):
                self.fail(result)
            else:
                self.done += 1
                self.audio_seconds += result.duration
                self._rows[result.utterance.index] = tsv_line(predictions_row(make_entry(result, self.labels, None)))
        while self._next in self._rows:
            sys.stdout.write(self._rows.pop(self._next))
            self._next += 1
        sys.stdout.flush()


class DirectorySink:
    """OUT: embeddings on disk, and behind them the journal's lines."""

    def __init__(
        self,
        journal: Journal,
        writer: EmbeddingWriter,
        labels: Sequence[str],
        finished: Set[str],
        started: float,
    ) -> None:
        """Begin an attempt.

        Args:
            journal: where results are recorded.
            writer: where embeddings go.
            labels: the names of the classes, in the order of the posteriors.
            finished: ids that the journal had when the run began.
            started: when the run began, by ``time.monotonic()``; encoding begins now.
        """
        self.journal = journal
        self.writer = writer
        self.labels = labels
        self._finished = finished
        self._started, self._loaded = started, time.monotonic()
        self._attempt = len(journal.record.attempts) + 1
        self._failures: list[Failure] = []

    def is_finished(self, utterance: Utterance, /) -> bool:
        """Say whether the journal had it when the run began."""
        return utterance.utt_id in self._finished

    def fail(self, failure: Failure) -> None:
        """Keep a failure for the next commit."""
        logger.info("%s: %s: %s: %s", failure.utterance.utt_id, failure.stage, failure.reason, failure.detail)
        self._failures.append(failure)

    def commit(self, results: Sequence[Prediction | Failure]) -> None:
        """Put embeddings on disk, and then what is done and what failed in the journal."""
        for result in results:
            if isinstance(result, Failure):
                self.fail(result)
        predictions = [result for result in results if isinstance(result, Prediction)]
        places = self.writer.write(predictions)
        lines: list[Line] = [
            make_entry(prediction, self.labels, place) for prediction, place in zip(predictions, places, strict=True)
        ]
        lines += [FailureEntry(f.utterance.utt_id, f.stage, f.reason, f.detail) for f in self._failures]
        self._failures = []
        if lines:
            now = time.monotonic()
            self.journal.append([*lines, Elapsed(self._attempt, now - self._started, now - self._loaded)])
