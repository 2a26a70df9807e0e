"""Tags before the audio of a file: ID3 of version 2."""

from __future__ import annotations

from typing import BinaryIO


def skip_tags(file: BinaryIO) -> int:
    """Find the byte at which a file begins behind its tags, of which there may be several."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if not head.startswith(b"ID3") or len(head) < 10:
            return position
        footer = 10 if head[5] & 0x10 else 0
        position += (
            10 + footer + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        )
