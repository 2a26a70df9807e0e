"""Charts: what they draw, and that any text is only text."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest

from e2v_cli.report.charts import (
    draw_density,
    draw_histogram,
    draw_reliability,
    draw_speaker,
    draw_strip,
    draw_waveform,
)
from e2v_cli.report.examples import Part
from e2v_cli.report.palette import Mark, mark_labels
from e2v_cli.report.speakers import SpeakerLabels
from e2v_cli.results.spans import Span

HOSTILE = "\"'><script>alert(1)</script>&\u2028"
MARKS = mark_labels(["angry", "sad"])


def parse(drawn: str) -> Element:
    return fromstring(drawn)  # noqa: S314 — e2v's own


def spans(*labels: str, seconds: float = 1.0) -> list[Span]:
    return [Span(number * seconds, (number + 1) * seconds, label, 1.0, ()) for number, label in enumerate(labels)]


def parts_of(image: Element) -> dict[str, str]:
    """Return the path of each colour in a bar that is 1000 wide."""
    return {str(path.get("class")): str(path.get("d")) for path in image.iter("path")}


def test_strip_joins_neighbours_of_a_label() -> None:
    image = parse(draw_strip(spans("angry", "angry", "sad", "angry"), Part(0.0, 4.0), MARKS))
    assert parts_of(image) == {
        "c1": "M0 0h498M750 0h248",
        "c3": "M500 0h248",
    }
    assert [(text.text, text.get("x")) for text in image.iter("text")] == [
        ("An", "25.0%"),
        ("Sa", "62.5%"),
        ("An", "87.5%"),
    ]
    assert image.get("aria-label") == "Emotions over time: angry 0.0–2.0 s, sad 2.0–3.0 s, angry 3.0–4.0 s"


def test_strip_shows_the_part_alone() -> None:
    image = parse(draw_strip(spans("sad", "angry", "sad", "sad"), Part(0.5, 2.5), MARKS))
    assert parts_of(image) == {"c3": "M0 0h248M750 0h248", "c1": "M250 0h498"}


def test_long_timeline_is_sampled() -> None:
    image = parse(draw_strip(spans(*["angry", "sad", "sad"] * 1200), Part(0.0, 3600.0), MARKS))
    widths = [int(width) for path in parts_of(image).values() for width in re.findall(r"h(\d+)", path)]
    assert len(widths) <= 100
    assert sum(width + 2 for width in widths) == 1000


def test_speaker_has_a_part_for_each_label() -> None:
    image = parse(draw_speaker(SpeakerLabels("anna", [1, 3], 9.0), MARKS))
    assert parts_of(image) == {"c1": "M0 0h248", "c3": "M250 0h748"}
    assert image.get("aria-label") == "angry 25%, sad 75%"
    assert [text.text for text in image.iter("text")] == ["An", "Sa"]


def test_histogram_has_a_bar_for_each_bin() -> None:
    image = parse(draw_histogram(np.array([0, 5, 20]), "scores", "score", "utterances"))
    bars = [bar for bar in image.iter("rect") if bar.get("class") == "mark"]
    heights = [float(str(bar.get("height"))) for bar in bars]
    assert heights == [0.0, 46.0, 184.0]
    assert [title.text for title in image.iter("title")] == ["0.00–0.33: 0", "0.33–0.67: 5", "0.67–1.00: 20"]


@pytest.mark.parametrize("most", [0, 1, 4, 5, 33, 100, 101, 12_345, 10_000_000])
def test_axis_ends_above_the_highest_bar(most: int) -> None:
    image = parse(draw_histogram(np.array([most]), "scores", "score", "utterances"))
    assert float(str(next(image.iter("rect")).get("height"))) <= 184


def test_density_has_a_cell_where_there_is_something() -> None:
    counts = np.zeros((2, 4), dtype=np.int64)
    counts[0, 3], counts[1, 0] = 1000, 1
    image = parse(draw_density(counts, [1.0, 3.0, 9.0], "scores", "seconds", "score"))
    assert [(path.get("class"), path.get("d")) for path in image.iter("path")] == [
        ("q2", "M229.0 146.0h183.2v46.2h-183.2z"),
        ("q9", "M46.0 8.0h183.2v46.2h-183.2z"),
    ]


def test_hostile_labels_are_text() -> None:
    marks = (Mark(HOSTILE, HOSTILE, 0),)
    for drawn in (
        draw_speaker(SpeakerLabels(HOSTILE, [3], 1.0), marks),
        draw_strip(spans(HOSTILE), Part(0.0, 1.0), marks),
        draw_histogram(np.array([1]), HOSTILE, HOSTILE, HOSTILE),
    ):
        image = parse(drawn)
        assert {element.tag for element in image.iter()} <= {"svg", "rect", "path", "text", "title", "line"}
        assert "<script" not in drawn


def test_reliability_has_a_bar_and_a_point_where_there_are_utterances() -> None:
    image = parse(draw_reliability(np.array([0, 4]), np.array([0.0, 0.8]), np.array([0.0, 0.5]), "accuracy"))
    assert [(bar.get("class"), bar.get("height"), next(iter(bar)).text) for bar in image.iter("rect")] == [
        ("q9", "92", "0.50–1.00: 50% of 4 right")
    ]
    assert [(point.get("cx"), point.get("cy")) for point in image.iter("circle")] == [("338.8", "100")]


def test_waveform_is_one_path_without_a_name() -> None:
    image = parse(draw_waveform([0, 100]))
    assert [path.get("d") for path in image.iter("path")] == ["M2 98v4M6 0v200"]
    assert image.get("aria-hidden") == "true"
