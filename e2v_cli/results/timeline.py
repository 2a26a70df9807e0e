"""Emotions over time: posteriors → rows of ``timeline.tsv`` → the published table and the same in other formats."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.records import SAMPLE_RATE, Cut, Place, Prediction, Tier
from e2v_cli.results.formats import TIMELINE_FORMATS, TIMELINE_TABLE, with_suffix
from e2v_cli.results.spans import Span, Track, in_recording, join_spans, rounded, span_rows
from e2v_cli.results.tables import file_name
from e2v_cli.system.files import draft_of, drafted, sync_folder
from e2v_cli.system.text import tsv_row

_COPIED = 1 << 24
"""Bytes of rows that are copied at a time."""


def timeline_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of ``timeline.tsv``."""
    return ("utt_id", "start", "end", "label", "score", *labels, "recording", "recording_start", "recording_end")


def timeline_rows(
    prediction: Prediction, posteriors: NDArray[np.float32], seconds: float, labels: Sequence[str]
) -> Iterator[str]:
    """Format the rows of an utterance in one of its timelines, each with its line break; see ``make_spans``."""
    utterance = prediction.utterance
    return span_rows(utterance.utt_id, utterance.cut, make_spans(posteriors, seconds, prediction.duration, labels))


def make_spans(
    posteriors: NDArray[np.float32], seconds: float, duration: float, labels: Sequence[str]
) -> Iterator[Span]:
    """Make the spans of an utterance.

    A span that begins at the rounded end of the utterance is left out: it would have no length.

    Args:
        posteriors: (spans, labels); a span ends where the next one begins, and the last one with the utterance.
        seconds: length of a span, which is rounded to samples.
        duration: length of the utterance in seconds.
        labels: labels of the model, in its order.
    """
    span_seconds = round(seconds * SAMPLE_RATE) / SAMPLE_RATE
    starts = [rounded(min(number * span_seconds, duration)) for number in range(len(posteriors))]
    times = pairwise([*starts, rounded(duration)])
    for (start, end), best, span in zip(times, posteriors.argmax(axis=1), posteriors.tolist(), strict=True):
        if start < end:
            yield Span(start, end, labels[best], span[best], tuple(span))


def parse_rows(text: bytes) -> tuple[Cut, list[Span]]:
    """Parse the rows of one utterance, at least one, without a header."""
    rows = text.decode().removesuffix("\n").split("\n")  # a label may hold what else Python takes for a line break
    *_, recording, begin, _ = rows[0].split("\t")
    spans = []
    for row in rows:
        _, start, end, label, score, *posteriors, _, _, _ = row.split("\t")
        spans.append(Span(float(start), float(end), label, float(score), tuple(map(float, posteriors))))
    return Cut(recording, rounded(float(begin) - spans[0].start)), spans


class Timeline:
    """``timeline.tsv`` and the timeline in other formats, made of the rows that workers wrote."""

    def __init__(
        self,
        output_dir: Path,
        suffix: str,
        formats: Sequence[str],
        join: bool,
        labels: Sequence[str],
        create: Callable[[str], BinaryIO],
    ) -> None:
        """Open the files that the options ask for.

        Args:
            output_dir: OUT.
            suffix: suffix of the file names, from ``timeline_suffixes``.
            formats: names of other formats.
            join: whether neighbouring spans with the same label are joined.
            labels: labels of the model, in its order.
            create: opens a file by its name; its caller publishes the file when it is whole.
        """
        self._output_dir = output_dir
        self._table = create(with_suffix(TIMELINE_TABLE, suffix))
        self._table.write((tsv_row(timeline_header(labels)) + "\n").encode())
        self._join = join
        self._files = TimelineFiles(output_dir, suffix, formats, create) if formats else None
        self._segments = _Segments()
        self._name = ""
        self._source: BinaryIO | None = None

    def add(self, utt_id: str, place: Place, tier: Tier | None) -> None:
        """Write the rows of an utterance, which are at a place like ``timeline.1-of-1.1:0:512``.

        Args:
            utt_id: id of the utterance.
            place: place of the rows.
            tier: tier in the timeline of the recording; None: the utterance is a recording itself.

        Raises:
            OSError: they can't be read, or written.
        """
        size = place.size or 0
        if not self._join and self._files is None:
            source = self._open(place)
            for first in range(0, size, _COPIED):
                self._table.write(source.read(min(_COPIED, size - first)))
            return
        if not size:
            return
        cut, spans = self._read(place)
        self._table.write("".join(span_rows(utt_id, cut, spans)).encode())
        if self._files is None:
            return
        track = Track(tier or Tier(), in_recording(cut, spans))
        self._files.add(cut.recording, track)
        if tier is None:
            self._files.write(cut.recording, [track])
        elif self._files.has_folders:
            self._segments.add(cut.recording, place, tier)

    def finish(self) -> None:
        """Write the files of single recordings, each from all of its segments, and sync their folders.

        Raises:
            OSError: they can't be written.
        """
        if self._files is None:
            return
        for segments in self._segments.by_recording():
            tracks: dict[str, list[Track]] = {}
            for place, tier in segments:
                cut, spans = self._read(place)
                tracks.setdefault(cut.recording, []).append(Track(tier, in_recording(cut, spans)))
            for recording, own in tracks.items():
                self._files.write(recording, own)
        self._files.sync()

    def close(self) -> None:
        """Close the file of rows; the caller publishes the files that it has created."""
        if self._source is not None:
            self._source.close()

    def _read(self, place: Place) -> tuple[Cut, list[Span]]:
        """Read the rows of an utterance, and join them if asked to."""
        cut, spans = parse_rows(self._open(place).read(place.size or 0))
        return cut, join_spans(spans) if self._join else spans

    def _open(self, place: Place) -> BinaryIO:
        """Open a file of rows at a place, unless it is open: neighbours are mostly in the same file."""
        if self._source is None or place.file != self._name:
            if self._source is not None:
                self._source.close()
            self._name, self._source = place.file, (self._output_dir / place.file).open("rb")
        self._source.seek(place.offset or 0)
        return self._source


class _Segments:
    """The places of the segments of recordings, in five numbers each: there may be millions."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._files: dict[str, int] = {}
        self._tiers: dict[Tier, int] = {}

    def add(self, recording: str, place: Place, tier: Tier) -> None:
        """Add a segment."""
        file = self._files.setdefault(place.file, len(self._files))
        number = self._tiers.setdefault(tier, len(self._tiers))
        self._numbers.extend((hash(recording), file, place.offset or 0, place.size or 0, number))

    def by_recording(self) -> Iterator[Iterator[tuple[Place, Tier]]]:
        """Yield the segments of each recording; two recordings may come together, if rarely."""
        numbers = np.frombuffer(self._numbers, dtype=np.int64).reshape(-1, 5)
        numbers = numbers[np.argsort(numbers[:, 0], kind="stable")]
        files, tiers = list(self._files), list(self._tiers)
        for group in np.split(numbers[:, 1:], np.flatnonzero(np.diff(numbers[:, 0])) + 1):
            yield ((Place(files[file], offset, size), tiers[tier]) for file, offset, size, tier in group.tolist())


class TimelineFiles:
    """A timeline in the formats of ``TIMELINE_FORMATS``: a file of all utterances, or one for each recording."""

    def __init__(
        self, output_dir: Path, suffix: str, formats: Sequence[str], create: Callable[[str], BinaryIO]
    ) -> None:
        """Open the files that the options ask for.

        Args:
            output_dir: where folders are made, when they get a file.
            suffix: suffix of the names of files and folders.
            formats: names of formats, in any order, also more than once.
            create: opens a file by its name; its caller publishes the file when it is whole.
        """
        self.output_dir = output_dir
        # Not the file's own draft: a long id leaves no room for the longer name of a draft.
        self._draft = draft_of(output_dir / TIMELINE_TABLE)
        forms = [TIMELINE_FORMATS[name] for name in dict.fromkeys(formats)]
        chosen = [(with_suffix(form.path, suffix), form.format) for form in forms]
        self._lists = [(create(path), format_) for path, format_ in chosen if "/" not in path]
        self._folders = [(path, format_) for path, format_ in chosen if "/" in path]
        self._made: set[Path] = set()

    @property
    def has_folders(self) -> bool:
        """Whether there are formats with a file for each recording."""
        return bool(self._folders)

    def add(self, recording: str, track: Track) -> None:
        """Write an utterance to the files of all utterances."""
        for file, format_ in self._lists:
            file.write(format_(recording, [track]).encode())

    def write(self, recording: str, tracks: Sequence[Track]) -> None:
        """Write the file of a recording in every format that has one.

        Raises:
            OSError: it can't be written.
        """
        for path, format_ in self._folders:
            target = self.output_dir / path.replace("*", file_name(recording))
            if target.parent not in self._made:
                target.parent.mkdir(exist_ok=True)
                self._made.add(target.parent)
            with drafted(target, self._draft) as file:
                file.write(format_(recording, tracks).encode())

    def sync(self) -> None:
        """Sync the folders, so that their files are found after a crash."""
        for folder in (*sorted(self._made), self.output_dir):
            sync_folder(folder)
