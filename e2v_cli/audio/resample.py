"""Resampling to 16 kHz."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from e2v_cli.records import SAMPLE_RATE


def resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Resample (samples,) from ``rate`` Hz to 16 kHz, in the "HQ" quality of the SoX resampler."""
    if rate == SAMPLE_RATE:
        return samples
    resampled: NDArray[np.float32] = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return resampled
