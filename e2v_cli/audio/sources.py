"""What a ``wav.scp`` may name → a file that libsndfile can read: a path, ``a.ark:17``, a URL, ``command |``.

What is fetched lies in a temporary file without a name, so nothing is left of it, however a process ends.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from e2v_cli.audio.archives import read_record
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.pipes import run_pipe
from e2v_cli.audio.urls import download
from e2v_cli.system.files import naming

_BLANKS = " \t\r\n\v\f"

_RECORD = re.compile(r"(?P<archive>.+):(?P<offset>[0-9]{1,18})(?P<range>\[.*\])?", re.DOTALL)


def is_pipe(name: str) -> bool:
    """Say whether it is a command, whose standard output is the audio."""
    return name.rstrip(_BLANKS).endswith("|")


def is_url(name: str) -> bool:
    """Say whether it is to be downloaded."""
    return name[:8].lower().startswith(("http://", "https://"))


@contextmanager
def open_source(name: str, folder: str, pipe_seconds: float | None, stopping: Callable[[], bool]) -> Iterator[str]:
    """Give the path of a file with the audio; what is temporary is gone afterwards.

    Args:
        name: What the list says.
        folder: The list's own, where relative paths are looked for that don't exist from the current one.
        pipe_seconds: The time that a command may take; None where commands are not allowed.
        stopping: Asked now and then while something is fetched: whether to give up.

    Raises:
        AudioError: it can't be fetched. Whether there is a file, where the name is a path, is not looked at.
        OSError: this machine fails, not the source.
    """
    record = None
    if not is_pipe(name) and not is_url(name):
        path = _locate(name, folder)
        record = _RECORD.fullmatch(name)
        if record is None or _exists(path):
            yield path
            return
    with tempfile.TemporaryFile() as file:
        with naming(Path(tempfile.gettempdir())):
            if record is not None:
                if record["range"]:
                    raise AudioError("unreadable", f"{record['range']}: a part of an archive's record can't be read")
                for chunk in read_record(_locate(record["archive"], folder), int(record["offset"])):
                    file.write(chunk)
            elif not is_pipe(name):
                download(name, file, stopping)
            elif pipe_seconds is None:
                raise AudioError("not allowed", "commands are run only with --allow-pipes")
            else:
                run_pipe(name.rstrip(_BLANKS)[:-1], file, pipe_seconds, stopping)
            file.flush()
        yield f"/dev/fd/{file.fileno()}"


def _locate(path: str, folder: str) -> str:
    """Find a relative path in the list's folder, where it is there and not here."""
    if folder and not path.startswith("/") and not _exists(path):
        beside = os.path.join(folder, path)
        if _exists(beside):
            return beside
    return path


def _exists(path: str) -> bool:
    """Say whether something is there; what is wrong with it is seen when it is opened."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    except ValueError:  # a NUL in the path
        return False
    return True
