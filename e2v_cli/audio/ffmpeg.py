"""The first audio stream of a file that FFmpeg decodes, through PyAV: whole, or an error.

FFmpeg conceals what is damaged and goes on, so each of its errors counts, raised or only logged. Whether a container
is whole is checked elsewhere, before FFmpeg sees it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.decoder import Decoder, truncated
from e2v_cli.audio.errors import AudioError, one_line

if TYPE_CHECKING:
    from av import AudioCodecContext, AudioFrame, AudioStream, Packet

logger = logging.getLogger(__name__)

CONTAINER_OPTIONS = {
    "protocol_whitelist": "none",  # the file itself is read through Python, and a file that it names never
    "enable_drefs": "0",
    "max_streams": "256",
    "probesize": "5000000",  # bytes that are searched for streams, where the header doesn't tell
    "analyzeduration": "5000000",  # μs of them
}
"""Limits of what FFmpeg reads."""

CODEC_OPTIONS = {
    "err_detect": "crccheck+explode",  # errors are raised, not concealed
    "max_samples": "4194304",  # in a frame: 16 MB a channel
    "threads": "1",  # e2v decodes several files at once
}
"""Limits of how FFmpeg decodes."""

PADDED_CODECS = frozenset(("aac", "mp3", "mp3float"))
"""Decoders that FFmpeg 9 lets end with the edit list of an MP4 file, as players do; before, padding was left."""

MAX_SILENT_AT_END = 2
"""The most packets at the end whose audio is cut off whole, as padding of the encoder."""

MICROSECONDS = 1_000_000
"""Microseconds of a second: FFmpeg counts a container's duration in them."""

_ERROR = 16
"""FFmpeg's level of errors; worse ones are lower."""

MAX_NOTES = 10
"""The most of FFmpeg's notes on a file that are logged."""


@dataclass(frozen=True)
class Reading:
    """Settings for reading a file that FFmpeg alone would not know."""

    priming: int | None = None
    """Samples that the encoder put before the first. They are cut off here, with all after the last; None: FFmpeg cuts
    them off."""
    cut_end: bool = False
    """Whether the encoder's padding at the end is cut off by the duration in the header."""
    codec: str = ""
    """FFmpeg's name of the decoder; empty: the one that it chooses."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further options of the container."""


class FfmpegDecoder(Decoder):
    """The first audio stream of a file."""

    def __init__(
        self, path: str | io.RawIOBase, demuxer: str, num_samples: int | None, reading: Reading = Reading()
    ) -> None:
        """Open a file, and decode its first frame: that alone tells its rate and its channels.

        Args:
            path: path of the file, or an object that reads it, and is closed with the decoder.
            demuxer: FFmpeg's name of the container: no other is tried.
            num_samples: samples of each channel that the file should have; None: only decoding it tells.
            reading: how it is read.

        Raises:
            AudioError: FFmpeg can't read it.
            OSError: the file can't be opened.
        """
        import av  # takes long, and few need it

        if av.logging.get_level() != av.logging.WARNING:
            av.logging.set_skip_repeated(False)  # it compares with the last note of any thread
            av.logging.set_level(av.logging.WARNING)
        self._av = av
        self._num_notes = 0
        self._others: frozenset[str] = frozenset()
        self._begin: int | None = None
        self._end, self.longest_frame = 0, 0
        with ExitStack() as stack, self._listening("unreadable", opening=True):
            # not by its name, which could be one of FFmpeg's protocols
            file = stack.enter_context(io.FileIO(path) if isinstance(path, str) else path)
            self._container = stack.enter_context(
                av.open(file, "r", demuxer, CONTAINER_OPTIONS | dict(reading.options), metadata_errors="replace")
            )
            self._stream = self._choose_stream()
            self._codec = self._open_codec(reading)
            self._packets = self._read_packets()
            frames = self._decode()
            with self._listening("truncated"):
                first = next(frames, None)
            rate, layout = (first.sample_rate, first.layout) if first else (self._stream.rate, self._stream.layout)
            super().__init__(rate or 0, layout.nb_channels, num_samples)
            self._blocks = self._convert(chain([first], frames) if first else frames)
            self._rest = np.empty((0, self.num_channels), np.float32)
            if reading.priming is not None and num_samples is not None:
                self._blocks = _cut(self._blocks, reading.priming, reading.priming + num_samples)
            elif reading.cut_end and self._codec.name in PADDED_CODECS:
                self._blocks = _cut_last(self._blocks, self._declared())
            self._resources = stack.pop_all()

    def read(self, count: int) -> NDArray[np.float32]:
        """Read the next samples as floats of ±1."""
        parts, missing = [self._rest[:0]], count
        with self._listening("truncated"):
            while missing:
                if not len(self._rest):
                    block = next(self._blocks, None)
                    if block is None:
                        break
                    self._rest = block
                parts.append(self._rest[:missing])
                self._rest = self._rest[missing:]
                missing -= len(parts[-1])
        return np.concatenate(parts)

    def check_end(self, position: int) -> None:
        """Check that the samples that were expected are all, and no more; else, that the packets reach the end."""
        super().check_end(position + len(self.read(1)))
        if self.num_samples is None and (declared := self._declared()):
            found = self._to_samples(self._end - (self._begin or 0))
            tolerance = max(self.longest_frame, self._codec.frame_size or 0) + 2 * self._to_samples(1)
            if found + tolerance < declared:
                raise truncated(declared, found)

    def estimate_samples(self) -> int:
        """Estimate the samples of each channel: from the header, else from the timestamps of all packets."""
        if not (declared := self._declared()):
            with self._listening("truncated"):
                for _ in self._packets:
                    pass
        return declared or self._to_samples(self._end - (self._begin or 0))

    def close(self) -> None:
        """Close the file."""
        with self._listening("truncated", opening=True):
            self._resources.close()

    def _choose_stream(self) -> AudioStream:
        """Choose the first audio stream, and skip the packets of others."""
        streams = self._container.streams
        if not streams.audio:
            raise AudioError("not audio", "it has no audio stream")
        chosen: AudioStream = streams.audio[0]
        others = [other for other in streams if other.index != chosen.index]
        for other in others:
            other.discard = self._av.stream.Discard.all
        self._others = frozenset(other.codec_context.name for other in others if other.codec_context)
        if chosen.codec_context is None:
            raise AudioError("unreadable", "FFmpeg has no decoder for its audio: convert it to WAV")
        self._others -= {chosen.codec_context.name}
        return chosen

    def _open_codec(self, reading: Reading) -> AudioCodecContext:
        """Set the decoder up."""
        codec = self._stream.codec_context
        if reading.codec:
            codec = cast("AudioCodecContext", self._av.CodecContext.create(reading.codec, "r"))
            codec.sample_rate, codec.layout = self._stream.rate, self._stream.layout
        if reading.priming is not None:
            codec.flags2 |= self._av.codec.context.Flags2.skip_manual
        codec.options = CODEC_OPTIONS
        return codec

    def _read_packets(self) -> Iterator[Packet[AudioStream]]:
        """Read packet by packet; the last one is empty."""
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise AudioError("truncated", "a packet of audio is not whole: copy the file again")
            if packet.pts is not None:
                self._begin = packet.pts if self._begin is None else self._begin
                self._end = max(self._end, packet.pts + (packet.duration or 0))
            yield packet

    def _decode(self) -> Iterator[AudioFrame]:
        """Decode frame by frame.

        Raises:
            AudioError: a packet between others has no audio, or several at the end.
        """
        begun, silent = False, 0
        for packet in self._packets:
            frames = self._codec.decode(packet)
            if silent > MAX_SILENT_AT_END or (silent and frames and packet.size):
                raise AudioError("truncated", "the audio is damaged: a packet holds none")
            if frames:
                begun, silent = True, 0
            elif begun and packet.size and not packet.is_discard and not self._codec.delay:
                silent += 1
            for frame in frames:
                if frame.is_corrupt:
                    raise AudioError("truncated", "the audio is damaged: a frame of it is corrupt")
                self.longest_frame = max(self.longest_frame, frame.samples)
                yield frame

    def _convert(self, frames: Iterable[AudioFrame]) -> Iterator[NDArray[np.float32]]:
        """Convert frames to floats of ±1: (samples, channels)."""
        for frame in frames:
            if frame.layout.nb_channels != self.num_channels or frame.sample_rate != self.rate:
                raise AudioError("unreadable", "its rate or its channels change within the file: convert it to WAV")
            samples = frame.to_ndarray()
            yield _as_float(samples.T if frame.format.is_planar else samples.reshape(-1, self.num_channels))

    def _declared(self) -> int:
        """Return how many samples the header declares; 0: none, or only for all streams together."""
        if self._container.format.name == "avi":  # FFmpeg only estimates it from the size of the file
            return 0
        alone = len(self._container.streams) == 1
        if self._stream.duration and (alone or self._container.format.name == "mov"):
            return self._to_samples(self._stream.duration)
        if self._container.duration and alone:
            return round(Fraction(self._container.duration, MICROSECONDS) * self.rate)
        return 0

    def _to_samples(self, ticks: int) -> int:
        """Convert a time in the stream's unit to samples."""
        return round(ticks * Fraction(self._stream.time_base or 0) * self.rate)

    @contextmanager
    def _listening(self, reason: str, opening: bool = False) -> Iterator[None]:
        """Raise an error for each of FFmpeg's, and for each that it only logs; log its other notes.

        Args:
            reason: reason of the error.
            opening: whether errors that are only logged don't count: streams are searched, also those of video.
        """
        with self._av.logging.Capture() as notes:
            try:
                yield
            except self._av.FFmpegError as error:
                raise AudioError(reason, f"FFmpeg: {_last_error(notes) or error.strerror}") from None
            finally:
                self._log(notes)
        counted = [note for note in notes if note[1] not in self._others]
        if not opening and (message := _last_error(counted)):
            raise AudioError(reason, f"the audio is damaged: FFmpeg: {message}")

    def _log(self, notes: Sequence[tuple[int, str, str]]) -> None:
        """Log the first of FFmpeg's notes on the file."""
        for _, name, message in notes[: MAX_NOTES - self._num_notes]:
            logger.info("FFmpeg: %s: %s", name, one_line(message))
        self._num_notes = min(MAX_NOTES, self._num_notes + len(notes))


def _last_error(notes: Iterable[tuple[int, str, str]]) -> str:
    """Return the last error among FFmpeg's notes, on one line; empty if none is an error."""
    errors = [f"{name}: {one_line(message)}" for level, name, message in notes if level <= _ERROR]
    return errors[-1] if errors else ""


def _cut(blocks: Iterable[NDArray[np.float32]], first: int, end: int) -> Iterator[NDArray[np.float32]]:
    """Cut all samples off that are before the first or from the end on."""
    position = 0
    for block in blocks:
        yield block[max(0, first - position) : max(0, end - position)]
        position += len(block)


def _cut_last(blocks: Iterable[NDArray[np.float32]], end: int) -> Iterator[NDArray[np.float32]]:
    """Cut the samples from the end on off the last block; more than this block are not cut off."""
    position, last = 0, None
    for block in blocks:
        if last is not None:
            yield last
        position, last = position + len(block), block
    if last is not None:
        padding = position - end
        yield last[: len(last) - padding] if 0 < padding < len(last) else last


def _as_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Scale integers to ±1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    scaled: NDArray[np.float64] = (samples - (half if samples.dtype.kind == "u" else 0)) / half
    return scaled.astype(np.float32)
