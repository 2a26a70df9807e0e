"""Predictions and a reference → their score."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.labels.classes import (
    MISSING,
    AnswerNames,
    CountedClasses,
    count_classes,
    english_names,
    merge_columns,
)
from e2v_cli.analysis.labels.labels import DROPPED, ClosedSet, Translation, read_map
from e2v_cli.analysis.metrics.compare import compare_accuracies, paired_differences
from e2v_cli.analysis.metrics.intervals import Bootstrap, Outcomes, mean_of_folds, percentile_interval
from e2v_cli.analysis.metrics.metrics import chance_accuracy, class_metrics, compute_metrics, majority_confusion
from e2v_cli.analysis.reading.answers import Predictions, open_predictions
from e2v_cli.analysis.reading.references import Reference, open_reference
from e2v_cli.analysis.score.groups import Units, choose_folds, choose_units, find_groups, name_metrics, tabulate_groups
from e2v_cli.analysis.score.score import Comparison, Counts, Estimate, Interval, Score, Source, View
from e2v_cli.analysis.score.systems import Answers, System, match_predictions
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.options import ScoreOptions


@dataclass(frozen=True)
class Scored:
    """A score, and the answers that it is made of, for a table of errors."""

    score: Score
    answers: Answers
    reference: Reference
    classes: NDArray[np.int16]
    """(utterances,): classes of the reference's utterances; -1: not scored."""
    names: tuple[str, ...]
    """Names of answers."""


def compute_score(
    predictions: str, reference: str, options: ScoreOptions, against: str | None, stack: ExitStack
) -> Scored:
    """Compare predictions with a reference; files are open until the stack closes.

    Args:
        predictions: a run folder, a ``predictions.tsv``, a map, or ``-``.
        reference: a Kaldi directory, a map, JSON lines or a table.
        options: options of the comparison.
        against: other predictions.
        stack: of files.

    Raises:
        CorpusError: an input can't be used.
        OutputError: a run folder can't be read.
        UsageError: an option does not fit the inputs.
    """
    if against == "-" == predictions:
        raise UsageError("--against -: standard input is PREDICTIONS already")
    labels = open_reference(reference, stack, options.id_column, options.label_column)
    _refuse_itself(predictions, labels)
    opened = [open_predictions(name, stack) for name in (predictions, against) if name is not None]
    mapping = {} if options.map is None else read_map(options.map)
    models = [merge_columns(source.labels, options.merge) for source in opened]
    counted = count_classes(labels, models[0], mapping, options.merge, options.classes)
    names = AnswerNames(counted.names)

    def match(number: int, own: CountedClasses) -> System:
        translate = _translation(opened[number], counted, mapping, options)
        return match_predictions(opened[number], labels, own, names, models[number], translate, options.closed)

    others = [match(number, counted) for number in range(1, len(opened))]
    own = _leave_out_missing(counted, others) if options.missing == "skip" else counted
    systems = [match(0, own), *others]
    scored = _choose_scored(labels, counted, systems, options.missing)
    scene = _Scene(
        counted,
        names,
        scored,
        choose_folds(labels, scored, options.folds),
        choose_units(labels, scored, options.ci),
        options,
        tuple(name for name in counted.names if models[0].names and name not in models[0].names),
    )
    return _put_together(scene, labels, systems, models[0])


def _refuse_itself(predictions: str, reference: Reference) -> None:
    """Check that predictions are not compared with themselves.

    Raises:
        CorpusError: they are.
    """
    if predictions != "-" and os.path.realpath(predictions) == os.path.realpath(reference.text.name):
        raise CorpusError(f"{predictions}: PREDICTIONS and REFERENCE are the same file")


def _translation(
    source: Predictions,
    counted: CountedClasses,
    mapping: Mapping[str, str],
    options: ScoreOptions,
) -> Callable[[str], str | None]:
    """Return the translation of predicted words; the words of a map are translated as those of the reference."""
    labels = [*english_names(source.labels), *counted.names]
    plain = Translation(labels, merges=options.merge)
    mapped = Translation(labels, {} if source.labels else mapping, options.merge)

    def translate(word: str) -> str | None:
        name = mapped.find(word)
        return plain.find(word) or word if name == DROPPED else name

    return translate


def _leave_out_missing(counted: CountedClasses, systems: Sequence[System]) -> CountedClasses:
    """Leave out the utterances that other systems have no prediction of: no sum over probabilities has them."""
    indices = counted.indices.copy()
    for system in systems:
        indices[system.open.indices < 0] = -1
    return replace(counted, indices=indices)


def _choose_scored(
    reference: Reference, counted: CountedClasses, systems: Sequence[System], rule: str
) -> NDArray[np.bool_]:
    """Choose the utterances of the reference that are scored: (utterances,).

    Raises:
        CorpusError: some have no prediction, and the rule forbids that; or none is left.
    """
    counts = counted.indices >= 0
    scored: NDArray[np.bool_] = counts.copy()
    if rule == "wrong":
        return scored
    for system in systems:
        missing = counts & (system.open.indices < 0)
        if rule == "error" and missing.any():
            of_run = f" ({system.failed} failed, {system.left} left)" if system.failed or system.left else ""
            raise CorpusError(
                f"{system.name}: no prediction of {int(missing.sum())} of the {int(counts.sum())} utterances of "
                f'{reference.name}{of_run}, the first is "{reference.finder.first_id(missing)}"; '
                "--missing wrong counts them as errors, --missing skip leaves them out"
            )
        scored &= ~missing
    if not scored.any():
        raise CorpusError(f"{systems[0].name}: no utterance of {reference.name} that counts has a prediction")
    return scored


@dataclass(frozen=True)
class _Scene:
    """The data that all views share."""

    counted: CountedClasses
    names: AnswerNames
    scored: NDArray[np.bool_]
    """(utterances,): whether each utterance of the reference is scored."""
    folds: Units | None
    units: Units | None
    options: ScoreOptions
    lacking: tuple[str, ...]

    def outcomes(self, *systems: Answers) -> Outcomes:
        """Return the outcomes of the scored utterances."""
        missing = np.int16(self.names.index(MISSING)) if self.options.missing == "wrong" else np.int16(-1)
        answers = (system.indices[self.scored] for system in systems)
        return Outcomes(
            references=self.counted.indices[self.scored],
            answers=tuple(np.where(indices < 0, missing, indices) for indices in answers),
            shape=(len(self.counted.names), len(self.names.names)),
            folds=None if self.folds is None else self.folds.codes,
        )

    def resample(self, outcomes: Outcomes) -> Bootstrap | None:
        """Resample the scored utterances; None: no interval is wanted."""
        if self.options.ci == "none":
            return None
        return Bootstrap(
            outcomes, None if self.units is None else self.units.codes, self.options.resamples, self.options.seed
        )

    def view(self, answers: Answers, outcomes: Outcomes, drawn: Bootstrap | None) -> View:
        """Compute the score of answers, which are the first system of the outcomes."""
        by_fold = outcomes.confusions()
        confusion = by_fold.sum(0)
        size = len(self.counted.names)
        used = [*range(size), *(np.flatnonzero(confusion[:, size:].any(axis=0)) + size).tolist()]
        has_answer = self.scored & (answers.indices >= 0)
        right = answers.indices[has_answer] == self.counted.indices[has_answer]
        return View(
            metrics=self._estimate(mean_of_folds(by_fold), None if drawn is None else drawn.means[:, 0]),
            pooled=self._estimate(compute_metrics(confusion), None if drawn is None else drawn.pooled[:, 0]),
            without_lacking=self._without_lacking(by_fold),
            classes=class_metrics(confusion, self.counted.names),
            answers=tuple(self.names.names[index] for index in used),
            confusion=tuple(map(tuple, confusion[:, used].tolist())),
            calibration=None
            if answers.sums is None or answers.scores is None
            else answers.sums.finish(answers.scores[has_answer], right),
            ties=answers.ties,
        )

    def _estimate(self, values: NDArray[np.float64], drawn: NDArray[np.float64] | None) -> Mapping[str, Estimate]:
        if drawn is None:
            return {name: Estimate(value) for name, value in name_metrics(values).items()}
        return {
            name: Estimate(value, *percentile_interval(drawn[:, index], self.options.confidence))
            for index, (name, value) in enumerate(name_metrics(values).items())
        }

    def _without_lacking(self, by_fold: NDArray[np.int64]) -> Mapping[str, float] | None:
        """Compute the metrics without the classes that the model lacks; None: the model lacks no class, or all."""
        kept = [index for index, name in enumerate(self.counted.names) if name not in self.lacking]
        if not kept or not self.lacking:
            return None
        others = [index for index in range(by_fold.shape[2]) if index not in kept]
        return name_metrics(mean_of_folds(by_fold[:, kept][:, :, [*kept, *others]]))


def _put_together(scene: _Scene, reference: Reference, systems: Sequence[System], model: ClosedSet) -> Scored:
    """Compute all numbers."""
    headline = "closed" if scene.options.closed else "open"
    answers = {"open": systems[0].open, "closed": systems[0].closed}
    compared = [_find_answers(system, scene, headline) for system in systems]
    views = {}
    outcomes = scene.outcomes(*compared)
    drawn = scene.resample(outcomes)
    for name, found in answers.items():
        if name == headline:
            views[name] = scene.view(compared[0], outcomes, drawn)
        elif found is not None:
            other = scene.outcomes(found)
            views[name] = scene.view(found, other, scene.resample(other))
    support = np.bincount(outcomes.references, minlength=len(scene.counted.names))
    score = Score(
        predictions=Source(systems[0].name, systems[0].sha256),
        reference=Source(reference.name, reference.text.sha256()),
        headline=headline,
        views=views,
        classes=scene.counted.names,
        model_classes=model.names,
        counts=_count(scene, reference, systems[0], len(outcomes.references)),
        missing=scene.options.missing,
        folds=None if scene.folds is None else tabulate_groups("fold", outcomes, scene.folds),
        groups=tuple(
            tabulate_groups(by, outcomes, find_groups(reference, scene.scored, by)) for by in scene.options.by
        ),
        interval=_describe_interval(scene, drawn),
        comparison=_compare(scene, systems[1], outcomes, drawn) if len(systems) > 1 else None,
        majority=scene.counted.names[int(support.argmax())],
        majority_metrics=name_metrics(compute_metrics(majority_confusion(support))),
        chance=chance_accuracy(support),
    )
    classes = np.where(scene.scored, scene.counted.indices, -1).astype(np.int16)
    return Scored(score, compared[0], reference, classes, tuple(scene.names.names))


def _find_answers(system: System, scene: _Scene, kind: str) -> Answers:
    """Find the answers of a kind. Without probabilities, closed answers are known if open ones are all of the classes.

    Raises:
        UsageError: they are not known.
    """
    if kind == "open":
        return system.open
    if system.closed is not None:
        return system.closed
    others = int((system.open.indices[scene.scored] >= len(scene.counted.names)).sum())
    if others:
        raise UsageError(
            f"--closed: {system.name} has no probabilities, and answers that are none of the classes ({others} "
            "utterances); leave out --closed"
        )
    return system.open


def _count(scene: _Scene, reference: Reference, system: System, scored: int) -> Counts:
    counts = scene.counted.indices >= 0
    return Counts(
        reference=len(reference),
        scored=scored,
        missing=int((counts & (system.open.indices < 0)).sum()),
        failed=system.failed,
        left=system.left,
        predictions=system.num_predictions,
        not_in_reference=system.num_others,
        dropped=scene.counted.dropped,
        uncounted=scene.counted.uncounted,
    )


def _describe_interval(scene: _Scene, drawn: Bootstrap | None) -> Interval | None:
    if drawn is None:
        return None
    options = scene.options
    unit = "utterance" if scene.units is None else "speaker" if options.ci in (None, "speaker") else str(options.ci)
    return Interval(unit, drawn.num_units, options.confidence, options.resamples, options.seed)


def _compare(scene: _Scene, other: System, outcomes: Outcomes, drawn: Bootstrap | None) -> Comparison:
    """Compare the two systems of outcomes."""
    values = np.stack([mean_of_folds(outcomes.confusions(system)) for system in range(2)])
    right = [answers == outcomes.references for answers in outcomes.answers]
    return Comparison(
        against=Source(other.name, other.sha256),
        against_metrics=name_metrics(values[1]),
        differences=paired_differences(values, None if drawn is None else drawn.means, scene.options.confidence),
        mcnemar=compare_accuracies(*right),
    )
