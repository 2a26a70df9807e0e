"""Utterances that are shown, and the parts that are played."""

from __future__ import annotations

from e2v_cli.report.examples import Example, Part, choose_part
from e2v_cli.results.spans import Span


def make_example(duration: float, *posteriors: tuple[float, ...]) -> Example:
    """Make an example with spans of ten seconds."""
    spans = tuple(
        Span(10.0 * number, 10.0 * number + 10.0, "angry", max(each), each) for number, each in enumerate(posteriors)
    )
    return Example(0, "a", 0, (0.5, 0.4, 0.1), duration, "", spans)


def test_short_utterance_is_played_as_a_whole() -> None:
    assert choose_part(make_example(14.9, (0.5, 0.5)), 15.0) == Part(0.0, 14.9)


def test_long_utterance_is_played_around_its_most_doubtful_span() -> None:
    example = make_example(50.0, (0.9, 0.1), (0.8, 0.2), (0.55, 0.45), (0.7, 0.3), (1.0, 0.0))
    assert choose_part(example, 15.0) == Part(17.5, 32.5)


def test_part_ends_with_the_utterance() -> None:
    assert choose_part(make_example(20.0, (0.9, 0.1), (0.5, 0.5)), 15.0) == Part(5.0, 20.0)
    assert choose_part(make_example(20.0, (0.5, 0.5), (0.9, 0.1)), 15.0) == Part(0.0, 15.0)


def test_middle_is_played_without_a_timeline() -> None:
    assert choose_part(make_example(115.0), 15.0) == Part(50.0, 65.0)


def test_margin_is_the_first_probability_minus_the_second() -> None:
    assert round(make_example(1.0).margin, 9) == 0.1
    assert Example(0, "a", 0, (), 1.0, "", ()).margin == 0.0
