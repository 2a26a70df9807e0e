"""Ids in C order, the order of their bytes, in a temporary file: there may be ten million."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.lists import stored_on_disk
from e2v_cli.errors import CorpusError
from e2v_cli.system.sorting import RUN_LINES, sort_lines

CHUNK_BYTES = 1 << 20
"""Bytes of ids that are read at a time, about."""


class SortedIds:
    """Different ids in C order."""

    def __init__(self, ids: Iterator[list[bytes]], run_lines: int = RUN_LINES) -> None:
        """Sort ids, of which ``run_lines`` are in memory at a time.

        Raises:
            CorpusError: two are equal, or the disk is full.
        """
        self._file = _open_temporary()
        with stored_on_disk():
            count, is_sorted = self._write(ids)
            self.order: NDArray[np.int32] = np.arange(count, dtype=np.int32)
            """(ids,): the index of each in the order in which they came."""
            if not is_sorted:
                self._sort(run_lines)

    def __del__(self) -> None:
        with suppress(OSError):
            self._file.close()

    def __len__(self) -> int:
        return len(self.order)

    def chunks(self) -> Iterator[list[bytes]]:
        """Read all ids in C order, some thousand at a time."""
        self._file.seek(0)
        while lines := self._file.readlines(CHUNK_BYTES):
            yield [line[:-1] for line in lines]

    def _write(self, ids: Iterator[list[bytes]]) -> tuple[int, bool]:
        """Write ids as they come: their number, and whether they are in C order, each once."""
        count, is_sorted, last = 0, True, b""
        for keys in ids:
            is_sorted = is_sorted and last < keys[0] and all(map(bytes.__lt__, keys, islice(keys, 1, None)))
            last = keys[-1]
            count += len(keys)
            self._file.write(b"\n".join(keys) + b"\n")
        return count, is_sorted

    def _sort(self, run_lines: int) -> None:
        """Replace the file by a sorted one."""
        unsorted, self._file = self._file, _open_temporary()
        order, last = array("i"), b""
        with unsorted:
            unsorted.seek(0)
            numbered = (b"%b\t%d\n" % (line[:-1], index) for index, line in enumerate(unsorted))
            for line in sort_lines(numbered, run_lines):  # a tab is before all characters of ids
                key, _, index = line.partition(b"\t")
                if key == last:
                    raise CorpusError(f'utt-id "{key.decode(errors="backslashreplace")}" has two predictions')
                order.append(int(index))
                self._file.write(key + b"\n")
                last = key
        self.order = np.frombuffer(order, dtype=np.int32)


def _open_temporary() -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile())
