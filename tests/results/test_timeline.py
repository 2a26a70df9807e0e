"""Timelines: posteriors become spans and rows."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from support.timelines import (
    DURATION,
    LABELS,
    ODD_LABELS,
    POSTERIORS,
    ROWS,
    SPANS,
    odd_spans,
    predicted,
    rows,
    segment_of,
    spans_of,
    times,
)

from e2v_cli.records import Cut
from e2v_cli.results.spans import Span, in_recording, join_spans, span_rows
from e2v_cli.results.timeline import parse_rows, timeline_header, timeline_rows
from e2v_cli.system.text import tsv_row


def test_rows_of_an_utterance() -> None:
    assert timeline_header(LABELS) == (
        *("utt_id", "start", "end", "label", "score", "angry", "sad"),
        *("recording", "recording_start", "recording_end"),
    )
    assert rows(POSTERIORS, 0.5, DURATION, "my%20call") == ROWS


def test_rows_round_trip() -> None:
    assert parse_rows(ROWS.encode()) == (Cut("my%20call"), SPANS)
    assert "".join(span_rows("my%20call", Cut("my%20call"), SPANS)) == ROWS


def test_rows_of_a_segment_have_both_times() -> None:
    segment = predicted(1.0, segment_of("call", 0.12345))

    text = "".join(timeline_rows(segment, np.array(POSTERIORS[:2], np.float32), 0.5, LABELS))

    assert text == (
        "u\t0.0000\t0.5000\tangry\t0.750000\t0.750000\t0.250000\tcall\t0.1235\t0.6235\n"
        "u\t0.5000\t1.0000\tsad\t0.875000\t0.125000\t0.875000\tcall\t0.6235\t1.1235\n"
    )
    assert parse_rows(text.encode()) == (Cut("call", 0.1235), SPANS[:2])
    assert times(in_recording(Cut("call", 0.12345), SPANS[:2])) == [(0.1235, 0.6235), (0.6235, 1.1235)]


@pytest.mark.parametrize("seed", range(5))
def test_lengths_are_the_same_in_the_recording(seed: int) -> None:
    spans = odd_spans(seed)
    begin = np.random.default_rng(seed).uniform(0, 1e5)

    moved = in_recording(Cut("call", begin), spans)

    assert all(before.end == after.start for before, after in pairwise(moved))
    lengths = [f"{span.end - span.start:.4f}" for span in spans]
    assert [f"{span.end - span.start:.4f}" for span in moved] == lengths
    assert moved[0].start == round(begin, 4)


def test_neighbouring_spans_of_the_same_label_are_joined() -> None:
    """Longer spans have more weight in the mean."""
    joined = join_spans(SPANS)

    angry = (0.5 * 0.5 + 0.2346 * 1.0) / 0.7346
    assert joined[:2] == SPANS[:2]
    assert joined[2] == Span(1.0, 1.7346, "angry", joined[2].posteriors[0], joined[2].posteriors)
    assert joined[2].posteriors == pytest.approx((angry, 1 - angry), abs=1e-15)
    assert "".join(span_rows("my%20call", Cut("call", 60.0), joined)) == (
        "my%20call\t0.0000\t0.5000\tangry\t0.750000\t0.750000\t0.250000\tcall\t60.0000\t60.5000\n"
        "my%20call\t0.5000\t1.0000\tsad\t0.875000\t0.125000\t0.875000\tcall\t60.5000\t61.0000\n"
        "my%20call\t1.0000\t1.7346\tangry\t0.659679\t0.659679\t0.340321\tcall\t61.0000\t61.7346\n"
    )
    assert join_spans([]) == []


def test_single_spans_are_not_changed_by_joining() -> None:
    """Every bit is kept, although 0.7 × 0.1 / 0.1 is not 0.7."""
    span = Span(0.0, 0.1, "angry", 0.7, (0.7, 0.3))
    assert join_spans([span]) == [span]

    joined = join_spans(odd_spans(0))
    assert join_spans(joined) == joined


def test_spans_of_one_label_become_one_span() -> None:
    joined = join_spans(spans_of([[0.25, 0.75]] * 40, 0.1, 4.0))

    assert joined == [Span(0.0, 4.0, "sad", 0.75, (0.25, 0.75))]


def test_score_is_the_probability_of_the_label() -> None:
    for span in join_spans(odd_spans(0)):
        assert span.score == max(span.posteriors) == span.posteriors[ODD_LABELS.index(span.label)]
        assert sum(span.posteriors) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("hop", "duration", "expected"),
    [
        (2.0, 0.7, [(0, 0.7)]),  # shorter than a span
        (2.0, 2.0, [(0, 2.0)]),
        (0.5, 1.5, [(0, 0.5), (0.5, 1.0), (1.0, 1.5)]),  # a multiple of the span
        (0.1, 0.3, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),  # 3 × 0.1 is more than 0.3
        (0.5, 1.9, [(0, 0.5), (0.5, 1.0), (1.0, 1.9)]),  # the rest belongs to the last span
    ],
)
def test_last_span_ends_with_the_utterance(hop: float, duration: float, expected: list[tuple[float, float]]) -> None:
    assert times(spans_of([[0.5, 0.5]] * len(expected), hop, duration)) == expected


@pytest.mark.parametrize("duration", [1.00003, 1.0, 0.99998])
def test_every_row_has_a_length(duration: float) -> None:
    """Lengths are those of rounded times."""
    assert rows(POSTERIORS[:3], 0.5, duration) == (
        "u\t0.0000\t0.5000\tangry\t0.750000\t0.750000\t0.250000\tu\t0.0000\t0.5000\n"
        "u\t0.5000\t1.0000\tsad\t0.875000\t0.125000\t0.875000\tu\t0.5000\t1.0000\n"
    )


def test_spans_after_the_end_are_left_out() -> None:
    assert times(spans_of(POSTERIORS, 0.5, 0.8)) == [(0, 0.5), (0.5, 0.8)]


def test_span_times_do_not_drift_in_an_hour() -> None:
    spans = rows([[0.5, 0.5]] * 36_000, 0.1, 3600.0).splitlines()

    edges = [f"{Decimal(number) / 10:.4f}" for number in range(36_001)]
    assert [tuple(row.split("\t")[1:3]) for row in spans] == list(pairwise(edges))


def test_ids_and_labels_do_not_break_the_table() -> None:
    text = rows([[0.25, 0.75], [1.0, 0.0]], 1.0, 2.0, "a\tb\n", ("x\ty", "ü\u2028\x85\x0cz"))

    assert text == (
        "a b \t0.0000\t1.0000\tü\u2028\x85\x0cz\t0.750000\t0.250000\t0.750000\ta b \t0.0000\t1.0000\n"
        "a b \t1.0000\t2.0000\tx y\t1.000000\t1.000000\t0.000000\ta b \t1.0000\t2.0000\n"
    )
    assert [span.label for span in parse_rows(text.encode())[1]] == ["ü\u2028\x85\x0cz", "x y"]
    assert tsv_row(timeline_header(("x\ty",))[:6]) == "utt_id\tstart\tend\tlabel\tscore\tx y"
