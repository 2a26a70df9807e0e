"""Bootstrap: confusion matrices of resampled units → percentile intervals and differences.

Metrics are functions of confusion matrices, so utterances are never resampled one by one. Resampled utterances are a
multinomial draw over the cells of the matrix; resampled speakers are a product of the times that each is drawn with the
matrices of each. Both are counts of units times matrices of units, where a cell is a unit of one utterance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.metrics.metrics import compute_metrics

FEW_UNITS = 20
"""Number of speakers below which intervals are too narrow, and are marked so."""

BLOCK_ROWS = 1 << 20
"""Utterances that are counted at a time."""

BLOCK_NUMBERS = 1 << 22
"""Counts that are drawn at a time, about."""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the scored utterances: (utterances,) arrays of indices."""

    references: NDArray[np.int16]
    """(utterances,): indices of the reference's classes."""
    answers: tuple[NDArray[np.int16], ...]
    """(utterances,) of each system: indices of its answers."""
    shape: tuple[int, int]
    """(classes, answers) of a confusion matrix."""
    folds: NDArray[np.int32] | None = None
    """(utterances,): indices of folds; None: all are in one."""

    @property
    def num_folds(self) -> int:
        """The number of folds, of which each has utterances."""
        return 1 if self.folds is None else 1 + int(self.folds.max())

    def confusions(self, system: int = 0) -> NDArray[np.int64]:
        """Count the cells of the confusion matrix of each fold: (folds, classes, answers)."""
        keys, counts = count_combinations(
            [self.folds, self.references, self.answers[system]], [self.num_folds, *self.shape]
        )
        confusions = np.zeros((self.num_folds, *self.shape), dtype=np.int64)
        confusions.reshape(-1)[keys] = counts
        return confusions


def count_combinations(
    columns: Sequence[NDArray[np.integer] | None], sizes: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the combinations of indices, some rows at a time: their keys, the last index varying fastest, and counts.

    Args:
        columns: (rows,) indices each; None: all are 0.
        sizes: the number of indices in each.
    """
    keys, counts = [], []
    rows = next(len(column) for column in columns if column is not None)
    for first in range(0, rows, BLOCK_ROWS):
        key = np.zeros(min(BLOCK_ROWS, rows - first), dtype=np.int64)
        for column, size in zip(columns, sizes, strict=True):
            key *= size
            if column is not None:
                key += column[first : first + BLOCK_ROWS]
        found = np.unique(key, return_counts=True)
        keys.append(found[0])
        counts.append(found[1])
    merged, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    return merged, np.bincount(inverse, np.concatenate(counts)).astype(np.int64)


def mean_of_folds(confusions: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the metrics of each fold, and their means: (…, folds, classes, answers) → (…, metrics).

    Folds without utterances, as in some resamples, are left out.
    """
    metrics = compute_metrics(confusions)
    has_any = confusions.sum((-2, -1))[..., None] > 0
    means: NDArray[np.float64] = np.where(has_any, metrics, 0.0).sum(-2) / has_any.sum(-2)
    return means


@dataclass(frozen=True)
class _FoldUnits:
    """The units that have utterances in a fold."""

    units: NDArray[np.int64]
    matrices: NDArray[np.float64]
    """(units, systems · classes · answers): confusion matrices."""


class Bootstrap:
    """Metrics of resamples of the same utterances, for each system: over all folds together, and means over folds."""

    def __init__(self, outcomes: Outcomes, units: NDArray[np.int32] | None, resamples: int, seed: int) -> None:
        """Resample.

        Args:
            outcomes: of the utterances.
            units: (utterances,) indices of the speaker, or whatever is resampled as a whole; None: the utterance.
            resamples: their number.
            seed: of the generator, NumPy's default.
        """
        cells = _Cells(outcomes, units)
        generator = np.random.default_rng(seed)
        blocks = [
            _metrics_of_draws(counts, cells.parts, (len(outcomes.answers), *outcomes.shape))
            for counts in cells.draw(generator, resamples)
        ]
        self.num_units = cells.num_units
        self.pooled = np.concatenate([pooled for pooled, _ in blocks])
        """(resamples, systems, metrics): over all folds together."""
        self.means = np.concatenate([means for _, means in blocks])
        """(resamples, systems, metrics): means over folds."""


class _Cells:
    """Units, which are drawn with replacement, and their confusion matrices by fold and system."""

    def __init__(self, outcomes: Outcomes, units: NDArray[np.int32] | None) -> None:
        num_classes, num_answers = outcomes.shape
        num_units = 1 if units is None else int(units.max()) + 1
        is_whole = units is None or num_units == len(units)
        """Whether each utterance is a unit."""
        num_systems = len(outcomes.answers)
        key, counts = count_combinations(
            [None if is_whole else units, outcomes.folds, outcomes.references, *outcomes.answers],
            [num_units, outcomes.num_folds, num_classes, *[num_answers] * num_systems],
        )
        rest, cell = np.divmod(key, num_classes * num_answers**num_systems)
        unit, fold = np.divmod(rest, outcomes.num_folds)
        if is_whole:
            unit = np.arange(len(key))
        self.num_units = int(counts.sum()) if is_whole else num_units
        self._counts = counts if is_whole else None
        matrices = _stack_matrices(cell, outcomes)
        self.parts = [
            _make_fold_units(
                unit[chosen], matrices[chosen], None if is_whole else counts[chosen], num_classes * num_answers
            )
            for chosen in (np.flatnonzero(fold == number) for number in range(outcomes.num_folds))
        ]

    def draw(self, generator: np.random.Generator, resamples: int) -> Iterator[NDArray[np.float64]]:
        """Draw the counts of units in resamples, some at a time: (resamples, units)."""
        width = self.num_units if self._counts is None else len(self._counts)
        step = max(1, BLOCK_NUMBERS // width)
        for first in range(0, resamples, step):
            number = min(step, resamples - first)
            if self._counts is not None:
                drawn = generator.multinomial(self.num_units, self._counts / self.num_units, size=number)
                yield drawn.astype(np.float64)
                continue
            counts = np.empty((number, width))
            for row in counts:
                row[:] = np.bincount(generator.integers(width, size=width), minlength=width)
            yield counts


def _stack_matrices(cell: NDArray[np.int64], outcomes: Outcomes) -> NDArray[np.int64]:
    """Return the index of each cell in the confusion matrix of each system: (cells, systems)."""
    columns: list[NDArray[np.int64]] = []
    num_answers = outcomes.shape[1]
    for _ in outcomes.answers:
        cell, answer = np.divmod(cell, num_answers)
        columns.insert(0, answer)
    return np.stack([cell * num_answers + answer for answer in columns], axis=1)


def _make_fold_units(
    unit: NDArray[np.int64], cells: NDArray[np.int64], counts: NDArray[np.int64] | None, size: int
) -> _FoldUnits:
    """Make the matrices of a fold's units; ``counts`` None: each cell is one utterance."""
    units, rows = np.unique(unit, return_inverse=True)
    systems = cells.shape[1]
    matrices = np.zeros((len(units), systems * size))
    for system in range(systems):
        np.add.at(matrices, (rows, system * size + cells[:, system]), 1.0 if counts is None else counts)
    return _FoldUnits(units, matrices)


def _metrics_of_draws(
    counts: NDArray[np.float64], parts: Sequence[_FoldUnits], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the metrics of resamples, pooled and as means over folds: (resamples, systems, metrics) each."""
    width = counts.shape[1]
    drawn = (counts if len(part.units) == width else counts[:, part.units] for part in parts)
    confusions = np.stack([chosen @ part.matrices for chosen, part in zip(drawn, parts, strict=True)], axis=1)
    confusions = confusions.reshape(len(counts), len(parts), *shape).swapaxes(1, 2)  # (resamples, systems, folds, …)
    pooled = compute_metrics(confusions.sum(2))
    return pooled, pooled if len(parts) == 1 else mean_of_folds(confusions)


def percentile_interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the ends of the interval that holds a share of values; NaN if all values are."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.nan, np.nan
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
