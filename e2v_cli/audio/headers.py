"""Containers with one short header: AU, and NIST SPHERE."""

from __future__ import annotations

import os
import re
import struct

from e2v_cli.audio.decoder import Decoder, truncated
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile

AU_UNKNOWN = 0xFFFF_FFFF
"""The size of the audio in an AU file that was written to a pipe."""


def open_au(path: str, _at_a_glance: bool) -> Decoder:
    """Open an AU file (Sun, NeXT), of either byte order.

    Raises:
        AudioError: the header declares more than there is.
    """
    file = open_sndfile(path)
    with open(path, "rb") as header:
        magic, begin, size = struct.unpack("4sII", header.read(12))
        if magic == b".snd":
            begin, size = struct.unpack(">II", struct.pack("=II", begin, size))
        found = os.fstat(header.fileno()).st_size - begin
    if size != AU_UNKNOWN and size > found:
        raise AudioError("truncated", f"the header declares {size} bytes of audio, the file has {found}: copy it again")
    return SndfileDecoder(file, file.frames)


def open_sphere(path: str, _at_a_glance: bool) -> Decoder:
    """Open a NIST SPHERE file, whose header is text.

    Raises:
        AudioError: it is compressed, or the header declares more than there is.
    """
    with open(path, "rb") as file:
        header = file.read(1024)
    coding = re.search(rb"^sample_coding -s\d+ (\S+)", header, re.MULTILINE)
    if coding and b"," in coding.group(1):
        name = coding.group(1).decode(errors="replace")
        raise AudioError("unreadable", f"SPHERE with samples in {name}: convert it, sph2pipe -f wav IN.sph OUT.wav")
    decoder = SndfileDecoder(sound := open_sndfile(path), sound.frames)
    count = re.search(rb"^sample_count -i (\d+)", header, re.MULTILINE)
    if count and 0 < int(count.group(1)) != sound.frames:
        if int(count.group(1)) > sound.frames:
            raise truncated(int(count.group(1)), sound.frames)
        decoder.num_samples = int(count.group(1))
    return decoder
