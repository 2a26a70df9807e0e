"""FLAC files, whose frames are followed by their numbers, since libFLAC fills gaps with silence.

The format is that of RFC 9639.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.ffmpeg import FfmpegDecoder
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile
from e2v_cli.audio.tags import skip_tags

_CHUNK = 1 << 18
"""Bytes that are searched for frames at a time."""

_LONGEST_HEADER = 16
"""Bytes of a frame's header."""

MAX_FLAC_BLOCKS = 256
"""The most blocks of metadata before the audio; a file with more is not FLAC."""

_SYNC = re.compile(rb"\xff[\xf8\xf9]")

_BLOCK_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Samples of a frame, by the code in its header. Code 0 is not used; after codes 6 and 7 the header has the number."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame of samples."""

    offset: int
    """Offset of the first byte in the file."""
    first: int
    """Index of the first sample."""
    end: int
    """Index of the sample after the last one."""


@dataclass(frozen=True)
class StreamInfo:
    """The description of a stream at the beginning of its file."""

    block_size: int
    """Samples of each frame but the last, where all have the same number."""
    num_channels: int
    bits: int
    """Bits of a sample."""
    num_samples: int
    """Samples of each channel; 0: unknown, the file was written to a pipe."""
    md5: bytes
    """MD5 digest of all samples; zeros: unknown."""
    audio: int
    """Offset of the first frame in the file."""


def open_flac(path: str, _at_a_glance: bool) -> Decoder:
    """Open a FLAC file.

    Raises:
        AudioError: the file is not FLAC.
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        info = read_stream_info(file, skip_tags(file))
        if not info.num_samples:  # libsndfile loses the end of such a file
            return FfmpegDecoder(path, "flac", _FrameWalk(file, info).count())
    return _FlacDecoder(path, info)


class _FlacDecoder(SndfileDecoder):
    """A FLAC file that has no gaps where it is read."""

    def __init__(self, path: str, info: StreamInfo) -> None:
        super().__init__(open_sndfile(path), info.num_samples, can_seek=True)
        self._info = info
        self._frames = open(path, "rb")  # noqa: SIM115 — closed with the decoder
        self._walk = _FrameWalk(self._frames, info)
        self._position = 0
        self._digest = hashlib.md5(usedforsecurity=False) if any(info.md5) else None

    def read(self, count: int) -> NDArray[np.float32]:
        """Read the next samples as floats of ±1."""
        self._walk.advance(min(self._position + count, self._info.num_samples))
        samples = self._read(count, "int32")
        self._position += len(samples)
        if self._digest:
            self._digest.update(_pack(samples >> (32 - self._info.bits), self._info.bits))
        scaled: NDArray[np.float32] = samples.astype(np.float32) * np.float32(2**-31)
        return scaled

    def seek(self, sample: int) -> None:
        """Make a sample the next to be read."""
        self._walk.seek(sample)
        self._walk.advance(min(sample + 1, self._info.num_samples))  # libFLAC may crash where there is no frame
        super().seek(sample)
        self._position = sample
        self._digest = None

    def check_end(self, position: int) -> None:
        """Check that the file ends there, and that all its samples are those that were encoded."""
        super().check_end(position)
        if self._digest and self._digest.digest() != self._info.md5:
            raise AudioError("truncated", "its samples are not those that were encoded (MD5): copy the file again")

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._frames.close()


class _FrameWalk:
    """A walk along the frames of a file, which have numbers but no lengths."""

    def __init__(self, file: BinaryIO, info: StreamInfo) -> None:
        self._file = file
        self._info = info
        self._size = os.fstat(file.fileno()).st_size
        self._start = info.audio
        self._end = 0
        """Index of the sample after the last frame that was found."""
        self._headers = self._find(info.audio)

    def advance(self, sample: int) -> None:
        """Walk on until all samples before this one were in frames.

        Raises:
            AudioError: frames are missing.
        """
        while self._end < sample:
            if not self._step():
                raise AudioError("truncated", f"the frame of sample {self._end} is missing: copy the file again")

    def seek(self, sample: int) -> None:
        """Begin at the frame of a sample, by bisection."""
        low, high, first = self._info.audio, self._size, 0
        while high - low > _LONGEST_HEADER:
            middle = (low + high) // 2
            frame = self._find_pair(middle)
            if frame is not None and frame.first <= sample:
                low, first = frame.offset, frame.first
            else:
                high = middle
        self._headers, self._end = self._find(low), first

    def count(self) -> int:
        """Count the samples of all frames.

        Raises:
            AudioError: frames are missing.
        """
        while self._step():
            pass
        return self._end

    def _step(self) -> bool:
        """Find the next frame; return False if the file has no more.

        Raises:
            AudioError: frames are missing before the next one.
        """
        suspect = None
        for frame in self._headers:
            if frame.first == self._end:
                self._end = frame.end
                return True
            if suspect and frame.first == suspect.end:  # not bytes that look like a header by chance
                raise AudioError("truncated", f"samples {self._end} to {suspect.first} are missing: copy it again")
            if frame.first > self._end:
                suspect = frame
        return False

    def _find_pair(self, offset: int) -> _Frame | None:
        """Find the first of two neighbouring frames from a byte on."""
        last = None
        for frame in self._find(offset):
            if last and frame.first == last.end:
                return last
            last = frame
        return None

    def _find(self, offset: int) -> Iterator[_Frame]:
        """Find all headers of frames from a byte on, and what looks like one."""
        while offset < self._size:
            self._file.seek(offset)
            chunk = self._file.read(_CHUNK + _LONGEST_HEADER)
            for match in _SYNC.finditer(chunk, 0, _CHUNK + 1):
                frame = self._parse(chunk[match.start() : match.start() + _LONGEST_HEADER], offset + match.start())
                if frame:
                    yield frame
            offset += _CHUNK

    def _parse(self, header: bytes, offset: int) -> _Frame | None:
        """Parse the header of a frame; None: it is no frame header."""
        code, rate = header[2] >> 4, header[2] & 15
        length = 4
        try:
            number = header[length]
            ones = 8 - (~number & 0xFF).bit_length()  # as in UTF-8, up to 36 bits
            number &= 0x7F >> ones
            length += max(1, ones)
            for byte in header[5:length]:
                number = number << 6 | byte & 0x3F
            if code in (6, 7):
                block_size = int.from_bytes(header[length : length + code - 5], "big") + 1
                length += code - 5
            else:
                block_size = _BLOCK_SIZES[code]
            length += {12: 1, 13: 2, 14: 2}.get(rate, 0)
            if not block_size or ones in (1, 8) or rate == 15 or _crc8(header[:length]) != header[length]:
                return None
        except IndexError:
            return None
        first = number if header[1] & 1 else number * self._info.block_size
        return _Frame(offset, first, first + block_size)


def read_stream_info(file: BinaryIO, start: int) -> StreamInfo:
    """Read the blocks of metadata of a FLAC file that begins at a byte.

    Raises:
        AudioError: there is no description of the stream, or no end of them.
    """
    offset, info = start + 4, b""
    for _ in range(MAX_FLAC_BLOCKS):
        file.seek(offset)
        block = file.read(4)
        if len(block) < 4:
            raise AudioError("truncated", "the file ends within its metadata: copy it again")
        if block[0] & 0x7F == 0:
            info = file.read(34)
        offset += 4 + int.from_bytes(block[1:], "big")
        if block[0] >= 0x80:  # the last one
            break
    else:
        raise AudioError("not audio", f"a FLAC file with more than {MAX_FLAC_BLOCKS} blocks of metadata")
    if len(info) < 34:
        raise AudioError("not audio", "a FLAC file without STREAMINFO")
    field = int.from_bytes(info[10:18], "big")  # 20 bits of rate, 3 of channels, 5 of bits, 36 of samples
    return StreamInfo(
        block_size=int.from_bytes(info[:2], "big"),
        num_channels=(field >> 41 & 7) + 1,
        bits=(field >> 36 & 31) + 1,
        num_samples=field & (1 << 36) - 1,
        md5=info[18:],
        audio=offset,
    )


def _pack(samples: NDArray[np.int32], bits: int) -> bytes:
    """Pack (samples, channels) in the fewest bytes, as the MD5 is made of them."""
    num_bytes = (bits + 7) // 8
    if num_bytes == 3:
        return samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return samples.astype(f"<i{num_bytes}").tobytes()


def _crc8(data: bytes) -> int:
    checksum = 0
    for byte in data:
        checksum = _CRC8[checksum ^ byte]
    return checksum


def _make_crc8() -> bytes:
    table = bytearray()
    for checksum in range(256):
        for _ in range(8):
            checksum = checksum << 1 ^ (0x107 if checksum & 0x80 else 0)
        table.append(checksum)
    return bytes(table)


_CRC8 = _make_crc8()
"""The remainder of each byte by x⁸ + x² + x + 1."""
