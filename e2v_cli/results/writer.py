"""Prediction → its embedding and its timeline on disk → the done record of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from e2v_cli.inference.kept import forget_windows
from e2v_cli.options import ResultOptions, Shard
from e2v_cli.records import SAMPLE_RATE, DoneRecord, Place, Prediction
from e2v_cli.results.embeddings import EmbeddingWriter, GrowingFile
from e2v_cli.results.formats import EMBEDDING_FORMATS, NO_EMBEDDINGS
from e2v_cli.results.timeline import timeline_rows


class ResultWriter:
    """The writer of embeddings and timelines, which are too large for a journal."""

    def __init__(self, labels: tuple[str, ...], results: ResultOptions, shard: Shard) -> None:
        """Open the writers of the options; without OUT, none.

        Args:
            labels: the model's, in its order.
            results: what is written, and where.
            shard: the shard in the names of files.
        """
        self._labels = labels
        self._output_dir = results.output_dir
        self._embeddings: EmbeddingWriter | None = None
        self._timeline: TimelineWriter | None = None
        if results.output_dir is None:
            return
        if results.embeddings != NO_EMBEDDINGS:
            self._embeddings = EMBEDDING_FORMATS[results.embeddings].open(results.output_dir, results, shard)
        if results.timeline is not None:
            self._timeline = TimelineWriter(results.output_dir, results.timeline, labels, shard)

    def write(self, predictions: Sequence[Prediction]) -> tuple[DoneRecord, ...]:
        """Write and sync results, and return their records for the journal.

        Raises:
            OSError: they can't be written.
        """
        nowhere: list[Place | None] = [None] * len(predictions)
        embeddings = self._embeddings.write(predictions) if self._embeddings else nowhere
        timelines = self._timeline.write(predictions) if self._timeline else nowhere
        for prediction in predictions:
            if self._output_dir is not None and prediction.windows > 1:
                forget_windows(self._output_dir, prediction.utterance.utt_id)
        return tuple(
            make_done_record(prediction, self._labels, embedding, timeline)
            for prediction, embedding, timeline in zip(predictions, embeddings, timelines, strict=True)
        )


class TimelineWriter:
    """``timeline.2-of-3.N``: rows of ``timeline.tsv``, in the order in which utterances were finished."""

    def __init__(self, output_dir: Path, span_seconds: float, labels: tuple[str, ...], shard: Shard) -> None:
        self._span_seconds = round(span_seconds * SAMPLE_RATE) / SAMPLE_RATE
        self._labels = labels
        self._file = GrowingFile(output_dir, f"timeline.{shard.name}.", "")

    def write(self, predictions: Sequence[Prediction]) -> list[Place]:
        """Append rows, and sync them. A place has the offset and the size of an utterance's rows.

        Raises:
            OSError: they can't be written.
        """
        places: list[Place] = []
        if not predictions:
            return places
        with self._file.growing() as file:
            for prediction in predictions:
                utt_id, duration = prediction.utterance.utt_id, prediction.duration
                begin = file.tell()
                if prediction.timeline is not None:
                    rows = timeline_rows(utt_id, prediction.timeline, self._span_seconds, duration, self._labels)
                    file.writelines(row.encode() for row in rows)
                places.append(Place(self._file.name, begin, file.tell() - begin))
        return places


def make_done_record(
    prediction: Prediction, labels: Sequence[str], embedding: Place | None, timeline: Place | None
) -> DoneRecord:
    """Return the done record of a prediction with the places of its embedding and timeline."""
    label, posteriors = "", prediction.posteriors
    if posteriors is not None:
        label = labels[int(posteriors.argmax())]
    return DoneRecord(
        index=prediction.utterance.index,
        utt_id=prediction.utterance.utt_id,
        duration=prediction.duration,
        num_frames=prediction.num_frames,
        windows=prediction.windows,
        label=label,
        posteriors=() if posteriors is None else tuple(map(float, posteriors)),
        embedding=embedding,
        timeline=timeline,
        source_checksum=prediction.utterance.source_checksum,
    )
