"""Bootstrap intervals: golden values, those of SciPy, and those of drawing utterances and speakers one by one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import f1_score

from e2v_cli.analysis.metrics import intervals
from e2v_cli.analysis.metrics.intervals import Bootstrap, Outcomes, mean_of_folds, percentile_interval
from e2v_cli.analysis.metrics.metrics import compute_metrics

Corpus = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """References, answers and speakers of 500 utterances."""
    generator = np.random.default_rng(7)
    speakers = np.repeat(np.arange(10), [30, 50, 20, 70, 40, 60, 35, 45, 25, 125]).astype(np.int32)
    size = len(speakers)
    reference = generator.choice(4, size, p=[0.2, 0.3, 0.35, 0.15])
    is_right = generator.random(size) < 0.62 + 0.2 * (speakers % 3 == 0)
    return reference, np.where(is_right, reference, generator.choice(4, size)), speakers


def outcomes_of(corpus: Corpus, folds: NDArray[np.int32] | None = None) -> Outcomes:
    reference, answers, _ = corpus
    return Outcomes(reference.astype(np.int16), (answers.astype(np.int16),), (4, 4), folds)


def test_five_hundred_utterances_have_their_golden_values(corpus: Corpus) -> None:
    outcomes = outcomes_of(corpus)

    metrics = compute_metrics(outcomes.confusions()[0])
    over_utterances = Bootstrap(outcomes, None, 10_000, 0)
    over_speakers = Bootstrap(outcomes, corpus[2], 10_000, 0)

    assert metrics[:4] == pytest.approx([0.818, 0.813993, 0.819514, 0.806555], abs=1e-6)
    assert percentile_interval(over_utterances.pooled[:, 0, 1], 0.95) == pytest.approx((0.776, 0.850), abs=0.005)
    assert percentile_interval(over_speakers.pooled[:, 0, 1], 0.95) == pytest.approx((0.761, 0.852), abs=0.005)
    assert (over_utterances.num_units, over_speakers.num_units) == (500, 10)


def macro_f1(reference: NDArray[np.int64], answers: NDArray[np.int64]) -> float:
    return float(f1_score(reference, answers, average="macro"))


def macro_recall(reference: NDArray[np.int64], answers: NDArray[np.int64]) -> float:
    return float(np.mean([(answers[reference == name] == name).mean() for name in np.unique(reference)]))


@pytest.mark.parametrize(("metric", "function"), [(1, macro_recall), (3, macro_f1)])
def test_intervals_over_utterances_are_those_of_scipy(
    corpus: Corpus, metric: int, function: Callable[..., float]
) -> None:
    reference, answers, _ = corpus
    found = bootstrap(
        (reference, answers),
        function,
        n_resamples=1500,
        paired=True,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval

    drawn = Bootstrap(outcomes_of(corpus), None, 10_000, 0)

    assert percentile_interval(drawn.pooled[:, 0, metric], 0.95) == pytest.approx(tuple(found), abs=0.005)


def test_intervals_over_speakers_are_those_of_drawing_speakers(corpus: Corpus) -> None:
    reference, answers, speakers = corpus
    of_speaker = [np.flatnonzero(speakers == speaker) for speaker in range(10)]
    generator = np.random.default_rng(2)
    values = []
    for _ in range(3000):
        chosen = np.concatenate([of_speaker[speaker] for speaker in generator.integers(10, size=10)])
        values.append(macro_recall(reference[chosen], answers[chosen]))

    drawn = Bootstrap(outcomes_of(corpus), speakers, 10_000, 0)

    expected = np.quantile(values, [0.025, 0.975])
    assert percentile_interval(drawn.pooled[:, 0, 1], 0.95) == pytest.approx(expected.tolist(), abs=0.005)


def test_intervals_of_means_of_folds_are_those_of_drawing_speakers(corpus: Corpus) -> None:
    reference, answers, speakers = corpus
    folds = (speakers // 4).astype(np.int32)
    of_speaker = [np.flatnonzero(speakers == speaker) for speaker in range(10)]
    generator = np.random.default_rng(2)
    values = []
    for _ in range(1500):
        chosen = np.concatenate([of_speaker[speaker] for speaker in generator.integers(10, size=10)])
        present = np.unique(folds[chosen])
        by_fold = [chosen[folds[chosen] == fold] for fold in present]
        values.append(np.mean([macro_recall(reference[fold], answers[fold]) for fold in by_fold]))

    drawn = Bootstrap(outcomes_of(corpus, folds), speakers, 10_000, 0)

    expected = np.quantile(values, [0.025, 0.975])
    assert percentile_interval(drawn.means[:, 0, 1], 0.95) == pytest.approx(expected.tolist(), abs=0.008)
    assert np.array_equal(drawn.pooled, Bootstrap(outcomes_of(corpus), speakers, 10_000, 0).pooled)


def test_means_of_folds_leave_out_folds_without_utterances() -> None:
    confusions = np.array([[[2, 0], [1, 1]], [[0, 0], [0, 0]]])

    assert mean_of_folds(confusions) == pytest.approx(compute_metrics(confusions[0]))


def test_systems_are_resampled_together(corpus: Corpus) -> None:
    reference, answers, speakers = corpus
    both = Outcomes(reference.astype(np.int16), (answers.astype(np.int16), reference.astype(np.int16)), (4, 4))

    for units in (None, speakers):
        drawn = Bootstrap(both, units, 500, 0).pooled

        assert (drawn[:, 1, :4] == 1).all()
        assert drawn[:, 0, 0].std() > 0.01
        if units is not None:
            assert np.array_equal(drawn[:, 0], Bootstrap(outcomes_of(corpus), units, 500, 0).pooled[:, 0])


def test_a_unit_of_each_utterance_is_the_utterance(corpus: Corpus) -> None:
    own = np.arange(500, dtype=np.int32)

    found = Bootstrap(outcomes_of(corpus), own, 1000, 3)

    assert np.array_equal(found.pooled, Bootstrap(outcomes_of(corpus), None, 1000, 3).pooled)


def test_resamples_do_not_depend_on_the_size_of_blocks(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [Bootstrap(outcomes_of(corpus), units, 1000, 5).pooled for units in (None, corpus[2])]
    monkeypatch.setattr(intervals, "BLOCK_NUMBERS", 70)

    cut = [Bootstrap(outcomes_of(corpus), units, 1000, 5).pooled for units in (None, corpus[2])]

    assert [part.tobytes() for part in whole] == [part.tobytes() for part in cut]


def test_ten_thousand_resamples_take_seconds_not_minutes(corpus: Corpus) -> None:
    started = time.process_time()

    Bootstrap(outcomes_of(corpus), corpus[2], 10_000, 0)
    Bootstrap(outcomes_of(corpus), None, 10_000, 0)

    assert time.process_time() - started < 10


def test_an_interval_of_undefined_values_is_undefined() -> None:
    assert np.isnan(percentile_interval(np.full(5, np.nan), 0.95)).all()
    assert percentile_interval(np.array([np.nan, 1.0, 1.0]), 0.95) == (1.0, 1.0)
