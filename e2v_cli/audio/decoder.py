"""An open audio file, whatever decodes it: its rate, its channels, its length, and its samples in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.errors import AudioError

SAMPLE_RATES = range(1_000, 1_000_001)
"""Valid sample rates, in Hz: others come from broken headers, and resampling could take any amount of memory."""

MAX_CHANNELS = 512
"""Most channels: more come from a broken header; FFmpeg reads as many."""


class Decoder(ABC):
    """An open audio file."""

    def __init__(self, rate: int, num_channels: int, num_samples: int | None, can_seek: bool = False) -> None:
        """Describe the file.

        Args:
            rate: samples of a channel per second.
            num_channels: number of channels.
            num_samples: samples of each channel, by the file's own structure; None: only decoding it tells.
            can_seek: whether ``seek`` reaches any sample without decoding those before it, with the same values.

        Raises:
            AudioError: rate or channels are those of a broken header.
        """
        if rate not in SAMPLE_RATES:
            raise AudioError("not audio", f"a sample rate of {rate} Hz")
        if not 0 < num_channels <= MAX_CHANNELS:
            raise AudioError("not audio", f"{num_channels} channels")
        self.rate = rate
        self.num_channels = num_channels
        self.num_samples = num_samples
        self.can_seek = can_seek

    @abstractmethod
    def read(self, count: int) -> NDArray[np.float32]:
        """Read the next samples, at most ``count`` of each channel: (samples, channels); none only at the end.

        Raises:
            AudioError: they are damaged.
            OSError: the file can't be read.
        """

    def seek(self, sample: int) -> None:
        """Make a sample the next to be read; only where ``can_seek``."""
        raise NotImplementedError

    def check_end(self, position: int) -> None:
        """Check that a file is complete if its last readable sample is the one before ``position``.

        Raises:
            AudioError: it is not.
        """
        if self.num_samples is not None and position != self.num_samples:
            raise truncated(self.num_samples, position)

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def truncated(declared: int, found: int) -> AudioError:
    """Return the error of a file that has fewer samples, or more, than its header declares."""
    return AudioError("truncated", f"the header declares {declared} samples, the file has {found}: copy it again")
