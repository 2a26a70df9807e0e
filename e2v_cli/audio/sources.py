"""Kinds of audio source, told by name: a path, ``a.ark:17``, a URL, ``command |`` → the path of a file.

Fetched audio is in a temporary file without a name, which is gone when the process ends, even if it is killed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2v_cli.audio.archives import read_archived_audio
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.pipes import run_pipe
from e2v_cli.audio.urls import download
from e2v_cli.system.files import naming

_BLANKS = " \t\r\n\v\f"

_ROOMY = 10**9
"""1 GB, 8.7 hours of 16-bit mono audio at 16 kHz: the default limit is at least this on a disk with 16 GB
free."""

_CRAMPED = 1 << 24
"""Bytes: the minimum of the default limit; a disk with less free space runs full, which stops the run."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_ARCHIVE_RECORD = re.compile(r"(?P<archive>.+):(?P<offset>[0-9]{1,18})(?P<range>\[.*\])?", re.DOTALL)


@dataclass(frozen=True)
class FetchLimits:
    """The limits of fetching a command's output or a URL."""

    pipe_seconds: float | None
    """The time limit of a command; None: commands are not allowed."""
    max_bytes: int | None = None
    """Most bytes that a source may have; None: by the free space of TMPDIR."""
    at_once: int = 1
    """Sources that may be fetched at once, which share the free space."""


def share_space(free: int, at_once: int) -> int:
    """Return how many bytes a source may have where no option sets it.

    Half of the free space is shared by all that may be fetched at once; the other half is left to waveforms. The
    limit is not lower than a sixteenth of the free space, up to 1 GB.

    Args:
        free: bytes on the disk of TMPDIR.
        at_once: sources that may be fetched at once.
    """
    return max(free // (2 * at_once), min(_ROOMY, free // 16), _CRAMPED)


def is_pipe(name: str) -> bool:
    """Whether the name is a command, whose standard output is the audio."""
    return name.rstrip(_BLANKS).endswith("|")


def is_url(name: str) -> bool:
    """Whether the name is a URL, to be downloaded."""
    return name[:8].lower().startswith(("http://", "https://"))


def is_other_url(name: str) -> bool:
    """Whether the name is a URL that can't be downloaded, like ``s3://…``."""
    return _SCHEME.match(name) is not None and not is_url(name)


def find_path(name: str, folder: str) -> str | None:
    """Find the path of a source that is a file of its own, whether it exists or not; None: it has to be fetched."""
    if is_pipe(name) or is_url(name):
        return None
    path = _resolve_path(name, folder)
    return path if _ARCHIVE_RECORD.fullmatch(name) is None or _path_exists(path) else None


def absolute_source(name: str, folder: str) -> str:
    """Return a source that is the same in any current folder: paths get absolute; commands and URLs stay.

    Args:
        name: name of the source, as the list has it.
        folder: the list's own, for relative paths that don't exist from the current one.
    """
    if is_pipe(name) or is_url(name):
        return name
    path, suffix = find_path(name, folder), ""
    record = _ARCHIVE_RECORD.fullmatch(name)
    if path is None and record is not None:
        path, suffix = _resolve_path(record["archive"], folder), name[record.end("archive") :]
    return os.path.join(os.getcwd(), path or name) + suffix


@contextmanager
def open_source(name: str, folder: str, limits: FetchLimits, stopping: Callable[[], bool]) -> Iterator[str]:
    """Open a source until the block ends: the path of a file with its audio.

    Args:
        name: name of the source, as the list has it.
        folder: the list's own, for relative paths that don't exist from the current one.
        limits: limits of a command or a URL.
        stopping: asked now and then while something is fetched: whether to give up.

    Raises:
        AudioError: it can't be fetched. The file of a path is not checked.
        OSError: this machine fails, not the source.
    """
    path = find_path(name, folder)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryFile() as file:
        with naming(Path(tempfile.gettempdir())):
            max_bytes = limits.max_bytes or share_space(shutil.disk_usage(file.fileno()).free, limits.at_once)
            if is_pipe(name):
                if limits.pipe_seconds is None:
                    raise AudioError("not allowed", "commands are run only with --allow-pipes")
                run_pipe(name.rstrip(_BLANKS)[:-1], file, limits.pipe_seconds, max_bytes, stopping)
            elif is_url(name):
                download(name, file, max_bytes, stopping)
            elif record := _ARCHIVE_RECORD.fullmatch(name):
                if record["range"]:
                    raise AudioError("unreadable", f"{record['range']}: a part of an archive's record can't be read")
                for chunk in read_archived_audio(_resolve_path(record["archive"], folder), int(record["offset"])):
                    file.write(chunk)
            file.flush()
        yield f"/dev/fd/{file.fileno()}"


def _resolve_path(path: str, folder: str) -> str:
    """Resolve a relative path against the list's folder if it exists there alone."""
    if folder and not path.startswith("/") and not _path_exists(path):
        beside = os.path.join(folder, path)
        if _path_exists(beside):
            return beside
    return path


def _path_exists(path: str) -> bool:
    """Whether a path exists, or may exist: other errors are raised when it is opened."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    except ValueError:  # a NUL in the path
        return False
    return True
