"""Arrays too large for memory: in a file, by default a temporary one without a name, which is gone when its user is."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.system.files import naming

BLOCK_BYTES = 1 << 24
"""Bytes of rows that ``blocks`` reads at a time, at most."""


class DiskArray:
    """float32 rows on disk, appended and read back in parts."""

    def __init__(
        self, row_shape: tuple[int, ...] = (), path: Path | None = None, block_bytes: int = BLOCK_BYTES
    ) -> None:
        """Open the array of a file, or make one without rows.

        Args:
            row_shape: the shape of a row: () for samples, (dim,) for frames.
            path: the file, which may have rows already; None: a temporary one.
            block_bytes: the most that ``blocks`` reads at a time, but at least a row.
        """
        self._descriptor = -1
        self._row_shape = row_shape
        self._row_bytes = 4 * int(np.prod(row_shape))
        self._block_rows = max(1, block_bytes // self._row_bytes)
        self._path = path or Path(tempfile.gettempdir())
        if path is not None:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        else:
            with tempfile.TemporaryFile() as file:
                self._descriptor = os.dup(file.fileno())
        self._length = os.fstat(self._descriptor).st_size // self._row_bytes

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __len__(self) -> int:
        return self._length

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an array of all rows."""
        return (self._length, *self._row_shape)

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add (rows, …).

        Raises:
            OSError: there is no room for them.
        """
        content = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1).data.cast("B")
        with naming(self._path):
            while content:
                content = content[os.write(self._descriptor, content) :]
        self._length += len(rows)

    def truncate(self, length: int) -> None:
        """Remove all rows but the first ``length``."""
        os.ftruncate(self._descriptor, length * self._row_bytes)
        self._length = length

    def sync(self) -> None:
        """Sync the rows to disk."""
        os.fsync(self._descriptor)

    def read(self, part: slice = slice(None)) -> NDArray[np.float32]:
        """Read some of the rows."""
        first, end, _ = part.indices(self._length)
        rows = np.empty((end - first, *self._row_shape), dtype=np.float32)
        view, offset = rows.reshape(-1).data.cast("B"), first * self._row_bytes
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            view, offset = view[count:], offset + count
        return rows

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Read all rows, some megabytes at a time."""
        for first in range(0, self._length, self._block_rows):
            yield self.read(slice(first, first + self._block_rows))


def whole(rows: NDArray[np.float32] | DiskArray) -> NDArray[np.float32]:
    """Return all rows in memory, wherever they are."""
    return rows.read() if isinstance(rows, DiskArray) else rows


class DiskWaveform(DiskArray):
    """A mono waveform at 16 kHz on disk, 230 MB per hour, with the mean and variance that normalisation needs."""

    def __init__(self) -> None:
        super().__init__()
        self._sum = self._sum_of_squares = 0.0
        self._sha256 = hashlib.sha256()

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add (samples,), all of them finite.

        Raises:
            OSError: there is no room in TMPDIR.
        """
        super().append(rows)
        exact = rows.astype(np.float64)
        self._sum += float(exact.sum())
        self._sum_of_squares += float(exact @ exact)
        self._sha256.update(np.ascontiguousarray(rows, dtype=np.float32).data)

    @property
    def sha256(self) -> str:
        """The digest of all samples."""
        return self._sha256.hexdigest()

    @property
    def mean(self) -> float:
        """The mean of all samples."""
        return self._sum / len(self)

    @property
    def variance(self) -> float:
        """The variance of all samples, of the population."""
        return max(0.0, self._sum_of_squares / len(self) - self.mean**2)
