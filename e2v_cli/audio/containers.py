"""Containers of elements that declare their sizes: MP4, Matroska, ASF and AVI. FFmpeg passes over what is missing."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.ffmpeg import FfmpegDecoder, Reading
from e2v_cli.audio.file_bytes import FileBytes

MP4_PARENTS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf"))
"""Boxes that hold boxes."""

LONG_INDEX = 1 << 19
"""Packets: three hours of AAC. FFmpeg's index of more takes much memory."""

MP4_ENCRYPTED = frozenset((b"enca", b"drms"))
"""Formats of encrypted audio: ISO's, and Apple's."""

EBML_HEADER, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675

EBML_ANYWHERE = frozenset((0xEC, 0xBF))
"""Void, CRC-32."""

EBML_TOP = EBML_ANYWHERE | {EBML_HEADER, SEGMENT}

SEGMENT_CHILDREN = EBML_ANYWHERE | {
    *(CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367)
}
"""Children of a segment: also SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags."""

CLUSTER_CHILDREN = EBML_ANYWHERE | {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}
"""Children of a cluster: also Timestamp, SilentTracks, Position, PrevSize, SimpleBlock, BlockGroup, EncryptedBlock."""

ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")

ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""File Properties."""

ASF_ENCRYPTION = (bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"), bytes.fromhex("14e68a292226174cb935dae07ee9289c"))
"""Content Encryption, and Extended Content Encryption."""

ASF_BROADCAST = 1
"""The flag of a file that was written to a pipe: the sizes in its header don't count."""

_ENCRYPTED = "the audio is encrypted: only the program of its seller can read it"


def open_mp4(path: str, at_a_glance: bool) -> Decoder:
    """Open an MP4, M4A, 3GP or QuickTime file.

    Raises:
        AudioError: a box is not all there, or there is no index, or the audio is encrypted.
    """
    with FileBytes(path) as data:
        kinds, num_packets, num_edits = set(), 0, 0
        for kind, begin, end in _walk_boxes(data, 0, data.size):
            kinds.add(kind)
            if kind == b"stsd" and data.read(begin + 12, 4) in MP4_ENCRYPTED:
                raise AudioError("unreadable", _ENCRYPTED)
            if kind == b"sidx":
                _check_size(data.size, "the last fragment", end + _measure_fragments(data.read(begin, end - begin)))
            if kind == b"stsz":
                num_packets = max(num_packets, int.from_bytes(data.read(begin + 8, 4), "big"))
            if kind == b"elst":
                num_edits = max(num_edits, int.from_bytes(data.read(begin + 4, 4), "big"))
    if b"moov" not in kinds:
        raise AudioError("truncated", "it has no index (the box moov): it was cut short, or never finished")
    # FFmpeg copies the index for the sake of edits; a single one, of the encoder's priming, it also sees without
    light = {"advanced_editlist": "0"} if num_packets > LONG_INDEX and num_edits <= 1 else {}
    reading = Reading(cut_end=b"moof" not in kinds, options=light)
    return _glance(FfmpegDecoder(path, "mov", None, reading), at_a_glance)


def open_matroska(path: str, at_a_glance: bool) -> Decoder:
    """Open a Matroska or WebM file.

    Raises:
        AudioError: an element is damaged or not all there.
    """
    with FileBytes(path) as data:
        _check_ebml(data)
    return _glance(FfmpegDecoder(path, "matroska", None), at_a_glance)


def open_asf(path: str, at_a_glance: bool) -> Decoder:
    """Open an ASF file: WMA or WMV.

    Raises:
        AudioError: it is shorter than its header declares, or encrypted.
    """
    with FileBytes(path) as data:
        _check_asf(data)
    return _glance(FfmpegDecoder(path, "asf", None), at_a_glance)


def open_avi(path: str, at_a_glance: bool) -> Decoder:
    """Open an AVI file.

    Raises:
        AudioError: a list is not all there.
    """
    with FileBytes(path) as data:
        position = 0
        while (head := data.read(position, 12))[:4] == b"RIFF":  # files of more than 1 GB have several
            size = int.from_bytes(head[4:8], "little")
            if not size:
                raise AudioError("truncated", "the header declares no size: the recording was never finished")
            _check_size(data.size, f"the RIFF list at byte {position}", position + 8 + size)
            position += 8 + size + size % 2
    return _glance(FfmpegDecoder(path, "avi", None), at_a_glance)


def _glance(decoder: FfmpegDecoder, at_a_glance: bool) -> Decoder:
    """Estimate the length, if the file is only looked at."""
    if at_a_glance:
        decoder.num_samples = decoder.estimate_samples()
    return decoder


def _check_size(size: int, what: str, end: int) -> None:
    if end > size:
        raise AudioError("truncated", f"{what} ends {end - size} bytes past the end of the file: copy it again")


def _walk_boxes(data: FileBytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Walk the boxes of an MP4 file (ISO 14496-12): kind, begin and end of what each holds, parents before children.

    Raises:
        AudioError: one is not all in its parent, or in the file.
    """
    while position < end:
        size, kind = struct.unpack(">I4s", data.read(position, 8).ljust(8, b"\0"))
        begin = position + 8
        if size == 1:
            size = int.from_bytes(data.read(begin, 8), "big")
            begin += 8
        elif size == 0 and (kind == b"mdat" or not any(data.read(position, end - position))):  # up to the end
            size = end - position
        what = f"the box {kind.decode('latin-1')!r} at byte {position}"
        if size < begin - position and size != end - position:
            raise AudioError("truncated", f"{what} is damaged: copy the file again")
        _check_size(end, what, position + size)
        yield kind, begin, position + size
        if kind in MP4_PARENTS:
            yield from _walk_boxes(data, begin, position + size)
        position += size


def _measure_fragments(index: bytes) -> int:
    """Return the bytes after an index (the box sidx) that it counts: all fragments, or the next."""
    width = 8 if index[:1] == b"\1" else 4
    begin = 12 + 2 * width  # after the first time, the first offset, and the number of entries with its padding
    entries = struct.iter_unpack(">I8x", index[begin + 4 : begin + 4 + (len(index) - begin - 4) // 12 * 12])
    offset = int.from_bytes(index[begin - width : begin], "big")
    return offset + sum(int(size) & 0x7FFF_FFFF for (size,) in entries)


def _check_ebml(data: FileBytes) -> None:
    """Walk the elements of a Matroska file (RFC 9559), down to its blocks.

    Raises:
        AudioError: one is not all there, or can't be where it is.
    """
    position: int | None = 0
    kind, begin, end = EBML_HEADER, 0, None
    while kind != SEGMENT:
        if position is None:
            raise _damaged(begin)
        kind, begin, end = _read_element(data, position, data.size, EBML_TOP)
        position = end
    position, end = begin, data.size if end is None else end
    while position < end:
        kind, begin, stop = _read_element(data, position, end, SEGMENT_CHILDREN)
        if kind == CLUSTER:
            position = _check_cluster(data, begin, stop, end)
        elif stop is None:
            raise _damaged(position)
        else:
            position = stop


def _check_cluster(data: FileBytes, position: int, stop: int | None, end: int) -> int:
    """Walk the blocks of a cluster, and return its end; one of unknown size (None) ends where a sibling begins."""
    while position < (end if stop is None else stop):
        kind, _, after = _read_element(data, position, stop or end, CLUSTER_CHILDREN | SEGMENT_CHILDREN)
        if stop is None and kind in SEGMENT_CHILDREN - CLUSTER_CHILDREN:
            break
        if after is None or kind not in CLUSTER_CHILDREN:
            raise _damaged(position)
        position = after
    return position


def _read_element(data: FileBytes, position: int, limit: int, expected: frozenset[int]) -> tuple[int, int, int | None]:
    """Read the header of an EBML element (RFC 8794): its ID, and begin and end of what it holds; None: unknown.

    Raises:
        AudioError: the element ends after the limit, or is not an expected one.
    """
    head = data.read(position, 12)
    id_length = 9 - head[0].bit_length() if head else 1
    kind = int.from_bytes(head[:id_length], "big")
    if len(head) > id_length:
        if kind not in expected or not head[id_length]:
            raise _damaged(position)
        length = 9 - head[id_length].bit_length()
        value = head[id_length : id_length + length]
        if len(value) == length:
            begin = position + id_length + length
            size = int.from_bytes(value, "big") & (1 << 7 * length) - 1
            if size == (1 << 7 * length) - 1:
                return kind, begin, None
            _check_size(limit, f"the Matroska element at byte {position}", begin + size)
            return kind, begin, begin + size
    raise AudioError("truncated", f"it ends within the Matroska element at byte {position}: copy the file again")


def _damaged(position: int) -> AudioError:
    return AudioError("truncated", f"the file is damaged at byte {position}: copy it again")


def _check_asf(data: FileBytes) -> None:
    """Compare the sizes in the header of an ASF file with each other and with the file.

    Raises:
        AudioError: packets are missing, or the audio is encrypted.
    """
    size, count = struct.unpack("<16xQI2x", data.read(0, 30).ljust(30, b"\0"))
    _check_size(data.size, "the header", size)
    position, packets, packet_size = 30, None, 0
    for _ in range(count):
        kind, length = struct.unpack("<16sQ", data.read(position, 24).ljust(24, b"\0"))
        if kind in ASF_ENCRYPTION:
            raise AudioError("unreadable", _ENCRYPTED)
        if kind == ASF_FILE:
            packets, flags, packet_size = struct.unpack("<56xQ24xI4xI", data.read(position, 100).ljust(100, b"\0"))
            if flags & ASF_BROADCAST:
                return
        position += length
    if packets is None or data.read(size, 16) != ASF_DATA:
        raise _damaged(min(position, size))
    _check_size(data.size, "the last packet", size + 50 + packets * packet_size)
