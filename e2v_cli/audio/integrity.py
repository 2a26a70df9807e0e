"""Completeness checks: how many samples an audio file claims to have, independent of libsndfile.

libsndfile cuts a header's claim to the size of the file, passes over damaged pages, and guesses lengths, in silence.
Half an utterance is worse than none, so each format in ``formats`` has a check, and other formats are not read.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2v_cli.audio.errors import AudioError

if TYPE_CHECKING:
    import soundfile

MPEG_LENGTH = re.compile(rb"Xing|Info|VBRI")
"""Marks in the first frame of an MP3 file that tells its length."""

MPEG_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]", re.DOTALL)
"""The header that begins a frame of layer III."""

MPEG_KBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
"""Thousands of bits a second, by the index in a frame's header: MPEG-2 and MPEG-1, layer III."""

UNKNOWN_SIZES = frozenset((0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF))
"""A WAV data chunk of such a size was written to a pipe, by a program that could not know (as Kaldi takes it)."""


@dataclass(frozen=True)
class ExpectedLength:
    """How many samples of each channel a file claims to have."""

    least: int
    most: int
    reason: str = "truncated"
    """The reason of a failure with fewer samples than the least."""

    def check(self, num_read: int) -> None:
        """Compare the samples that were read to the end with those that the file claims.

        Raises:
            AudioError: there are fewer.
        """
        if num_read < self.least and self.reason != "truncated":
            raise AudioError(self.reason, "the header declares no length: decode it and encode it again")
        if num_read < self.least:
            raise AudioError(
                self.reason, f"the header declares {self.least} samples, the file has {num_read}: copy it again"
            )


def read_decoder_length(file: soundfile.SoundFile, _path: str) -> ExpectedLength:
    """Return the length that libsndfile found, where its decoder fails on what is damaged or missing: FLAC."""
    return ExpectedLength(file.frames, file.frames)


def read_logged_length(file: soundfile.SoundFile, _path: str) -> ExpectedLength:
    """Return the length that libsndfile found in the header of a WAV, RF64, AIFF or AU file.

    Raises:
        AudioError: its log tells that the header claims more.
    """
    _check_log(file.extra_info)
    return ExpectedLength(file.frames, file.frames)


def read_w64_length(file: soundfile.SoundFile, _path: str) -> ExpectedLength:
    """Read the length that the header of a W64 file claims, behind which libsndfile reads on to the end of the file.

    Raises:
        AudioError: the header claims more than there is.
    """
    log = file.extra_info
    _check_log(log)
    data = re.search(r"^data : (\d+)", log, re.MULTILINE)
    frame = re.search(r"^  Block Align +: (\d+)", log, re.MULTILINE)
    claimed = 0
    if data and frame and not file.subtype.endswith(("ADPCM", "GSM610")):
        claimed = (int(data.group(1)) - 24) // int(frame.group(1))
    claimed = claimed or file.frames
    return ExpectedLength(claimed, claimed)


def read_nist_length(file: soundfile.SoundFile, path: str) -> ExpectedLength:
    """Read the length that the header of a NIST SPHERE file claims; that found by libsndfile where it claims none."""
    with open(path, "rb") as header:
        found = re.search(rb"sample_count -i (\d+)", header.read(1024))
    claimed = (int(found.group(1)) if found else 0) or file.frames
    return ExpectedLength(claimed, claimed)


def read_ogg_length(file: soundfile.SoundFile, path: str) -> ExpectedLength:
    """Return the length that libsndfile found in an Ogg file.

    Raises:
        AudioError: a page is damaged, or another stream follows, or the page that is marked as the last is not there.
    """
    _check_ogg(path)
    return ExpectedLength(file.frames, file.frames)


def read_mp3_length(file: soundfile.SoundFile, path: str) -> ExpectedLength:
    """Return the length that an MP3 file claims; of one that claims none, the fewest samples its frames may give.

    Raises:
        AudioError: the last frame is not whole.
    """
    in_frames = _count_mp3(path)
    if not in_frames:
        return ExpectedLength(file.frames, file.frames)
    # libsndfile guesses how long it is from the first frame's bit rate, and reads no further; and a frame or two at the
    # start may hold no audio
    return ExpectedLength(in_frames - 2 * 1152, 1 << 62, reason="unreadable")


def _check_log(log: str) -> None:
    """Check by libsndfile's log of a header that the header claims no more than there is.

    Raises:
        AudioError: it does.
    """
    sizes = re.findall(r"^\s*(?:data|SSND|Data Size|riff) +: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    for there, claim in re.findall(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)", log):
        sizes.append((claim, there))
    for claim, there in sizes:
        if int(there) < int(claim) and int(claim) not in UNKNOWN_SIZES:
            raise AudioError(
                "truncated", f"the header declares {claim} bytes of audio, the file has {there}: copy it again"
            )


def _count_mp3(path: str) -> int:
    """Count the samples in the frames of an MP3 file that does not tell its length; 0 where it tells it.

    Raises:
        AudioError: the last frame is not whole.
    """
    with open(path, "rb") as file:
        content = file.read()
    start = 0
    if content.startswith(b"ID3"):
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    start = content.find(b"\xff", start)
    if start < 0 or MPEG_LENGTH.search(content, start, start + 44):
        return 0
    num_samples = 0
    while frame := MPEG_FRAME.match(content, start):
        version, bits = frame.group()[1] >> 3 & 3, frame.group()[2]  # version: 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5
        rate = (44_100, 48_000, 32_000, 32_000)[bits >> 2 & 3] >> (0 if version == 3 else 1 if version == 2 else 2)
        length = 1152 if version == 3 else 576
        num_samples += length
        start += length // 8 * MPEG_KBITS[version == 3][bits >> 4] * 1000 // rate + (bits >> 1 & 1)
    if start > len(content):
        raise AudioError("truncated", "the last frame is incomplete: copy the file again")
    return num_samples


def _check_ogg(path: str) -> None:
    """Walk the pages of an Ogg file (RFC 3533, section 6): libsndfile passes over damaged ones, and later streams.

    Raises:
        AudioError: a page is damaged, or another stream follows, or the page that is marked as the last is not there.
    """
    with open(path, "rb") as file:
        content = file.read()
    start, num_streams, last = 0, 0, False
    while content.startswith(b"OggS", start) and start + 27 <= len(content):
        end = start + 27 + content[start + 26] + sum(content[start + 27 : start + 27 + content[start + 26]])
        # CRC-32 with the bits of each byte in the other order than zlib's, and without its inversions
        page = content[start : start + 22] + bytes(4) + content[start + 26 : end]
        checksum = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
        if f"{checksum:032b}"[::-1] != f"{int.from_bytes(content[start + 22 : start + 26], 'little'):032b}":
            raise AudioError("truncated", f"the Ogg page at byte {start} is damaged or incomplete: copy the file again")
        num_streams += content[start + 5] >> 1 & 1  # a stream's first page says so
        last = bool(content[start + 5] & 4)
        start = end
    if num_streams > 1:
        raise AudioError("unreadable", "several Ogg streams in one file: make a file of each")
    if not last:
        raise AudioError("truncated", "the last Ogg page is missing: copy the file again")


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
