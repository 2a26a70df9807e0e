"""Engines of small networks, batches of noise, and their results by plain formulas."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from e2v_cli.inference.engine import E2vEngine
from e2v_cli.inference.windows import cut_windows, window_frames
from e2v_cli.models.folder import Model
from e2v_cli.network.emotion2vec import Emotion2vec, Taps
from e2v_cli.options import ComputeOptions, Granularity, Precision, ResultOptions
from e2v_cli.records import Batch, Failure, Prediction, Utterance, Waveform
from e2v_cli.system.spool import DiskWaveform

OUT = tempfile.TemporaryDirectory(prefix="e2v-out-")
"""The folder of engines that make a timeline."""


def make_engine(
    model: Model,
    network: Emotion2vec,
    granularity: Granularity = "utterance",
    *,
    window: float = 60.0,
    timelines: tuple[float, ...] = (),
    precision: Precision = "fp32",
) -> E2vEngine:
    """Make an engine of a network."""
    results = ResultOptions(Path(OUT.name) if timelines else None, granularity, timelines=timelines)
    return E2vEngine(model, network, ComputeOptions(window=window, precision=precision), results)


def make_batch(seconds: Sequence[float]) -> Batch:
    """Make a batch of noise of these lengths in seconds."""
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


def limit_memory(
    network: Emotion2vec, fits: Callable[[Sequence[Tensor]], bool], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Make a network run out of memory unless ``fits``; return the sizes of its batches, as they come."""
    given: list[int] = []
    forward = network.forward

    def forward_if_it_fits(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        given.append(len(waveforms))
        if not fits(waveforms):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(waveforms, *taps)

    monkeypatch.setattr(network, "forward", forward_if_it_fits)
    return given


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


# -- windows -----------------------------------------------------------------------------------------------------------


def make_long(seconds: float) -> tuple[NDArray[np.float32], Waveform]:
    """Make an utterance, of changing loudness and with an offset: in memory, and spooled."""
    samples = make_samples(seconds)
    spooled = DiskWaveform()
    for first in range(0, len(samples), 10_007):
        spooled.append(samples[first : first + 10_007])
    return samples, Waveform(Utterance(0, "long", "long.wav"), spooled, seconds)


def make_samples(seconds: float) -> NDArray[np.float32]:
    noise = np.random.default_rng(1).normal(size=round(seconds * 16_000))
    samples: NDArray[np.float32] = (noise * np.linspace(0.01, 0.2, len(noise)) + 0.05).astype(np.float32)
    return samples


def encode_one(engine: E2vEngine, waveform: Waveform | NDArray[np.float32]) -> Prediction:
    """Encode an utterance alone."""
    if not isinstance(waveform, Waveform):
        waveform = Waveform(Utterance(0, "long", "long.wav"), waveform, len(waveform) / 16_000)
    (prediction,) = engine.start(Batch((waveform,)))()
    assert isinstance(prediction, Prediction)
    return prediction


@torch.inference_mode()
def encode_in_windows(network: Emotion2vec, samples: NDArray[np.float32], window: float) -> tuple[Tensor, int]:
    """Encode the normalised whole in windows: return the kept frames, (frames, dim), and the number of windows."""
    whole = torch.from_numpy(samples)
    normalised = F.layer_norm(whole, whole.shape)
    num_frames = network.config.num_frames(len(samples))
    windows = list(cut_windows(num_frames, *window_frames(network.config, window)))
    parts = []
    for part in windows:
        (frames,) = network.encode([normalised[part.samples(network.config)]])
        assert len(frames) == part.end - part.first
        parts.append(frames[part.first_kept - part.first : part.end_kept - part.first])
    return torch.cat(parts), len(windows)


@torch.inference_mode()
def encode_whole(network: Emotion2vec, samples: NDArray[np.float32]) -> Tensor:
    """Encode an utterance at once: (frames, dim)."""
    frames: Tensor
    (frames,) = network([torch.from_numpy(samples)])
    return frames


@torch.inference_mode()
def apply_head(network: Emotion2vec, frames: Tensor) -> NDArray[np.float32]:
    """Apply the head to the mean of frames: (labels,)."""
    posteriors: NDArray[np.float32] = network.logits(frames.mean(dim=0)[None]).softmax(dim=1)[0].numpy()
    return posteriors
