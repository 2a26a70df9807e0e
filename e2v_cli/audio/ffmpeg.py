"""Files that FFmpeg decodes, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError


class FfmpegDecoder(Decoder):
    """The first audio stream of a file."""

    def __init__(self, path: str, demuxer: str, num_samples: int | None) -> None:
        """Open a file.

        Args:
            path: of the file.
            demuxer: FFmpeg's name of the container: no other is tried.
            num_samples: samples of each channel that the file should have; None: only decoding it tells.

        Raises:
            AudioError: FFmpeg can't read it.
        """
        import av  # takes long, and few need it

        try:
            self._container = av.open(path, format=demuxer, options={"protocol_whitelist": "file"})
        except av.FFmpegError as error:
            raise AudioError("not audio", error.strerror or str(error)) from None
        if not self._container.streams.audio:
            self._container.close()
            raise AudioError("not audio", "it has no audio stream")
        stream = self._container.streams.audio[0]
        super().__init__(stream.rate or 0, stream.channels, num_samples)
        self._errors = av.FFmpegError
        self._frames = self._decode()
        self._rest = np.empty((0, self.num_channels), np.float32)

    def read(self, count: int) -> NDArray[np.float32]:
        """Read the next samples as floats of ±1."""
        parts, missing = [], count
        while missing:
            if not len(self._rest):
                try:
                    self._rest = next(self._frames)
                except StopIteration:
                    break
                except self._errors as error:
                    raise AudioError("truncated", f"the audio is damaged: {error.strerror or error}") from None
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return np.concatenate(parts) if parts else np.empty((0, self.num_channels), np.float32)

    def check_end(self, position: int) -> None:
        """Check that the samples that were expected are all, and no more."""
        super().check_end(position + len(self.read(1)))

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _decode(self) -> Iterator[NDArray[np.float32]]:
        """Decode frame by frame: (samples, channels)."""
        for frame in self._container.decode(self._container.streams.audio[0]):
            samples = frame.to_ndarray()
            if frame.format.is_planar:
                samples = samples.T
            samples = samples.reshape(frame.samples, -1)
            if samples.shape[1] != self.num_channels or frame.sample_rate != self.rate:
                raise AudioError("unreadable", "its rate or its channels change within the file: convert it to WAV")
            yield _as_float(samples)


def _as_float(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    """Scale integers to ±1."""
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128) / np.float32(128)
    if samples.dtype.kind == "i":
        return (samples / np.float64(2 ** (8 * samples.dtype.itemsize - 1))).astype(np.float32)
    return samples.astype(np.float32)
