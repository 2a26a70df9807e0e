"""Distribution of labels, scores and durations: columns → tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from e2v_cli.report.charts import draw_density, draw_histogram
from e2v_cli.report.columns import CHUNK, Columns
from e2v_cli.report.palette import Mark

BINS = 25
"""Bins of scores, from 0 to 1."""

DURATION_BINS = 32
"""Bins of durations, of equal ratios."""


@dataclass(frozen=True)
class LabelRow:
    """The utterances with a label, in numbers."""

    mark: Mark
    utterances: int
    share: float
    """Share of the utterances that are done."""
    seconds: float
    share_of_time: float
    median_score: float
    """Median score; 0 without utterances."""


@dataclass(frozen=True)
class Overview:
    """Distributions over all utterances that are done."""

    labels: Sequence[LabelRow]
    seconds: float
    shortest: float
    longest: float
    median_seconds: float
    median_score: float
    scores: Markup
    """Histogram of scores."""
    durations: Markup
    """Chart of score against duration."""


def make_overview(columns: Columns, marks: Sequence[Mark]) -> Overview:
    """Count and draw the columns of a run that has at least one utterance done."""
    durations = columns.durations
    seconds, utterances = np.zeros(max(1, len(marks))), np.zeros(max(1, len(marks)), dtype=np.int64)
    np.add.at(seconds, columns.labels, durations)
    np.add.at(utterances, columns.labels, 1)
    total = float(durations.sum(dtype=np.float64))
    edges = _choose_edges(durations)
    return Overview(
        labels=[
            LabelRow(
                mark=mark,
                utterances=int(utterances[number]),
                share=float(utterances[number]) / len(columns),
                seconds=float(seconds[number]),
                share_of_time=float(seconds[number]) / max(total, 1e-9),
                median_score=_median(columns.scores[columns.labels == number]),
            )
            for number, mark in enumerate(marks)
        ],
        seconds=total,
        shortest=float(durations.min()),
        longest=float(durations.max()),
        median_seconds=_median(durations),
        median_score=_median(columns.scores),
        scores=draw_histogram(
            np.histogram(columns.scores, bins=BINS, range=(0, 1))[0],
            f"Histogram of scores: the median is {_median(columns.scores):.2f}",
            "score of the label",
            "utterances",
        ),
        durations=draw_density(
            _count_cells(columns, edges),
            edges.tolist(),
            f"Scores against durations from {durations.min():.1f} to {durations.max():.1f} s",
            "duration (s)",
            "score of the label",
        ),
    )


def _count_cells(columns: Columns, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count utterances by duration and score: (durations, scores)."""
    counts = np.zeros((DURATION_BINS, BINS))
    for first in range(0, len(columns), CHUNK):  # of all at once, it would take several times their memory
        part = slice(first, first + CHUNK)
        bins = (edges, np.linspace(0, 1, BINS + 1))
        counts += np.histogram2d(columns.durations[part], columns.scores[part], bins=bins)[0]
    return counts.astype(np.int64)


def _median(values: NDArray[np.float32]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _choose_edges(durations: NDArray[np.float32]) -> NDArray[np.float64]:
    """Choose the edges of bins that hold all durations."""
    low = max(float(durations.min()), 0.02)
    high = max(float(durations.max()), 1.2 * low)
    edges = np.geomspace(low, high, DURATION_BINS + 1)
    edges[0], edges[-1] = min(edges[0], float(durations.min())), high  # rounding must not leave any out
    return edges
