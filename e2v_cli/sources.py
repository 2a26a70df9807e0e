"""What a ``wav.scp`` may name → a file that libsndfile can read: a path, ``a.ark:17``, a URL, ``command |``.

What is fetched lies in a temporary file without a name, so nothing is left of it, however a process ends.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from kaldiio.matio import read_kaldi

from e2v_cli.containers import AudioError
from e2v_cli.durable import naming
from e2v_cli.records import SAMPLE_RATE

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""The longest silence of a server."""

DOWNLOAD_SECONDS = 3600.0
"""The longest download: a server may send a byte now and then for ever."""

MAX_FLAC_BLOCKS = 256
"""The most blocks of metadata before the audio: beyond, it is no FLAC file."""

MAX_CHANNELS = 8
"""A matrix with more rows and columns than this holds features."""

MACHINE_ERRORS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
)
"""What no file is to blame for: too many of them are open, or the file system is gone."""

UNKNOWN_SIZE = 0x7FFF_F000
"""A RIFF chunk of this size or a greater one, or of 0, was written to a pipe, by a program that could not know."""

_BLANKS = " \t\r\n\v\f"
_CHUNK = 1 << 18
"""Bytes that are copied at a time."""
_PAUSE = 0.2
"""Seconds after which a command is looked after."""
_ROOM = 1 << 16
"""Bytes: a disk with less is full."""
_GUARD = 'exec 3<&0; (read -r _ <&3; kill -9 0) >/dev/null 2>&1 & exec /bin/sh -c "$1" </dev/null 3<&-'
"""Runs a command beside a reader of standard input, which kills the whole group once e2v is gone, however it ended."""
_TAIL = 500
"""The most characters of a command's standard error in a message."""

_RECORD = re.compile(r"(?P<archive>.+):(?P<offset>[0-9]{1,18})(?P<range>\[.*\])?", re.DOTALL)
_MATRIX = re.compile(rb"\0B(?:[FD]V \x04(....)|[FD]M \x04(....)\x04(....)|CM[23]? .{8}(....)(....))", re.DOTALL)
"""Headers of Kaldi's vectors and matrices, of floats, doubles, or compressed: rows and columns."""


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
                for chunk in _read_record(_locate(record["archive"], folder), int(record["offset"])):
                    file.write(chunk)
            elif not is_pipe(name):
                _download(name, file, stopping)
            elif pipe_seconds is None:
                raise AudioError("not allowed", "commands are run only with --allow-pipes")
            else:
                _run_pipe(name.rstrip(_BLANKS)[:-1], file, pipe_seconds, stopping)
            file.flush()
        yield f"/dev/fd/{file.fileno()}"


def blame(error: OSError) -> AudioError:
    """Blame the file for an error, unless it is the machine's: then it is raised again, and the run stops."""
    if error.errno in MACHINE_ERRORS:
        raise error
    return AudioError("unreadable", error.strerror or str(error))


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


def _read_record(path: str, offset: int) -> Iterator[bytes]:
    """Read the audio that begins at a byte of an archive."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError("unreadable", "not a regular file")
        with open(path, "rb") as archive:
            size = os.fstat(archive.fileno()).st_size
            if offset >= size:
                raise AudioError("truncated", f"the archive has {size} bytes")
            archive.seek(offset)
            head = archive.read(6 + 255)
            archive.seek(offset)
            if head.startswith(b"\0B"):
                yield _read_matrix(archive, head, size - offset)
                return
            begin, length = _find_audio(archive, head, size - offset)
            archive.seek(offset + begin)
            while length > 0 and (chunk := archive.read(min(_CHUNK, length))):
                length -= len(chunk)
                yield chunk
            if length > 0:
                raise AudioError("truncated", f"the archive ends {length} bytes early")
    except FileNotFoundError:
        raise AudioError("missing", "no such file") from None
    except OSError as error:
        raise blame(error) from None
    except MemoryError:
        raise AudioError("unreadable", "too long for the memory of this machine") from None
    except ValueError as error:  # a NUL in the path
        raise AudioError("unreadable", str(error)) from None


def _find_audio(archive: BinaryIO, head: bytes, left: int) -> tuple[int, int]:
    """Say where in a record, of which ``left`` bytes may be there, the audio begins, and how many bytes it has."""
    begin = 0
    if head.startswith(b"AUDIO"):  # by kaldiio: how many bytes the size has, the size, and a file of any format
        begin = 6 + int.from_bytes(head[5:6], "little")
        size = int.from_bytes(head[6:begin], "little")
    elif head.startswith(b"RIFF"):
        size = 8 + int.from_bytes(head[4:8], "little")
        if size == 8 or size >= UNKNOWN_SIZE:
            size = min(left, 1 << 32)  # RIFF has no more
    elif head.startswith(b"fLaC"):
        size = min(left, _bound_flac(archive, head))
    else:
        raise AudioError("not audio", "no WAV or FLAC file, and no vector or matrix of floats, begins at this byte")
    if begin + size > left:
        raise AudioError("truncated", f"its header says {size} bytes, {max(0, left - begin)} are there")
    return begin, size


def _bound_flac(archive: BinaryIO, head: bytes) -> int:
    """Say how many bytes a FLAC file can have at most, which has no size: not all of a large archive is its own."""
    start = archive.tell()
    field = int.from_bytes(head[18:26], "big")  # 20 bits of rate, 3 of channels, 5 of bits, 36 of samples
    bits = (field & (1 << 36) - 1) * ((field >> 41 & 7) + 1) * ((field >> 36 & 31) + 1)
    size = 4
    for _ in range(MAX_FLAC_BLOCKS):
        block = os.pread(archive.fileno(), 4, start + size)
        size += 4 + int.from_bytes(block[1:], "big")
        if block[:1] >= b"\x80":  # the last one
            break
    return size + bits // 4 + (1 << 16)  # twice the samples: no frame is longer, but for its header


def _read_matrix(archive: BinaryIO, head: bytes, left: int) -> bytes:
    """Read Kaldi's vector of samples, or matrix of samples in channels, as a WAV file at 16 kHz."""
    found = _MATRIX.match(head)
    if not found:
        raise AudioError("not audio", "neither a vector nor a matrix of floats")
    shape = [int.from_bytes(field, "little", signed=True) for field in found.groups() if field is not None]
    if min(shape) < 0 or (len(shape) == 2 and min(shape) > MAX_CHANNELS):
        raise AudioError("not audio", f"a matrix of {' x '.join(map(str, shape))} is no audio")
    if 0 in shape:
        raise AudioError("zero length", "holds no samples")
    width = {b"F": 4, b"D": 8}.get(head[2:3], 2 if head[2:5] == b"CM2" else 1)
    size = found.end() + math.prod(shape) * width + (8 * shape[1] if head[2:5] == b"CM " else 0)
    if size > left:  # kaldiio takes what is there of a vector
        raise AudioError("truncated", f"its header says {size} bytes, {left} are there")
    samples = read_kaldi(archive)
    if len(shape) == 2 and shape[0] <= shape[1]:
        samples = samples.T
    with np.errstate(all="ignore"):  # what is not finite is found later
        if np.abs(samples).max() > 1:  # Kaldi's own scale, of 16 bits
            samples = samples / 2**15
        samples = samples.astype(np.float32)
    wav = io.BytesIO()  # libsndfile would say nothing of a full disk
    soundfile.write(wav, samples, SAMPLE_RATE, "FLOAT", format="WAV")
    return wav.getvalue()


def _run_pipe(command: str, output: BinaryIO, seconds: float, stopping: Callable[[], bool]) -> None:
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
    words = _one_line(text)[-_TAIL:]
    return f"{outcome}: {words}" if words else outcome


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _download(url: str, file: BinaryIO, stopping: Callable[[], bool]) -> None:
    """Download a URL; a body that ends before its header says so is a failure."""
    import requests  # takes long, and few need it
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import HTTPError
    from urllib3.util import Retry

    retry = Retry(
        total=3,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
        respect_retry_after_header=False,  # it may say hours, in which nothing could be stopped
    )
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    # bytes that are not UTF-8
    address = re.sub(r"[\udc80-\udcff]", lambda match: f"%{os.fsencode(match.group())[0]:02X}", url)
    chunk: bytes | None
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            session.headers["Accept-Encoding"] = "identity"  # audio does not get smaller
            with session.get(address, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
                if response.status_code != requests.codes.ok:
                    reason = "missing" if response.status_code in (404, 410) else "download failed"
                    raise AudioError(reason, f"HTTP {response.status_code} {response.reason}".rstrip())
                while chunk := response.raw.read1(_CHUNK, decode_content=True):  # what has come, however little
                    file.write(chunk)
                    if stopping():
                        raise AudioError("stopped", "the run was stopped")
                    if time.monotonic() > deadline:
                        raise AudioError("download failed", f"no end after {DOWNLOAD_SECONDS:g} s")
    except (requests.RequestException, HTTPError, ValueError) as error:
        raise AudioError("download failed", _explain(error)) from None


def _explain(error: BaseException) -> str:
    """Say what an error began with: what libraries wrap around it is of no use."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _one_line(text) or type(error).__name__
