"""Utterances that the page shows one by one, as far as the run knows them, and the parts of them that are played."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2v_cli.records import Place
from e2v_cli.report.columns import RunResults, read_done
from e2v_cli.results.spans import Span
from e2v_cli.results.timeline import parse_rows


@dataclass(frozen=True)
class Part:
    """A part of an utterance, in seconds from its beginning."""

    start: float
    end: float


@dataclass(frozen=True)
class Example:
    """An utterance that is done."""

    list_index: int
    """Index of the utterance in the list."""
    utt_id: str
    label: int
    """Index among the model's labels; 0 for a model without a head."""
    posteriors: tuple[float, ...]
    """(labels,)."""
    duration: float
    """Duration in seconds."""
    speaker: str
    """Name of the speaker; empty: not known."""
    spans: tuple[Span, ...]
    """Spans of the timeline with the shortest spans; empty without a timeline."""

    @property
    def score(self) -> float:
        """The probability of the label; 0 for a model without a head."""
        return max(self.posteriors, default=0.0)

    @property
    def margin(self) -> float:
        """The highest probability minus the second."""
        return _margin_of(self.posteriors)

    @property
    def whole(self) -> Part:
        """The whole utterance."""
        return Part(0.0, self.duration)


def read_examples(run: RunResults, indices: Iterable[int]) -> dict[int, Example]:
    """Read utterances by their indices in the columns, with their timelines.

    Raises:
        OSError: a file of the run can't be read.
    """
    examples = {}
    with run.history.reading():
        for index in sorted(set(indices)):
            list_index = int(run.columns.list_indices[index])
            (line,) = read_done(run.history, run.columns.list_indices[index : index + 1])
            timelines = line.timelines.split()
            examples[index] = Example(
                list_index=list_index,
                utt_id=line.utt_id.decode(),
                label=int(run.columns.labels[index]),
                posteriors=tuple(map(float, line.posteriors.split())),
                duration=float(line.duration),
                speaker=run.speakers.name_of(index),
                spans=_read_spans(run.output_dir, Place.parse(timelines[0].decode())) if timelines else (),
            )
    return examples


def _read_spans(output_dir: Path, place: Place) -> tuple[Span, ...]:
    with (output_dir / place.file).open("rb") as file:
        file.seek(place.offset or 0)
        rows = file.read(place.size or 0)
    return tuple(parse_rows(rows)[1]) if rows else ()


def choose_part(example: Example, seconds: float) -> Part:
    """Choose the part of an utterance that is played: all of a short one, else that around its most doubtful span.

    Without a timeline, it is the middle.
    """
    if example.duration <= seconds:
        return example.whole
    middle = example.duration / 2
    if example.spans:
        doubtful = min(example.spans, key=lambda span: _margin_of(span.posteriors))
        middle = (doubtful.start + doubtful.end) / 2
    start = min(max(0.0, middle - seconds / 2), example.duration - seconds)
    return Part(start, start + seconds)


def _margin_of(posteriors: Iterable[float]) -> float:
    first, second = sorted((*posteriors, 0.0, 0.0), reverse=True)[:2]
    return first - second
