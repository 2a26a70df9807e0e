"""Ogg files of Vorbis, Opus or FLAC: libsndfile passes over damaged and missing pages, and over later streams."""

from __future__ import annotations

import zlib

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile

_MAX_PAGE = 27 + 255 + 255 * 255
"""Bytes of the longest page."""

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def open_ogg(path: str, at_a_glance: bool) -> Decoder:
    """Open an Ogg file; unless at a glance, check all its pages.

    Raises:
        AudioError: libsndfile can't read it, or a page is damaged or missing, or another stream follows.
    """
    if not at_a_glance:
        _check_pages(path)
    file = open_sndfile(path)
    if at_a_glance and not file.frames:  # it ends too early
        _check_pages(path)
    return SndfileDecoder(file, file.frames)


def _check_pages(path: str) -> None:
    """Walk the pages of an Ogg file (RFC 3533, section 6).

    Raises:
        AudioError: one is damaged or missing, or another stream follows, or the one marked as the last is not there.
    """
    position, number, last = 0, 0, False
    with open(path, "rb") as file:
        while True:
            file.seek(position)
            page = file.read(_MAX_PAGE)
            if not page.startswith(b"OggS") or len(page) < 27:
                break  # junk after the last page is no audio
            page = page[: 27 + page[26] + sum(page[27 : 27 + page[26]])]
            if _checksum(page) != int.from_bytes(page[22:26], "little"):
                raise AudioError(
                    "truncated", f"the Ogg page at byte {position} is damaged or incomplete: copy the file again"
                )
            if page[5] & 2 and number:  # a stream's first page says so
                raise AudioError("unreadable", "several Ogg streams in one file: make a file of each")
            if int.from_bytes(page[18:22], "little") != number:
                raise AudioError("truncated", f"Ogg page {number} is missing, at byte {position}: copy the file again")
            last = bool(page[5] & 4)
            position += len(page)
            number += 1
    if not last:
        raise AudioError("truncated", "the last Ogg page is missing: copy the file again")


def _checksum(page: bytes) -> int:
    """Compute the CRC-32 of a page: with the bits in the other order than zlib's, and without its inversions."""
    checksum = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{checksum:032b}"[::-1], 2)
