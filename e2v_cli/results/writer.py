"""Prediction → its embedding and its timelines on disk → the done record of the journal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from e2v_cli.inference.kept import forget_windows
from e2v_cli.options import ResultOptions, Shard
from e2v_cli.records import DoneRecord, Place, Prediction
from e2v_cli.results.embeddings import EmbeddingWriter, GrowingFile
from e2v_cli.results.formats import EMBEDDING_FORMATS, NO_EMBEDDINGS, embedding_stems
from e2v_cli.results.spans import join_spans, span_rows
from e2v_cli.results.timeline import parse_rows, timeline_rows


class ResultWriter:
    """The writer of embeddings and timelines, which are too large for a journal."""

    def __init__(self, labels: tuple[str, ...], results: ResultOptions, shard: Shard) -> None:
        """Open the writers of the options; without OUT, none.

        Args:
            labels: labels of the model, in its order.
            results: options of the results.
            shard: the shard in the names of files.
        """
        self._labels = labels
        self._results = results
        self._embeddings: list[EmbeddingWriter] = []
        """Writers, one for each layer that is embedded."""
        self._timelines: TimelineWriter | None = None
        if results.output_dir is None:
            return
        if results.embeddings != NO_EMBEDDINGS:
            form = EMBEDDING_FORMATS[results.embeddings]
            stems = embedding_stems(results.layers)
            self._embeddings = [form.open(results.output_dir, results, shard, stem) for stem in stems]
        if results.timelines:
            self._timelines = TimelineWriter(results.output_dir, results.timelines, labels, shard)

    def write(self, predictions: Sequence[Prediction]) -> tuple[DoneRecord, ...]:
        """Write and sync results, and return their records for the journal.

        Raises:
            OSError: they can't be written.
        """
        embeddings = self._write_embeddings(predictions)
        timelines = self._timelines.write(predictions) if self._timelines else [()] * len(predictions)
        for prediction in predictions:
            if self._results.output_dir is not None and prediction.windows > 1:
                forget_windows(self._results.output_dir, prediction.utterance.utt_id, len(self._embeddings))
        results = zip(predictions, embeddings, timelines, strict=True)
        return tuple(self._make_record(*result) for result in results)

    def _make_record(
        self, prediction: Prediction, embeddings: tuple[Place, ...], timelines: tuple[Place, ...]
    ) -> DoneRecord:
        """Return the done record of a prediction with the places of its embeddings and timelines."""
        layers = embeddings if self._results.layers else ()
        embedding = None if layers or not embeddings else embeddings[0]
        record = make_done_record(prediction, self._labels, embedding, timelines)
        return replace(record, rows=self._format_rows(prediction), layers=layers)

    def _write_embeddings(self, predictions: Sequence[Prediction]) -> list[tuple[Place, ...]]:
        """Write and sync the embedding of the last layer, or those of the layers that were chosen."""
        places = []
        for number, writer in enumerate(self._embeddings):
            of_layer = [replace(one, embedding=one.layers[number]) if one.layers else one for one in predictions]
            places.append(writer.write(of_layer))
        return list(zip(*places, strict=True)) if places else [()] * len(predictions)

    def _format_rows(self, prediction: Prediction) -> str:
        """Format the rows of a timeline that goes to standard output."""
        if self._results.output_dir is not None or not prediction.timelines:
            return ""
        (seconds,), (posteriors,) = self._results.timelines, prediction.timelines
        rows = "".join(timeline_rows(prediction, posteriors, seconds, self._labels))
        if not self._results.join:
            return rows
        cut, spans = parse_rows(rows.encode())  # means are of rounded probabilities, as when a run is published
        return "".join(span_rows(prediction.utterance.utt_id, cut, join_spans(spans)))


class TimelineWriter:
    """``timeline.2-of-3.N``: rows of all timelines, in the order in which utterances were finished."""

    def __init__(self, output_dir: Path, timelines: tuple[float, ...], labels: tuple[str, ...], shard: Shard) -> None:
        self._timelines = timelines
        self._labels = labels
        self._file = GrowingFile(output_dir, f"timeline.{shard.name}.", "")

    def write(self, predictions: Sequence[Prediction]) -> list[tuple[Place, ...]]:
        """Append rows, and sync them. A place has the offset and the size of an utterance's rows in one timeline.

        Raises:
            OSError: they can't be written.
        """
        if not predictions or not self._timelines:
            return [()] * len(predictions)
        with self._file.growing() as file:
            return [tuple(self._append(file, prediction)) for prediction in predictions]

    def _append(self, file: BinaryIO, prediction: Prediction) -> Iterator[Place]:
        for seconds, posteriors in zip(self._timelines, prediction.timelines, strict=True):
            begin = file.tell()
            rows = timeline_rows(prediction, posteriors, seconds, self._labels)
            file.writelines(row.encode() for row in rows)
            yield Place(self._file.name, begin, file.tell() - begin)


def make_done_record(
    prediction: Prediction, labels: Sequence[str], embedding: Place | None, timelines: tuple[Place, ...]
) -> DoneRecord:
    """Return the done record of a prediction with the places of its embedding and timelines."""
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
        timelines=timelines,
        source_checksum=prediction.utterance.source_checksum,
    )
