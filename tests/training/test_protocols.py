"""The protocols of papers on made-up embeddings in the shape of IEMOCAP: five sessions of two speakers each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from e2v_cli.training.protocols import RECIPES, Frames, Head, Parts, ProtocolName, run_protocol

NAMES: tuple[ProtocolName, ...] = ("emotion2vec", "emobox", "superb")

LENGTHS: dict[ProtocolName, int] = {"emotion2vec": 4, "emobox": 20, "superb": 150}
"""Epochs, or steps of superb, that are enough for what is easy to tell apart."""

CLASSES, DIM = 4, 24

sessions = np.repeat(np.arange(5), 80)
"""The fold of each of 400 utterances."""


def make_corpus(seed: int = 0) -> tuple[Frames, NDArray[np.int64]]:
    """Make frames, of 1 to 30 an utterance, around a point for each class and one for each of ten speakers."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=len(sessions))
    speakers = sessions * 2 + generator.integers(2, size=len(sessions))
    of_class, of_speaker = generator.normal(size=(CLASSES, DIM)), generator.normal(size=(10, DIM))
    utterances = [
        (of_class[label] + 0.3 * of_speaker[speaker] + generator.normal(size=(frames, DIM))).astype(np.float32)
        for label, speaker, frames in zip(labels, speakers, generator.integers(1, 31, len(labels)), strict=True)
    ]
    return utterances.__getitem__, labels


def make_parts(fold: int = 0) -> Parts:
    """Test a session, and validate by a fifth of the others."""
    others = np.random.default_rng(fold).permutation(np.flatnonzero(sessions != fold))
    return Parts(others[64:], others[:64], np.flatnonzero(sessions == fold))


def measure(name: ProtocolName, frames: Frames, labels: NDArray[np.int64], fold: int = 0) -> float:
    """Return the accuracy of a fold."""
    parts = make_parts(fold)
    posteriors = run_protocol(name, frames, labels, CLASSES, parts, seed=fold, length=LENGTHS[name])
    assert posteriors.dtype == np.float32
    np.testing.assert_allclose(posteriors.sum(axis=1), 1, atol=1e-6)
    return float((posteriors.argmax(axis=1) == labels[parts.test]).mean())


@pytest.mark.parametrize("name", NAMES)
def test_separable_classes_are_found_in_each_session(name: ProtocolName) -> None:
    frames, labels = make_corpus()
    assert min(measure(name, frames, labels, fold) for fold in range(5)) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_permuted_labels_give_chance(name: ProtocolName) -> None:
    frames, labels = make_corpus()
    permuted = np.random.default_rng(1).permutation(labels)

    accuracy = np.mean([measure(name, frames, permuted, fold) for fold in range(5)])

    chance = (np.bincount(permuted) / len(permuted)).max()
    deviation = np.sqrt(0.25 * 0.75 / len(labels))
    assert 0.25 - 2 * deviation < accuracy < chance + 2 * deviation


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_same_numbers_and_another_does_not(name: ProtocolName) -> None:
    frames, labels = make_corpus()

    def run(seed: int) -> NDArray[np.float32]:
        torch.manual_seed(np.random.default_rng().integers(1 << 31).item())  # of what runs before
        return run_protocol(name, frames, labels, CLASSES, make_parts(), seed, length=2)

    assert np.array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_state_of_torchs_generator_is_kept() -> None:
    frames, labels = make_corpus()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run_protocol("emotion2vec", frames, labels, CLASSES, make_parts(), length=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("has_relu", [True, False])
def test_batch_of_different_lengths_equals_single_utterances(has_relu: bool) -> None:
    frames, _ = make_corpus()
    utterances = [torch.tensor(frames(index)) for index in range(40)]
    assert len({len(utterance) for utterance in utterances}) > 10
    head = Head(DIM, CLASSES, has_relu)

    together = head(utterances)

    alone = torch.cat([head([utterance]) for utterance in utterances])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_mean_of_superb_may_come_before_its_first_layer() -> None:
    frames, _ = make_corpus()
    utterances = [torch.tensor(frames(index)) for index in range(40)]
    head = Head(DIM, CLASSES, has_relu=False)
    means = [utterance.mean(dim=0, keepdim=True) for utterance in utterances]
    torch.testing.assert_close(head(means), head(utterances), atol=1e-6, rtol=0)


def test_superb_reads_each_utterance_once_and_others_in_each_epoch() -> None:
    frames, labels = make_corpus()
    parts = make_parts()
    counts = np.zeros(len(labels), dtype=int)

    def count(index: int) -> NDArray[np.float32]:
        counts[index] += 1
        return frames(index)

    run_protocol("superb", count, labels, CLASSES, parts, length=40)
    assert set(counts[np.concatenate([parts.train, parts.valid, parts.test])]) == {1}
    counts[:] = 0
    run_protocol("emotion2vec", count, labels, CLASSES, parts, length=3)
    assert set(counts[parts.train[1:]]) == set(counts[parts.valid]) == {3}
    assert set(counts[parts.test]) == {1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # CyclicLR: up by 5e-5 an epoch for ten epochs, then down; the momentum goes the other way
        ("emotion2vec", {0: 5e-4, 1: 5.5e-4, 5: 7.5e-4, 10: 1e-3, 11: 9.5e-4, 20: 5e-4, 30: 1e-3, 99: 5.5e-4}),
        ("emobox", {0: 1e-4, 1: 0.0, 2: 1e-5, 6: 5e-5, 11: 1e-4, 12: 9.888889e-5, 56: 5e-5, 99: 2.222222e-6}),
    ],
)
def test_learning_rates_of_epochs(name: ProtocolName, expected: dict[int, float]) -> None:
    optimizer, schedule = RECIPES[name].make_optimizer(torch.nn.Linear(2, 2), 100)
    assert schedule is not None
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert {epoch: rates[epoch] for epoch in expected} == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_momentum_of_emotion2vec_cycles_against_the_rate() -> None:
    optimizer, schedule = RECIPES["emotion2vec"].make_optimizer(torch.nn.Linear(2, 2), 100)
    assert schedule is not None
    momenta = []
    for _ in range(21):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.step()
    assert [momenta[0], momenta[5], momenta[10], momenta[20]] == pytest.approx([0.9, 0.85, 0.8, 0.9])


def test_superb_averages_eight_batches_of_four_for_a_step() -> None:
    """A step over one epoch of 32 utterances is one of the whole, whose gradient is clipped to a norm of 1."""
    generator = np.random.default_rng(0)
    utterances = list(generator.normal(size=(34, 3, DIM)).astype(np.float32) * 20)
    labels = generator.integers(CLASSES, size=34)
    parts = Parts(np.arange(32), np.array([32]), np.array([33]))

    found = run_protocol("superb", utterances.__getitem__, labels, CLASSES, parts, seed=3, length=1)

    torch.manual_seed(3)
    head = Head(DIM, CLASSES, has_relu=False)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4)
    all_frames = [torch.tensor(utterance) for utterance in utterances]
    torch.nn.functional.cross_entropy(head(all_frames[:32]), torch.from_numpy(labels[:32])).backward()  # type: ignore[no-untyped-call]
    assert float(torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)) > 1
    optimizer.step()
    np.testing.assert_allclose(found, head(all_frames[33:]).softmax(dim=1).detach().numpy(), atol=1e-5)


def test_weights_are_those_of_the_best_validation() -> None:
    """An utterance of validation is labelled wrongly, so that it is right only before the training has got far."""
    generator = np.random.default_rng(0)
    labels = np.array([*[0, 1] * 20, 0, 0])
    means = np.array([[4.0] * DIM, [-4.0] * DIM])[labels]
    means[40] = -4.0
    utterances = list((means[:, None] + generator.normal(size=(42, 5, DIM))).astype(np.float32))
    parts = Parts(np.arange(40), np.array([40]), np.array([41]))

    posteriors = {
        seed: run_protocol("emotion2vec", utterances.__getitem__, labels, 2, parts, seed, length=3) for seed in range(2)
    }

    for seed, found in posteriors.items():  # never right, so that the first epoch counts
        once = run_protocol("emotion2vec", utterances.__getitem__, labels, 2, parts, seed, length=1)
        assert np.array_equal(found, once)


def test_number_of_threads_is_kept_and_does_not_change_numbers() -> None:
    frames, labels = make_corpus()
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append([run_protocol(name, frames, labels, CLASSES, make_parts(), length=3) for name in NAMES])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(map(np.array_equal, *found))
