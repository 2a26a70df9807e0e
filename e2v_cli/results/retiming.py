"""Utterances that are done → their timelines with other lengths of spans, made of the frames on disk, not of audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.errors import OutputError
from e2v_cli.options import ResultOptions, Shard
from e2v_cli.records import DoneRecord, Prediction, Utterance
from e2v_cli.results.formats import EMBEDDING_FORMATS
from e2v_cli.results.writer import TimelineWriter


class FrameEngine(Protocol):
    """An engine that makes timelines of frames."""

    def make_timelines(self, frames: NDArray[np.float32], num_windows: int) -> tuple[NDArray[np.float32], ...]:
        """Make the timelines of an utterance from its frames: (spans, labels) each."""


class Retimer:
    """The maker of timelines of the length that is wanted now."""

    def __init__(
        self, output_dir: Path, results: ResultOptions, labels: tuple[str, ...], shard: Shard, engine: FrameEngine
    ) -> None:
        self._output_dir = output_dir
        read = EMBEDDING_FORMATS[results.embeddings].read
        if read is None:
            raise ValueError(f"{results.embeddings}: frames can't be read back")
        self._read = read
        self._engine = engine
        self._writer = TimelineWriter(output_dir, results.timelines, labels, shard)

    def retime(self, utterances: Sequence[Utterance], records: Sequence[DoneRecord]) -> list[DoneRecord]:
        """Write and sync the timelines of utterances, and return their records with the new places.

        Raises:
            OutputError: frames are missing or damaged.
            OSError: rows can't be written.
        """
        predictions = [self._predict(*pair) for pair in zip(utterances, records, strict=True)]
        places = self._writer.write(predictions)
        return [replace(record, timelines=own) for record, own in zip(records, places, strict=True)]

    def _predict(self, utterance: Utterance, record: DoneRecord) -> Prediction:
        place = self._output_dir / str(record.embedding)
        try:
            frames = self._read(place)
            if len(frames) != record.num_frames:
                raise ValueError(f"{len(frames)} frames instead of {record.num_frames}")
        except Exception as error:  # kaldiio raises anything
            raise OutputError(f"{place}: {error}; restore it, or use --overwrite") from None
        timelines = self._engine.make_timelines(frames, record.windows)
        return Prediction(utterance, record.duration, record.num_frames, record.windows, None, frames, timelines)
