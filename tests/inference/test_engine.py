"""The engine: batches and utterances too large for memory, and long utterances in windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import make_config, make_model
from support.engines import (
    apply_head,
    assert_same,
    encode_in_windows,
    encode_one,
    encode_whole,
    limit_memory,
    make_batch,
    make_engine,
    make_long,
)
from torch import Tensor

from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.network.emotion2vec import Emotion2vec, Taps
from e2v_cli.options import Granularity
from e2v_cli.records import Batch, Failure, Prediction
from e2v_cli.system.spool import DiskArray


def total_seconds(waveforms: Sequence[Tensor]) -> float:
    return sum(len(waveform) for waveform in waveforms) / 16_000


def test_batch_that_fits_is_encoded_at_once(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = limit_memory(network, lambda waveforms: len(waveforms) <= 5, monkeypatch)

    results = make_engine(model, network).start(make_batch([0.5] * 5))()

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
def test_batch_too_large_is_halved_until_it_fits(
    number: int, room: int, calls: list[int], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are those of the smaller batches, in the order of the large one."""
    batch = make_batch([0.3 + 0.1 * index for index in range(number)])
    engine = make_engine(model, make_network(model))
    limited = make_engine(model, network)
    given = limit_memory(network, lambda waveforms: len(waveforms) <= room, monkeypatch)

    results = limited.start(batch)()

    assert given == calls
    fitting: list[Prediction | Failure] = []
    for size in (size for size in calls if size <= room):
        fitting += engine.start(Batch(batch.waveforms[len(fitting) : len(fitting) + size]))()
    assert_same(results, fitting)


def test_halved_batch_keeps_the_frames_of_each_utterance(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(network, lambda waveforms: len(waveforms) == 1, monkeypatch)

    results = make_engine(model, network, "frame").start(make_batch([0.3, 1.0, 0.5]))()

    assert [result.embedding.shape for result in results if isinstance(result, Prediction)] == [
        (14, 96),
        (49, 96),
        (24, 96),
    ]


def test_only_the_utterance_too_large_for_memory_fails(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch([0.5, 0.6, 2.54, 0.7])
    engine = make_engine(model, network)
    expected = [engine.start(Batch(half))() for half in (batch.waveforms[:2], batch.waveforms[3:])]
    limit_memory(network, lambda waveforms: total_seconds(waveforms) <= 2.0, monkeypatch)

    results = engine.start(batch)()

    detail = "2.5 s are too long for the memory of cpu; try a smaller --window"
    assert results[2] == Failure(batch.waveforms[2].utterance, "model", "out of memory", detail)
    assert_same([*results[:2], *results[3:]], [*expected[0], *expected[1]])


def test_all_utterances_fail_without_memory(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = limit_memory(network, lambda _: False, monkeypatch)

    results = make_engine(model, network).start(make_batch([0.5, 0.6, 0.7]))()

    assert given == [3, 1, 2, 1, 1]
    assert [(result.utterance.index, result.reason) for result in results if isinstance(result, Failure)] == [
        (0, "out of memory"),
        (1, "out of memory"),
        (2, "out of memory"),
    ]


def test_only_the_utterance_with_nan_fails(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch([0.5, 0.6, 0.7])
    engine = make_engine(model, network)
    expected = engine.start(batch)()
    forward = network.forward

    def spoil(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        first, second, third = forward(waveforms, *taps)
        return [first, second * torch.nan, third]

    monkeypatch.setattr(network, "forward", spoil)

    results = engine.start(batch)()

    detail = "the model's output has NaN or infinite values"
    assert results[1] == Failure(batch.waveforms[1].utterance, "model", "not finite", detail)
    assert_same([results[0], results[2]], [expected[0], expected[2]])


def test_other_errors_do_not_halve_the_batch(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(waveforms: Sequence[Tensor], *_taps: Taps) -> list[Tensor]:
        calls.append(len(waveforms))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(network, "forward", fail)

    message = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        make_engine(model, network).start(make_batch([0.5, 0.5]))()
    assert calls == [2]


@pytest.mark.parametrize(("seconds", "window"), [(10.0, 4.0), (7.3, 1.0), (4.02, 4.0), (61.0, 60.0)])
def test_long_utterance_matches_its_joined_windows(
    seconds: float, window: float, model: Model, network: Emotion2vec
) -> None:
    samples, waveform = make_long(seconds)
    frames, num_windows = encode_in_windows(network, samples, window)

    pooled = encode_one(make_engine(model, network, window=window), waveform)
    framed = encode_one(make_engine(model, network, "frame", window=window), waveform)

    assert num_windows >= 2
    for prediction in (pooled, framed):
        assert (prediction.windows, prediction.num_frames) == (num_windows, (len(samples) - 400) // 320 + 1)
        assert prediction.duration == seconds
        assert prediction.posteriors is not None
        np.testing.assert_allclose(prediction.posteriors, apply_head(network, frames), rtol=0, atol=1e-5)
    assert isinstance(framed.embedding, DiskArray)
    assert framed.embedding.shape == (framed.num_frames, 96)
    np.testing.assert_allclose(framed.embedding.read(), frames.numpy(), rtol=0, atol=1e-4)
    assert isinstance(pooled.embedding, np.ndarray)
    np.testing.assert_allclose(pooled.embedding, frames.mean(dim=0).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_spooled_utterance_within_a_window_matches_the_one_in_memory(
    granularity: Granularity, model: Model, network: Emotion2vec
) -> None:
    samples, waveform = make_long(10.0)
    engine = make_engine(model, network, granularity, timelines=(0.5,))

    spooled = encode_one(engine, waveform)
    whole = encode_one(engine, samples)

    assert (spooled.windows, spooled.num_frames) == (whole.windows, whole.num_frames) == (1, 499)
    embedding = spooled.embedding.read() if isinstance(spooled.embedding, DiskArray) else spooled.embedding
    assert isinstance(whole.embedding, np.ndarray)
    np.testing.assert_allclose(embedding, whole.embedding, rtol=0, atol=1e-4)
    for one, other in ((spooled.posteriors, whole.posteriors), (spooled.timelines[0], whole.timelines[0])):
        assert one is not None
        assert other is not None
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_utterance_in_windows_is_about_the_same_as_at_once(model: Model, network: Emotion2vec) -> None:
    """Some heads attend evenly with these random weights; learned attention is more local."""
    samples, waveform = make_long(30.0)

    in_windows = encode_one(make_engine(model, network, window=12.0), waveform)
    at_once = encode_one(make_engine(model, network), samples)

    assert (in_windows.windows, at_once.windows) == (4, 1)
    assert in_windows.posteriors is not None
    assert at_once.posteriors is not None
    np.testing.assert_allclose(in_windows.posteriors, at_once.posteriors, rtol=0, atol=1e-3)


def test_samples_are_not_normalised_if_the_config_says_so(tmp_path: Path) -> None:
    model = read_model("raw", make_model(tmp_path, make_config(model={"normalize": False})))
    network = make_network(model)
    samples, waveform = make_long(5.0)

    spooled = encode_one(make_engine(model, network), waveform)

    assert isinstance(spooled.embedding, np.ndarray)
    expected = encode_whole(network, samples).mean(dim=0)
    np.testing.assert_allclose(spooled.embedding, expected.numpy(), rtol=0, atol=1e-5)


def test_window_too_large_for_memory_fails(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    _, waveform = make_long(10.0)

    def fail(_: Sequence[Tensor], *_taps: Taps) -> list[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(network, "encode", fail)
    (result,) = make_engine(model, network, "frame", window=4.0).start(Batch((waveform,)))()

    detail = "10.0 s are too long for the memory of cpu; try a smaller --window"
    assert result == Failure(waveform.utterance, "model", "out of memory", detail)


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_window_that_is_not_finite_fails_its_utterance(
    granularity: Granularity, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, waveform = make_long(10.0)
    calls: list[int] = []
    encode = network.encode

    def spoil(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        calls.append(len(waveforms))
        (frames,) = encode(waveforms, *taps)
        return [frames * (torch.inf if len(calls) == 2 else 1)]

    monkeypatch.setattr(network, "encode", spoil)
    (result,) = make_engine(model, network, granularity, window=4.0).start(Batch((waveform,)))()

    assert calls == [1, 1, 1, 1]
    detail = "the model's output has NaN or infinite values"
    assert result == Failure(waveform.utterance, "model", "not finite", detail)
