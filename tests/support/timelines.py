"""Timelines of an utterance: as posteriors, as rows and as spans; and some that are difficult for formats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from e2v_cli.records import Prediction, Segment, Utterance
from e2v_cli.results.spans import Span
from e2v_cli.results.timeline import parse_rows, timeline_rows

LABELS = ("angry", "sad")
POSTERIORS = [[0.75, 0.25], [0.125, 0.875], [0.5, 0.5], [0.99999964, 0.00000036]]

ROWS = (
    "my%20call\t0.0000\t0.5000\tangry\t0.750000\t0.750000\t0.250000\tmy%20call\t0.0000\t0.5000\n"
    "my%20call\t0.5000\t1.0000\tsad\t0.875000\t0.125000\t0.875000\tmy%20call\t0.5000\t1.0000\n"
    # the first of equal probabilities counts
    "my%20call\t1.0000\t1.5000\tangry\t0.500000\t0.500000\t0.500000\tmy%20call\t1.0000\t1.5000\n"
    "my%20call\t1.5000\t1.7346\tangry\t1.000000\t1.000000\t0.000000\tmy%20call\t1.5000\t1.7346\n"
)
DURATION = 1.73456789

SPANS = [
    Span(0.0, 0.5, "angry", 0.75, (0.75, 0.25)),
    Span(0.5, 1.0, "sad", 0.875, (0.125, 0.875)),
    Span(1.0, 1.5, "angry", 0.5, (0.5, 0.5)),
    Span(1.5, 1.7346, "angry", 1.0, (1.0, 0.0)),
]

ODD_LABELS = ("a b", 'so-"so"', "悲 伤", "wü\u2028tend")


def predicted(duration: float, utterance: Utterance | None = None) -> Prediction:
    """Make a prediction, as far as timelines need it."""
    return Prediction(utterance or Utterance(0, "u", "u.wav"), duration, 1, 1, None, np.zeros(1, np.float32))


def segment_of(recording: str, start: float, utt_id: str = "u") -> Utterance:
    """Make a segment of a recording."""
    return Utterance(0, utt_id, "r.wav", segment=Segment(start, None), recording_id=recording)


def rows(posteriors: ArrayLike, hop: float, duration: float, utt_id: str = "u", labels: Sequence[str] = LABELS) -> str:
    prediction = predicted(duration, Utterance(0, utt_id, "u.wav"))
    return "".join(timeline_rows(prediction, np.array(posteriors, np.float32), hop, labels))


def spans_of(posteriors: ArrayLike, hop: float, duration: float, labels: Sequence[str] = LABELS) -> list[Span]:
    return parse_rows(rows(posteriors, hop, duration, labels=labels).encode())[1]


def times(spans: Sequence[Span]) -> list[tuple[float, float]]:
    return [(span.start, span.end) for span in spans]


def odd_spans(seed: int) -> list[Span]:
    """Make spans of random length, with labels that are difficult for formats."""
    random = np.random.default_rng(seed)
    posteriors = random.dirichlet(np.ones(len(ODD_LABELS)), 50)
    hop = random.uniform(0.02, 3)
    return spans_of(posteriors, hop, hop * random.uniform(49.01, 50), ODD_LABELS)
