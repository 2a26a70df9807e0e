"""What the engine makes of a batch that is too large for the memory there is, and of numbers that are none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from e2v_cli.checkpoint import Model, load_network, read_model
from e2v_cli.engine import E2vEngine
from e2v_cli.network import Emotion2vec
from e2v_cli.records import Batch, Failure, Prediction, Utterance, Waveform

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return read_model("tiny", tiny)


@pytest.fixture
def network(model: Model) -> Emotion2vec:
    return load_network(model)


def make_batch(seconds: Sequence[float]) -> Batch:
    """Make noise of so many seconds."""
    generator = np.random.default_rng(0)
    return Batch(
        tuple(
            Waveform(
                Utterance(index, f"utt{index}", f"{index}.wav"),
                generator.normal(scale=0.1, size=round(duration * 16_000)).astype(np.float32),
                duration,
            )
            for index, duration in enumerate(seconds)
        )
    )


def cramp(network: Emotion2vec, fits: Callable[[Sequence[Tensor]], bool], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a network have no memory for what doesn't fit, and note how many waveforms it is given at a time."""
    given: list[int] = []
    forward = network.forward

    def forward_if_it_fits(waveforms: Sequence[Tensor]) -> list[Tensor]:
        given.append(len(waveforms))
        if not fits(waveforms):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(waveforms)

    monkeypatch.setattr(network, "forward", forward_if_it_fits)
    return given


def total_seconds(waveforms: Sequence[Tensor]) -> float:
    return sum(len(waveform) for waveform in waveforms) / 16_000


def assert_same(results: Sequence[Prediction | Failure], expected: Sequence[Prediction | Failure]) -> None:
    """Check that predictions are the same, to the bit."""
    assert [result.utterance for result in results] == [result.utterance for result in expected]
    for result, other in zip(results, expected, strict=True):
        assert isinstance(result, Prediction)
        assert isinstance(other, Prediction)
        assert result.posteriors is not None
        assert other.posteriors is not None
        assert (result.duration, result.num_frames, result.windows) == (other.duration, other.num_frames, other.windows)
        np.testing.assert_array_equal(result.posteriors, other.posteriors)
        np.testing.assert_array_equal(result.embedding, other.embedding)


def test_what_fits_is_encoded_at_once(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cramp(network, lambda waveforms: len(waveforms) <= 5, monkeypatch)

    results = E2vEngine(model, network, CPU, "utterance").encode(make_batch([0.5] * 5))

    assert given == [5]
    assert [result.utterance.utt_id for result in results] == ["utt0", "utt1", "utt2", "utt3", "utt4"]


@pytest.mark.parametrize(
    ("number", "room", "calls"),
    [
        (2, 1, [2, 1, 1]),
        (5, 4, [5, 2, 3]),
        (5, 1, [5, 2, 1, 1, 3, 1, 2, 1, 1]),
        (8, 2, [8, 4, 2, 2, 4, 2, 2]),
        (7, 3, [7, 3, 4, 2, 2]),
    ],
)
def test_a_batch_too_large_is_halved_until_it_fits(
    number: int, room: int, calls: list[int], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are those of the smaller batches, in the order of the large one."""
    batch = make_batch([0.3 + 0.1 * index for index in range(number)])
    engine = E2vEngine(model, load_network(model), CPU, "utterance")
    cramped = E2vEngine(model, network, CPU, "utterance")
    given = cramp(network, lambda waveforms: len(waveforms) <= room, monkeypatch)

    results = cramped.encode(batch)

    assert given == calls
    fitting: list[Prediction | Failure] = []
    for size in (size for size in calls if size <= room):
        fitting += engine.encode(Batch(batch.waveforms[len(fitting) : len(fitting) + size]))
    assert_same(results, fitting)


def test_frames_are_those_of_each_utterance_also_when_halved(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramp(network, lambda waveforms: len(waveforms) == 1, monkeypatch)

    results = E2vEngine(model, network, CPU, "frame").encode(make_batch([0.3, 1.0, 0.5]))

    assert [result.embedding.shape for result in results if isinstance(result, Prediction)] == [
        (14, 96),
        (49, 96),
        (24, 96),
    ]


def test_one_that_alone_is_too_large_fails_and_the_others_do_not(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch([0.5, 0.6, 2.54, 0.7])
    engine = E2vEngine(model, network, CPU, "utterance")
    expected = [engine.encode(Batch(half)) for half in (batch.waveforms[:2], batch.waveforms[3:])]
    cramp(network, lambda waveforms: total_seconds(waveforms) <= 2.0, monkeypatch)

    results = engine.encode(batch)

    detail = "2.5 s are too long for the memory of cpu"
    assert results[2] == Failure(batch.waveforms[2].utterance, "model", "out of memory", detail)
    assert_same([*results[:2], *results[3:]], [*expected[0], *expected[1]])


def test_without_any_memory_all_fail(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cramp(network, lambda _: False, monkeypatch)

    results = E2vEngine(model, network, CPU, "utterance").encode(make_batch([0.5, 0.6, 0.7]))

    assert given == [3, 1, 2, 1, 1]
    assert [(result.utterance.index, result.reason) for result in results if isinstance(result, Failure)] == [
        (0, "out of memory"),
        (1, "out of memory"),
        (2, "out of memory"),
    ]


def test_what_is_not_finite_fails_alone(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch([0.5, 0.6, 0.7])
    engine = E2vEngine(model, network, CPU, "utterance")
    expected = engine.encode(batch)
    forward = network.forward

    def spoil(waveforms: Sequence[Tensor]) -> list[Tensor]:
        first, second, third = forward(waveforms)
        return [first, second * torch.nan, third]

    monkeypatch.setattr(network, "forward", spoil)

    results = engine.encode(batch)

    detail = "the model gives NaN or infinite numbers for it"
    assert results[1] == Failure(batch.waveforms[1].utterance, "model", "not finite", detail)
    assert_same([results[0], results[2]], [expected[0], expected[2]])


def test_an_error_of_another_kind_is_not_taken_for_a_lack_of_memory(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(waveforms: Sequence[Tensor]) -> list[Tensor]:
        calls.append(len(waveforms))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(network, "forward", fail)

    message = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        E2vEngine(model, network, CPU, "utterance").encode(make_batch([0.5, 0.5]))
    assert calls == [2]
