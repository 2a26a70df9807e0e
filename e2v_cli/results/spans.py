"""Spans of a timeline, and their rows in ``timeline.tsv``; nothing here needs NumPy.

Times are rounded once, to the decimals of the table, and lengths are differences of rounded times: so in every format
a span ends exactly where the next one begins, and the last one where the utterance does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from e2v_cli.system.text import tsv_row

if TYPE_CHECKING:
    from e2v_cli.records import Cut, Tier


@dataclass(frozen=True, slots=True)
class Span:
    """The emotion of a part of an utterance."""

    start: float
    """Start and end are seconds from the start of the utterance."""
    end: float
    label: str
    score: float
    """The probability of the label."""
    posteriors: tuple[float, ...]
    """(labels,): probabilities that sum to 1."""


@dataclass(frozen=True, slots=True)
class Track:
    """The spans of an utterance in a timeline of its recording."""

    tier: Tier
    spans: Sequence[Span]
    """Spans, with times from the start of the recording."""


def span_rows(utt_id: str, cut: Cut, spans: Iterable[Span]) -> Iterator[str]:
    """Format the rows of an utterance, each with its line break."""
    first, recording, begin = tsv_row([utt_id]), tsv_row([cut.recording]), rounded(cut.start)
    for span in spans:
        probabilities = "\t".join([f"{probability:.6f}" for probability in (span.score, *span.posteriors)])
        yield (
            f"{first}\t{span.start:.4f}\t{span.end:.4f}\t{tsv_row([span.label])}\t{probabilities}\t"
            f"{recording}\t{begin + span.start:.4f}\t{begin + span.end:.4f}\n"
        )


def in_recording(cut: Cut, spans: Iterable[Span]) -> list[Span]:
    """Move the spans of an utterance to the time of its recording."""
    begin = rounded(cut.start)
    return [
        Span(rounded(begin + span.start), rounded(begin + span.end), span.label, span.score, span.posteriors)
        for span in spans
    ]


def join_spans(spans: Sequence[Span]) -> list[Span]:
    """Join neighbours of the same label; probabilities are means, weighted by the lengths of the spans."""
    return [_join_group(list(group)) for _, group in groupby(spans, lambda span: span.label)]


def _join_group(spans: Sequence[Span]) -> Span:
    if len(spans) == 1:  # the mean of one span may differ in the last bit
        return spans[0]
    lengths = [span.end - span.start for span in spans]
    total = math.fsum(lengths)

    def mean(values: Iterable[float]) -> float:
        return math.fsum(value * length for value, length in zip(values, lengths, strict=True)) / total

    posteriors = tuple(map(mean, zip(*(span.posteriors for span in spans), strict=True)))
    return Span(spans[0].start, spans[-1].end, spans[0].label, mean(span.score for span in spans), posteriors)


def rounded(seconds: float) -> float:
    """Round a time to the four decimals of ``timeline.tsv`` and ``predictions.tsv``."""
    return round(seconds, 4)
