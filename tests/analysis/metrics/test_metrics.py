"""Metrics of confusion matrices: golden values, and those of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk
from support.labelled import PREDICTED, REFERENCE, SPEAKERS

from e2v_cli.analysis.metrics.metrics import (
    chance_accuracy,
    class_metrics,
    compute_metrics,
    majority_confusion,
)


def count(reference: Sequence[str], answers: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Count a confusion matrix, and list its classes."""
    classes = sorted(set(reference))
    names = [*classes, *sorted(set(answers) - set(classes))]
    confusion = np.zeros((len(classes), len(names)), dtype=np.int64)
    for row, column in zip(reference, answers, strict=True):
        confusion[names.index(row), names.index(column)] += 1
    return confusion, tuple(classes)


def by_scikit(reference: Sequence[str], answers: Sequence[str]) -> list[float]:
    present = sorted(set(reference))
    f1 = {"labels": present, "zero_division": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are absent on one side
        return [
            sk.accuracy_score(reference, answers),
            sk.recall_score(reference, answers, labels=present, average="macro", zero_division=0.0),
            sk.f1_score(reference, answers, average="weighted", **f1),
            sk.f1_score(reference, answers, average="macro", **f1),
            sk.cohen_kappa_score(reference, answers),
            sk.matthews_corrcoef(reference, answers),
        ]


def test_fifteen_utterances_have_their_golden_values() -> None:
    confusion, classes = count(REFERENCE.split(), PREDICTED.split())

    assert compute_metrics(confusion) == pytest.approx(
        [0.6, 0.583333, 0.643290, 0.616342, 0.470588, 0.476731], abs=1e-6
    )
    found = {metrics.name: metrics for metrics in class_metrics(confusion, classes)}
    assert [found[name].recall for name in classes] == pytest.approx([1 / 2, 2 / 3, 2 / 3, 1 / 2])
    assert [found[name].f1 for name in classes] == pytest.approx([0.571429, 0.666667, 0.727273, 0.5], abs=1e-6)
    assert [found[name].support for name in classes] == [4, 3, 6, 2]
    assert [found[name].precision for name in classes] == pytest.approx([2 / 3, 2 / 3, 4 / 5, 1 / 2])


@pytest.mark.parametrize(("speaker", "ua"), [("s1", 1.0), ("s2", 0.208333)])
def test_a_speaker_has_the_recall_of_its_own_classes(speaker: str, ua: float) -> None:
    triples = zip(REFERENCE.split(), PREDICTED.split(), SPEAKERS.split(), strict=True)
    own = [(reference, answer) for reference, answer, spoken_by in triples if spoken_by == speaker]

    confusion, _ = count(*zip(*own, strict=True))

    assert compute_metrics(confusion)[1] == pytest.approx(ua, abs=1e-6)


@pytest.mark.parametrize("seed", range(200))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size, num_classes = int(generator.integers(1, 60)), int(generator.integers(1, 7))
    reference = [f"c{number}" for number in generator.integers(num_classes, size=size)]
    others = generator.integers(num_classes + int(generator.integers(0, 4)), size=size)
    keeps = generator.random(size) < generator.random()
    answers = [
        word if kept else f"c{number}" for word, kept, number in zip(reference, keeps, others.tolist(), strict=True)
    ]
    confusion, classes = count(reference, answers)

    assert compute_metrics(confusion) == pytest.approx(by_scikit(reference, answers), abs=1e-12, nan_ok=True)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        reference, answers, labels=list(classes), zero_division=0.0
    )
    found = class_metrics(confusion, classes)
    assert [metrics.precision for metrics in found] == pytest.approx(precision, abs=1e-12)
    assert [metrics.recall for metrics in found] == pytest.approx(recall, abs=1e-12)
    assert [metrics.f1 for metrics in found] == pytest.approx(f1, abs=1e-12)
    assert [metrics.support for metrics in found] == support.tolist()


def test_a_class_without_utterances_counts_in_no_mean() -> None:
    with_one = np.array([[3, 1, 0], [1, 1, 0], [0, 0, 0]])

    assert compute_metrics(with_one) == pytest.approx(compute_metrics(with_one[:2, :2]))
    assert np.isnan(class_metrics(with_one, ("a", "b", "c"))[2].recall)


def test_metrics_of_no_utterance_are_not_defined() -> None:
    assert np.isnan(compute_metrics(np.zeros((2, 3), dtype=np.int64))).all()


def test_iemocap_has_its_majority_and_chance() -> None:
    support = np.array([1103, 595 + 1041, 1708, 1084])  # angry, happy with excited, neutral, sad

    assert support.sum() == 5531
    metrics = compute_metrics(majority_confusion(support))
    assert metrics[:2] == pytest.approx([0.3088, 0.25], abs=5e-5)
    assert chance_accuracy(support) == 0.25
