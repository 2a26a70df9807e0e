"""Groups of the scored utterances: units of intervals, folds, and tables of metrics by speaker, gender and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.metrics.intervals import Outcomes
from e2v_cli.analysis.metrics.metrics import compute_metrics
from e2v_cli.analysis.reading.references import GROUP_FILES, GroupColumn, Reference
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.options import METRIC_NAMES
from e2v_cli.system.files import exists

GROUPINGS = ("spk", "gender", "lang")
"""Names of the groupings of ``--by``; any other value is a file."""


@dataclass(frozen=True)
class Units:
    """Groups of the scored utterances, none of them empty."""

    name: str
    codes: NDArray[np.int32]
    """(scored utterances,): indices of ``groups``."""
    groups: tuple[str, ...]


@dataclass(frozen=True)
class GroupMetrics:
    """The metrics of a group, over its own classes."""

    name: str
    utterances: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class GroupTable:
    """A row for each group, and the mean, least and greatest of each metric over groups."""

    by: str
    rows: tuple[GroupMetrics, ...]
    mean: Mapping[str, float]
    min: Mapping[str, float]
    max: Mapping[str, float]


def choose_units(reference: Reference, scored: NDArray[np.bool_], ci: str | None) -> Units | None:
    """Choose the units that intervals resample; None: utterances, or no intervals.

    Args:
        reference: with its speakers, perhaps.
        scored: (utterances,) of the reference.
        ci: ``speaker``, ``utterance``, ``none``, a file of groups, or None: speakers, if they are known.

    Raises:
        CorpusError: a scored utterance has no group.
        UsageError: speakers are wanted, and not known; or there is no such file.
    """
    if ci in ("utterance", "none"):
        return None
    if ci in (None, "speaker"):
        speakers = reference.find_grouping("spk")
        if speakers is None:
            if ci == "speaker":
                raise UsageError(f"--ci speaker: {reference.name} has no utt2spk; choose --ci utterance, or a file")
            return None
        return select_scored(reference, speakers, scored, "add them, or use --ci utterance")
    grouping = _read_named(reference, ci, "--ci", "speaker, utterance, none")
    return select_scored(reference, grouping, scored, "add them")


def choose_folds(reference: Reference, scored: NDArray[np.bool_], folds: str | None) -> Units | None:
    """Choose the folds: those of a file, or the reference's own; None: no folds.

    Raises:
        CorpusError: a scored utterance has no fold.
        UsageError: there is no such file.
    """
    if folds == "none":
        return None
    if folds is not None:
        return select_scored(reference, _read_named(reference, folds, "--folds", "none"), scored, "add them")
    grouping = reference.find_grouping("fold")
    if grouping is None:
        return None
    return select_scored(reference, grouping, scored, "add them, or use --folds none")


def find_groups(reference: Reference, scored: NDArray[np.bool_], by: str) -> Units:
    """Find the groups of ``--by``.

    Raises:
        CorpusError: a scored utterance has no group.
        UsageError: there is no such grouping, or no such file.
    """
    if by not in GROUPINGS:
        grouping = _read_named(reference, by, "--by", ", ".join(GROUPINGS))
        return select_scored(reference, grouping, scored, "add them")
    found = reference.find_grouping(by)
    if found is None:
        missing = GROUP_FILES[by][0]
        raise UsageError(f"--by {by}: {reference.name} has no {missing}; choose a file of utterances and groups")
    return select_scored(reference, found, scored, "add them")


def _read_named(reference: Reference, name: str, option: str, others: str) -> GroupColumn:
    if not exists(Path(name)):
        raise UsageError(f"{option} {name}: no such file; choose {others}, or a file of utterances and groups")
    return reference.read_grouping(Path(name))


def select_scored(reference: Reference, grouping: GroupColumn, scored: NDArray[np.bool_], advice: str) -> Units:
    """Select the groups of the scored utterances, in the order of their names.

    Raises:
        CorpusError: one has no group.
    """
    codes = grouping.codes[scored]
    without = scored & (grouping.codes < 0)
    if without.any():
        raise CorpusError(
            f"{grouping.name}: {int(without.sum())} of the {len(codes)} utterances have no line, the first is "
            f'"{reference.finder.first_id(without)}"; {advice}'
        )
    present = np.flatnonzero(np.bincount(codes, minlength=len(grouping.groups)))
    ordered = sorted(present.tolist(), key=lambda code: grouping.groups[code].encode())
    new = np.zeros(len(grouping.groups), dtype=np.int32)
    new[ordered] = np.arange(len(ordered))
    return Units(grouping.name, new[codes], tuple(grouping.groups[code] for code in ordered))


def tabulate_groups(by: str, outcomes: Outcomes, units: Units) -> GroupTable:
    """Compute the metrics of each group by the first system, each over its own classes."""
    confusions = Outcomes(outcomes.references, outcomes.answers[:1], outcomes.shape, units.codes).confusions()
    metrics = compute_metrics(confusions)
    sizes = confusions.sum((1, 2)).tolist()
    rows = tuple(
        GroupMetrics(name, size, name_metrics(values))
        for name, size, values in zip(units.groups, sizes, metrics, strict=True)
    )
    return GroupTable(by, rows, *(name_metrics(_over_groups(metrics, fold)) for fold in (np.mean, np.min, np.max)))


def _over_groups(metrics: NDArray[np.float64], fold: Callable[..., np.float64]) -> list[float]:
    """Compute the mean, least or greatest of each metric over the groups where it is defined; NaN: in no group."""
    columns = (column[np.isfinite(column)] for column in metrics.T)
    return [float(fold(column)) if len(column) else np.nan for column in columns]


def name_metrics(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Name metrics in the order of ``METRIC_NAMES``."""
    return dict(zip(METRIC_NAMES, map(float, values), strict=True))
