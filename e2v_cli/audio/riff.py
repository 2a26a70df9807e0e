"""WAV, W64 and AIFF files: their chunks are walked here, since libsndfile cuts what they declare without a word."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.ffmpeg import FfmpegDecoder
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile
from e2v_cli.audio.mpeg import count_mpeg_samples
from e2v_cli.audio.pcm import SLIGHT, Encoding, PcmDecoder, is_unknown, measure_audio
from e2v_cli.audio.tags import skip_tags

MAX_CHUNKS = 10_000
"""Most chunks of a file: e2v walks them one by one, and refuses a file with more."""

_NAME = re.compile(rb"[ -~]{4}")

_COMMON_NAMES = frozenset((b"fmt ", b"data", b"LIST", b"fact", b"bext", b"cue ", b"smpl", b"JUNK", b"COMM", b"SSND"))
"""Chunks by which a missing pad byte is noticed."""

_GUID = bytes.fromhex("000000001000800000aa00389b71")
"""End of an encoding's GUID in WAVE_FORMAT_EXTENSIBLE, after the two bytes of WAV's own number."""

_W64_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""End of a chunk's GUID in W64, after WAV's name."""

_WAV_ENCODINGS = {
    (1, 1): "PCM_U8",
    (1, 2): "PCM_16",
    (1, 3): "PCM_24",
    (1, 4): "PCM_32",
    (3, 4): "FLOAT",
    (3, 8): "DOUBLE",
    (6, 1): "ALAW",
    (7, 1): "ULAW",
}
"""libsndfile's name of the encoding, by WAV's number and the bytes of a sample."""

_WAV_BLOCKS = (0x02, 0x11, 0x31)
"""WAV's numbers of Microsoft's and IMA's ADPCM and of GSM: their description has the samples of a block."""

_MPEG = "MPEG"
"""Subtype of MPEG audio frames: WAV has layers II and III."""

_AIFF_INTEGERS = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
"""libsndfile's name of AIFF's integers, by the bytes of a sample."""

_AIFF_ENCODINGS = {
    b"raw ": ("PCM_U8", 1),
    b"in24": ("PCM_24", 3),
    b"in32": ("PCM_32", 4),
    b"fl32": ("FLOAT", 4),
    b"fl64": ("DOUBLE", 8),
    b"ulaw": ("ULAW", 1),
    b"alaw": ("ALAW", 1),
}
"""libsndfile's name and the bytes of a sample, by AIFF-C's name in lower case."""

_AIFF_BLOCKS = {b"ima4": (34, 64), b"gsm ": (33, 160)}
"""Bytes and samples of a block of a channel."""


@dataclass(frozen=True)
class Chunk:
    """A chunk of a file."""

    name: bytes
    """Four characters; in W64, a GUID if WAV has no such chunk."""
    begin: int
    """Offset of the first byte of the content, after the header."""
    size: int
    """Bytes of content that the header declares."""
    next: int
    """Offset of the next chunk's header."""


@dataclass(frozen=True)
class Audio:
    """The audio in a file."""

    begin: int
    """Offset of the first byte of audio."""
    size: int
    """Bytes of audio, all of which are in the file."""
    encoding: Encoding


def open_riff(path: str, _at_a_glance: bool) -> Decoder:
    """Open a WAV (RIFF, RIFX, RF64, BW64), W64, AIFF or AIFF-C file.

    Raises:
        AudioError: it is not whole, or its audio can't be found, or not be decoded.
    """
    with open(path, "rb") as file:
        start = skip_tags(file)
        audio = find_audio(file, start, os.fstat(file.fileno()).st_size)
        file.seek(start)
        demuxer = {b"riff": "w64", b"FORM": "aiff"}.get(file.read(4), "wav")
    if audio.encoding.subtype == _MPEG:
        num_samples = count_mpeg_samples(path, audio.begin, audio.begin + audio.size)
        return FfmpegDecoder(path, demuxer, num_samples)
    if audio.encoding.subtype:
        return PcmDecoder(path, audio.begin, audio.size, audio.encoding)
    return _open_blocks(path, demuxer, audio)


def _open_blocks(path: str, demuxer: str, audio: Audio) -> Decoder:
    """Open a file whose samples are stored in blocks: by libsndfile if it counts as many of them, else by FFmpeg."""
    num_samples = audio.encoding.count_samples(audio.size)
    try:
        decoder = SndfileDecoder(sound := open_sndfile(path), sound.frames)
    except AudioError:
        return FfmpegDecoder(path, demuxer, num_samples)
    in_part = audio.encoding.block_samples if audio.size % audio.encoding.block else 0
    if 0 <= sound.frames - num_samples <= in_part:
        return decoder
    decoder.close()
    return FfmpegDecoder(path, demuxer, num_samples)


def find_audio(file: BinaryIO, start: int, end: int) -> Audio:
    """Find the audio of a file by its chunks.

    Args:
        file: the file, opened for reading; it must be seekable.
        start: offset of the first byte after the tags.
        end: size of the file in bytes.

    Raises:
        AudioError: a chunk is missing, or not all there, or the encoding is unknown.
    """
    outer, *chunks = _list_chunks(file, start, end)
    description, sound = _choose_chunks(outer, chunks, end)
    begin, declared = sound.begin, sound.size
    file.seek(description.begin)
    content = file.read(min(description.size, 40))
    if outer.name == b"FORM":
        encoding, num_samples = _read_comm(content)
        file.seek(begin)
        skipped = 8 + int.from_bytes(file.read(4), "big")
        if 0 < declared < skipped:
            raise AudioError("unreadable", f"an 'SSND' chunk of {declared} bytes whose audio begins at byte {skipped}")
        begin, declared = begin + skipped, max(0, declared - skipped)
    else:
        encoding, num_samples = _read_fmt(content, outer.name == b"RIFX"), 0
    last = chunks[-1]
    size = measure_audio(declared, max(0, end - begin), closed=last.begin + last.size <= end <= last.next)
    total = outer.begin + outer.size
    if size == declared:
        if encoding.subtype and num_samples > encoding.count_samples(size):
            measure_audio(num_samples * encoding.block, size, closed=True)
        contradicts = last.next + SLIGHT < total <= end
    else:  # a writer that knows the size of the file knows that of the audio; of RIFF others are believed
        contradicts = outer.name not in (b"RIFF", b"RIFX") and begin + SLIGHT < total and not is_unknown(outer.size)
    if contradicts:
        raise AudioError(
            "unreadable",
            f"the header declares {declared} bytes of audio and {outer.size} in all, between which no chunk begins: "
            "if that is audio, mend the header: sox --ignore-length IN OUT",
        )
    return Audio(begin, size, encoding)


def _choose_chunks(outer: Chunk, chunks: list[Chunk], end: int) -> tuple[Chunk, Chunk]:
    """Choose the chunk that describes the audio, and the one that holds it.

    Raises:
        AudioError: one is missing, or there are two.
    """
    names = (b"COMM", b"SSND") if outer.name == b"FORM" else (b"fmt ", b"data")
    descriptions, sounds = ([chunk for chunk in chunks if chunk.name == name] for name in names)
    if not sounds:
        raise _no_audio(chunks[-1] if chunks else outer, end)
    if not descriptions:
        raise AudioError("unreadable", "no chunk describes how the samples are stored: write the file again")
    if len(sounds) > 1:
        both = f"at byte {sounds[0].begin} and at byte {sounds[1].begin}"
        raise AudioError("two data chunks", f"audio begins {both}: make a file of each")
    if outer.name in (b"RF64", b"BW64") and chunks[0].name != b"ds64":
        raise AudioError("unreadable", "no 'ds64' chunk, which has the sizes of others: copy the file again")
    return descriptions[0], sounds[0]


def measure_record(file: BinaryIO, start: int, end: int) -> int:
    """Measure a WAV file that begins at a byte of an archive, in bytes; it may be longer than the archive.

    Raises:
        AudioError: the header does not declare the size.
    """
    outer, *chunks = _list_chunks(file, start, end)
    whole = outer.begin + outer.size
    sound = next((chunk for chunk in chunks if chunk.name == b"data"), None)
    if sound is None:
        return whole - start
    if is_unknown(sound.size):
        raise AudioError(
            "unreadable",
            f"the header declares {sound.size} bytes of audio, as if it was written to a pipe, so that the next record "
            "can't be told from it: write it to a file, and the file to the archive",
        )
    after = whole if whole <= end and not is_unknown(outer.size) else 0
    return max(sound.begin + sound.size, after) - start


def _list_chunks(file: BinaryIO, start: int, end: int) -> list[Chunk]:
    """List the chunks of a file, that of the whole file first, up to the end or to what is no chunk.

    Raises:
        AudioError: the file has no chunk, or too many.
    """
    file.seek(start)
    magic = file.read(4)
    is_w64 = magic == b"riff"
    header = struct.Struct("<16sQ" if is_w64 else ">4sI" if magic in (b"RIFX", b"FORM") else "<4sI")
    chunks: list[Chunk] = []
    sizes: dict[bytes, int] = {}
    position = start
    while position + header.size <= end:
        file.seek(position)
        name, size = header.unpack(file.read(header.size).ljust(header.size, b"\0"))
        begin = position + header.size
        if is_w64:
            name, size = name.removesuffix(_W64_GUID) if chunks else magic, size - header.size
        if chunks and (size < 0 if is_w64 else not _NAME.fullmatch(name)):
            break
        if name == b"ds64" and chunks:
            total, sizes = _read_ds64(file, size)
            chunks[0] = replace(chunks[0], size=total)
        elif size == 0xFFFF_FFFF:
            size = sizes.get(name, size)
        if not chunks:  # it contains the others, after its kind
            position = begin + (16 if is_w64 else 4)
        else:
            position = begin + size + (-size % 8 if is_w64 else size % 2 and _find_pad(file, begin + size, end))
        chunks.append(Chunk(name, begin, size, position))
        if len(chunks) > MAX_CHUNKS:
            raise AudioError("unreadable", f"more than {MAX_CHUNKS} chunks: convert it, sox IN OUT")
    if not chunks:
        raise AudioError("truncated", "the file ends within its header: copy it again")
    return chunks


def _read_ds64(file: BinaryIO, size: int) -> tuple[int, dict[bytes, int]]:
    """Read the sizes of 64 bits in an RF64 file: of all of it, and by chunk."""
    content = file.read(min(size, 1 << 12)).ljust(28, b"\0")
    total, data, _, count = struct.unpack_from("<QQQI", content)
    table = content[28 : 28 + 12 * min(count, (len(content) - 28) // 12)]
    return total, {b"data": data, **dict(struct.iter_unpack("<4sQ", table))}


def _find_pad(file: BinaryIO, position: int, end: int) -> int:
    """Return how many bytes there are between a chunk of odd size and the next: one, or none if it was left out."""
    if position >= end:
        return 1
    file.seek(position)
    head = file.read(5)
    return 1 if head[1:] in _COMMON_NAMES or not _NAME.fullmatch(head[:4]) else 0


def _no_audio(last: Chunk, end: int) -> AudioError:
    """Return the error of a file whose last chunk is not followed by one of audio."""
    name = last.name[:4].decode(errors="replace")
    if last.next > end:
        there = f"it declares {last.size} bytes, the file has {end - last.begin}"
        return AudioError("truncated", f"no audio after chunk {name!r}: {there}: copy it again")
    if last.next + 24 > end:
        return AudioError("truncated", f"no audio: the file ends after chunk {name!r}: copy it again")
    return AudioError("unreadable", f"no audio: no chunk begins at byte {last.next}, after chunk {name!r}")


def _read_fmt(content: bytes, big_endian: bool) -> Encoding:
    """Read the description of the samples in a WAV or W64 file.

    Raises:
        AudioError: it can't be decoded.
    """
    if len(content) < 16:
        raise AudioError("unreadable", f"a 'fmt ' chunk of {len(content)} bytes: it needs 16")
    order = ">" if big_endian else "<"
    number, num_channels, rate, _, block, bits = struct.unpack_from(order + "HHIIHH", content)
    if number == 0xFFFE and content[26:40] == _GUID:
        number = int.from_bytes(content[24:26], "little")
    if number in _WAV_BLOCKS and block and len(content) >= 20:
        (block_samples,) = struct.unpack_from(order + "H", content, 18)
        return Encoding(rate, num_channels, "", block, big_endian, block_samples)
    if number in (0x50, 0x55):
        return Encoding(rate, num_channels, _MPEG, 0)
    width = 1 if number in (6, 7) else (bits + 7) // 8
    subtype = _WAV_ENCODINGS.get((number, width))
    if subtype is None or (width == 3 and block == 4 * num_channels):  # readers differ on 24 bits in 4 bytes
        raise _unknown_encoding(f"WAV's number {number:#06x}, {bits} bits in blocks of {block} bytes")
    return Encoding(rate, num_channels, subtype, num_channels * width, big_endian)


def _read_comm(content: bytes) -> tuple[Encoding, int]:
    """Read the description of the samples in an AIFF or AIFF-C file, and their count.

    Raises:
        AudioError: they can't be decoded.
    """
    if len(content) < 18:
        raise AudioError("unreadable", f"a 'COMM' chunk of {len(content)} bytes: it needs 18")
    num_channels, num_samples, bits, exponent, mantissa = struct.unpack_from(">HIHHQ", content)
    rate = mantissa >> max(0, 63 + 16_383 - exponent)  # a float of 80 bits
    name = content[18:22].lower() or b"none"
    if name in _AIFF_BLOCKS:
        block, block_samples = _AIFF_BLOCKS[name]
        return Encoding(rate, num_channels, "", block * num_channels, True, block_samples), 0
    subtype, width = _AIFF_ENCODINGS.get(name, (None, (bits + 7) // 8))
    if name in (b"none", b"twos", b"sowt"):
        subtype = _AIFF_INTEGERS.get(width)
    if subtype is None:
        raise _unknown_encoding(f"AIFF's {name.decode(errors='replace')!r}, {bits} bits")
    return Encoding(rate, num_channels, subtype, num_channels * width, name != b"sowt"), num_samples


def _unknown_encoding(name: str) -> AudioError:
    return AudioError("unreadable", f"its encoding is not read, {name}: convert it, ffmpeg -i IN OUT.wav")
