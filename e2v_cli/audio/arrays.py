"""Waveforms in memory → (samples,): NumPy's arrays, lists, and tensors of PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.errors import AudioError


def to_samples(given: Any) -> NDArray[np.float32]:
    """Convert a mono waveform of floats or int16 to (samples,), as a file of the same samples is read.

    Raises:
        AudioError: it is not such a waveform; the message has an expression that makes one of ``x``.
    """
    if hasattr(given, "detach"):  # a tensor, perhaps on a GPU; NumPy has no bfloat16
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given
    try:
        samples = np.asarray(given)
    except (TypeError, ValueError):  # a ragged list
        samples = np.empty(())
    if samples.ndim == 0:
        raise AudioError("not samples", f"a {type(given).__name__}; give a path, or an array of shape (samples,)")
    is_int16 = samples.dtype.kind == "i" and samples.dtype.itemsize == 2
    if samples.dtype.kind != "f" and not is_int16:
        raise AudioError(
            "not samples", f"{samples.dtype}; give floats of about ±1, or int16: x / 2**31 for samples of 32 bits"
        )
    if samples.ndim > 1:
        raise AudioError("not mono", _describe_channels(samples.shape, "(x / 2**15)" if is_int16 else "x"))
    with np.errstate(over="ignore"):  # infinite samples are found later
        floats = samples.astype(np.float32)
    return floats / np.float32(2**15) if is_int16 else floats


def _describe_channels(shape: tuple[int, ...], floats: str) -> str:
    """Describe an array that is not mono, and what makes it so; ``floats`` is an expression of its scaled samples."""
    if len(shape) > 2:
        return f"shape {shape}; give an array of shape (samples,)"
    axis, channel = (0, "x[0]") if shape[0] < shape[1] else (1, "x[:, 0]")
    return f"shape {shape}; give one channel, {channel}, or the mean of all, {floats}.mean(axis={axis})"
