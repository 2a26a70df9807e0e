"""Lists of lines that begin with an id, read in one pass; two numbers a line are kept in memory.

They are the line's offset in the file and the hash of its id. Lines are read again when they are needed, so that ten
million of them take some hundred megabytes.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

from e2v_cli.errors import CorpusError

BLANKS = b" \t\r\n\v\f"

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

CHUNK_LINES = 4096
"""Lines that are read again at a time."""


class LineList:
    """Lines of a file, kept as their offsets and the hashes of their ids."""

    def __init__(
        self, file: BinaryIO, name: str, offsets: array[int], hashes: array[int], blanks: Sequence[int] = ()
    ) -> None:
        """Keep a file open for as long as this object lives.

        Args:
            file: the file.
            name: its name in messages; empty where the lines were made by e2v.
            offsets: (lines + 1,) where each line begins, and where the last one ends.
            hashes: (lines,) of the ids.
            blanks: (blank lines,) the number of other lines before each.
        """
        self.name = name
        self.hashes = hashes
        self._offsets = offsets
        self._blanks = blanks
        self._descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self.hashes)

    def read(self, index: int) -> tuple[bytes, bytes]:
        """Read a line: its id, and the rest."""
        ((key, rest),) = self._read_lines(index, index + 1)
        return key, rest.strip(BLANKS) if self.name else rest

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
        return f"{self.name}:{index + bisect_right(self._blanks, index) + 1}"

    def _read_all(self) -> Iterator[list[list[bytes]]]:
        for first in range(0, len(self), CHUNK_LINES):
            yield self._read_lines(first, min(first + CHUNK_LINES, len(self)))

    def _read_lines(self, first: int, end: int) -> list[list[bytes]]:
        """Read some lines, each split into its id and the rest.

        Raises:
            CorpusError: the file has changed.
        """
        separator = None if self.name else b"\t"
        offsets = self._offsets[first : end + 1]
        begin = offsets[0]
        text = os.pread(self._descriptor, offsets[-1] - begin, begin)
        lines = [text[offset - begin : next_one - begin].split(separator, 1) for offset, next_one in pairwise(offsets)]
        if array("q", [hash(line[0]) for line in lines if len(line) == 2]) != self.hashes[first:end]:
            raise CorpusError(f"{self.name}: it changed while it was read; run the same command again")
        return lines


def open_list(path: str) -> BinaryIO:
    """Open a list; a pipe, or another file that can be read only once, is copied to disk.

    Raises:
        OSError: it can't be opened.
    """
    file = Path(path).open("rb")  # noqa: SIM115 — the caller's
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    with file:
        return copy_to_disk(file)


def copy_to_disk(stream: BinaryIO) -> BinaryIO:
    """Copy a file that can be read only once to a temporary file."""
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 — the caller's
    shutil.copyfileobj(stream, file)
    file.seek(0)
    return file


def index_lines(
    file: BinaryIO, name: str, plain: re.Pattern[bytes], check_line: Callable[[bytes, str], bytes]
) -> LineList:
    """Check all lines of a list, and keep their offsets; blank ones and a byte order mark are skipped.

    Args:
        file: the list.
        name: its name in messages.
        plain: matches lines that need no other check; its first group is the id.
        check_line: returns the id of any other line, whose origin is like ``wav.scp:17``, or raises CorpusError.
    """
    begin = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
    file.seek(begin)
    offsets, hashes, blanks = array("q"), array("q"), array("q")
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
        begin += len(line)
    offsets.append(begin)
    return LineList(file, name, offsets, hashes, blanks)


def make_list(entries: Iterable[tuple[bytes, bytes]]) -> LineList:
    """Make a list of ids, each with the rest of its line."""
    offsets, hashes = array("q", [0]), array("q")
    with tempfile.TemporaryFile() as file:
        for key, rest in entries:
            hashes.append(hash(key))
            offsets.append(offsets[-1] + file.write(key + b"\t" + rest))
        file.flush()
        return LineList(cast(BinaryIO, file), "", offsets, hashes)


def split_line(line: bytes) -> list[bytes]:
    """Split a line at its first white space, into an id and the rest, if there is one."""
    return re.split(rb"[ \t\v\f]+", line.strip(BLANKS), maxsplit=1)


def check_id(key: bytes, origin: str) -> bytes:
    """Check that an id can be one.

    Raises:
        CorpusError: it is not UTF-8, begins a comment, or has control characters.
    """
    try:
        utt_id = key.decode()
    except UnicodeDecodeError:
        raise CorpusError(f"{origin}: utt-id {key!r} is not UTF-8") from None
    check_entry(key, origin)
    if any(ord(character) < 32 for character in utt_id):
        raise CorpusError(f"{origin}: control characters in utt-id {utt_id!r}")
    return key


def check_entry(first: bytes, origin: str) -> bytes:
    """Check that the first column of a line begins no comment.

    Raises:
        CorpusError: it does.
    """
    if first.startswith(b"#"):
        raise CorpusError(f"{origin}: begins with #, but Kaldi's lists have no comments")
    return first
