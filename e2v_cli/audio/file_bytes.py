"""The bytes of a file by position, and parts of it as a file."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

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


class FileParts(io.RawIOBase):
    """Parts of a file as one file, without the bytes between them."""

    def __init__(self, path: str, parts: Sequence[tuple[int, int]]) -> None:
        """Open a file; ``parts`` are (begin, end) in bytes, each without the byte at its end."""
        self._descriptor = os.open(path, os.O_RDONLY)
        self._parts = parts
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, counted over all parts."""
        size = sum(end - begin for begin, end in self._parts)
        self._position = offset + (0, self._position, size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes, of one part at most."""
        view = memoryview(buffer).cast("B")
        skipped = self._position
        for begin, end in self._parts:
            if skipped < end - begin:
                data = os.pread(self._descriptor, min(len(view), end - begin - skipped), begin + skipped)
                view[: len(data)] = data
                self._position += len(data)
                return len(data)
            skipped -= end - begin
        return 0

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
