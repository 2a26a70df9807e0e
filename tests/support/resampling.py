"""torchaudio's resampling as its documentation describes it, and a stand-in for the package."""

from __future__ import annotations

import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@lru_cache(maxsize=1)
def make_kernel(rate: int) -> tuple[Tensor, int]:
    """Make the whole kernel, most of it zeros, (phases, inputs), and its width."""
    common = math.gcd(rate, 16_000)
    old, new = rate // common, 16_000 // common
    cutoff = min(old, new) * 0.99
    width = math.ceil(6 * old / cutoff)
    inputs = torch.arange(-width, width + old, dtype=torch.float64) / old
    times = (torch.arange(0, -new, -1)[:, None] / new + inputs) * cutoff
    window = torch.where(times.abs() < 6, torch.cos(times * math.pi / 12) ** 2, 0.0)
    return (torch.sinc(times) * window * cutoff / old).float(), width


def convolve(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Resample (samples,) to 16 kHz: a convolution with a stride, and silence on both sides."""
    if rate == 16_000:
        return samples
    kernel, width = make_kernel(rate)
    stride = kernel.shape[1] - 2 * width
    padded = F.pad(torch.from_numpy(samples), (width, width + stride))
    resampled = F.conv1d(padded[None, None], kernel[:, None], stride=stride)[0].T.reshape(-1)
    return resampled[: math.ceil(len(kernel) * len(samples) / stride)].numpy()


class Resample:
    """Stands in for ``torchaudio.transforms.Resample``."""

    def __init__(self, rate: int, new_rate: int) -> None:
        assert new_rate == 16_000
        self.rate = rate

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Resample (waveforms, samples)."""
        return torch.from_numpy(np.stack([convolve(waveform.numpy(), self.rate) for waveform in waveforms]))


TORCHAUDIO = SimpleNamespace(transforms=SimpleNamespace(Resample=Resample))
"""Stands in for torchaudio without TorchCodec, which then reads no file."""
