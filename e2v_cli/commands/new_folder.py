"""A folder that a command makes: all of it, or nothing; never in the place of another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2v_cli.errors import OutputConflictError
from e2v_cli.system.files import naming, published_folder


def refuse_existing(path: Path) -> None:
    """Check that nothing is at a path.

    Raises:
        OutputConflictError: something is.
    """
    if os.path.lexists(path):
        raise OutputConflictError(f"{path} exists: choose another -o, or remove it")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder that is synced, and renamed to its final name, when the block ends; its files are yours to sync.

    Raises:
        OutputConflictError: something is there by now.
        OSError: it can't be written.
    """
    try:
        with published_folder(path.absolute()) as draft, naming(path):
            yield draft
    except FileExistsError:
        if not os.path.lexists(path):  # a file is where its parent should be
            raise
        raise OutputConflictError(f"{path} exists by now: choose another -o, or remove it") from None
