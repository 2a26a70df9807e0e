"""Sorting more lines than memory has room for: runs of them are sorted and stored, and then merged."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import IO

RUN_LINES = 1 << 19
"""Lines that are sorted in memory."""


def sort_lines(lines: Iterable[bytes], run_lines: int = RUN_LINES) -> Iterator[bytes]:
    """Sort lines by their bytes, as in the locale C; each has its line break.

    Raises:
        OSError: temporary files can't be written.
    """
    rest = iter(lines)
    with ExitStack() as stack:
        runs: list[IO[bytes]] = []
        while run := sorted(islice(rest, run_lines)):
            if len(run) < run_lines and not runs:
                yield from run
                return
            file = stack.enter_context(tempfile.TemporaryFile())
            file.writelines(run)
            file.seek(0)
            runs.append(file)
        yield from heapq.merge(*runs)
