"""Emotions over time: posteriors → rows of ``timeline.tsv`` → what other tools read: RTTM, CTM, Audacity, TextGrid.

Times are rounded once, to the decimals of the table, and lengths are differences of rounded times: so in every format
a span ends exactly where the next one begins, and the last one where the utterance does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.options import TimelineFormat
from e2v_cli.system.text import tsv_row
from e2v_cli.results.timeline_formats import TimelineFiles

_COPIED = 1 << 24
"""Bytes of rows that are copied at a time."""


@dataclass(frozen=True, slots=True)
class Span:
    """What is felt in a part of an utterance."""

    start: float
    """Seconds from the start of the utterance, like the end."""
    end: float
    label: str
    score: float
    """The probability of the label."""
    posteriors: tuple[float, ...]
    """(labels,): probabilities that sum to 1."""


def timeline_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of ``timeline.tsv``."""
    return ("utt_id", "start", "end", "label", "score", *labels)


def timeline_rows(
    utt_id: str, posteriors: NDArray[np.float32], hop: float, duration: float, labels: Sequence[str]
) -> Iterator[str]:
    """Make the rows of an utterance, each with its line break.

    A span that begins where the rounded utterance has ended already is left out: it would have no length.

    Args:
        utt_id: whose rows they are.
        posteriors: (spans, labels); span k begins at k × hop and ends where the next one begins.
        hop: seconds.
        duration: seconds; the last span ends there.
        labels: the model's, in its order.
    """
    starts = [rounded(min(number * hop, duration)) for number in range(len(posteriors))]
    times = pairwise([*starts, rounded(duration)])
    spans = (
        Span(start, end, labels[best], span[best], tuple(span))
        for (start, end), best, span in zip(times, posteriors.argmax(axis=1), posteriors.tolist(), strict=True)
        if start < end
    )
    return _rows(utt_id, spans)


def parse_rows(text: bytes) -> list[Span]:
    """Read the rows of one utterance, without a header."""
    spans = []
    for row in text.decode().split("\n"):  # a label may hold what else Python takes for the end of a line
        if row:
            _, start, end, label, score, *posteriors = row.split("\t")
            spans.append(Span(float(start), float(end), label, float(score), tuple(map(float, posteriors))))
    return spans


def join_spans(spans: Sequence[Span]) -> list[Span]:
    """Join neighbours of the same label; probabilities are means, in which a longer span counts for more."""
    return [_join(list(group)) for _, group in groupby(spans, lambda span: span.label)]


def format_rows(utt_id: str, spans: Iterable[Span]) -> str:
    """Make the rows of an utterance of its spans again."""
    return "".join(_rows(utt_id, spans))


class Timeline:
    """``timeline.tsv`` and what else is made of it, from the rows that workers left."""

    def __init__(
        self,
        output_dir: Path,
        table: BinaryIO,
        formats: Sequence[TimelineFormat],
        join: bool,
        create: Callable[[str], BinaryIO],
    ) -> None:
        """Open the files that the options ask for.

        Args:
            output_dir: OUT.
            table: ``timeline.tsv``, behind its header.
            formats: what else is written.
            join: whether neighbouring spans with the same label are joined.
            create: opens a file by its name; whoever gives it publishes the file when it is whole.
        """
        self._output_dir = output_dir
        self._table = table
        self._join = join
        self._files = TimelineFiles(output_dir, formats, create) if formats else None
        self._name = ""
        self._source: BinaryIO | None = None

    def add(self, utt_id: str, duration: float, place: str) -> None:
        """Write the rows of an utterance, which are at a place like ``timeline.1-of-1.1:0:512``.

        Raises:
            OSError: they can't be read, or written.
        """
        name, offset, length = place.split(":")
        source = self._open(name)
        source.seek(int(offset))
        if not self._join and self._files is None:
            for first in range(0, int(length), _COPIED):
                self._table.write(source.read(min(_COPIED, int(length) - first)))
            return
        spans = parse_rows(source.read(int(length)))
        spans = join_spans(spans) if self._join else spans
        self._table.write(format_rows(utt_id, spans).encode())
        if self._files is not None:
            self._files.add(utt_id, duration, spans)

    def close(self) -> None:
        """Close what was read, and put the names of files on the disk; lists are the caller's to publish."""
        if self._source is not None:
            self._source.close()
        if self._files is not None:
            self._files.sync()

    def _open(self, name: str) -> BinaryIO:
        """Open a file of rows; neighbours are mostly in the same one."""
        if self._source is None or name != self._name:
            if self._source is not None:
                self._source.close()
            self._name, self._source = name, (self._output_dir / name).open("rb")
        return self._source


def _rows(utt_id: str, spans: Iterable[Span]) -> Iterator[str]:
    first = tsv_row([utt_id])
    for span in spans:
        probabilities = "\t".join([f"{probability:.6f}" for probability in (span.score, *span.posteriors)])
        yield f"{first}\t{span.start:.4f}\t{span.end:.4f}\t{tsv_row([span.label])}\t{probabilities}\n"


def _join(spans: Sequence[Span]) -> Span:
    if len(spans) == 1:  # a mean of one may be off by a bit
        return spans[0]
    lengths = [span.end - span.start for span in spans]
    total = math.fsum(lengths)

    def mean(values: Iterable[float]) -> float:
        return math.fsum(value * length for value, length in zip(values, lengths, strict=True)) / total

    posteriors = tuple(map(mean, zip(*(span.posteriors for span in spans), strict=True)))
    return Span(spans[0].start, spans[-1].end, spans[0].label, mean(span.score for span in spans), posteriors)


def rounded(seconds: float) -> float:
    """Seconds as ``timeline.tsv`` and ``predictions.tsv`` show them."""
    return round(seconds, 4)
