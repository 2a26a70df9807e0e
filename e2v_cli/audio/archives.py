"""Records of Kaldi archives, ``a.ark:17``: WAV, FLAC, files that kaldiio wrapped, vectors and matrices of samples."""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile
from kaldiio.matio import read_kaldi

from e2v_cli.audio.errors import AudioError, blame
from e2v_cli.audio.flac import read_stream_info
from e2v_cli.audio.riff import measure_record
from e2v_cli.records import SAMPLE_RATE

MAX_CHANNELS = 8
"""Most channels of a matrix of samples: one with more rows and more columns holds features."""

_FLAC_ROOM = 1 << 16
"""Bytes for the headers of frames in a FLAC file."""

CHUNK = 1 << 18
"""Bytes that are copied at a time."""

_MATRIX = re.compile(rb"\0B(?:[FD]V \x04(....)|[FD]M \x04(....)\x04(....)|CM[23]? .{8}(....)(....))", re.DOTALL)
"""Headers of Kaldi's vectors and matrices, of floats, doubles, or compressed: rows and columns."""


def read_archived_audio(path: str, offset: int) -> Iterator[bytes]:
    """Read the audio that begins at a byte of an archive: the content of a file, in chunks.

    Raises:
        AudioError: there is no audio, or not all of it.
        OSError: this machine fails, not the archive.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError("unreadable", "not a regular file")
        with open(path, "rb") as archive:
            size = os.fstat(archive.fileno()).st_size
            if offset >= size:
                raise AudioError("truncated", f"the archive has {size} bytes")
            archive.seek(offset)
            head = archive.read(6 + 255)
            archive.seek(offset)
            if head.startswith(b"\0B"):
                yield _convert_matrix(archive, head, size - offset)
                return
            begin, length = _measure_record(archive, head, size - offset)
            archive.seek(offset + begin)
            while length > 0 and (chunk := archive.read(min(CHUNK, length))):
                length -= len(chunk)
                yield chunk
            if length > 0:
                raise AudioError("truncated", f"the archive ends {length} bytes early")
    except FileNotFoundError:
        raise AudioError("missing", "no such file") from None
    except OSError as error:
        raise blame(error) from None
    except MemoryError:
        raise AudioError("unreadable", "too long for the memory of this machine") from None
    except ValueError:
        raise AudioError("unreadable", "a NUL character in the path") from None


def _measure_record(archive: BinaryIO, head: bytes, left: int) -> tuple[int, int]:
    """Read the header of a record: where in it the audio begins, and how many bytes the audio has.

    Args:
        archive: the archive, at the beginning of the record.
        head: first bytes of the record.
        left: bytes from there to the end of the archive.

    Raises:
        AudioError: it is not audio, or it is longer than the archive.
    """
    begin = 0
    if head.startswith(b"AUDIO"):  # by kaldiio: how many bytes the size has, the size, and a file of any format
        begin = 6 + int.from_bytes(head[5:6], "little")
        size = int.from_bytes(head[6:begin], "little")
    elif head.startswith((b"RIFF", b"RIFX", b"RF64")):
        start = archive.tell()
        size = measure_record(archive, start, start + left)
    elif head.startswith(b"fLaC"):
        size = min(left, _bound_flac_size(archive))
    else:
        raise AudioError("not audio", "no WAV or FLAC file, and no vector or matrix of floats, begins at this byte")
    if begin + size > left:
        raise AudioError(
            "truncated", f"the header declares {size} bytes, the archive has {max(0, left - begin)} left: copy it again"
        )
    return begin, size


def _bound_flac_size(archive: BinaryIO) -> int:
    """Bound the bytes of a FLAC file, whose header has no size, so that not all of a large archive is copied."""
    start = archive.tell()
    try:
        info = read_stream_info(archive, start)
    except AudioError:  # the copy fails in the same way
        return _FLAC_ROOM
    bits = info.num_samples * info.num_channels * info.bits
    return info.audio - start + bits // 4 + _FLAC_ROOM  # twice the samples: no frame is longer, but for its header


def _convert_matrix(archive: BinaryIO, head: bytes, left: int) -> bytes:
    """Convert Kaldi's vector of samples, or matrix of samples in channels, to a WAV file at 16 kHz.

    Raises:
        AudioError: it holds no samples, or not all of them.
    """
    found = _MATRIX.match(head)
    if not found:
        raise AudioError("not audio", "neither a vector nor a matrix of floats")
    shape = [int.from_bytes(field, "little", signed=True) for field in found.groups() if field is not None]
    if min(shape) < 0 or (len(shape) == 2 and min(shape) > MAX_CHANNELS):
        raise AudioError("not audio", f"a matrix of {' x '.join(map(str, shape))} is not audio")
    if 0 in shape:
        raise AudioError("zero length", "holds no samples")
    width = {b"F": 4, b"D": 8}.get(head[2:3], 2 if head[2:5] == b"CM2" else 1)
    size = found.end() + math.prod(shape) * width + (8 * shape[1] if head[2:5] == b"CM " else 0)
    if size > left:  # kaldiio accepts a truncated vector
        raise AudioError("truncated", f"the header declares {size} bytes, the archive has {left} left: copy it again")
    samples = read_kaldi(archive)
    if len(shape) == 2 and shape[0] <= shape[1]:
        samples = samples.T
    with np.errstate(all="ignore"):  # non-finite samples are found later
        if np.abs(samples).max() > 1:  # Kaldi's own scale, of 16 bits
            samples = samples / 2**15
        samples = samples.astype(np.float32)
    wav = io.BytesIO()  # libsndfile would ignore a full disk
    soundfile.write(wav, samples, SAMPLE_RATE, "FLOAT", format="WAV")
    return wav.getvalue()
