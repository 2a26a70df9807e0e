"""The worker's loop, with an engine and a sink that take notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from e2v_cli import batching
from e2v_cli.progress import Progress
from e2v_cli.records import Batch, Failure, Prediction, Utterance
from e2v_cli.worker import work


class NotingEngine:
    """Notes which utterances it was given together."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def encode(self, batch: Batch) -> list[Prediction | Failure]:
        self.batches.append([waveform.utterance.index for waveform in batch.waveforms])
        return [
            Prediction(waveform.utterance, waveform.duration, 1, 1, None, np.zeros(1, np.float32))
            for waveform in batch.waveforms
        ]


class NotingSink:
    """Notes what it was given; knows some utterances from the start."""

    def __init__(self, finished: Iterable[int] = ()) -> None:
        self.finished = set(finished)
        self.commits: list[list[int]] = []
        self.failed: list[int] = []

    def is_finished(self, utterance: Utterance, /) -> bool:
        return utterance.index in self.finished

    def fail(self, failure: Failure) -> None:
        self.failed.append(failure.utterance.index)

    def commit(self, results: Sequence[Prediction | Failure]) -> None:
        if results:
            self.commits.append([result.utterance.index for result in results])


@pytest.fixture
def utterances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    """Twelve utterances of 1 to 3 s, two of them missing, in blocks of five."""
    monkeypatch.setattr(batching, "BLOCK_UTTERANCES", 5)
    listed = [Utterance(index, f"utt{index}", str(tmp_path / f"{index}.wav")) for index in range(12)]
    for utterance in listed:
        if utterance.index not in (3, 10):
            soundfile.write(utterance.path, np.zeros(16_000 * (1 + utterance.index % 3)), 16_000)
    return listed


# Blocks are 0-4, 5-9 and 10-11; utterances 0, 6, 9 have 1 s, 1, 4, 7 have 2 s, 2, 5, 8, 11 have 3 s.
BATCHES = [[0, 1], [4], [2], [6, 9, 7], [5], [8], [11]]


def run(utterances: Sequence[Utterance], sink: NotingSink, stop_after: int = 1000) -> list[list[int]]:
    engine = NotingEngine()
    progress = Progress(len(utterances), "none")
    work(utterances, engine, sink, progress, 400, 4.0, lambda: len(engine.batches) >= stop_after)
    return engine.batches


def test_blocks_are_batched_by_length_and_failures_noted(utterances: list[Utterance]) -> None:
    sink = NotingSink()
    assert run(utterances, sink) == BATCHES
    assert sink.commits == BATCHES
    assert sink.failed == [3, 10]


@pytest.mark.parametrize("finished_batches", range(len(BATCHES) + 1))
def test_finished_batches_are_not_computed_again_and_others_are_the_same(
    finished_batches: int, utterances: list[Utterance]
) -> None:
    finished = [index for batch in BATCHES[:finished_batches] for index in batch]
    sink = NotingSink([*finished, 3])
    assert run(utterances, sink) == BATCHES[finished_batches:]
    assert sink.failed == [10]


def test_a_batch_that_is_partly_finished_is_computed_whole(utterances: list[Utterance]) -> None:
    everything_but_9 = set(range(12)) - {9}
    assert run(utterances, NotingSink(everything_but_9)) == [[6, 9, 7]]


@pytest.mark.parametrize("stop_after", range(len(BATCHES)))
def test_it_stops_behind_the_batch_that_it_was_told_to_stop_in(stop_after: int, utterances: list[Utterance]) -> None:
    sink = NotingSink()
    assert run(utterances, sink, stop_after) == BATCHES[:stop_after]
    assert sink.commits == BATCHES[:stop_after]


def test_a_finished_list_opens_no_audio(utterances: list[Utterance]) -> None:
    for utterance in utterances:
        Path(utterance.path).unlink(missing_ok=True)
    sink = NotingSink(range(12))
    assert run(utterances, sink) == []
    assert sink.failed == []
