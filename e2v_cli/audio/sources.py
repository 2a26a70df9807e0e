"""Kinds of audio source, told by name: a path, ``a.ark:17``, a URL, ``command |`` → a file that libsndfile can read.

Fetched audio is in a temporary file without a name, which is gone when the process ends, even if it is killed.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from e2v_cli.audio.archives import read_archived_audio
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.pipes import run_pipe
from e2v_cli.audio.urls import download
from e2v_cli.system.files import naming

_BLANKS = " \t\r\n\v\f"

_ARCHIVE_RECORD = re.compile(r"(?P<archive>.+):(?P<offset>[0-9]{1,18})(?P<range>\[.*\])?", re.DOTALL)


def is_pipe(name: str) -> bool:
    """Whether the name is a command, whose standard output is the audio."""
    return name.rstrip(_BLANKS).endswith("|")


def is_url(name: str) -> bool:
    """Whether the name is a URL, to be downloaded."""
    return name[:8].lower().startswith(("http://", "https://"))


def find_path(name: str, folder: str) -> str | None:
    """Find the path of a source that is a file of its own, whether it exists or not; None: it has to be fetched."""
    if is_pipe(name) or is_url(name):
        return None
    path = _resolve_path(name, folder)
    return path if _ARCHIVE_RECORD.fullmatch(name) is None or _path_exists(path) else None


@contextmanager
def open_source(name: str, folder: str, pipe_seconds: float | None, stopping: Callable[[], bool]) -> Iterator[str]:
    """Open a source until the block ends: the path of a file with its audio.

    Args:
        name: as the list has it.
        folder: the list's own, for relative paths that don't exist from the current one.
        pipe_seconds: the time limit of a command; None: commands are not allowed.
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
            if is_pipe(name):
                if pipe_seconds is None:
                    raise AudioError("not allowed", "commands are run only with --allow-pipes")
                run_pipe(name.rstrip(_BLANKS)[:-1], file, pipe_seconds, stopping)
            elif is_url(name):
                download(name, file, stopping)
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
