"""Resampling to 16 kHz, chunk by chunk: the samples are the same, to the bit, however the audio is cut into chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_cli.options import ResamplerName
from e2v_cli.records import SAMPLE_RATE

ZERO_CROSSINGS = 6
"""Zeros of torchaudio's kernel on each side of its centre (``lowpass_filter_width``)."""

ROLLOFF = 0.99
"""Cut-off frequency of torchaudio's kernel, divided by the lower one of both Nyquist frequencies."""

GROUP = 32
"""Neighbouring output samples, computed from the same input samples in one row of a matrix product."""

MAX_MULTIPLICATIONS = 1 << 18
"""Most multiplications of a matrix product: BLAS libraries compute so few in one thread."""

BLOCK_OUTPUTS = 1 << 15
"""Output samples computed at a time, unless one period of the filters has more."""


class Resampler:
    """The samples of one utterance on their way to 16 kHz, with the length that FunASR gives them."""

    def __init__(self, name: ResamplerName, rate: int) -> None:
        self._name: ResamplerName = name
        self._rate = rate
        self._stream = _open_stream(name, rate)
        self._num_samples = self._num_resampled = 0

    def resample_chunk(self, samples: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Resample the next (samples,), and the end of the utterance if they are its last."""
        self._num_samples += len(samples)
        resampled = self._stream.resample_chunk(samples, last)
        if last:
            left = max(0, predict_length(self._name, self._rate, self._num_samples) - self._num_resampled)
            resampled = np.pad(resampled[:left], (0, max(0, left - len(resampled))))
        self._num_resampled += len(resampled)
        return resampled


def predict_length(name: ResamplerName, rate: int, num_samples: int) -> int:
    """Predict how many samples at 16 kHz a resampler makes of ``num_samples`` at ``rate`` Hz."""
    if name == "soxr" or rate == SAMPLE_RATE:
        return math.ceil(num_samples * (SAMPLE_RATE / rate))  # librosa fills SoX's samples up with silence
    old, new = _reduce(rate)
    exact = float(np.float32(new * num_samples / old))  # torchaudio rounds it so
    return min(math.ceil(exact), new * (num_samples // old + 1))


class _Stream(Protocol):
    """A method of resampling, for one utterance."""

    def resample_chunk(self, samples: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        """Resample the next (samples,), and all that is left if they are the last."""


def _open_stream(name: ResamplerName, rate: int) -> _Stream:
    if rate == SAMPLE_RATE:
        return _UnchangedStream()
    if name == "torchaudio":
        return _SincStream(rate)
    stream: _Stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    return stream


class _UnchangedStream:
    """Samples that are at 16 kHz already."""

    def resample_chunk(self, samples: NDArray[np.float32], last: bool) -> NDArray[np.float32]:  # noqa: ARG002
        """Return the samples."""
        return samples


class _SincStream:
    """torchaudio's ``transforms.Resample`` with its defaults: a filter of finite length, a sinc in a Hann window.

    The matrix products always have the same shape, and begin at the same samples of the utterance. So no chunk changes
    the order of an addition.
    """

    def __init__(self, rate: int) -> None:
        self._filters = _make_filters(rate)
        self._unused = np.zeros(self._filters.margin, np.float32)  # silence before the utterance

    def resample_chunk(self, samples: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        """Resample as many whole blocks as there are; the last one is filled with silence."""
        filters = self._filters
        audio = np.concatenate([self._unused, samples])
        if last:
            num_blocks = (len(audio) - filters.margin) // filters.step + 1
            audio = np.pad(audio, (0, num_blocks * filters.step + filters.span - len(audio)))
        else:
            num_blocks = max(0, (len(audio) - filters.span) // filters.step + 1)
        blocks = [filters.apply(audio[number * filters.step :][: filters.span]) for number in range(num_blocks)]
        self._unused = audio[num_blocks * filters.step :].copy()
        return np.concatenate([np.empty(0, np.float32), *blocks])


@dataclass(frozen=True)
class _SincFilters:
    """The filters of a sample rate, for blocks of output samples."""

    weights: NDArray[np.float32]
    """(groups, inputs, GROUP): weights of one period, after which the filters are the same again."""
    starts: NDArray[np.intp]
    """(groups, periods): the first input sample of each group in a block."""
    margin: int
    """Input samples before the first output sample."""
    step: int
    """Input samples from a block to the next one."""

    @property
    def span(self) -> int:
        """Input samples of a block, with those that it shares with the next ones."""
        return int(self.starts[-1, -1] + self.weights.shape[1])

    def apply(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter the (span,) of a block: its output samples, in order."""
        windows = sliding_window_view(samples, self.weights.shape[1])[self.starts]
        resampled: NDArray[np.float32] = (windows @ self.weights).swapaxes(0, 1).reshape(-1)
        return resampled


@lru_cache(maxsize=4)
def _make_filters(rate: int) -> _SincFilters:
    """Make the filters of a sample rate; only the inputs that a group needs have weights, all others would be 0."""
    old, new = _reduce(rate)
    margin = math.ceil(ZERO_CROSSINGS * old / (min(old, new) * ROLLOFF))
    num_inputs = 2 * margin + 2 + (GROUP - 1) * old // new
    period = new * GROUP // math.gcd(new, GROUP)
    outputs = np.arange(period).reshape(-1, GROUP)
    firsts = outputs[:, 0] * old // new - margin
    weights = [
        _make_weights(old, new, first + np.arange(num_inputs), own) for first, own in zip(firsts, outputs, strict=True)
    ]
    num_periods = max(1, min(MAX_MULTIPLICATIONS // (num_inputs * GROUP), BLOCK_OUTPUTS // period))
    step = period * old // new
    starts = firsts[:, None] + margin + step * np.arange(num_periods)
    return _SincFilters(np.stack(weights), starts, margin, step * num_periods)


def _make_weights(old: int, new: int, inputs: NDArray[np.intp], outputs: NDArray[np.intp]) -> NDArray[np.float32]:
    """Compute torchaudio's kernel, with its roundings, for output samples: (inputs, outputs).

    Args:
        old: samples per ``new`` output samples.
        new: output samples per ``old`` input samples.
        inputs: input samples, counted from the beginning of the audio.
        outputs: output samples, counted from the beginning of the audio.
    """
    cutoff = min(old, new) * ROLLOFF
    frames, phases = np.divmod(outputs, new)
    offsets = -phases.astype(np.float32) / np.float32(new)
    times = offsets + (inputs[:, None] - frames * old) / old
    times = np.clip(times * cutoff, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.cos(times * math.pi / ZERO_CROSSINGS / 2) ** 2
    times *= math.pi
    kernel = np.divide(np.sin(times), times, out=np.ones_like(times), where=times != 0)
    weights: NDArray[np.float32] = (kernel * (window * (cutoff / old))).astype(np.float32)
    return weights


def _reduce(rate: int) -> tuple[int, int]:
    """Reduce a sample rate and 16 kHz by their common divisors."""
    common = math.gcd(rate, SAMPLE_RATE)
    return rate // common, SAMPLE_RATE // common
