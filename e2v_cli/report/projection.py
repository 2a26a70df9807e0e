"""Embeddings of a run → a map: their two principal components, of a sample of utterances that is always the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_cli.report.columns import RunResults, read_done
from e2v_cli.results.formats import EMBEDDING_FORMATS

MAX_POINTS = 1500
"""The most vectors on a map."""

MAX_MATRICES = 300
"""The most vectors on a map where embeddings are matrices of frames, which take long to read."""

MAP_SIZE = 1000
"""The highest coordinate: coordinates are whole numbers from 0 to this."""


@dataclass(frozen=True)
class Projection:
    """Points on a plane."""

    points: NDArray[np.int64]
    """(points, 2): from 0 to MAP_SIZE, in the same scale."""
    variance: tuple[float, float]
    """Share of the variance on each axis."""


@dataclass(frozen=True)
class EmbeddingMap:
    """Points of the map, with the labels, scores and speakers of their utterances."""

    data: Mapping[str, Any]
    """Data for the page's script."""
    count: int
    of: int
    dim: int
    variance: tuple[float, float]
    has_speakers: bool


def choose_points(count: int, is_matrix: bool) -> NDArray[np.int64]:
    """Choose utterances that lie evenly in the list: (points,) indices up to ``count``."""
    most = MAX_MATRICES if is_matrix else MAX_POINTS
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.arange(0)


def make_map(run: RunResults) -> EmbeddingMap | None:
    """Make the map of a run, of the last of several layers; None if it has no embeddings that can be read back.

    Raises:
        OSError: an embedding can't be read.
        ValueError: one is damaged, or they have different sizes.
    """
    fingerprint, columns = run.header.fingerprint, run.columns
    form = EMBEDDING_FORMATS.get(str(fingerprint["embeddings"]))
    chosen = choose_points(len(columns), fingerprint["granularity"] == "frame")
    if form is None or form.read is None or len(chosen) < 3:
        return None
    with run.history.reading():
        lines = [read_done(run.history, columns.list_indices[index : index + 1])[0] for index in chosen.tolist()]
    vectors = np.stack(
        [
            np.atleast_2d(form.read(run.output_dir / line.embedding.split()[-1].decode())).mean(
                axis=0, dtype=np.float64
            )
            for line in lines
        ]
    )
    _, speakers = np.unique(run.speakers.numbers[chosen], return_inverse=True)
    projection, centred = project(vectors), project(subtract_means(vectors, speakers))
    names, numbers = _rank_names([run.speakers.name_of(index) for index in chosen.tolist()])
    data = {
        "points": projection.points.tolist(),
        "centred": centred.points.tolist(),
        "label": columns.labels[chosen].tolist(),
        "score": np.rint(100 * columns.scores[chosen]).astype(int).tolist(),
        "speaker": numbers,
        "speakers": names,
        "ids": [line.utt_id.decode() for line in lines],
    }
    return EmbeddingMap(data, len(chosen), len(columns), vectors.shape[1], projection.variance, bool(names))


def _rank_names(speakers: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the names of known speakers, the most frequent first, and the index of each point's; -1: not known."""
    names = [name for name, _ in Counter(filter(None, speakers)).most_common()]
    numbers = {name: number for number, name in enumerate(names)}
    return names, [numbers.get(name, -1) for name in speakers]


def subtract_means(vectors: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Subtract from (points, dim) the mean of each one's group: (points,) numbers from 0."""
    counts = np.bincount(groups)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, groups, vectors)
    centred: NDArray[np.float64] = vectors - (sums / np.maximum(counts, 1)[:, None])[groups]
    return centred


def project(vectors: NDArray[np.float64]) -> Projection:
    """Project (points, dim) to their first two principal components.

    The sign of an axis is that of its largest loading, so that the same vectors always give the same map.
    """
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    points = centred @ axes
    if points.shape[1] == 1:
        points = np.hstack([points, np.zeros_like(points)])
    low, span = points.min(axis=0), max(float(np.ptp(points, axis=0).max()), 1e-12)
    shares = [*(np.maximum(variances[::-1], 0) / max(float(variances.sum()), 1e-12)), 0.0]
    return Projection(np.rint((points - low) / span * MAP_SIZE).astype(np.int64), (float(shares[0]), float(shares[1])))
