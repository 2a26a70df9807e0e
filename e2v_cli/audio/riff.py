"""WAV, W64 and AIFF files."""

from __future__ import annotations

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile


def open_wav(path: str, at_a_glance: bool) -> Decoder:
    """Open a WAV file."""
    file = open_sndfile(path)
    return SndfileDecoder(file, file.frames)


def open_w64(path: str, at_a_glance: bool) -> Decoder:
    """Open a W64 file."""
    return open_wav(path, at_a_glance)


def open_aiff(path: str, at_a_glance: bool) -> Decoder:
    """Open an AIFF file."""
    return open_wav(path, at_a_glance)
