"""Files that survive a crash: synced to disk, and renamed to their final names only when they are whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from e2v_cli.system.process import HOST, is_dead

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors of a path where nothing is."""


def exists(path: Path) -> bool:
    """Whether something is at a path.

    Since Python 3.14, ``Path.exists``, ``is_dir`` and ``is_file`` also return False if they can't find out, and a list
    of segments on a failing server would seem to be missing.

    Raises:
        OSError: e2v can't find out.
    """
    return _file_type(path) is not None


def is_directory(path: Path) -> bool:
    """Whether a folder is at a path; errors as of :func:`exists`."""
    return _file_type(path) == stat.S_IFDIR


def is_regular_file(path: Path) -> bool:
    """Whether a regular file is at a path; errors as of :func:`exists`."""
    return _file_type(path) == stat.S_IFREG


def _file_type(path: Path) -> int | None:
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    except ValueError:  # a path that no file can have
        pass
    return None


@contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is synced, and renamed to its final name, when the block ends.

    Until then it is a draft with a name of its own, so that several writers never meet: the last rename counts.
    """
    with drafted(path, draft_of(path)) as file:
        yield file
    with naming(path):
        sync_folder(path.parent)


@contextmanager
def drafted(path: Path, draft: Path) -> Iterator[BinaryIO]:
    """Open a draft that is synced and renamed when the block ends, or removed on an error; the folder isn't synced."""
    with naming(path, draft):
        try:
            with draft.open("wb") as file:
                yield file
                sync_file(file)
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Make a folder that is synced, and renamed to its final name, when the block ends; its files are yours to sync.

    Raises:
        FileExistsError: something is there.
    """
    parent = path.parent
    parent.mkdir(parents=True, exist_ok=True)
    for name in dead_drafts(os.listdir(parent), [path.name]):
        shutil.rmtree(parent / name, ignore_errors=True)
    draft = draft_of(path)
    try:
        with naming(path, draft):
            draft.mkdir()
        yield draft
        sync_folder(draft)
        if _file_type(path) is not None or path.is_symlink():  # an empty folder would be replaced
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        draft.rename(path)
        sync_folder(parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def draft_of(path: Path) -> Path:
    """Return a unique name for a file that is not whole yet, with this machine and process in it."""
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")


def remove_drafts(path: Path) -> None:
    """Remove the drafts that dead writers left of a file; its name may be a pattern."""
    with suppress(FileNotFoundError):
        for name in dead_drafts(os.listdir(path.parent), [path.name]):
            path.with_name(name).unlink(missing_ok=True)


def dead_drafts(names: Iterable[str], finals: Sequence[str]) -> Iterator[str]:
    """Find the drafts of dead writers among the names of a folder's entries.

    Args:
        names: names of the entries.
        finals: names of files, which may be patterns, whose drafts are meant.
    """
    patterns = [f".{final}.*-*-{'[0-9a-f]' * 8}.part" for final in finals]
    for name in names:
        if name.endswith(".part") and any(fnmatchcase(name, pattern) for pattern in patterns):
            match = re.search(r"\.([^.]+(?:\.[^.]+)*)-(\d+)-[0-9a-f]{8}\.part$", name)
            if match and match.group(1).endswith(HOST) and is_dead(HOST, int(match.group(2))):
                yield name


def sync_file(file: BinaryIO) -> None:
    """Flush a file, and sync its content to disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk, so that new files are found after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Add a file's name to errors that have none, such as those of a full disk, or only that of its draft."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == str(draft):
            error.filename = str(path)
        raise
