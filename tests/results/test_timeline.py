"""Timelines: posteriors become spans and rows."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from support.timelines import DURATION, LABELS, ODD_LABELS, POSTERIORS, ROWS, SPANS, odd_spans, rows, spans_of, times

from e2v_cli.results.spans import Span, join_spans, parse_rows, span_rows
from e2v_cli.results.timeline import timeline_header
from e2v_cli.system.text import tsv_row


def test_rows_of_an_utterance() -> None:
    assert timeline_header(LABELS) == ("utt_id", "start", "end", "label", "score", "angry", "sad")
    assert rows(POSTERIORS, 0.5, DURATION, "my%20call") == ROWS


def test_rows_round_trip() -> None:
    assert parse_rows(ROWS.encode()) == SPANS
    assert "".join(span_rows("my%20call", SPANS)) == ROWS
    assert parse_rows(b"") == []


def test_neighbouring_spans_of_the_same_label_are_joined() -> None:
    """Longer spans have more weight in the mean."""
    joined = join_spans(SPANS)

    angry = (0.5 * 0.5 + 0.2346 * 1.0) / 0.7346
    assert joined[:2] == SPANS[:2]
    assert joined[2] == Span(1.0, 1.7346, "angry", joined[2].posteriors[0], joined[2].posteriors)
    assert joined[2].posteriors == pytest.approx((angry, 1 - angry), abs=1e-15)
    assert "".join(span_rows("my%20call", joined)) == (
        "my%20call\t0.0000\t0.5000\tangry\t0.750000\t0.750000\t0.250000\n"
        "my%20call\t0.5000\t1.0000\tsad\t0.875000\t0.125000\t0.875000\n"
        "my%20call\t1.0000\t1.7346\tangry\t0.659679\t0.659679\t0.340321\n"
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
        "u\t0.0000\t0.5000\tangry\t0.750000\t0.750000\t0.250000\nu\t0.5000\t1.0000\tsad\t0.875000\t0.125000\t0.875000\n"
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
        "a b \t0.0000\t1.0000\tü\u2028\x85\x0cz\t0.750000\t0.250000\t0.750000\n"
        "a b \t1.0000\t2.0000\tx y\t1.000000\t1.000000\t0.000000\n"
    )
    assert [span.label for span in parse_rows(text.encode())] == ["ü\u2028\x85\x0cz", "x y"]
    assert tsv_row(timeline_header(("x\ty",))) == "utt_id\tstart\tend\tlabel\tscore\tx y"
