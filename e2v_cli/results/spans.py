"""Spans of a timeline, in memory and as rows of ``timeline.tsv``; nothing here needs NumPy.

Times are rounded once, to the decimals of the table, and lengths are differences of rounded times: so in every format
a span ends exactly where the next one begins, and the last one where the utterance does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from e2v_cli.system.text import tsv_row


@dataclass(frozen=True, slots=True)
class Span:
    """The emotion of a part of an utterance."""

    start: float
    """Seconds from the start of the utterance, like the end."""
    end: float
    label: str
    score: float
    """The probability of the label."""
    posteriors: tuple[float, ...]
    """(labels,): probabilities that sum to 1."""


def span_rows(utt_id: str, spans: Iterable[Span]) -> Iterator[str]:
    """Format the rows of an utterance, each with its line break."""
    first = tsv_row([utt_id])
    for span in spans:
        probabilities = "\t".join([f"{probability:.6f}" for probability in (span.score, *span.posteriors)])
        yield f"{first}\t{span.start:.4f}\t{span.end:.4f}\t{tsv_row([span.label])}\t{probabilities}\n"


def parse_rows(text: bytes) -> list[Span]:
    """Parse the rows of one utterance, without a header."""
    spans = []
    for row in text.decode().split("\n"):  # a label may hold other characters that Python takes for line breaks
        if row:
            _, start, end, label, score, *posteriors = row.split("\t")
            spans.append(Span(float(start), float(end), label, float(score), tuple(map(float, posteriors))))
    return spans


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
