"""Charts as inline SVG: elements with a title for readers of screens, coloured by classes of ``page.css``.

Coordinates are of the chart's own view box, so that a chart fits the width of any page. Texts are escaped by the
writer of XML, whatever they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from e2v_cli.report.clips import PEAK_HEIGHT
from e2v_cli.report.examples import Part
from e2v_cli.report.palette import Mark
from e2v_cli.report.speakers import SpeakerLabels
from e2v_cli.results.spans import Span
from e2v_cli.system.text import tsv_row

WIDTH, HEIGHT = 420, 230
"""View box of a chart with axes."""

LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 38
"""Margins of its plot."""

PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

MIN_LETTERED = 0.06
"""The share of a bar from which on a part has its letters."""

MAX_CELLS = 100
"""Cells of a strip: a longer timeline is sampled."""

NAMED_CELLS = 5
"""Cells that the name of a strip lists."""

PARTS_WIDTH, PARTS_GAP = 1000, 2
"""View box of the parts of a bar, and the gap between them."""


def _svg(kind: str, title: str, view_box: tuple[int, int] | None = None) -> Element:
    """Make an image; without a title, it is decoration; without a view box, numbers are pixels and shares."""
    attributes = {"class": kind}
    attributes |= {"viewBox": f"0 0 {view_box[0]} {view_box[1]}"} if view_box else {}
    return Element("svg", attributes | ({"role": "img", "aria-label": title} if title else {"aria-hidden": "true"}))


def _add_element(parent: Element, tag: str, text: str = "", kind: str = "", **attributes: float | str) -> Element:
    """Add an element; numbers are rounded, and an underscore in a name becomes a hyphen."""
    values = {"class": kind} if kind else {}
    for name, value in attributes.items():
        values[name.replace("_", "-")] = value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
    element = SubElement(parent, tag, values)
    element.text = text or None
    return element


def _to_markup(image: Element) -> Markup:
    return Markup(tostring(image, encoding="unicode", short_empty_elements=True))  # noqa: S704 — it has escaped all


def draw_share(share: float, kind: str) -> Markup:
    """Draw a horizontal bar of a share from 0 to 1; its number stands beside it."""
    image = _svg("bar", "")
    _add_element(image, "rect", kind="rail", width="100%", height="100%")
    _add_element(image, "rect", kind=kind, width=_percent(share), height="100%")
    return _to_markup(image)


def draw_speaker(speaker: SpeakerLabels, marks: Sequence[Mark]) -> Markup:
    """Draw the labels of a speaker as parts of a horizontal bar."""
    shares = [count / max(1, speaker.utterances) for count in speaker.counts]
    ends = list(accumulate(shares))
    parts = [(mark, end - share, end) for mark, share, end in zip(marks, shares, ends, strict=True) if share]
    title = ", ".join(f"{mark.label} {end - begin:.0%}" for mark, begin, end in parts)
    return _to_markup(_draw_parts("bar", title, parts))


def _draw_parts(kind: str, title: str, parts: Sequence[tuple[Mark, float, float]]) -> Element:
    """Draw parts of a bar, from 0 to 1: lines in a path for each colour, and letters where there is room for them."""
    image = _svg(kind, title)
    colours = _add_element(image, "svg", viewBox=f"0 -1 {PARTS_WIDTH} 2", preserveAspectRatio="none")
    paths: dict[int, list[str]] = {}
    for mark, begin, end in parts:
        left, right = round(PARTS_WIDTH * begin), round(PARTS_WIDTH * end)
        paths.setdefault(mark.colour, []).append(f"M{left} 0h{max(1, right - left - PARTS_GAP)}")
    for colour, lines in paths.items():
        _add_element(colours, "path", kind=f"c{colour}", d="".join(lines))
    names = _add_element(image, "svg", kind="letters", y="50%")
    for mark, begin, end in parts:
        if end - begin >= MIN_LETTERED:
            _add_element(names, "text", mark.letters, f"c{mark.colour}", x=_percent((begin + end) / 2))
    return image


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def draw_histogram(counts: NDArray[np.int64], title: str, x_title: str, y_title: str) -> Markup:
    """Draw counts in equal bins from 0 to 1."""
    image = _svg("chart", title, (WIDTH, HEIGHT))
    most = _round_up(int(counts.max(initial=1)))
    _draw_y_axis(image, [(value / most, _short(value)) for value in _ticks(most)], y_title)
    _draw_x_axis(image, [(share / 5, f"{share / 5:.1f}") for share in range(6)], x_title)
    width = PLOT_WIDTH / len(counts)
    for number, count in enumerate(counts.tolist()):
        height = PLOT_HEIGHT * count / most
        left, top = LEFT + number * width, TOP + PLOT_HEIGHT - height
        bar = _add_element(image, "rect", kind="mark", x=left + 0.5, y=top, width=width - 1, height=height)
        _add_element(bar, "title", f"{number / len(counts):.2f}–{(number + 1) / len(counts):.2f}: {count:,}")
    return _to_markup(image)


def draw_density(counts: NDArray[np.int64], edges: Sequence[float], title: str, x_title: str, y_title: str) -> Markup:
    """Draw counts of (columns, rows) as shades: columns between edges on a logarithmic scale, rows from 0 to 1."""
    image = _svg("chart", title, (WIDTH, HEIGHT))
    _draw_y_axis(image, [(share / 5, f"{share / 5:.1f}") for share in range(6)], y_title)
    low, high = math.log(max(edges[0], 1e-3)), math.log(edges[-1])
    ticks = [value for value in _DURATION_TICKS if edges[0] <= value <= edges[-1]]
    step = max(1, math.ceil(len(ticks) / 7))
    _draw_x_axis(image, [((math.log(value) - low) / (high - low), f"{value:g}") for value in ticks[::step]], x_title)
    width, height = PLOT_WIDTH / counts.shape[0], PLOT_HEIGHT / counts.shape[1]
    most = math.log1p(int(counts.max(initial=1)))
    paths: dict[int, list[str]] = {}
    for column, row in np.argwhere(counts).tolist():
        left, top = LEFT + column * width, TOP + PLOT_HEIGHT - (row + 1) * height
        shade = 1 + round(8 * math.log1p(int(counts[column, row])) / most)
        cell = f"M{left:.1f} {top:.1f}h{width + 0.2:.1f}v{height + 0.2:.1f}h{-width - 0.2:.1f}z"
        paths.setdefault(shade, []).append(cell)
    for shade, cells in sorted(paths.items()):
        _add_element(image, "path", kind=f"q{shade}", d="".join(cells))
    return _to_markup(image)


def draw_reliability(
    counts: NDArray[np.int64], confidences: NDArray[np.float64], accuracies: NDArray[np.float64], title: str
) -> Markup:
    """Draw the accuracy of equal bins of scores as bars, at their mean scores as points, and the diagonal."""
    image = _svg("chart", title, (WIDTH, HEIGHT))
    _draw_y_axis(image, [(share / 5, f"{share / 5:.1f}") for share in range(6)], "accuracy")
    _draw_x_axis(image, [(share / 5, f"{share / 5:.1f}") for share in range(6)], "score")
    width, base, most = PLOT_WIDTH / len(counts), TOP + PLOT_HEIGHT, int(counts.max(initial=1))
    for number, count in enumerate(counts.tolist()):
        if count:
            height, shade = PLOT_HEIGHT * float(accuracies[number]), 3 + round(6 * count / most)
            left = LEFT + number * width
            bar = _add_element(
                image, "rect", kind=f"q{shade}", x=left + 0.5, y=base - height, width=width - 1, height=height
            )
            edges = f"{number / len(counts):.2f}–{(number + 1) / len(counts):.2f}"
            _add_element(bar, "title", f"{edges}: {accuracies[number]:.0%} of {count:,} right")
    _add_element(image, "line", kind="diagonal", x1=LEFT, y1=base, x2=LEFT + PLOT_WIDTH, y2=TOP)
    for number in np.flatnonzero(counts).tolist():
        x, y = LEFT + PLOT_WIDTH * float(confidences[number]), base - PLOT_HEIGHT * float(accuracies[number])
        _add_element(image, "circle", kind="point", cx=x, cy=y, r=3.5)
    return _to_markup(image)


_DURATION_TICKS = [base * 10**power for power in range(-2, 6) for base in (1, 2, 5)]


def draw_waveform(peaks: Sequence[int]) -> Markup:
    """Draw the columns of a waveform as one path, which fills any width."""
    image = _svg("wave", "", (PEAK_COLUMN * len(peaks), 2 * PEAK_HEIGHT))
    image.set("preserveAspectRatio", "none")
    columns = (
        f"M{number * PEAK_COLUMN + PEAK_COLUMN // 2} {PEAK_HEIGHT - max(peak, 2)}v{2 * max(peak, 2)}"
        for number, peak in enumerate(peaks)
    )
    _add_element(image, "path", d="".join(columns))
    return _to_markup(image)


PEAK_COLUMN = 4
"""Width of a column of a waveform in its view box."""


def draw_strip(spans: Sequence[Span], part: Part, marks: Sequence[Mark]) -> Markup:
    """Draw the spans of an utterance in a part of it."""
    by_label = {tsv_row([mark.label]): mark for mark in marks}
    cells = list(_clip_spans(spans, part))
    labels = ", ".join(f"{label} {start:.1f}–{end:.1f} s" for start, end, label in cells[:NAMED_CELLS])
    title = f"Emotions over time: {labels}{' …' if len(cells) > NAMED_CELLS else ''}"
    length = max(part.end - part.start, 1e-9)
    parts = [
        (by_label[label], (start - part.start) / length, (end - part.start) / length) for start, end, label in cells
    ]
    return _to_markup(_draw_parts("strip", title, parts))


def _clip_spans(spans: Sequence[Span], part: Part) -> Iterable[tuple[float, float, str]]:
    """Yield start, end and label of neighbours that have the same label, in a part; of many, a sample."""
    inside = [span for span in spans if span.end > part.start and span.start < part.end]
    if len(inside) > MAX_CELLS:
        chosen = [inside[number * len(inside) // MAX_CELLS] for number in range(MAX_CELLS)]
        ends = [*(span.start for span in chosen[1:]), inside[-1].end]
    else:
        chosen, ends = inside, [span.end for span in inside]
    start, label = part.start, ""
    for span, end in zip(chosen, ends, strict=True):
        if span.label != label:
            if label:
                yield start, max(span.start, part.start), label
            start, label = max(span.start, part.start), span.label
        last = min(end, part.end)
    if label:
        yield start, last, label


def _draw_x_axis(image: Element, ticks: Iterable[tuple[float, str]], title: str) -> None:
    """Draw an axis: the position of each tick from 0 to 1, and its text."""
    base = TOP + PLOT_HEIGHT
    _add_element(image, "line", kind="axis", x1=LEFT, x2=LEFT + PLOT_WIDTH, y1=base, y2=base)
    for position, text in ticks:
        _add_element(image, "text", text, "tick", x=LEFT + position * PLOT_WIDTH, y=base + 14, text_anchor="middle")
    _add_element(image, "text", title, "title", x=LEFT + PLOT_WIDTH / 2, y=float(HEIGHT - 4), text_anchor="middle")


def _draw_y_axis(image: Element, ticks: Iterable[tuple[float, str]], title: str) -> None:
    """Draw an axis with its grid: the position of each tick from 0 to 1, and its text."""
    for position, text in ticks:
        y = TOP + PLOT_HEIGHT * (1 - position)
        _add_element(image, "line", kind="grid", x1=LEFT, x2=LEFT + PLOT_WIDTH, y1=y, y2=y)
        _add_element(image, "text", text, "tick", x=LEFT - 5, y=y + 3.5, text_anchor="end")
    middle = TOP + PLOT_HEIGHT / 2
    turned = f"rotate(-90 11 {middle:g})"
    _add_element(image, "text", title, "title", x=11, y=middle, text_anchor="middle", transform=turned)


def _round_up(count: int) -> int:
    """Return the next number of which a fourth is round: 4, 8, 12, 16, 20, 24, 32, 40, 80, and so on."""
    power = 1
    while True:
        for base in (4, 8, 12, 16, 20, 24, 32):
            if base * power >= count:
                return base * power
        power *= 10


def _ticks(most: int) -> list[int]:
    return [most * number // 4 for number in range(5)]


def _short(count: int) -> str:
    """Format a count in the room of an axis: 800, 12k, 3.5M."""
    for power, unit in ((10**6, "M"), (10**3, "k")):
        if count >= power:
            return f"{count / power:.3g}{unit}"
    return str(count)
