"""Stand-ins for engine, writer and launcher that record their calls, and a dozen short utterances for them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

import numpy as np
import torch

from e2v_cli.audio.decode import AudioOptions
from e2v_cli.inference.engine import Pending
from e2v_cli.options import ComputeOptions, InputOptions
from e2v_cli.records import Batch, Block, DoneRecord, Failure, Place, Prediction, Utterance
from e2v_cli.results.writer import make_done_record
from e2v_cli.workers.messages import BlockDone, Results

AUDIO = AudioOptions(InputOptions(()), ComputeOptions(), min_samples=400)
LABELS = ("sad", "happy")
BATCH_SECONDS = 4.0


class NotingEngine:
    """An engine that records its batches, and fails for some utterances.

    Args:
        fails: utterances that fail.
        at_start: called with the number of a batch when it is begun.
        at_end: called with that number when its results are requested.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        fails: Iterable[int] = (),
        at_start: Callable[[int], object] = lambda _: None,
        at_end: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.busy_seconds = 0.0
        self.batches: list[list[int]] = []
        self._fails, self._at_start, self._at_end = set(fails), at_start, at_end

    def start(self, batch: Batch) -> Pending:
        number = len(self.batches)
        self.batches.append([waveform.utterance.index for waveform in batch.waveforms])
        self._at_start(number)

        def finish() -> list[Prediction | Failure]:
            self._at_end(number)
            return self._encode(batch)

        return finish

    def _encode(self, batch: Batch) -> list[Prediction | Failure]:
        return [
            Failure(waveform.utterance, "model", "not finite", "NaN")
            if waveform.utterance.index in self._fails
            else Prediction(
                waveform.utterance,
                waveform.duration,
                49,
                1,
                np.array([0.25, 0.75], np.float32),
                np.zeros(1, np.float32),
            )
            for waveform in batch.waveforms
        ]


class NotingWriter:
    """A writer that records its predictions, and has no room for some utterances."""

    def __init__(self, full: Container[int] = ()) -> None:
        self.written: list[list[int]] = []
        self._full = full

    def write(self, predictions: Sequence[Prediction]) -> tuple[DoneRecord, ...]:
        if any(prediction.utterance.index in self._full for prediction in predictions):
            raise OSError(28, "No space left on device", "embeddings.ark")
        if predictions:
            self.written.append([prediction.utterance.index for prediction in predictions])
        return tuple(
            make_done_record(prediction, LABELS, Place(f"embeddings/{prediction.utterance.utt_id}.npy"), ())
            for prediction in predictions
        )


Report = tuple[list[int], list[int]] | int
"""Indexes of done and of failed utterances; or the number of a block."""


class NotingReporter:
    """A launcher that records reports, and decides when to stop."""

    def __init__(self, stop: Callable[[], bool] = lambda: False) -> None:
        self.messages: list[Results | BlockDone] = []
        self.stopping = stop

    def report(self, message: Results | BlockDone) -> None:
        self.messages.append(message)

    @property
    def reports(self) -> list[Report]:
        return [
            message.number
            if isinstance(message, BlockDone)
            else ([record.index for record in message.done], [failure.utterance.index for failure in message.failures])
            for message in self.messages
        ]


def cut(utterances: Sequence[Utterance], finished: Iterable[int] = (), probe: bool = False) -> list[Block]:
    """Make blocks of five."""
    return [
        Block(number, tuple(utterances[5 * number : 5 * number + 5]), frozenset(finished), probe) for number in range(3)
    ]


# Blocks are 0-4, 5-9 and 10-11; utterances 0, 6, 9 have 1 s, 1, 4, 7 have 2 s, 2, 5, 8, 11 have 3 s.
BATCHES = [[0, 1], [4], [2], [6, 9, 7], [5], [8], [11]]

REPORTS: list[Report] = [
    *(([0, 1], [3]), ([4], []), ([2], []), 0),
    *(([6, 9, 7], []), ([5], []), ([8], []), 1),
    *(([11], [10]), 2),
]

BATCH_INDICES = [index for index, report in enumerate(REPORTS) if isinstance(report, tuple)]
"""The index of each batch in the reports."""
