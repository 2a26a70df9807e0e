"""Files of frames that tell their own lengths, or whose header counts the samples: AMR, AAC, AC-3, WavPack, APE, CAF.

Their length is known to the sample, without decoding.
"""

from __future__ import annotations

import struct

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.ffmpeg import FfmpegDecoder, Reading
from e2v_cli.audio.file_bytes import FileBytes
from e2v_cli.audio.tags import skip_tags

AMR_NARROW, AMR_WIDE = b"#!AMR\n", b"#!AMR-WB\n"

AMR_SIZES = {
    AMR_NARROW: (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1),
    AMR_WIDE: (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1),
}
"""Bytes of a frame by its type, for narrow band and wide band (RFC 4867, section 5.3); all have 20 ms."""

AMR_NO_DATA = 15
"""The type of a frame within a pause that goes on as before, or of one that was lost."""

AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
"""Bit rates of AC-3, in kbit/s."""

AAC_FRAME = 1024
"""Samples of an AAC frame, at the rate in its header; the decoder's may be twice that."""

TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")
"""First bytes of tags, which may follow the last frame."""

WV_UNKNOWN = 0xFFFF_FFFF
"""The number of samples of a WavPack file that was written to a pipe."""

WV_INITIAL = 0x800
"""The flag of a block that begins with the first channels; others have more channels of the same samples."""

PACKET_TABLE = struct.Struct(">qqii")
"""Packet table of a CAF file: packets, valid samples, samples before them, samples after them."""


def open_amr(path: str, _at_a_glance: bool) -> Decoder:
    """Open an AMR file, narrow band or wide band.

    Raises:
        AudioError: a frame is damaged or not all there.
    """
    with FileBytes(path) as data:
        magic = next(magic for magic in AMR_SIZES if data.read(0, len(magic)) == magic)
        sizes, pause = AMR_SIZES[magic], 8 + (magic == AMR_WIDE)
        position, count, kind, has_pauses = len(magic), 0, 0, False
        while head := data.read(position, 1):
            before, kind = kind, head[0] >> 3 & 15
            # a frame without data between others of speech was lost
            if head[0] & 0x83 or pause < kind < AMR_NO_DATA or (kind == AMR_NO_DATA and before < pause):
                raise _stray(position)
            has_pauses = has_pauses or kind >= pause
            position, count = position + sizes[kind], count + 1
        _check_last(data, position)
    band = "wb" if magic == AMR_WIDE else "nb"
    # FFmpeg's own decoder knows no pauses
    reading = Reading(codec=f"libopencore_amr{band}" if has_pauses else "")
    return FfmpegDecoder(path, "amr", count * (320 if band == "wb" else 160), reading)


def find_adts(head: bytes) -> bool:
    """Whether two frames of AAC begin a file, or one that is all of it."""
    size = _adts_size(head)
    return size > 0 and (len(head) <= size or _adts_size(head[size:]) > 0)


def open_adts(path: str, _at_a_glance: bool) -> Decoder:
    """Open a file of AAC alone, in ADTS frames.

    Raises:
        AudioError: a frame is damaged or not all there.
    """
    with FileBytes(path) as data:
        position, count = skip_tags(data.file), 0
        while (head := data.read(position, 7)) and not head.startswith(TAGS):
            if not (size := _adts_size(head)):
                raise _stray(position)
            position, count = position + size, count + (head[6] & 3) + 1
        _check_last(data, position)
    decoder = FfmpegDecoder(path, "aac", None)
    decoder.num_samples = count * max(AAC_FRAME, decoder.longest_frame)
    return decoder


def find_ac3(head: bytes) -> bool:
    """Whether two frames of AC-3 or Enhanced AC-3 begin a file, or one that is all of it."""
    size, _ = _ac3_frame(head)
    return size > 0 and (len(head) <= size or _ac3_frame(head[size:])[0] > 0)


def open_ac3(path: str, _at_a_glance: bool) -> Decoder:
    """Open a file of AC-3 or Enhanced AC-3 alone.

    Raises:
        AudioError: a frame is damaged or not all there.
    """
    with FileBytes(path) as data:
        begin = position = skip_tags(data.file)
        count = 0
        while (head := data.read(position, 6)) and not head.startswith(TAGS):
            size, samples = _ac3_frame(head)
            if not size:
                raise _stray(position)
            position, count = position + size, count + samples
        _check_last(data, position)
        is_enhanced = data.read(begin, 6)[5] >> 3 > 10
    return FfmpegDecoder(path, "eac3" if is_enhanced else "ac3", count)


def open_wavpack(path: str, _at_a_glance: bool) -> Decoder:
    """Open a WavPack file.

    Raises:
        AudioError: a block is damaged or missing, or not all there.
    """
    with FileBytes(path) as data:
        position, count, total = 0, 0, WV_UNKNOWN
        while (head := data.read(position, 32)) and not head.startswith(TAGS):
            if not head.startswith(b"wvpk"):
                raise _stray(position)
            size, declared, index, samples, flags = struct.unpack("<4xI4xIIII4x", head.ljust(32, b"\0"))
            if samples and flags & WV_INITIAL:
                total = declared if index == 0 else total
                if index != count & 0xFFFF_FFFF:
                    raise _stray(position)
                count += samples
            position += 8 + size
        _check_last(data, position)
    return FfmpegDecoder(path, "wv", count if total == WV_UNKNOWN else total)


def open_ape(path: str, _at_a_glance: bool) -> Decoder:
    """Open a file of Monkey's Audio.

    Raises:
        AudioError: it is shorter than its header declares.
    """
    with FileBytes(path) as data:
        head = data.read(0, 128).ljust(128, b"\0")
        version = int.from_bytes(head[4:6], "little")
        if version < 3980:
            raise AudioError("unreadable", f"Monkey's Audio {version / 1000:.2f}: convert it to WAV")
        sizes = struct.unpack("<8x7I", head[:36])
        _check_last(data, sum(sizes[:5]) + (sizes[5] << 32) + sizes[6])
        block, last, frames = struct.unpack("<4xIII", head[sizes[0] : sizes[0] + 16].ljust(16, b"\0"))
    return FfmpegDecoder(path, "ape", (frames - 1) * block + last if frames else 0)


def open_caf(path: str, _at_a_glance: bool) -> Decoder:
    """Open a file of Apple's Core Audio Format.

    Raises:
        AudioError: a chunk is not all there, or the length is unknown.
    """
    chunks: dict[bytes, bytes] = {}
    with FileBytes(path) as data:
        position = 8
        while position < data.size:
            kind, size = struct.unpack(">4sq", data.read(position, 12).ljust(12, b"\0"))
            if kind == b"data" and size == -1:  # written to a pipe
                size = data.size - position - 12
            if size < 0:
                raise _stray(position)
            chunks[kind] = data.read(position + 12, 32)
            length = size - 4 if kind == b"data" else 0
            position += 12 + size
        _check_last(data, position)
    if not {b"desc", b"data"} <= set(chunks):
        raise AudioError("truncated", "it has no audio: copy the file again")
    per_packet, samples = struct.unpack(">16x2I8x", chunks[b"desc"].ljust(32, b"\0"))
    if b"pakt" in chunks:
        _, valid, priming, _ = PACKET_TABLE.unpack(chunks[b"pakt"][: PACKET_TABLE.size].ljust(24, b"\0"))
        return FfmpegDecoder(path, "caf", valid, Reading(priming=priming))
    if not per_packet or not samples:
        raise AudioError("truncated", "it has no table of its packets: copy the file again")
    return FfmpegDecoder(path, "caf", length // per_packet * samples)


def _adts_size(head: bytes) -> int:
    """Return the bytes of an ADTS frame (ISO 13818-7, section 6.2) by its header; 0: it is no ADTS frame."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


def _ac3_frame(head: bytes) -> tuple[int, int]:
    """Return bytes and samples of a frame of AC-3 (ATSC A/52) by its header; (0, 0): it is no AC-3."""
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return 0, 0
    rate, version = head[4] >> 6, head[5] >> 3
    if version <= 10:
        kind = head[4] & 63
        if rate == 3 or kind >= 2 * len(AC3_KBITS):
            return 0, 0
        kbits = AC3_KBITS[kind >> 1]
        return 2 * (2 * kbits, kbits * 320 // 147 + kind % 2, 3 * kbits)[rate], 1536
    if version > 16:
        return 0, 0
    blocks = 6 if rate == 3 else (1, 2, 3, 6)[head[4] >> 4 & 3]
    is_main = head[2] >> 6 != 1 and not head[2] >> 3 & 7  # others have more channels of the same samples
    return 2 * ((head[2] & 7) << 8 | head[3]) + 2, 256 * blocks * is_main


def _check_last(data: FileBytes, end: int) -> None:
    if end > data.size:
        missing = end - data.size
        raise AudioError("truncated", f"the last part ends {missing} bytes past the end of the file: copy it again")


def _stray(position: int) -> AudioError:
    return AudioError("truncated", f"no frame begins at byte {position}: copy the file again")
