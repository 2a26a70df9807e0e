"""What is done, durably: an append-only file of checksummed lines, each on the disk behind the embedding it speaks of.

A line is ``crc32 json``. The first holds the fingerprint of the run. Each other one is an utterance that is done or has
failed, or the time that an attempt has taken so far. A line that was torn by a crash stands last and is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from e2v_cli.durable import sync_folder
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.records import Entry, FailureEntry
from e2v_cli.settings import Fingerprint


@dataclass(frozen=True)
class Elapsed:
    """Time that one attempt at a run has taken so far; the last line of an attempt counts."""

    attempt: int
    wall_seconds: float
    encode_seconds: float


@dataclass
class Record:
    """All that a journal says."""

    entries: dict[str, Entry] = field(default_factory=dict)
    failures: dict[str, FailureEntry] = field(default_factory=dict)
    attempts: dict[int, Elapsed] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Take in a line: a later one of the same utterance replaces an earlier one."""
        match line:
            case Entry():
                self.entries[line.utt_id] = line
                self.failures.pop(line.utt_id, None)
            case FailureEntry():
                self.failures[line.utt_id] = line
                self.entries.pop(line.utt_id, None)
            case Elapsed():
                self.attempts[line.attempt] = line


Line = Entry | FailureEntry | Elapsed


class Journal:
    """The journal of one OUT, open for appending. Only one process has it open at a time."""

    def __init__(self, path: Path, fingerprint: Fingerprint, anew: bool = False) -> None:
        """Open a journal, or begin one; ``anew`` throws away what it says, once nobody else has it open.

        Raises:
            OutputConflictError: another run has it open, or it is of a run with another fingerprint.
            OutputError: it can't be read or written, or is damaged elsewhere than at its end.
        """
        self.path = path
        self.record = Record()
        try:
            self._file = path.open("a+b")
            try:
                _lock(self._file, path)
                if anew:
                    self._file.truncate(0)
                self._read(fingerprint)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}") from error

    def append(self, lines: Iterable[Line]) -> None:
        """Write lines to the disk itself: what they speak of is done from then on."""
        lines = list(lines)
        self._write([{type(line).__name__: asdict(line)} for line in lines])
        for line in lines:
            self.record.add(line)

    def close(self) -> None:
        """Let the next run have it."""
        self._file.close()

    def _read(self, fingerprint: Fingerprint) -> None:
        self._file.seek(0)
        first, whole = True, 0
        torn = b""
        for number, raw in enumerate(self._file, 1):
            if torn:
                raise OutputError(
                    f"{self.path}:{number - 1}: damaged, and lines follow it; restore it, or use --overwrite"
                )
            content = _decode(raw)
            if content is None:
                torn = raw
                continue
            try:
                if first:
                    _compare(content["Fingerprint"], fingerprint, self.path)
                else:
                    self.record.add(_parse(content))
            except (KeyError, TypeError, ValueError):
                raise OutputError(
                    f"{self.path}:{number}: not written by this version of e2v; use that version, or --overwrite"
                ) from None
            first, whole = False, whole + len(raw)
        if torn:
            self._file.truncate(whole)
        if first:
            self._write([{"Fingerprint": dict(fingerprint)}])
            sync_folder(self.path.parent)

    def _write(self, contents: list[dict[str, Any]]) -> None:
        self._file.write(b"".join(_encode(content) for content in contents))
        self._file.flush()
        os.fsync(self._file.fileno())


_LINES: Mapping[str, Callable[..., Line]] = {line.__name__: line for line in (Entry, FailureEntry, Elapsed)}


def _parse(content: dict[str, Any]) -> Line:
    ((kind, fields),) = content.items()
    return _LINES[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputConflictError(
            f"{path.parent}: another e2v is running there; wait for it, or choose another -o"
        ) from None


def _encode(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")
    return f"{zlib.crc32(text):08x} ".encode() + text + b"\n"


def _decode(raw: bytes) -> dict[str, Any] | None:
    """Read a line; None where it is not whole."""
    checksum, _, text = raw.partition(b" ")
    if not raw.endswith(b"\n") or f"{zlib.crc32(text[:-1]):08x}".encode() != checksum:
        return None
    content: dict[str, Any] = json.loads(text.decode(errors="surrogateescape"))
    return content


def _compare(found: Fingerprint, wanted: Fingerprint, path: Path) -> None:
    """Raise OutputConflictError unless a journal is of the same run."""
    differences = [
        f"{key} was {found.get(key)}, is {wanted.get(key)}"
        for key in dict.fromkeys([*found, *wanted])
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise OutputConflictError(
            f"{path.parent} holds a different run: {'; '.join(differences)}. "
            "Choose another -o, or throw away what is there with --overwrite"
        )
