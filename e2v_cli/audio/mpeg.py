"""MPEG audio: MP3 files, whose frames are counted."""

from __future__ import annotations

import re

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile

MPEG_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]", re.DOTALL)
"""The header that begins a frame of layer III."""


def find_frames(head: bytes) -> bool:
    """Whether frames of MPEG audio begin in the first bytes of a file."""
    return bool(MPEG_FRAME.search(head))


def open_mp3(path: str, at_a_glance: bool) -> Decoder:
    """Open an MP3 file."""
    file = open_sndfile(path)
    return SndfileDecoder(file, file.frames, can_seek=False)
