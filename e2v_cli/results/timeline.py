"""Emotions over time: posteriors → rows of ``timeline.tsv`` → the published table and the same in other formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.records import Place
from e2v_cli.results.formats import TIMELINE_FORMATS
from e2v_cli.results.spans import Span, join_spans, parse_rows, rounded, span_rows
from e2v_cli.results.tables import file_name
from e2v_cli.system.files import draft_of, drafted, sync_folder

_COPIED = 1 << 24
"""Bytes of rows that are copied at a time."""


def timeline_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of ``timeline.tsv``."""
    return ("utt_id", "start", "end", "label", "score", *labels)


def timeline_rows(
    utt_id: str, posteriors: NDArray[np.float32], span_seconds: float, duration: float, labels: Sequence[str]
) -> Iterator[str]:
    """Format the rows of an utterance, each with its line break; the arguments are those of ``make_spans``."""
    return span_rows(utt_id, make_spans(posteriors, span_seconds, duration, labels))


def make_spans(
    posteriors: NDArray[np.float32], span_seconds: float, duration: float, labels: Sequence[str]
) -> Iterator[Span]:
    """Make the spans of an utterance.

    A span that begins at the rounded end of the utterance is left out: it would have no length.

    Args:
        posteriors: (spans, labels); span k begins at k × span_seconds and ends where the next one begins.
        span_seconds: length of a span.
        duration: seconds; the last span ends there.
        labels: the model's, in its order.
    """
    starts = [rounded(min(number * span_seconds, duration)) for number in range(len(posteriors))]
    times = pairwise([*starts, rounded(duration)])
    for (start, end), best, span in zip(times, posteriors.argmax(axis=1), posteriors.tolist(), strict=True):
        if start < end:
            yield Span(start, end, labels[best], span[best], tuple(span))


class Timeline:
    """``timeline.tsv`` and the timeline in other formats, made of the rows that workers wrote."""

    def __init__(
        self,
        output_dir: Path,
        table: BinaryIO,
        formats: Sequence[str],
        join: bool,
        create: Callable[[str], BinaryIO],
    ) -> None:
        """Open the files that the options ask for.

        Args:
            output_dir: OUT.
            table: ``timeline.tsv``, behind its header.
            formats: names of other formats.
            join: whether neighbouring spans with the same label are joined.
            create: opens a file by its name; its caller publishes the file when it is whole.
        """
        self._output_dir = output_dir
        self._table = table
        self._join = join
        self._files = TimelineFiles(output_dir, formats, create) if formats else None
        self._name = ""
        self._source: BinaryIO | None = None

    def add(self, utt_id: str, duration: float, place: Place) -> None:
        """Write the rows of an utterance, which are at a place like ``timeline.1-of-1.1:0:512``.

        Raises:
            OSError: they can't be read, or written.
        """
        source, size = self._open(place.file), place.size or 0
        source.seek(place.offset or 0)
        if not self._join and self._files is None:
            for first in range(0, size, _COPIED):
                self._table.write(source.read(min(_COPIED, size - first)))
            return
        spans = parse_rows(source.read(size))
        spans = join_spans(spans) if self._join else spans
        self._table.write("".join(span_rows(utt_id, spans)).encode())
        if self._files is not None:
            self._files.add(utt_id, duration, spans)

    def close(self) -> None:
        """Close the file of rows, and sync the folders of files; the caller publishes lists."""
        if self._source is not None:
            self._source.close()
        if self._files is not None:
            self._files.sync()

    def _open(self, name: str) -> BinaryIO:
        """Open a file of rows, unless it is open: neighbours are mostly in the same file."""
        if self._source is None or name != self._name:
            if self._source is not None:
                self._source.close()
            self._name, self._source = name, (self._output_dir / name).open("rb")
        return self._source


class TimelineFiles:
    """The timeline in the formats of ``TIMELINE_FORMATS``: a list of all utterances, or a file for each."""

    def __init__(self, output_dir: Path, formats: Sequence[str], create: Callable[[str], BinaryIO]) -> None:
        """Open the files that the options ask for.

        Args:
            output_dir: where folders are made.
            formats: names of formats, in any order, also more than once.
            create: opens a file by its name; its caller publishes the file when it is whole.
        """
        self.output_dir = output_dir
        # Not the file's own draft: a long id leaves no room for the longer name of a draft.
        self._draft = draft_of(output_dir / "timeline.tsv")
        chosen = [TIMELINE_FORMATS[name] for name in dict.fromkeys(formats)]
        self._lists = [(form, create(form.path)) for form in chosen if form.folder is None]
        self._folders = [form for form in chosen if form.folder is not None]
        for form in self._folders:
            (output_dir / form.path).parent.mkdir(exist_ok=True)

    def add(self, utt_id: str, duration: float, spans: Sequence[Span]) -> None:
        """Write an utterance in every format.

        Raises:
            OSError: it can't be written.
        """
        for form, file in self._lists:
            file.write(form.format(utt_id, duration, spans).encode())
        for form in self._folders:
            with drafted(self.output_dir / form.path.replace("*", file_name(utt_id)), self._draft) as file:
                file.write(form.format(utt_id, duration, spans).encode())

    def sync(self) -> None:
        """Sync the folders, so that their files are found after a crash."""
        for form in self._folders:
            sync_folder((self.output_dir / form.path).parent)
        sync_folder(self.output_dir)
