"""MPEG audio, layers I to III: MP3 files, of which every frame is counted, whatever their header says.

The samples are those that FFmpeg decodes: of all frames but a header, without the encoder's delay + 529 at the start,
and, if the header counts the frames, without its padding - 529 at the end. libsndfile decodes where it has as many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.ffmpeg import FfmpegDecoder
from e2v_cli.audio.file_bytes import FileParts
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile
from e2v_cli.audio.mpeg_headers import (
    MAX_RUN,
    FrameKind,
    LengthHeader,
    count_frame_channels,
    find_run,
    frame_sizes,
    frame_table,
    is_free_format,
    read_length_header,
)
from e2v_cli.audio.tags import skip_tags

CHUNK = 1 << 18
"""Bytes read at a time, so that memory doesn't follow the file."""

MAX_LEAD = 1 << 16
"""Bytes in which the first frame is looked for, as FFmpeg does."""

Spans = list[tuple[int, int]]
"""Parts of a file, each (begin, end) in bytes, without the byte at the end."""


@dataclass(frozen=True)
class _Start:
    """The beginning of a stream."""

    kind: FrameKind
    num_channels: int
    first: int
    """Offset of the first frame of audio."""
    header: LengthHeader


def find_frames(head: bytes) -> bool:
    """Whether frames of MPEG audio begin in the first bytes of a file."""
    return find_run(head) is not None or is_free_format(head)


def open_mp3(path: str, at_a_glance: bool) -> Decoder:
    """Open a file of MPEG audio; unless at a glance, count its frames.

    Raises:
        AudioError: the last frame is incomplete, or there are fewer than the file says, or other bytes between them.
    """
    with open(path, "rb") as file:
        begin = skip_tags(file)
        end = _find_end(file)
        start = _read_start(file, begin, end)
        if at_a_glance:
            return _HeaderDecoder(start, _estimate_samples(file, start, begin, end))
        num_frames, spans = _walk(file, begin, end, start)
    num_samples = _count_samples(start, num_frames, spans[-1][1] - begin)
    if len(spans) == 1 and (decoder := _open_by_libsndfile(path, num_samples)):
        return decoder
    return _FrameDecoder(FileParts(path, spans), "mp3", num_samples)


def count_mpeg_samples(path: str, begin: int, end: int | None) -> int:
    """Count the samples of each channel in frames within a file, as FFmpeg decodes them: none is taken off.

    Args:
        path: path of the file.
        begin: offset of the first frame.
        end: offset at which the frames end; None: the end of the file.

    Raises:
        AudioError: there is no frame, or the last one is incomplete, or there are other bytes between them.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        end = size if end is None else min(end, size)
        start = _find_start(file, begin, end)
        num_frames, _ = _walk(file, begin, end, start)
    return num_frames * start.kind.num_samples


def _find_end(file: BinaryIO) -> int:
    """Return where a file ends, without a tag of ID3 (version 1)."""
    end = os.fstat(file.fileno()).st_size
    file.seek(max(0, end - 128))
    return end - 128 if file.read(3) == b"TAG" and end >= 128 else end


def _read_start(file: BinaryIO, begin: int, end: int) -> _Start:
    """Read the header that a file may begin with, and find its first frame of audio.

    Raises:
        AudioError: the file has no frame.
    """
    file.seek(begin)
    frame = file.read(MAX_RUN)
    if frame[:3] not in frame_table():
        return _find_start(file, begin, end)
    kind, size = frame_table()[frame[:3]]
    header = read_length_header(frame[:size], kind)
    try:
        start = _find_start(file, begin + size if header.is_header else begin, end)
    except AudioError:
        if not header.num_frames:
            raise
        raise _lacks_frames(header.num_frames, 0) from None
    return _Start(start.kind, start.num_channels, start.first, header)


def _find_start(file: BinaryIO, begin: int, end: int) -> _Start:
    """Find the first frame at or soon after a position.

    Raises:
        AudioError: no frame begins there.
    """
    file.seek(begin)
    lead = file.read(max(0, min(MAX_LEAD, end - begin)))
    first = find_run(lead)
    if first is None:
        if is_free_format(lead):
            raise AudioError("unreadable", "MPEG audio in free format: decode it, lame --decode IN.mp3 OUT.wav")
        raise AudioError("not audio", "no frame of MPEG audio in it")
    frame = lead[first:]
    return _Start(frame_table()[frame[:3]][0], count_frame_channels(frame), begin + first, LengthHeader())


def _count_samples(start: _Start, num_frames: int, num_bytes: int) -> int:
    """Count the samples of each channel in frames, without the padding of encoder and decoder.

    Args:
        start: beginning of the stream.
        num_frames: frames of audio.
        num_bytes: bytes from the header to the end of the last frame.
    """
    header = start.header
    num_samples, counted = num_frames * start.kind.num_samples, header.num_frames * start.kind.num_samples
    discarded = 0
    followed = 0 < header.num_bytes + (header.num_bytes >> 4) < num_bytes - 4  # by another file; FFmpeg keeps all then
    if counted and not followed:
        discarded = max(0, min(num_samples, counted) - counted + header.discarded)
    return max(0, num_samples - header.skipped - discarded)


def _estimate_samples(file: BinaryIO, start: _Start, begin: int, end: int) -> int:
    """Estimate the samples of each channel by the header, or by the bytes of the first frames."""
    header = start.header
    if header.num_frames and abs(end - begin - (header.num_bytes or end - begin)) <= header.num_bytes >> 4:
        return _count_samples(start, header.num_frames, end - begin)
    num_frames, position = _count_frames(file, start.first, min(end, start.first + CHUNK), start.kind)
    return _count_samples(start, round(num_frames * (end - start.first) / (position - start.first)), end - begin)


def _walk(file: BinaryIO, begin: int, end: int, start: _Start) -> tuple[int, Spans]:
    """Count the frames of a stream, and list the parts of the file that hold them.

    Raises:
        AudioError: the last frame is incomplete, or some are missing, or there are other bytes between them.
    """
    spans: Spans = []
    total, first, header = 0, start.first, start.header
    while True:
        num_frames, position = _count_frames(file, first, end, start.kind)
        if position > end:
            raise AudioError("truncated", f"the last frame lacks {position - end} bytes: copy the file again")
        if header.num_frames - num_frames > (position - begin == header.num_bytes):  # some headers count themselves
            raise _lacks_frames(header.num_frames, num_frames)
        total += num_frames
        spans.append((begin if not spans else first, position))
        begin = _skip_tags_between(file, position)
        file.seek(begin)
        frame = file.read(MAX_RUN)
        size = frame_sizes(start.kind).get(frame[:3], 0)
        header = read_length_header(frame[:size], start.kind) if size else LengthHeader()
        if not header.is_header:
            _check_rest(file, position, end, start.kind)
            return total, spans
        first = begin + size  # another file, whose header holds no audio


def _skip_tags_between(file: BinaryIO, position: int) -> int:
    """Return where another file would begin after the tags at the end of one, and at its own beginning."""
    file.seek(position)
    return skip_tags(file, position + 128 if file.read(3) == b"TAG" else position)


def _count_frames(file: BinaryIO, begin: int, end: int, kind: FrameKind) -> tuple[int, int]:
    """Count frames that follow each other; return their number, and where the last one ends, even past ``end``."""
    get_size = frame_sizes(kind).get
    num_frames, position = 0, begin
    while True:
        file.seek(position)
        chunk = file.read(max(0, min(CHUNK, end - position)))
        offset = 0
        while size := get_size(chunk[offset : offset + 3]):
            offset += size
            num_frames += 1
        if not offset:
            return num_frames, position
        position += offset


def _check_rest(file: BinaryIO, begin: int, end: int, kind: FrameKind) -> None:
    """Check that no audio follows the last frame.

    Raises:
        AudioError: the file ends within the header of a frame, or frames follow other bytes.
    """
    position, other = begin, None
    while position < end:
        file.seek(position)
        rest = file.read(min(CHUNK, end - position))
        if end - begin < 4 and rest.startswith(b"\xff"):
            raise AudioError("truncated", "the last frame is cut within its header: copy the file again")
        last = len(rest) < CHUNK
        following = find_run(rest, kind, last)
        if following is not None:
            between = f"{position + following - begin} bytes between frames, at byte {begin}"
            raise AudioError("unreadable", f"{between}: decoders lose audio there; decode it with ffmpeg, and listen")
        if other is None and (found := find_run(rest, None, last)) is not None:
            other = position + found
        position += len(rest) if last else len(rest) - MAX_RUN
    if other is not None:
        raise AudioError("unreadable", f"another rate or layer from byte {other} on: make a file of each")


def _lacks_frames(counted: int, found: int) -> AudioError:
    return AudioError("truncated", f"its header counts {counted} frames, the file has {found}: copy it again")


def _open_by_libsndfile(path: str, num_samples: int) -> Decoder | None:
    """Open a file by libsndfile, if it finds the same length."""
    try:
        file = open_sndfile(path)
    except AudioError:
        return None
    if file.frames == num_samples:
        return SndfileDecoder(file, num_samples)
    file.close()
    return None


class _HeaderDecoder(Decoder):
    """A file whose length is predicted, not read."""

    def __init__(self, start: _Start, num_samples: int) -> None:
        super().__init__(start.kind.rate, start.num_channels, num_samples)

    def read(self, count: int) -> NDArray[np.float32]:
        """Refuse to read."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing: the file is closed."""


class _FrameDecoder(FfmpegDecoder):
    """The frames of a file, decoded by FFmpeg."""

    def check_end(self, position: int) -> None:
        """Check that FFmpeg decodes all frames."""
        found = position + len(self.read(1))
        if found != self.num_samples:
            lost = f"its frames hold {self.num_samples} samples, FFmpeg decodes {found}"
            raise AudioError("unreadable", f"{lost}: decode it with ffmpeg, and listen")
