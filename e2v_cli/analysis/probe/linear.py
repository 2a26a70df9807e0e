"""Vectors and labels → a linear head: multinomial logistic regression on standardised vectors, calibrated.

Standardisation, temperature and prior are affine, and so all of it is one weight and one bias. C and the temperature
are chosen by cross-validation: each utterance is predicted by a head that was fitted, standardisation included, without
its speaker. Each fit is computed by one thread, so that the number of cores changes no bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.probe.folds import split_speakers
from e2v_cli.analysis.probe.options import FitOptions
from e2v_cli.errors import CorpusError

CANDIDATES = tuple(10.0**power for power in range(-5, 2))
"""Values of C: standardised vectors of some hundred dimensions need a strong regularisation."""

MAX_FOLDS = 5
"""The most folds of the cross-validation."""

TOLERANCE = 1e-6
"""The largest component of the gradient of the mean loss at which lbfgs ends."""

SEARCH_TOLERANCE = 3e-4
"""``TOLERANCE`` in the cross-validation, which is in float32 for speed: the fits of a large C end a little early."""

MAX_ITERATIONS = 10_000

TEMPERATURES = (0.1, 10.0)
"""The lowest and the highest temperature."""


@dataclass(frozen=True)
class LinearHead:
    """A head on the mean of an utterance's frames: logits = weight @ vector + bias."""

    weight: NDArray[np.float64]
    """(classes, dim); zeros for a class without utterances."""
    bias: NDArray[np.float64]
    """(classes,); -inf for a class without utterances."""
    c: float
    temperature: float
    """Temperature, by which weight and bias are divided already."""


@dataclass(frozen=True)
class OutOfFold:
    """The predictions of heads that were fitted to the other folds."""

    folds: NDArray[np.int64]
    """(utterances,): the fold in which each was predicted."""
    are_speakers_apart: bool
    """Whether no speaker is in two folds."""
    losses: dict[float, float]
    """The mean loss for each C, before the temperature."""
    logits: NDArray[np.float64]
    """(utterances, classes) for the best C, with temperature and prior; -inf for a class that the others lack."""
    is_known: NDArray[np.bool_]
    """(utterances,): whether the other folds have the utterance's class; ``losses`` are means over such utterances."""


@dataclass(frozen=True)
class LinearFit:
    """A head, and its cross-validation."""

    head: LinearHead
    out_of_fold: OutOfFold


def logits(head: LinearHead, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the logits of vectors: (utterances, classes)."""
    computed: NDArray[np.float64] = vectors.astype(np.float64) @ head.weight.T + head.bias
    return computed


def fit_linear(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    speakers: NDArray[np.int64],
    options: FitOptions,
) -> LinearFit:
    """Fit a head.

    Args:
        vectors: (utterances, dim).
        labels: (utterances,) indices of classes; not all need to have utterances.
        num_classes: of the head.
        speakers: (utterances,) indices.
        options: options of the fit.

    Raises:
        CorpusError: there are too few utterances to cross-validate.
    """
    from threadpoolctl import threadpool_limits

    folds, are_apart = assign_inner_folds(labels, speakers, options.seed)
    candidates = CANDIDATES if options.c is None else (options.c,)
    data = _Data(vectors, labels, num_classes, options.balanced)
    with threadpool_limits(1), warnings.catch_warnings():
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)  # at the last bits
        found = _predict_folds(data, folds, candidates)
        is_known = np.isfinite(found[0][np.arange(len(labels)), labels])
        known, weights = labels[is_known], data.weights[is_known]
        losses = {c: mean_loss(out[is_known], known, weights) for c, out in zip(candidates, found, strict=True)}
        c = min(candidates, key=losses.__getitem__)
        chosen = found[candidates.index(c)]
        temperature = _fit_temperature(chosen[is_known], known, weights)
        ((weight, bias),) = data.fit(np.ones(len(labels), dtype=np.bool_), (c,), is_final=True)
    shift = _log_shares(data) if options.prior == "uniform" else 0.0
    head = LinearHead(weight / temperature, bias / temperature - shift, c, temperature)
    return LinearFit(head, OutOfFold(folds, are_apart, losses, chosen / temperature - shift, is_known))


def assign_inner_folds(
    labels: NDArray[np.int64], speakers: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], bool]:
    """Assign utterances to folds, stratified as far as possible.

    Returns:
        (utterances,) folds, and whether no speaker is in two. Speakers are split if too many classes have one alone.

    Raises:
        CorpusError: there are no two classes with two utterances.
    """
    counts = np.sort(np.bincount(labels, minlength=2))[::-1]
    num_folds = int(min(MAX_FOLDS, len(np.unique(speakers)), counts[0]))
    if num_folds > 1:
        folds = split_speakers(labels, speakers, num_folds, seed)
        if _can_validate(labels, folds):
            return folds, True
    if counts[1] < 2:
        raise CorpusError("too few labels to cross-validate: at least two classes need two utterances each")
    return split_speakers(labels, np.arange(len(labels)), int(min(MAX_FOLDS, counts[1])), seed), False


def _can_validate(labels: NDArray[np.int64], folds: NDArray[np.int64]) -> bool:
    """Whether all folds have two classes to fit to, and two classes are predicted by heads that know them."""
    parts = [(np.unique(labels[folds == fold]), np.unique(labels[folds != fold])) for fold in np.unique(folds)]
    known = {label for tested, fitted in parts for label in np.intersect1d(tested, fitted).tolist()}
    return len(known) > 1 and all(len(fitted) > 1 for _, fitted in parts)


@dataclass(frozen=True)
class _Data:
    """The utterances to fit to."""

    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    num_classes: int
    balanced: bool

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights of the utterances: (utterances,), of mean 1."""
        if not self.balanced:
            return np.ones(len(self.labels))
        counts = np.bincount(self.labels)
        weights: NDArray[np.float64] = (len(self.labels) / ((counts > 0).sum() * np.maximum(counts, 1)))[self.labels]
        return weights

    def fit(
        self, chosen: NDArray[np.bool_], candidates: Sequence[float], is_final: bool
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Fit to chosen utterances: for each C a weight and a bias on plain vectors, begun where the last ended."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler(copy=False)
        scaled = scaler.fit_transform(self.vectors[chosen].astype(np.float64 if is_final else np.float32))
        model = LogisticRegression(
            class_weight="balanced" if self.balanced else None,
            tol=TOLERANCE if is_final else SEARCH_TOLERANCE,
            max_iter=MAX_ITERATIONS,
            warm_start=True,
        )
        for c in candidates:
            model.set_params(C=c).fit(scaled, self.labels[chosen])
            weight, bias = model.coef_, model.intercept_
            if len(weight) == 1:  # of two classes, scikit-learn has the difference
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            weight = weight / scaler.scale_
            bias = bias - weight @ scaler.mean_
            whole = np.zeros((self.num_classes, weight.shape[1])), np.full(self.num_classes, -np.inf)
            whole[0][model.classes_], whole[1][model.classes_] = weight, bias
            yield whole


def _predict_folds(data: _Data, folds: NDArray[np.int64], candidates: Sequence[float]) -> list[NDArray[np.float64]]:
    """Predict each fold by heads fitted to the others: for each C, (utterances, classes) logits."""
    from joblib import Parallel, delayed

    predicted = [np.full((len(data.labels), data.num_classes), -np.inf) for _ in candidates]

    def predict(fold: int) -> None:
        tested = folds == fold
        vectors = data.vectors[tested].astype(np.float64)
        for out, (weight, bias) in zip(predicted, data.fit(~tested, candidates, is_final=False), strict=True):
            out[tested] = vectors @ weight.T + bias

    Parallel(n_jobs=-1, prefer="threads")(delayed(predict)(fold) for fold in np.unique(folds).tolist())
    return predicted


def mean_loss(
    scores: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> float:
    """Compute the mean of −ln of the probability of the label, by the weights of utterances."""
    from scipy.special import log_softmax

    right = log_softmax(scores, axis=1)[np.arange(len(labels)), labels]
    return float(-np.average(right, weights=weights))


def _fit_temperature(scores: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """Find the temperature of the lowest loss."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: mean_loss(scores / np.exp(power), labels, weights),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def _log_shares(data: _Data) -> NDArray[np.float64]:
    """Compute the logarithms of the shares of classes, by the weights of utterances; 0 for a class without any."""
    sums = np.bincount(data.labels, data.weights, minlength=data.num_classes)
    return np.log(np.where(sums > 0, sums / sums.sum(), 1.0))
