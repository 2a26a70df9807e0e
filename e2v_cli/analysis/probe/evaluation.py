"""Examples and folds → out-of-fold posteriors by a protocol, and their scores: of each fold, their mean, and pooled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.metrics.metrics import MAIN_METRICS, compute_metrics
from e2v_cli.analysis.probe.examples import Examples
from e2v_cli.analysis.probe.folds import Folds, choose_validation
from e2v_cli.analysis.probe.options import FitOptions, Protocol
from e2v_cli.analysis.score.groups import GroupTable, Units, name_metrics, tabulate_groups
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.system.text import columns

logger = logging.getLogger(__name__)

ON_MEANS = ("linear", "superb")
"""Protocols whose heads have nothing between the frames and their mean but linear layers."""


@dataclass(frozen=True)
class Evaluation:
    """Out-of-fold predictions: each utterance is predicted by the head that was trained on the other folds."""

    posteriors: NDArray[np.float64]
    """(utterances, classes)"""
    heads: tuple[Mapping[str, float], ...]
    """Facts of the head of each fold: ``c`` and ``temperature``, or ``validation``, the size of the validation set."""


def evaluate_folds(
    examples: Examples, folds: Folds, protocol: Protocol, fit: FitOptions, length: int | None = None
) -> Evaluation:
    """Train a head for each fold, on all others, and predict the fold.

    Args:
        examples: all examples.
        folds: the folds of the examples.
        protocol: the kind of head.
        fit: options of a linear head; a paper's head uses the seed alone.
        length: epochs, or steps, of a paper's head; None: the paper's own.

    Raises:
        CorpusError: a fold can't be trained, or embeddings can't be read.
        UsageError: the protocol needs frames, and the embeddings are vectors.
    """
    if protocol not in ON_MEANS and not examples.is_frames:
        raise UsageError(
            f"--protocol {protocol}: its head is on frames, and {examples.origin.name} has vectors of utterances; "
            "predict with --granularity frame, or choose --protocol linear or superb"
        )
    posteriors = np.zeros((len(examples), len(examples.classes)))
    heads: list[Mapping[str, float]] = []
    for code, name in enumerate(folds.names):
        train, test = np.flatnonzero(folds.codes != code), np.flatnonzero(folds.codes == code)
        try:
            if protocol == "linear":
                posteriors[test], head = _predict_linear(examples, train, test, fit)
            else:
                rest, valid = choose_validation(examples, train, fit.seed)
                posteriors[test] = _run(protocol, examples, (rest, valid, test), fit.seed, length)
                head = {"validation": len(valid)}
        except CorpusError as error:
            raise CorpusError(f"{folds.source}: fold {name}: {error}") from None
        heads.append(head)
        logger.info("fold %s is predicted: %d of %d", name, code + 1, len(folds.names))
    return Evaluation(posteriors, tuple(heads))


def _predict_linear(
    examples: Examples, train: NDArray[np.int64], test: NDArray[np.int64], fit: FitOptions
) -> tuple[NDArray[np.float64], Mapping[str, float]]:
    """Fit a linear head to some examples, and return its posteriors of others, its C and its temperature."""
    from scipy.special import softmax

    from e2v_cli.analysis.probe.linear import fit_linear, logits

    vectors, labels, speakers = examples.vectors[train], examples.labels[train], examples.speakers[train]
    head = fit_linear(vectors, labels, len(examples.classes), speakers, fit).head
    return softmax(logits(head, examples.vectors[test]), axis=1), {"c": head.c, "temperature": head.temperature}


def _run(
    protocol: Protocol,
    examples: Examples,
    parts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    seed: int,
    length: int | None,
) -> NDArray[np.float32]:
    """Train a paper's head, and return its posteriors of the utterances that are tested."""
    from e2v_cli.training.protocols import Parts, run_protocol

    if protocol == "linear":
        raise ValueError("linear is no paper's")
    return run_protocol(
        protocol, examples.read_frames, examples.labels, len(examples.classes), Parts(*parts), seed, length
    )


@dataclass(frozen=True)
class FoldScores:
    """The metrics of each fold, and of all together."""

    table: GroupTable
    """A row for each fold, and their mean."""
    deviation: Mapping[str, float]
    """The standard deviation of each metric over folds: that of a sample, by n − 1."""
    pooled: Mapping[str, float]
    """Metrics of all utterances together, by name."""
    speakers: tuple[int, ...]
    """Number of speakers in each fold."""


def score_folds(examples: Examples, folds: Folds, posteriors: NDArray[np.float64]) -> FoldScores:
    """Score out-of-fold posteriors."""
    outcomes = examples.judge(posteriors)
    table = tabulate_groups("fold", outcomes, Units(folds.source, folds.codes.astype(np.int32), folds.names))
    values = {name: [row.metrics[name] for row in table.rows] for name in MAIN_METRICS}
    return FoldScores(
        table,
        {name: float(np.std(own, ddof=1)) for name, own in values.items()},
        name_metrics(compute_metrics(outcomes.confusions().sum(0))),
        tuple(len(np.unique(examples.speakers[folds.codes == code])) for code in range(len(folds.names))),
    )


def format_scores(scores: FoldScores) -> str:
    """Format the table that papers print: metrics in percent."""
    rows = [
        (row.name, str(row.utterances), str(speakers), *_percents(row.metrics))
        for row, speakers in zip(scores.table.rows, scores.speakers, strict=True)
    ]
    total = sum(row.utterances for row in scores.table.rows)
    rows += [
        ("mean", "", "", *_percents(scores.table.mean)),
        ("deviation", "", "", *_percents(scores.deviation)),
        ("pooled", str(total), "", *_percents(scores.pooled)),
    ]
    return columns([("fold", "utterances", "speakers", *MAIN_METRICS), *rows], numbers=True)


def _percents(metrics: Mapping[str, float]) -> list[str]:
    return [f"{100 * metrics[name]:.2f}" for name in MAIN_METRICS]
