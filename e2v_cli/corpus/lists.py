"""Lists of lines: all are opened here, after their byte order mark. Lists of utterances keep three numbers a line.

The numbers are the line's offset in the file, the hash of its id, and the CRC-32 of the rest of the line, its source.
Lines are read again when they are needed, so that ten million of them take some hundred megabytes. By the CRC-32, a
resume finds out that an id has other audio than before.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import stat
import tempfile
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from gzip import GzipFile
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment
from e2v_cli.system.text import is_word

BLANKS = b" \t\r\n\v\f"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_ODD = np.uint32(0x9E3779B1)
"""An odd factor, so that different numbers stay different."""

CHUNK_LINES = 4096
"""Lines that are read again at a time."""

GAP_LINES = 8
"""Up to as many lines between two that are wanted are read, not skipped."""


class LineList:
    """Lines of a file, kept as their offsets, the hashes of their ids and the checksums of their sources."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        offsets: array[int],
        hashes: array[int],
        checksums: array[int],
        blanks: Sequence[int] = (),
        separator: bytes | None = None,
    ) -> None:
        """Keep a file open for as long as this object lives.

        Args:
            file: the file.
            name: name of the list in messages; empty without a list.
            offsets: (lines + 1,) where each line begins, and where the last one ends.
            hashes: (lines,) hashes of the ids.
            checksums: (lines,) checksums of the sources.
            blanks: (blank lines,) the number of other lines before each.
            separator: bytes between an id and the rest, which is kept to the byte; None: white space, which is also
                stripped from the rest.
        """
        self.name = name
        self.hashes = hashes
        self.checksums: NDArray[np.uint32] = np.frombuffer(checksums, dtype=np.uint32)
        self.blanks = blanks
        self._offsets = offsets
        self._separator = separator
        self._descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self.hashes)

    def read(self, index: int) -> tuple[bytes, bytes]:
        """Read a line: its id, and the rest."""
        ((key, rest),) = self._read_lines(index, index + 1)
        return key, rest if self._separator else rest.strip(BLANKS)

    def read_some(self, indices: NDArray[np.int64]) -> list[tuple[bytes, bytes]]:
        """Read some lines, in any order; neighbours are read together."""
        order = np.argsort(indices, kind="stable")
        lines: list[tuple[bytes, bytes]] = [(b"", b"")] * len(indices)
        for run in np.split(order, np.flatnonzero(np.diff(indices[order]) > GAP_LINES) + 1) if len(order) else ():
            first = int(indices[run[0]])
            read = self._read_lines(first, int(indices[run[-1]]) + 1)
            for position, index in zip(run.tolist(), indices[run].tolist(), strict=True):
                key, rest = read[index - first]
                lines[position] = key, rest if self._separator else rest.strip(BLANKS)
        return lines

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""
        for lines in self._read_all():
            yield [key for key, _ in lines]

    def entries(self) -> Iterator[list[bytes]]:
        """Read all lines, each split into its id and the rest."""
        for lines in self._read_all():
            yield from lines

    def origin(self, index: int) -> str:
        """Return where a line is written, as in ``wav.scp:17``."""
        return f"{self.name}:{index + bisect_right(self.blanks, index) + 1}"

    def _read_all(self) -> Iterator[list[list[bytes]]]:
        for first in range(0, len(self), CHUNK_LINES):
            yield self._read_lines(first, min(first + CHUNK_LINES, len(self)))

    def _read_lines(self, first: int, end: int) -> list[list[bytes]]:
        """Read some lines, each split into its id and the rest.

        Raises:
            CorpusError: the file has changed.
        """
        offsets = self._offsets[first : end + 1]
        begin = offsets[0]
        text = os.pread(self._descriptor, offsets[-1] - begin, begin)
        lines = [
            text[offset - begin : next_one - begin].split(self._separator, 1) for offset, next_one in pairwise(offsets)
        ]
        if array("q", [hash(line[0]) for line in lines if len(line) == 2]) != self.hashes[first:end]:
            raise CorpusError(f"{self.name}: it changed while it was read; run the same command again")
        return lines


def has_list(path: Path) -> bool:
    """Whether there is a list of that name, even one that can't be read.

    Raises:
        CorpusError: e2v can't find out.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise CorpusError(f"{path}: {error.strerror}; its folder must be readable") from None
    return True


@contextmanager
def open_list(path: Path) -> Iterator[BinaryIO]:
    """Open a list for the block, after its byte order mark; one that can be read only once is copied to disk.

    Raises:
        CorpusError: it can't be opened or read.
    """
    try:
        with path.open("rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                _skip_byte_order_mark(file)
                yield file
            else:
                with copy_to_disk(file) as copy:
                    yield copy
    except OSError as error:
        if error.filename not in (None, str(path)):
            raise  # of a file that the block writes, perhaps
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            cause = f"a link to {os.path.realpath(path)}, which does not exist; mend or remove the link"
        else:
            cause = f"{error.strerror}; a list must be a file that can be read"
        raise CorpusError(f"{path}: {cause}") from None


def copy_to_disk(stream: BinaryIO | GzipFile) -> BinaryIO:
    """Copy a list that can be read only once to a temporary file, which is open after its byte order mark.

    Raises:
        CorpusError: the disk is full.
        OSError: the list can't be read.
    """
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 — the caller's
    try:
        with stored_on_disk():
            shutil.copyfileobj(stream, file)
        _skip_byte_order_mark(file)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def stored_on_disk() -> Iterator[None]:
    """Name the folder of temporary files if the disk is full.

    Raises:
        CorpusError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        folder = tempfile.gettempdir()
        raise CorpusError(f"{folder}: {error.strerror}; lists are copied there to be read again: set TMPDIR") from None


def _skip_byte_order_mark(file: BinaryIO) -> None:
    file.seek(0)
    if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
        file.seek(0)


def read_table(path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Read a small list: the origin of each line that is not blank, as in ``utt2spk:17``, and its columns.

    Raises:
        CorpusError: it can't be read.
    """
    with open_list(path) as file:
        for number, line in enumerate(file, 1):
            if cells := line.split():
                yield f"{path}:{number}", cells


def index_lines(
    file: BinaryIO, name: str, plain: re.Pattern[bytes], check_line: Callable[[bytes, str], bytes]
) -> LineList:
    """Check all lines of a list, and keep their offsets; blank ones are skipped.

    Args:
        file: the list, open at its first line.
        name: name of the list in messages.
        plain: matches lines that need no other check; its first group is the id.
        check_line: returns the id of any other line, whose origin is like ``wav.scp:17``, or raises CorpusError.
    """
    begin = file.tell()
    offsets, hashes, checksums, blanks = array("q"), array("q"), array("I"), array("q")
    for number, line in enumerate(file, 1):
        if match := plain.match(line):
            key = match.group(1)
        elif line.strip(BLANKS):
            key = check_line(line, f"{name}:{number}")
        else:
            blanks.append(len(hashes))
            begin += len(line)
            continue
        offsets.append(begin)
        hashes.append(hash(key))
        checksums.append(zlib.crc32(line.split(None, 1)[1].rstrip()))
        begin += len(line)
    offsets.append(begin)
    return LineList(file, name, offsets, hashes, checksums, blanks)


class ListWriter:
    """A list that e2v makes, in a temporary file: lines of an id and a source, and perhaps the segment of each."""

    def __init__(self) -> None:
        self.hashes = array("q")
        """(lines,): hashes of the ids."""
        self.starts, self.ends = array("d"), array("d")
        """(lines,): seconds at which each segment begins and ends; NaN: the recording's end. Empty without segments."""
        self.blanks = array("q")
        """(blank lines,): the number of other lines of the user's list before each."""
        self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 — closed with this object
        self._offsets, self._checksums = array("q", [0]), array("I")

    def __del__(self) -> None:
        with suppress(OSError):
            self._file.close()

    def __len__(self) -> int:
        return len(self.hashes)

    def add(self, key: bytes, source: bytes, segment: Segment | None = None, number: int = 0) -> None:
        """Add a line.

        Args:
            key: the id.
            source: the audio.
            segment: the part of it; None: all.
            number: number of the line in the user's list, counted from 1; 0: not in a list.
        """
        checksum = zlib.crc32(source)
        if segment or self.starts:
            begin, end = (segment.start, segment.end) if segment else (0.0, None)
            before = len(self) - len(self.starts)
            self.starts.extend([*[0.0] * before, begin])
            self.ends.extend([*[math.nan] * before, math.nan if end is None else end])
            checksum = zlib.crc32(f"{begin!r} {end!r}".encode(), checksum) if segment else checksum
        self.blanks.extend([len(self)] * (number - 1 - len(self) - len(self.blanks)))
        self.hashes.append(hash(key))
        self._checksums.append(checksum)
        self._offsets.append(self._offsets[-1] + self._file.write(key + b"\t" + source))

    def finish(self, name: str) -> LineList:
        """Return the lines; ``name`` is that of the user's list, empty without a list."""
        self._file.flush()
        return LineList(self._file, name, self._offsets, self.hashes, self._checksums, self.blanks, b"\t")


def make_segment(start: float, end: float) -> Segment | None:
    """Make a segment of times as ``ListWriter`` keeps them; None: all of the recording."""
    if start == 0 and math.isnan(end):
        return None
    return Segment(start, None if math.isnan(end) else end)


def mix_checksums(checksums: NDArray[np.uint32], numbers: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Mix a number of each line into its checksum: (lines,); -1 changes nothing."""
    mixed: NDArray[np.uint32] = checksums ^ (numbers.astype(np.uint32) + np.uint32(1)) * _ODD
    return mixed


def split_line(line: bytes) -> list[bytes]:
    """Split a line at its first white space, into an id and the rest, if there is one."""
    return re.split(rb"[ \t\v\f]+", line.strip(BLANKS), maxsplit=1)


def check_id(key: bytes, origin: str) -> bytes:
    """Check that an id can be one.

    Raises:
        CorpusError: it is not UTF-8, begins a comment, or has white space or control characters.
    """
    try:
        utt_id = key.decode()
    except UnicodeDecodeError:
        raise CorpusError(f"{origin}: utt-id {key!r} is not UTF-8") from None
    check_entry(key, origin)
    if not is_word(utt_id):
        raise CorpusError(f"{origin}: white space or control characters in utt-id {utt_id!r}; rename it")
    return key


def check_entry(first: bytes, origin: str) -> bytes:
    """Check that the first column of a line begins no comment.

    Raises:
        CorpusError: the column begins a comment.
    """
    if first.startswith(b"#"):
        raise CorpusError(f"{origin}: begins with #, but Kaldi's lists have no comments")
    return first
