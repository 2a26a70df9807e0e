"""Commands in a list, ``command |``: run by a shell as Kaldi runs them, with limits of time and of what they write.

All processes of a command end with it, and with e2v. Its exit code counts, even if it wrote audio.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import BinaryIO

from e2v_cli.audio.errors import AudioError, one_line, too_large

_PAUSE = 0.2
"""Seconds between two looks at a command."""

_MIN_FREE = 1 << 16
"""Bytes: a disk with less is full."""

_GUARD = (
    'ulimit -f "$2" 2>/dev/null; '
    'exec 3<&0; (read -r _ <&3; kill -9 0) >/dev/null 2>&1 & exec /bin/sh -c "$1" </dev/null 3<&-'
)
"""Shell code: a command whose files are limited to some blocks, and beside it a reader of standard input that kills the
whole group once e2v is gone."""

_BLOCK = 512
"""Bytes in ``ulimit -f``, by POSIX; some shells count 1024."""

_TAIL = 500
"""The most characters of a command's standard error in a message."""


def run_pipe(command: str, output: BinaryIO, seconds: float, max_bytes: int, stopping: Callable[[], bool]) -> None:
    """Run a command, and write its standard output to a file.

    Args:
        command: run by ``/bin/sh``.
        output: a file on a disk.
        seconds: the time limit.
        max_bytes: most bytes that the command may write to a file.
        stopping: asked now and then: whether to give up.

    Raises:
        AudioError: the command failed, took too long, or wrote nothing or too much.
        OSError: the disk is full, or no process can be started.
    """
    with tempfile.TemporaryFile() as errors:
        process, held = _start_command(command, output, errors, max_bytes)

        def watch() -> None:
            if stopping():
                raise AudioError("stopped", "the run was stopped")
            _check_sizes((output, errors), max_bytes)

        try:
            code = _wait_for_command(process, seconds, watch)
        finally:  # its background processes end too, and write no more
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(held)
        _check_sizes((output, errors), max_bytes)
        _check_output_disk(output)
        if code is None:
            raise AudioError("pipe timed out", _describe_end(f"no end after {seconds:g} s", errors))
        if signal.SIGXFSZ in (-code, code - 128):  # over another file than these
            raise too_large(max_bytes)
        if code < 0:
            names = {signum.value: signum.name for signum in signal.Signals}
            outcome = f"killed by {names.get(-code, f'signal {-code}')}"
            raise AudioError("pipe failed", _describe_end(outcome, errors))
        if code > 0:
            raise AudioError("pipe failed", _describe_end(f"exit code {code}", errors))
        if os.fstat(output.fileno()).st_size == 0:
            raise AudioError("empty", _describe_end("0 bytes of output", errors))


def _start_command(
    command: str, output: BinaryIO, errors: BinaryIO, max_bytes: int
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command: its process, and a file descriptor that it doesn't survive.

    The shell limits its files to whole blocks, more than ``max_bytes``: a file of ``max_bytes`` was not cut.
    """
    watched, held = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 (the user allowed it)
            ["/bin/sh", "-c", _GUARD, "sh", command, str(max_bytes // _BLOCK + 1)],
            stdin=watched,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # a group to kill, which Ctrl-C does not reach
        )
    except ValueError:
        os.close(held)
        raise AudioError("pipe failed", "a NUL character in the command") from None
    except OSError as error:
        os.close(held)
        if error.errno != errno.E2BIG:
            raise
        raise AudioError("pipe failed", os.strerror(error.errno)) from None
    finally:
        os.close(watched)
    return process, held


def _check_sizes(files: Iterable[BinaryIO], max_bytes: int) -> None:
    """Check that no file is larger than it may be.

    Raises:
        AudioError: a file is larger.
    """
    if any(os.fstat(file.fileno()).st_size > max_bytes for file in files):
        raise too_large(max_bytes)


def _check_output_disk(file: BinaryIO) -> None:
    """Check that a command did not fail, or stop early, because the disk of its output is full.

    Raises:
        OSError: the disk is full.
    """
    if shutil.disk_usage(file.fileno()).free < _MIN_FREE and os.fstat(file.fileno()).st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _wait_for_command(process: subprocess.Popen[bytes], seconds: float, watch: Callable[[], None]) -> int | None:
    """Wait for a command itself, not for its background processes: its exit code, or None if the time is over.

    ``watch`` is called now and then, and may raise an error.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(_PAUSE, seconds))
        watch()
        if time.monotonic() >= deadline:
            return None


def _describe_end(outcome: str, errors: BinaryIO) -> str:
    """Describe on one line how a command ended, with the last characters of its standard error."""
    size = os.fstat(errors.fileno()).st_size
    text = os.pread(errors.fileno(), 4 * _TAIL, max(0, size - 4 * _TAIL)).decode(errors="replace")
    words = one_line(text)[-_TAIL:]
    return f"{outcome}: {words}" if words else outcome
