"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from e2v_cli.options import EmbeddingOptions, Shard
from e2v_cli.records import SAMPLE_RATE, DoneRecord, Prediction
from e2v_cli.results.embeddings import GrowingFile, open_writer
from e2v_cli.results.tables import make_entry
from e2v_cli.results.timeline import timeline_rows


class ResultWriter:
    """Everything of a prediction that is too much for a journal."""

    def __init__(
        self,
        output_dir: Path,
        options: EmbeddingOptions,
        span_samples: int | None,
        labels: tuple[str, ...],
        shard: Shard,
    ) -> None:
        """Choose the writers that the options ask for.

        Args:
            output_dir: OUT.
            options: how embeddings are written.
            span_samples: of the timeline, at 16 kHz; None: there is none.
            labels: the model's, in its order.
            shard: which files are named after.
        """
        self._labels = labels
        self._embeddings = open_writer(output_dir, options, shard)
        self._timeline = None if span_samples is None else TimelineWriter(output_dir, span_samples, labels, shard)

    def write(self, predictions: Sequence[Prediction]) -> tuple[DoneRecord, ...]:
        """Put results on disk for good, and make what the journal is to say of them.

        Raises:
            OSError: they can't be written.
        """
        places = self._embeddings.write(predictions)
        timelines = self._timeline.write(predictions) if self._timeline else [""] * len(predictions)
        return tuple(
            make_entry(prediction, self._labels, place, timeline)
            for prediction, place, timeline in zip(predictions, places, timelines, strict=True)
        )


class TimelineWriter:
    """``timeline.2-of-3.N``: rows of ``timeline.tsv``, in the order in which utterances were finished."""

    def __init__(self, output_dir: Path, span_samples: int, labels: tuple[str, ...], shard: Shard) -> None:
        self._hop = span_samples / SAMPLE_RATE
        self._labels = labels
        self._file = GrowingFile(output_dir, f"timeline.{shard.name}.", "")

    def write(self, predictions: Sequence[Prediction]) -> list[str]:
        """Append rows, to the disk itself. A place says where an utterance's begin, and how many bytes they are."""
        places: list[str] = []
        if not predictions:
            return places
        with self._file.growing() as file:
            for prediction in predictions:
                utt_id, duration = prediction.utterance.utt_id, prediction.duration
                begin = file.tell()
                if prediction.timeline is not None:
                    rows = timeline_rows(utt_id, prediction.timeline, self._hop, duration, self._labels)
                    file.writelines(row.encode() for row in rows)
                places.append(f"{self._file.name}:{begin}:{file.tell() - begin}")
        return places
