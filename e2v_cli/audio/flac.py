"""FLAC files."""

from __future__ import annotations

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile

UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile returns as the length of a FLAC file whose header has none (written to a pipe)."""


def open_flac(path: str, at_a_glance: bool) -> Decoder:
    """Open a FLAC file."""
    file = open_sndfile(path)
    if file.frames == UNKNOWN_FRAMES:  # libsndfile then loses the end of the file
        raise AudioError("unreadable", "the header declares no length: decode it and encode it again")
    return SndfileDecoder(file, file.frames)
