"""Tags before the audio of a file: ID3 of version 2."""

from __future__ import annotations

from typing import BinaryIO


def skip_tags(file: BinaryIO, position: int = 0) -> int:
    """Find the first byte after the tags that begin at a position, of which there may be several."""
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or not head.startswith(b"ID3") or max(head[6:]) > 0x7F:
            return position
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        has_footer = head[3] >= 4 and head[5] & 0x10  # of version 2.4
        position += 10 + size + (10 if has_footer else 0)
