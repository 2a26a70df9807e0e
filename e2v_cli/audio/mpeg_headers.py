"""Headers of MPEG audio, layers I to III: of a frame, and of a file of layer III (Xing, Info or VBRI)."""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
from typing import BinaryIO, NamedTuple

MAX_RUN = 4 * 2881
"""Bytes of four frames of the greatest length, which are enough to recognise MPEG audio."""

DECODER_DELAY = 529
"""Samples by which every decoder of layer III is late."""

_SYNC = re.compile(rb"\xff(?=[\xe2-\xff][\x10-\xef])")
"""Pattern of the first bytes of a frame header; other data may match it, too."""

_SYNC_BUT_LAYER_1 = re.compile(rb"\xff(?=[\xe2-\xe5\xf2-\xf5\xfa-\xfd][\x10-\xef])")
"""Pattern of frame headers without layer I: tables of machine code look like layer I, which is as good as extinct."""

_FREE_FORMAT = re.compile(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd][\x00-\x0b]")

_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates in kbit/s, by (is MPEG-1, layer), in the order of the index in a frame header, which counts from 1."""


class FrameKind(NamedTuple):
    """Properties that all frames of a stream share."""

    mpeg1: bool
    """Whether the stream is MPEG-1; False: MPEG-2 or 2.5."""
    layer: int
    rate: int
    num_samples: int
    """Samples of each channel in a frame."""


class LengthHeader(NamedTuple):
    """The Xing, Info or VBRI header of a first frame without audio; all zeros if that frame holds audio."""

    num_frames: int = 0
    """Frames of audio after it; 0: not declared."""
    num_bytes: int = 0
    """Bytes from the start of this frame to the end of the audio; 0: not declared."""
    skipped: int = 0
    """Samples before the audio, added by the encoder and the decoder."""
    discarded: int = 0
    """Samples after the audio."""

    @property
    def is_header(self) -> bool:
        """Whether FFmpeg takes the frame for a header: else it is decoded as silence."""
        return bool(self.num_frames or self.num_bytes)


@functools.cache
def frame_table() -> dict[bytes, tuple[FrameKind, int]]:
    """Return the kind and the bytes of a frame, by the first three bytes of its header."""
    frames = {}
    for version, layer_bits, rest, bits in itertools.product((0, 2, 3), (1, 2, 3), (0, 1), range(0x10, 0xF0)):
        if bits >> 2 & 3 == 3:
            continue
        mpeg1, layer = version == 3, 4 - layer_bits  # version: 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5
        rate = (44_100, 48_000, 32_000)[bits >> 2 & 3] >> (0 if mpeg1 else 1 if version == 2 else 2)
        num_samples = 384 if layer == 1 else 576 if layer == 3 and not mpeg1 else 1152
        unit = 4 if layer == 1 else 1
        bit_rate = 1000 * _KBITS[mpeg1, layer][(bits >> 4) - 1]
        size = (num_samples // 8 // unit * bit_rate // rate + (bits >> 1 & 1)) * unit
        header = bytes((0xFF, 0xE0 | version << 3 | layer_bits << 1 | rest, bits))
        frames[header] = FrameKind(mpeg1, layer, rate, num_samples), size
    return frames


@functools.cache
def frame_sizes(kind: FrameKind) -> dict[bytes, int]:
    """Return the bytes of a frame of a kind, by the first three bytes of its header."""
    return {header: size for header, (other, size) in frame_table().items() if other == kind}


def count_frame_channels(header: bytes) -> int:
    """Return the number of channels by the header of a frame."""
    return 1 if header[3] >> 6 == 3 else 2


def find_run(data: bytes, kind: FrameKind | None = None, last: bool = True) -> int | None:
    """Find the first frame that others follow.

    Args:
        data: the bytes to search.
        kind: kind of the frames, of which two are enough; None: any kind, four frames, and layer I only at the
            beginning. At the end of the data, fewer are enough.
        last: whether nothing follows the data.
    """
    if _is_run(data, 0, kind):
        return 0
    sync = _SYNC if kind else _SYNC_BUT_LAYER_1
    for match in sync.finditer(data, 0, len(data) if last else max(0, len(data) - MAX_RUN)):
        if _is_run(data, match.start(), kind):
            return match.start()
    return None


def _is_run(data: bytes, position: int, kind: FrameKind | None) -> bool:
    known = kind is not None
    for number in range(2 if known else 4):
        found = frame_table().get(data[position : position + 3])
        if found is None:
            least = 1 if known or position == len(data) else 2
            return number >= least and position > len(data) - 3
        if kind is not None and found[0] != kind:
            return False
        kind, size = found
        position += size
    return True


def is_free_format(data: bytes) -> bool:
    """Whether frames begin that don't tell their bit rate: a header repeats at equal distances, but for padding."""
    return _FREE_FORMAT.match(data) is not None and any(
        data.startswith(data[:2], step)
        and all(data.find(data[:2], times * step - times, times * (step + 1) + 2) > 0 for times in (2, 3, 4))
        for step in range(20, 5761)
    )


def read_length_header(frame: bytes, kind: FrameKind) -> LengthHeader:
    """Read a frame as a Xing, Info or VBRI header."""
    if kind.layer != 3:
        return LengthHeader()
    num_frames = num_bytes = skipped = discarded = 0
    file = io.BytesIO(frame)
    file.seek(4 + {(True, 2): 32, (False, 1): 9}.get((kind.mpeg1, count_frame_channels(frame)), 17))
    if file.read(4) in (b"Xing", b"Info"):
        flags = _read_int(file, 4)
        num_frames = _read_int(file, 4) if flags & 1 else 0
        num_bytes = _read_int(file, 4) if flags & 2 else 0
        file.seek((100 if flags & 4 else 0) + (4 if flags & 8 else 0), os.SEEK_CUR)
        encoder = file.read(21)[:4]
        delays = _read_int(file, 3)
        if encoder in (b"LAME", b"Lavf", b"Lavc"):  # of others, FFmpeg takes nothing off
            skipped = (delays >> 12) + DECODER_DELAY
            discarded = max(0, (delays & 0xFFF) - DECODER_DELAY)
    if frame[36:42] == b"VBRI\0\1":
        num_bytes, num_frames = int.from_bytes(frame[46:50], "big"), int.from_bytes(frame[50:54], "big")
    return LengthHeader(num_frames, num_bytes, skipped, discarded)


def _read_int(file: BinaryIO, size: int) -> int:
    return int.from_bytes(file.read(size), "big")
