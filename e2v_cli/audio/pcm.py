"""Samples of fixed size in a part of a file, and the sizes that headers declare of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.file_bytes import FileParts

SLIGHT = 1000
"""Bytes by which a header may differ from the file through its own error alone; a greater difference is a loss."""

_UNKNOWN_SIZES = (
    range(1),  # flac, Python's wave, FFmpeg's AIFF, recorders that were killed
    range(0x7EFF_0000, 0x7F01_0000),  # SoX's AIFF
    range(0x7FFE_F000, 0x8001_0000),  # SoX, arecord, LAME
    range(0xFFFF_0000, 1 << 32),  # FFmpeg, madplay
    range((1 << 63) - (1 << 16), 1 << 63),  # FFmpeg's W64
    range((1 << 64) - (1 << 16), 1 << 64),
)
"""Sizes that writers to a pipe declare, with or without a header, or rounded down to whole samples."""


_MAX_BEHIND = 1 << 30
"""Bytes after the declared audio from which its size counts as cut: a header of 32 bits ends at 4 GiB."""


@dataclass(frozen=True)
class Encoding:
    """The encoding of samples."""

    rate: int
    """Samples of a channel per second."""
    num_channels: int
    subtype: str
    """libsndfile's name; "" where a sample has no fixed size."""
    block: int
    """Bytes of the shortest part that can be decoded, over all channels."""
    big_endian: bool = False
    """Whether the first byte of a sample is the highest."""
    block_samples: int = 1
    """Samples of each channel in a block."""

    def count_samples(self, size: int) -> int:
        """Count the samples of each channel in so many bytes; a block that is not whole has none."""
        return size // self.block * self.block_samples if self.block else 0


class PcmDecoder(Decoder):
    """Samples of fixed size, decoded by libsndfile."""

    def __init__(self, path: str, begin: int, size: int, encoding: Encoding) -> None:
        """Open a part of a file.

        Args:
            path: path of the file.
            begin: offset of the part's first byte.
            size: bytes of the part, all of which are in the file.
            encoding: encoding of the samples.
        """
        num_samples = encoding.count_samples(size)
        super().__init__(encoding.rate, encoding.num_channels, num_samples, can_seek=True)
        self._part = _Part(path, [(begin, begin + num_samples * encoding.block)])
        endian = "BIG" if encoding.big_endian else "LITTLE"
        self._file = soundfile.SoundFile(self._part, "r", self.rate, self.num_channels, encoding.subtype, endian, "RAW")

    def read(self, count: int) -> NDArray[np.float32]:
        """Read the next samples as floats of ±1."""
        samples: NDArray[np.float32] = self._file.read(count, dtype="float32", always_2d=True)
        if self._part.error:
            raise self._part.error
        return samples

    def seek(self, sample: int) -> None:
        """Make a sample the next to be read."""
        self._file.seek(sample)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._part.close()


def measure_audio(declared: int, found: int, closed: bool = False) -> int:
    """Decide how many bytes of audio a file has.

    Args:
        declared: bytes of audio that the header declares.
        found: bytes from the start of the audio to the end of the file.
        closed: whether the declared size fits the end of the file; then it counts, even if it looks unknown.

    Raises:
        AudioError: bytes are missing, or the header can't hold their number.
    """
    if is_unknown(declared) and not closed:
        return found
    if found - declared >= _MAX_BEHIND:
        raise AudioError(
            "unreadable",
            f"the header declares {declared} bytes of audio, the file has {found}: a header of 32 bits ends at 4 GiB; "
            "convert it, sox --ignore-length IN OUT.w64",
        )
    if declared <= found:
        return declared
    claim, excess = f"the header declares {declared} bytes of audio, the file has {found}", declared - found
    if excess >= SLIGHT:
        raise AudioError("truncated", f"{claim}: copy it again")
    mend = "copy it again, or, if that is all, mend the header: sox --ignore-length IN OUT"
    raise AudioError("truncated", f"{claim}, {excess} less: {mend}")


def is_unknown(size: int) -> bool:
    """Whether a header declares such a size of audio when its writer could not know it."""
    return any(size in unknown for unknown in _UNKNOWN_SIZES)


class _Part(FileParts):
    """A part of a file, as libsndfile reads it."""

    error: OSError | None = None
    """Error of the last failed read, which libsndfile takes for the end of the file; None: all reads succeeded."""

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except OSError as error:
            self.error = error
            return 0
