"""``Score``: all numbers of a comparison of predictions with a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from e2v_cli.analysis.metrics.calibration import Calibration
from e2v_cli.analysis.metrics.compare import Difference, McNemar
from e2v_cli.analysis.metrics.intervals import FEW_UNITS
from e2v_cli.analysis.metrics.metrics import ClassMetrics
from e2v_cli.analysis.score.groups import GroupTable


@dataclass(frozen=True)
class Estimate:
    """A metric, and the ends of its interval, if one was computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class View:
    """The score of the answers of one kind: open or closed."""

    metrics: Mapping[str, Estimate]
    """Metrics by name; where there are folds, the means over them."""
    pooled: Mapping[str, Estimate]
    """Metrics by name, over all utterances together."""
    without_lacking: Mapping[str, float] | None
    """Metrics without the classes that the model lacks; None: the model lacks no class, or all."""
    classes: tuple[ClassMetrics, ...]
    answers: tuple[str, ...]
    """The columns of the confusion matrix: the classes, then other answers."""
    confusion: tuple[tuple[int, ...], ...]
    """(classes, answers): utterances."""
    calibration: Calibration | None
    ties: int
    """Utterances with several most probable classes."""


@dataclass(frozen=True)
class Counts:
    """Numbers of utterances that were compared, and that were left out."""

    reference: int
    """Utterances of the reference."""
    scored: int
    missing: int
    """Utterances that count and have no prediction, of either system where they are skipped."""
    failed: int
    """Utterances of the run that failed."""
    left: int
    """Utterances of the run that are not done."""
    predictions: int
    not_in_reference: int
    """Predictions of utterances that the reference does not have."""
    dropped: Mapping[str, int]
    """Number of utterances that the map leaves out, by word of the reference."""
    uncounted: Mapping[str, int]
    """Number of utterances of each class that does not count."""


@dataclass(frozen=True)
class Interval:
    """The bootstrap of the intervals, which are its percentiles."""

    unit: str
    """The resampled unit: ``speaker``, ``utterance``, or the name of a file of groups."""
    units: int
    confidence: float
    resamples: int
    seed: int

    @property
    def is_of_few(self) -> bool:
        """Whether there are so few speakers or groups that intervals are too narrow."""
        return self.unit != "utterance" and self.units < FEW_UNITS


@dataclass(frozen=True)
class Source:
    """An input."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances, by the answers of the headline."""

    against: Source
    against_metrics: Mapping[str, float]
    differences: Mapping[str, Difference]
    """Metrics of PREDICTIONS minus those of the other."""
    mcnemar: McNemar


@dataclass(frozen=True)
class Score:
    """All numbers of a comparison of predictions with a reference."""

    predictions: Source
    reference: Source
    headline: str
    """``open`` or ``closed``: the view whose metrics are those of this object."""
    views: Mapping[str, View]
    """``open``, and ``closed`` where there are probabilities."""
    classes: tuple[str, ...]
    """Classes that count."""
    model_classes: tuple[str, ...]
    """Classes of the probabilities; empty without probabilities."""
    counts: Counts
    missing: str
    """The rule for utterances without a prediction."""
    folds: GroupTable | None
    groups: tuple[GroupTable, ...]
    interval: Interval | None
    comparison: Comparison | None
    majority: str
    """The largest class of the reference."""
    majority_metrics: Mapping[str, float]
    """Metrics of always answering ``majority``."""
    chance: float
    """WA and UA that are expected of uniformly random answers."""

    @property
    def view(self) -> View:
        """The view of the headline."""
        return self.views[self.headline]

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """The metrics of the headline."""
        return self.view.metrics

    @property
    def lacking(self) -> tuple[str, ...]:
        """Classes of the reference that the model lacks."""
        return tuple(name for name in self.classes if self.model_classes and name not in self.model_classes)
