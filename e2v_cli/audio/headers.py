"""Containers with one short header: AU, and NIST SPHERE."""

from __future__ import annotations

import os
import re
import struct

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
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


_SPHERE_HEADER = 1 << 16
"""Bytes in which the header of a SPHERE file ends; most have 1,024."""

_SPHERE_CODINGS = {
    "pcm": {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"},
    "ulaw": {1: "ULAW"},
    "mu-law": {1: "ULAW"},
    "alaw": {1: "ALAW"},
}
"""libsndfile's name, by SPHERE's of the encoding and the bytes of a sample."""


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
    return PcmDecoder(path, start + begin, _measure_all(declared, max(0, end - start - begin)), encoding)


def open_sphere(path: str, _at_a_glance: bool) -> Decoder:
    """Open a NIST SPHERE file, whose header is text.

    Raises:
        AudioError: it is compressed, or the header declares more than there is, or far less, or lacks a field.
    """
    with open(path, "rb") as file:
        start = skip_tags(file)
        file.seek(start)
        header = file.read(_SPHERE_HEADER).partition(b"end_head")[0].decode(errors="replace")
        end = os.fstat(file.fileno()).st_size
    fields = dict(re.findall(r"^(\w+) -(?:i|s\d+) (.*?)\s*$", header, re.MULTILINE))
    coding = fields.get("sample_coding", "pcm")
    if "," in coding:
        raise AudioError("unreadable", f"SPHERE with samples in {coding}: convert it, sph2pipe -f wav IN.sph OUT.wav")
    numbers = {name: int(text) for name, text in fields.items() if re.fullmatch(r"[0-9]{1,15}", text)}
    size = re.match(r"NIST_1A\s+(\d{1,7})\s", header)
    missing = [
        name for name in ("sample_count", "sample_rate", "channel_count", "sample_n_bytes") if name not in numbers
    ]
    if size is None or missing:
        raise AudioError("unreadable", f"its header has no {missing[0] if missing else 'size'}: copy the file again")
    subtype, width = _SPHERE_CODINGS.get(coding, {}).get(numbers["sample_n_bytes"], ""), numbers["sample_n_bytes"]
    if not subtype:
        raise AudioError("unreadable", f"SPHERE with {width}-byte samples in {coding} is not read: convert it")
    num_channels = numbers["channel_count"]
    big_endian = fields.get("sample_byte_format") == "10"
    encoding = Encoding(numbers["sample_rate"], num_channels, subtype, width * num_channels, big_endian)
    begin = start + int(size.group(1))
    declared = numbers["sample_count"] * encoding.block
    return PcmDecoder(path, begin, _measure_all(declared, max(0, end - begin)), encoding)


def _measure_all(declared: int, found: int) -> int:
    """Decide how many bytes of audio a file has of which audio is the last part.

    Raises:
        AudioError: some are missing, or there are many more.
    """
    size = measure_audio(declared, found)
    if size + SLIGHT < found:
        raise AudioError(
            "unreadable",
            f"the header declares {size} bytes of audio, the file has {found}: "
            "if all is audio, mend the header: sox --ignore-length IN OUT",
        )
    return size
