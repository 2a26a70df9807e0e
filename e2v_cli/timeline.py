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

from e2v_cli.durable import draft_of, drafted, sync_folder
from e2v_cli.settings import TimelineFormat
from e2v_cli.tables import file_name, kaldi_key, tsv_row

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
    starts = [_rounded(min(number * hop, duration)) for number in range(len(posteriors))]
    times = pairwise([*starts, _rounded(duration)])
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


class TimelineFiles:
    """``timeline.rttm`` and ``timeline.ctm``; ``audacity/ID.txt`` and ``textgrid/ID.TextGrid``, a file an utterance."""

    def __init__(self, output_dir: Path, formats: Sequence[TimelineFormat], create: Callable[[str], BinaryIO]) -> None:
        """Open the files that the options ask for.

        Args:
            output_dir: where folders are made.
            formats: in any order, more than once or not.
            create: opens a file by its name; whoever gives it publishes the file when it is whole.
        """
        self.output_dir = output_dir
        self.formats = frozenset(formats)
        # Not the file's own draft: behind a long id there is no room for what the name of a draft has more.
        self._draft = draft_of(output_dir / "timeline.tsv")
        self._lists = {name: create(f"timeline.{name}") for name in ("rttm", "ctm") if name in self.formats}
        self._folders = [output_dir / name for name in ("audacity", "textgrid") if name in self.formats]
        for folder in self._folders:
            folder.mkdir(exist_ok=True)

    def add(self, utt_id: str, duration: float, spans: Sequence[Span]) -> None:
        """Write an utterance in every format.

        Raises:
            OSError: it can't be written.
        """
        if "rttm" in self.formats:
            self._lists["rttm"].write(_rttm(utt_id, spans).encode())
        if "ctm" in self.formats:
            self._lists["ctm"].write(_ctm(utt_id, spans).encode())
        if "audacity" in self.formats:
            self._publish(f"audacity/{file_name(utt_id)}.txt", _audacity(spans))
        if "textgrid" in self.formats:
            self._publish(f"textgrid/{file_name(utt_id)}.TextGrid", _text_grid(duration, spans))

    def sync(self) -> None:
        """Put the names of files on the disk itself, so that they are found after a crash."""
        for folder in (*self._folders, self.output_dir):
            sync_folder(folder)

    def _publish(self, place: str, content: str) -> None:
        """Write a file to the disk itself, and give it its name when it is whole."""
        with drafted(self.output_dir / place, self._draft) as file:
            file.write(content.encode())


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


def _rttm(utt_id: str, spans: Iterable[Span]) -> str:
    """NIST's: type, file, channel, start, length, orthography, subtype, speaker, confidence, lookahead."""
    head = f"SPEAKER {kaldi_key(utt_id)} 1"
    return "".join(f"{head} {_place(span)} <NA> <NA> {kaldi_key(span.label)} {span.score:.6f} <NA>\n" for span in spans)


def _ctm(utt_id: str, spans: Iterable[Span]) -> str:
    """NIST's: file, channel, start, length, word, confidence."""
    head = f"{kaldi_key(utt_id)} 1"
    return "".join(f"{head} {_place(span)} {kaldi_key(span.label)} {span.score:.6f}\n" for span in spans)


def _place(span: Span) -> str:
    """Start and length, of which the sum is exactly the next start."""
    start, end = _rounded(span.start), _rounded(span.end)
    return f"{start:.4f} {end - start:.4f}"


def _audacity(spans: Iterable[Span]) -> str:
    """Start, end and label, as Audacity exports them."""
    return "".join(f"{_rounded(span.start):.6f}\t{_rounded(span.end):.6f}\t{tsv_row([span.label])}\n" for span in spans)


def _text_grid(duration: float, spans: Sequence[Span]) -> str:
    """Praat's long text format as Praat writes it, the blanks at the ends of lines too."""
    head = (
        'File type = "ooTextFile"\n'
        'Object class = "TextGrid"\n'
        "\n"
        "xmin = 0 \n"
        f"xmax = {_short(duration)} \n"
        "tiers? <exists> \n"
        "size = 1 \n"
        "item []: \n"
        "    item [1]:\n"
        '        class = "IntervalTier" \n'
        '        name = "emotion" \n'
        "        xmin = 0 \n"
        f"        xmax = {_short(duration)} \n"
        f"        intervals: size = {len(spans)} \n"
    )
    quote = '"'
    return head + "".join(
        f"        intervals [{number}]:\n"
        f"            xmin = {_short(span.start)} \n"
        f"            xmax = {_short(span.end)} \n"
        f'            text = "{span.label.replace(quote, quote * 2)}" \n'
        for number, span in enumerate(spans, 1)
    )


def _rounded(seconds: float) -> float:
    """Seconds as ``timeline.tsv`` and ``predictions.tsv`` show them."""
    return round(seconds, 4)


def _short(seconds: float) -> str:
    """The same without zeros at the end, as in Praat."""
    return f"{seconds:.4f}".rstrip("0").rstrip(".")
