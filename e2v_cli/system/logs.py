"""Logging set-up: standard error, and a file for each process in OUT, also for the notes of C libraries."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

_PACKAGE = logging.getLogger("e2v_cli")


class _StandardErrorHandler(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 takes none
    """Messages on standard error, none of them on the line of a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        progress = sys.modules.get("e2v_cli.system.progress")  # until it is imported, there is no bar
        with progress.between_bars(self.stream) if progress else nullcontext():
            super().emit(record)


def log_to_stderr(level: int) -> None:
    """Log to standard error what is at least at this level."""
    handler = _StandardErrorHandler()
    handler.setFormatter(logging.Formatter("e2v: %(message)s"))
    _add(handler, level)


def log_to_file(path: Path) -> None:
    """Append the log, from level INFO, to a file."""
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _add(handler, logging.INFO)


def log_library_notes(path: str | Path) -> None:
    """Append what C libraries print on ``stderr``, such as libmpg123's notes, to a file; only with glibc.

    Its ``stderr`` is a variable that programs may set. The file descriptor is left alone, and with it the messages of
    e2v, of Python, and of the C library when it ends the process.
    """
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):
        libc.gnu_get_libc_version  # noqa: B018 — the C library of others may have a constant there
        libc.fopen.restype = ctypes.c_void_p
        stream = libc.fopen(os.fsencode(path), b"a")
        unbuffered = 2
        if stream:
            libc.setvbuf(ctypes.c_void_p(stream), None, unbuffered, ctypes.c_size_t(0))
            ctypes.c_void_p.in_dll(libc, "stderr").value = stream


def _add(handler: logging.Handler, level: int) -> None:
    handler.setLevel(level)
    _PACKAGE.setLevel(logging.INFO)
    _PACKAGE.addHandler(handler)
    _PACKAGE.propagate = False  # upstream gives the root logger a handler of its own
    logging.raiseExceptions = False  # a full disk is reported for results, not for every line of a log
