"""Files that survive a crash: on the disk itself, and under their name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def published(path: Path) -> Iterator[TextIO]:
    """Open a text file that gets its name when it is whole and on the disk itself."""
    draft = path.with_name(f".{path.name}.part")
    with draft.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the entries of a folder on the disk itself, so that new files are found after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
