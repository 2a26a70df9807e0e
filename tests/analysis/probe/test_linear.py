"""Linear heads: scikit-learn's coefficients in one weight and one bias, cross-validation, temperature and prior."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from e2v_cli.analysis.probe.linear import (
    CANDIDATES,
    MAX_ITERATIONS,
    SEARCH_TOLERANCE,
    TOLERANCE,
    LinearFit,
    assign_inner_folds,
    fit_linear,
    logits,
)
from e2v_cli.analysis.probe.options import FitOptions
from e2v_cli.errors import CorpusError, UsageError

Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]


def make_data(
    size: int = 300, dim: int = 20, num_classes: int = 4, num_speakers: int = 10, noise: int = 2
) -> tuple[Vectors, Indices, Indices]:
    """Make vectors of classes that overlap; dimensions have other means and scales, and speakers an offset."""
    rng = np.random.default_rng(0)
    labels = rng.integers(num_classes, size=size)
    speakers = rng.integers(num_speakers, size=size)
    centres, offsets = rng.normal(size=(num_classes, dim)), rng.normal(size=(num_speakers, dim)) / 2
    vectors = centres[labels] + offsets[speakers] + noise * rng.normal(size=(size, dim))
    vectors = vectors * rng.uniform(0.01, 10, dim) + rng.normal(size=dim) * 5
    return vectors.astype(np.float32), labels, speakers


def make_reference(c: float, tolerance: float = TOLERANCE, balanced: bool = False) -> Pipeline:
    """Make scikit-learn's own pipeline."""
    weight = "balanced" if balanced else None
    model = LogisticRegression(C=c, tol=tolerance, max_iter=MAX_ITERATIONS, class_weight=weight)
    return make_pipeline(StandardScaler(), model)


def log_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(log_softmax(scores, axis=1))


def predict_alone(pipeline: Pipeline, data: tuple[Vectors, Indices, Indices], folds: Indices) -> NDArray[np.float64]:
    """Predict each fold by scikit-learn: log probabilities."""
    parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    vectors, labels, _ = data
    return log_probabilities(cross_val_predict(pipeline, vectors, labels, cv=parts, method="decision_function"))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_head_is_scikit_learns_pipeline_in_one_weight_and_bias(num_classes: int, balanced: bool) -> None:
    vectors, labels, speakers = make_data(num_classes=num_classes)
    labels[:100] = 0
    head = fit_linear(vectors, labels, num_classes, speakers, FitOptions(c=0.1, balanced=balanced)).head
    pipeline = make_reference(0.1, balanced=balanced).fit(vectors.astype(np.float64), labels)
    scaler, model = pipeline[0], pipeline[1]

    weight, bias = head.weight * head.temperature, head.bias * head.temperature
    coefficients = weight * scaler.scale_
    if num_classes == 2:
        coefficients = coefficients[1:] - coefficients[:1]
    np.testing.assert_allclose(coefficients, model.coef_, rtol=0, atol=1e-12)
    ours, theirs = vectors @ weight.T + bias, pipeline.decision_function(vectors.astype(np.float64))
    ours = ours[:, 1] - ours[:, 0] if num_classes == 2 else ours
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_folded_head_in_float32_has_the_logits_of_the_pipeline() -> None:
    vectors, labels, speakers = make_data(dim=768, size=600, noise=10)
    head = fit_linear(vectors, labels, 4, speakers, FitOptions(c=1e-3)).head
    pipeline = make_reference(1e-3).fit(vectors.astype(np.float64), labels)

    saved = vectors @ head.weight.astype(np.float32).T + head.bias.astype(np.float32)
    expected = pipeline.decision_function(vectors.astype(np.float64)) / head.temperature
    np.testing.assert_allclose(logits(head, vectors), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(saved, expected, rtol=0, atol=1e-5)


def fit(options: FitOptions | None = None, **data: int) -> tuple[tuple[Vectors, Indices, Indices], LinearFit]:
    made = make_data(**data)
    vectors, labels, speakers = made
    return made, fit_linear(vectors, labels, int(labels.max()) + 1, speakers, options or FitOptions())


def test_c_has_the_lowest_loss_over_folds_of_other_speakers() -> None:
    data, found = fit()
    folds, losses = found.out_of_fold.folds, found.out_of_fold.losses
    assert found.out_of_fold.are_speakers_apart
    assert len(np.unique(folds)) == 5
    assert all(len(np.unique(folds[data[2] == speaker])) == 1 for speaker in np.unique(data[2]))
    assert tuple(losses) == CANDIDATES
    assert losses[found.head.c] == min(losses.values())
    for c in (1e-4, 1e-2, 1.0):
        expected = predict_alone(make_reference(c, SEARCH_TOLERANCE), data, folds)
        assert losses[c] == pytest.approx(log_loss(data[1], np.exp(expected)), abs=1e-3)


def test_standardisation_is_fitted_without_the_utterances_that_are_predicted() -> None:
    """One speaker's recordings are a hundred times as loud: a scaler that has seen them is another one."""
    vectors, labels, speakers = make_data()
    vectors[speakers == 3] *= 100
    found = fit_linear(vectors, labels, 4, speakers, FitOptions(c=0.1))
    folds = found.out_of_fold.folds
    ours = log_probabilities(found.out_of_fold.logits * found.head.temperature)

    within = predict_alone(make_reference(0.1, SEARCH_TOLERANCE), (vectors, labels, speakers), folds)
    seen = StandardScaler().fit_transform(vectors)
    over_all = predict_alone(make_reference(0.1, SEARCH_TOLERANCE)[1:], (seen, labels, speakers), folds)
    np.testing.assert_allclose(ours, within, rtol=0, atol=0.05)
    assert np.abs(over_all - within).max() > 50


def test_temperature_has_the_lowest_loss_out_of_fold() -> None:
    (_, labels, _), found = fit(FitOptions(c=10.0))
    scores = found.out_of_fold.logits

    def loss(factor: float) -> float:
        return float(-log_probabilities(scores / factor)[np.arange(len(labels)), labels].mean())

    assert found.head.temperature > 1.2  # the head is too sure of itself
    assert loss(1.0) < min(loss(0.98), loss(1.02))
    assert found.out_of_fold.losses[10.0] == pytest.approx(loss(1 / found.head.temperature))


def test_uniform_prior_takes_the_shares_of_classes_out_of_the_bias() -> None:
    vectors, labels, speakers = make_data()
    labels[:150] = 0
    of_data, uniform = (
        fit_linear(vectors, labels, 4, speakers, FitOptions(c=0.01, prior=prior)) for prior in ("data", "uniform")
    )
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_array_equal(of_data.head.weight, uniform.head.weight)
    np.testing.assert_allclose(of_data.head.bias - uniform.head.bias, np.log(shares), atol=1e-12)
    np.testing.assert_allclose(
        of_data.out_of_fold.logits - uniform.out_of_fold.logits, np.broadcast_to(np.log(shares), (300, 4)), atol=1e-12
    )


def test_balanced_classes_have_a_uniform_prior_already() -> None:
    vectors, labels, speakers = make_data()
    labels[:150] = 0
    of_data, uniform = (
        fit_linear(vectors, labels, 4, speakers, FitOptions(c=0.01, balanced=True, prior=prior))
        for prior in ("data", "uniform")
    )
    np.testing.assert_allclose(of_data.head.bias - uniform.head.bias, np.log(0.25), atol=1e-12)


def test_permuted_labels_are_predicted_no_better_than_by_chance() -> None:
    vectors, labels, speakers = make_data()
    right = []
    for seed in range(10):
        permuted = np.random.default_rng(seed).permutation(labels)
        found = fit_linear(vectors, permuted, 4, speakers, FitOptions(c=0.01))
        right.append((found.out_of_fold.logits.argmax(axis=1) == permuted).mean())
    assert abs(np.mean(right) - 0.25) < 2 * np.sqrt(0.25 * 0.75 / 300 / 10)


def test_class_of_one_speaker_is_unknown_where_that_speaker_is_predicted() -> None:
    vectors, labels, speakers = make_data()
    labels[labels == 3] = 2
    rare = np.flatnonzero(speakers == 7)[:3]
    labels[rare] = 3
    found = fit_linear(vectors, labels, 4, speakers, FitOptions())
    assert found.out_of_fold.are_speakers_apart
    assert set(np.flatnonzero(~found.out_of_fold.is_known)) == set(rare)
    assert np.isneginf(found.out_of_fold.logits[rare, 3]).all()
    assert np.isfinite(list(found.out_of_fold.losses.values())).all()
    assert np.isfinite(logits(found.head, vectors)).all()


def test_speakers_are_torn_where_each_class_has_one() -> None:
    vectors, labels, _ = make_data()
    found = fit_linear(vectors, labels, 4, labels, FitOptions())
    assert not found.out_of_fold.are_speakers_apart
    assert found.out_of_fold.is_known.all()


def test_class_that_no_utterance_has_gets_no_probability() -> None:
    vectors, labels, speakers = make_data()
    found = fit_linear(vectors, labels, 6, speakers, FitOptions(prior="uniform"))
    assert np.isneginf(logits(found.head, vectors)[:, 4:]).all()
    assert np.isneginf(found.out_of_fold.logits[:, 4:]).all()


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 0, 1]])
def test_too_few_labels_are_refused(labels: list[int]) -> None:
    with pytest.raises(CorpusError, match=r"^too few labels to cross-validate: at least two classes need two"):
        assign_inner_folds(np.array(labels), np.zeros(4, dtype=np.int64), 0)


def test_same_input_gives_the_same_bytes() -> None:
    one, other = (fit()[1] for _ in range(2))
    assert one.head.weight.tobytes() == other.head.weight.tobytes()
    assert one.head.bias.tobytes() == other.head.bias.tobytes()
    assert one.out_of_fold.logits.tobytes() == other.out_of_fold.logits.tobytes()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^--c 0: must be a positive number, or auto$"):
        FitOptions(c=0.0)
    with pytest.raises(UsageError, match=r"^--seed -1: must be from 0 to 4294967295$"):
        FitOptions(seed=-1)
