"""Containers with one short header: AU, and NIST SPHERE."""

from __future__ import annotations

import os
import re
import struct

from e2v_cli.audio.decoder import Decoder, truncated
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile
from e2v_cli.audio.pcm import SLIGHT, Encoding, PcmDecoder, measure_audio
from e2v_cli.audio.tags import skip_tags

_AU_ENCODINGS = {
    1: ("ULAW", 1),
    2: ("PCM_S8", 1),
    3: ("PCM_16", 2),
    4: ("PCM_24", 3),
    5: ("PCM_32", 4),
    6: ("FLOAT", 4),
    7: ("DOUBLE", 8),
    27: ("ALAW", 1),
}
"""libsndfile's name and the bytes of a sample, by AU's number."""


def open_au(path: str, _at_a_glance: bool) -> Decoder:
    """Open an AU file (Sun, NeXT), of either byte order.

    Raises:
        AudioError: the header declares more than there is, or far less, or the encoding is unknown.
    """
    with open(path, "rb") as file:
        file.seek(start := skip_tags(file))
        header = file.read(24)
        end = os.fstat(file.fileno()).st_size
    if len(header) < 24:
        raise AudioError("truncated", "the file ends within its header: copy it again")
    big_endian = header.startswith(b".snd")
    begin, declared, number, rate, num_channels = struct.unpack_from(">5I" if big_endian else "<5I", header, 4)
    if number not in _AU_ENCODINGS:
        raise AudioError("unreadable", f"AU's encoding {number} is not read: convert it, ffmpeg -i IN OUT.wav")
    subtype, width = _AU_ENCODINGS[number]
    encoding = Encoding(rate, num_channels, subtype, width * num_channels, big_endian)
    found = max(0, end - start - begin)
    size = measure_audio(declared, found)
    if size + SLIGHT < found:
        raise AudioError(
            "unreadable",
            f"the header declares {size} bytes of audio, the file has {found}: "
            "if all is audio, mend the header: sox --ignore-length IN OUT",
        )
    return PcmDecoder(path, start + begin, size, encoding)


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
