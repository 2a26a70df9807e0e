"""WAV, W64 and AIFF files, written chunk by chunk, whole or with wrong headers."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000

CODES = {
    "PCM_U8": (1, 8),
    "PCM_16": (1, 16),
    "PCM_24": (1, 24),
    "PCM_32": (1, 32),
    "FLOAT": (3, 32),
    "DOUBLE": (3, 64),
    "ULAW": (7, 8),
    "ALAW": (6, 8),
}
"""WAV's number and the bits of a sample, by libsndfile's name."""

AIFF_NAMES = {"PCM_U8": b"raw ", "FLOAT": b"fl32", "DOUBLE": b"fl64", "ULAW": b"ulaw", "ALAW": b"alaw"}

GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")


@dataclass(frozen=True)
class Container:
    """A kind of file."""

    magic: bytes
    swapped: bool = False
    """Whether the samples have the other byte order than the container usually has: AIFF-C's ``sowt``."""

    @property
    def order(self) -> str:
        """Return the byte order of numbers in headers, as ``struct`` has it."""
        return ">" if self.magic in (b"RIFX", b"FORM") else "<"

    def encode(self, samples: NDArray[np.generic], subtype: str) -> bytes:
        """Encode samples without a header, by libsndfile."""
        file = io.BytesIO()
        endian = "BIG" if (self.order == ">") != self.swapped else "LITTLE"
        soundfile.write(file, samples, RATE, format="RAW", subtype=subtype, endian=endian)
        return file.getvalue()

    def chunk(self, name: bytes, content: bytes, size: int | None = None) -> bytes:
        """Make a chunk that declares its size, or another one."""
        size = len(content) if size is None else size
        if self.magic == b"riff":
            return name + GUID + struct.pack("<Q", size + 24) + content + bytes(-len(content) % 8)
        return name + struct.pack(self.order + "I", size) + content + bytes(len(content) % 2)

    def wrap(
        self,
        audio: bytes,
        subtype: str = "PCM_16",
        num_channels: int = 1,
        size: int | None = None,
        before: bytes = b"",
        after: bytes = b"",
        rate: int = RATE,
    ) -> bytes:
        """Make a file of encoded samples, which declares their size, or another one."""
        size = len(audio) if size is None else size
        number, bits = CODES[subtype]
        frame = num_channels * bits // 8
        num_samples = size // max(1, frame)
        kind = b"WAVE"
        if self.magic == b"FORM":
            kind, exponent = b"AIFC", max(0, rate.bit_length() - 1)
            count = num_samples & 0xFFFF_FFFF
            sampled = struct.pack(">hIhHQ", num_channels, count, bits, 16_383 + exponent, rate << 63 - exponent)
            name = AIFF_NAMES.get(subtype, b"sowt" if self.swapped else b"NONE")
            description = self.chunk(b"COMM", sampled + name + bytes(2))
            sound = self.chunk(b"SSND", bytes(8) + audio, size + 8 if size or not audio else 0)
        else:
            fields = (number, num_channels, rate, rate * frame, frame, bits)
            description = self.chunk(b"fmt ", struct.pack(self.order + "HHIIHH", *fields))
            sound = self.chunk(b"data", audio, 0xFFFF_FFFF if self.magic.endswith(b"64") else size)
        body = before + description + sound + after
        total = len(kind) + len(body) + size - len(audio)
        if self.magic == b"riff":
            total = total + len(GUID) + 24 if size < 1 << 40 else (1 << 64) - 1
            head = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0" + struct.pack("<Q", total)
            return head + b"wave" + GUID + body
        if self.magic.endswith(b"64"):
            total = total + 36 if size < 1 << 40 and size >> 16 != 0xFFFF else 0
            sizes = struct.pack("<QQQI", total, size, num_samples if total else 0, 0)
            kind, total = kind + self.chunk(b"ds64", sizes), 0xFFFF_FFFF
        return self.magic + struct.pack(self.order + "I", total & 0xFFFF_FFFF) + kind + body
