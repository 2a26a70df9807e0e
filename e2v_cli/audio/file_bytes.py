"""The bytes of a file, by position."""

from __future__ import annotations

import os

BUFFER = 1 << 16
"""Bytes that are read at a time: headers of frames lie close together."""


class FileBytes:
    """An open file."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "rb", buffering=BUFFER)  # noqa: SIM115 — closed with this
        self.size = os.fstat(self.file.fileno()).st_size

    def read(self, position: int, count: int) -> bytes:
        """Read bytes from a position on, fewer only at the end."""
        self.file.seek(min(position, self.size))  # a damaged size may be beyond what seeking takes
        return self.file.read(count)

    def __enter__(self) -> FileBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
