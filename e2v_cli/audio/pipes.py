"""TODO."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from e2v_cli.audio.errors import AudioError, one_line

_PAUSE = 0.2
"""Seconds after which a command is looked after."""

_ROOM = 1 << 16
"""Bytes: a disk with less is full."""

_GUARD = 'exec 3<&0; (read -r _ <&3; kill -9 0) >/dev/null 2>&1 & exec /bin/sh -c "$1" </dev/null 3<&-'
"""Runs a command beside a reader of standard input, which kills the whole group once e2v is gone, however it ended."""

_TAIL = 500
"""The most characters of a command's standard error in a message."""


def run_pipe(command: str, output: BinaryIO, seconds: float, stopping: Callable[[], bool]) -> None:
    """Run a command as Kaldi does, and keep what it writes to standard output."""
    with tempfile.TemporaryFile() as errors:
        watched, held = os.pipe()  # the command ends when nobody holds the other end any more
        try:
            process = subprocess.Popen(  # noqa: S603 (the user allowed it)
                ["/bin/sh", "-c", _GUARD, "sh", command],
                stdin=watched,
                stdout=output,
                stderr=errors,
                start_new_session=True,  # a group to kill, which Ctrl-C does not reach
            )
        except ValueError as error:  # a NUL in the command
            os.close(held)
            raise AudioError("pipe failed", str(error)) from None
        except OSError as error:
            os.close(held)
            if error.errno != errno.E2BIG:
                raise
            raise AudioError("pipe failed", os.strerror(error.errno)) from None
        finally:
            os.close(watched)
        try:
            code = _wait(process, seconds, stopping)
        finally:  # what it left behind ends too, and writes no more
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(held)
        _check_room(output)
        if code is None:
            raise AudioError("pipe timed out", _quote(f"no end after {seconds:g} s", errors))
        if code < 0:
            names = {signum.value: signum.name for signum in signal.Signals}
            outcome = f"killed by {names.get(-code, f'signal {-code}')}"
            raise AudioError("pipe failed", _quote(outcome, errors))
        if code > 0:
            raise AudioError("pipe failed", _quote(f"exit code {code}", errors))
        if os.fstat(output.fileno()).st_size == 0:
            raise AudioError("empty", _quote("0 bytes of output", errors))


def _check_room(file: BinaryIO) -> None:
    """Check that a command did not fail, or stop early, because there was no room for its output.

    Raises:
        OSError: the disk is full.
    """
    disk = os.fstatvfs(file.fileno())
    if disk.f_bavail * disk.f_frsize < _ROOM and os.fstat(file.fileno()).st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _wait(process: subprocess.Popen[bytes], seconds: float, stopping: Callable[[], bool]) -> int | None:
    """Wait for a command itself, not for what it left behind: its exit code, or None if the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(_PAUSE, seconds))
        if stopping():
            raise AudioError("stopped", "the run was stopped")
        if time.monotonic() >= deadline:
            return None


def _quote(outcome: str, errors: BinaryIO) -> str:
    """Say how a command ended, with the end of its standard error, on one line."""
    size = os.fstat(errors.fileno()).st_size
    text = os.pread(errors.fileno(), 4 * _TAIL, max(0, size - 4 * _TAIL)).decode(errors="replace")
    words = one_line(text)[-_TAIL:]
    return f"{outcome}: {words}" if words else outcome
