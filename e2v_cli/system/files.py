"""Files that survive a crash: on the disk itself, and under their name only when they are whole."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from e2v_cli.system.process import HOST, is_dead


@contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when it is whole and on the disk itself.

    Until then it has a name of its own, so that several writers never meet: the last one to be ready counts.
    """
    with drafted(path, draft_of(path)) as file:
        yield file
    with naming(path):
        sync_folder(path.parent)


@contextmanager
def drafted(path: Path, draft: Path) -> Iterator[BinaryIO]:
    """Open a draft that becomes a file when it is whole; that the folder has it is the caller's to make last."""
    with naming(path):
        try:
            with draft.open("wb") as file:
                yield file
                sync_file(file)
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise


def draft_of(path: Path) -> Path:
    """Choose a name, which nobody else has, for a file that is not whole yet."""
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")


def remove_drafts(path: Path) -> None:
    """Remove what writers that are dead left of a file; its name may be a pattern."""
    for draft in path.parent.glob(f".{path.name}.*-*-{'[0-9a-f]' * 8}.part"):
        match = re.search(r"\.([^.]+(?:\.[^.]+)*)-(\d+)-[0-9a-f]{8}\.part$", draft.name)
        if match and match.group(1).endswith(HOST) and is_dead(HOST, int(match.group(2))):
            draft.unlink(missing_ok=True)


def sync_file(file: BinaryIO) -> None:
    """Put what was written to a file on the disk itself."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the entries of a folder on the disk itself, so that new files are found after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in errors that only say what went wrong, as those of a full disk do."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
