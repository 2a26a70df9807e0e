"""Texts whose lines have an id and other columns: Kaldi's maps, tables with a header, JSON lines; a chunk at a time."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from e2v_cli.corpus.inputs import standard_input
from e2v_cli.corpus.kinds import unzipped
from e2v_cli.corpus.lists import copy_to_disk, open_list
from e2v_cli.errors import CorpusError
from e2v_cli.models.cache import hash_file
from e2v_cli.system.files import is_regular_file

CHUNK_BYTES = 1 << 22
"""Bytes of lines that are read at a time."""


class KeyedLines(NamedTuple):
    """Some lines: their numbers, counted from 1, their ids, and their other columns."""

    numbers: Sequence[int]
    keys: list[bytes]
    columns: tuple[list[bytes], ...]


class Text(Protocol):
    """Lines that can be read several times."""

    name: str

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Read all lines, some at a time, each with a line break: the number of the first one, counted from 1."""

    def sha256(self) -> str:
        """Return the digest of the whole text."""


class TextFile:
    """A file, or a copy of one that can be read only once."""

    def __init__(self, file: BinaryIO, name: str, path: Path | None) -> None:
        """Keep a file, which is open at its first line; ``path`` None: it is a copy."""
        self.name = name
        self._file, self._path, self._begin = file, path, file.tell()

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Read all lines, some at a time, each with a line break: the number of the first one, counted from 1."""
        self._file.seek(self._begin)
        number = 1
        while block := self._file.read(CHUNK_BYTES):
            block += self._file.readline()
            if b"\r" in block:
                block = block.replace(b"\r\n", b"\n")
            yield number, block if block.endswith(b"\n") else block + b"\n"
            number += block.count(b"\n")

    def sha256(self) -> str:
        """Return the digest of the file as it is on disk, or of the lines of a copy."""
        return hash_blocks(self) if self._path is None else hash_file(self._path)


def hash_blocks(text: Text) -> str:
    """Return the digest of all lines of a text."""
    digest = hashlib.sha256()
    for _, block in text.blocks():
        digest.update(block)
    return digest.hexdigest()


def filled_lines(first: int, block: bytes) -> list[tuple[int, bytes]]:
    """Split a block into its lines that are not blank, and their numbers."""
    return [(number, line) for number, line in enumerate(block[:-1].split(b"\n"), first) if line.strip()]


def first_line(text: Text) -> bytes:
    """Read the first line of a text."""
    _, block = next(text.blocks(), (1, b""))
    return block.partition(b"\n")[0]


def open_text(source: str, stack: ExitStack) -> TextFile:
    """Open a file or standard input (``-``), also of gzip, until a stack closes.

    Raises:
        CorpusError: it can't be read.
    """
    if source == "-":
        copy = stack.enter_context(copy_to_disk(standard_input()))
        return TextFile(stack.enter_context(unzipped(copy, "standard input")), "standard input", None)
    path = Path(source)
    file = stack.enter_context(unzipped(stack.enter_context(open_list(path)), source))
    return TextFile(file, source, path if is_regular_file(path) else None)


def read_pairs(text: Text, form: str) -> Iterator[KeyedLines]:
    """Read a map: lines of an id and a word, which are separated by white space, or a tab if the word has blanks.

    Args:
        text: the map.
        form: of a line, for messages, as in ``utt-id label``.

    Raises:
        CorpusError: a line has another form.
    """
    for first, block in text.blocks():
        cells = split_plain(block)
        if cells is not None:
            yield KeyedLines(range(first, first + len(cells) // 2), cells[::2], (cells[1::2],))
            continue
        lines = filled_lines(first, block)
        pairs = [_split_pair(line, f"{text.name}:{number}", form) for number, line in lines]
        if pairs:
            keys, words = zip(*pairs, strict=True)
            yield KeyedLines([number for number, _ in lines], list(keys), (list(words),))


def split_plain(block: bytes) -> list[bytes] | None:
    """Split a block whose lines are all two words with one blank between them; None: some are not."""
    array = np.frombuffer(block, dtype=np.uint8)
    breaks = np.flatnonzero(array == ord("\n"))
    blanks = np.flatnonzero((array == ord(" ")) | (array == ord("\t")))
    if len(blanks) != len(breaks) or blanks[0] == 0:
        return None
    if not ((blanks[1:] > breaks[:-1] + 1).all() and (blanks + 1 < breaks).all()):
        return None
    cells = block.split()
    return cells if len(cells) == 2 * len(breaks) else None


def _split_pair(line: bytes, origin: str, form: str) -> list[bytes]:
    cells = [cell.strip() for cell in line.strip().split(b"\t" if b"\t" in line.strip() else None)]
    if len(cells) != 2:
        raise CorpusError(f"{origin}: {line.strip().decode(errors='backslashreplace')!r}; a line is: {form}")
    return cells


def read_json(text: Text, names: Sequence[Sequence[str]]) -> Iterator[KeyedLines]:
    """Read objects, one a line: EmoBox's, for example.

    Args:
        text: the lines.
        names: names of the id, and names of the label; of several in a line, the first here counts.

    Raises:
        CorpusError: a line has another form.
    """
    for first, block in text.blocks():
        lines = filled_lines(first, block)
        cells = [_take_values(line, names, f"{text.name}:{number}") for number, line in lines]
        if cells:
            keys, *columns = zip(*cells, strict=True)
            yield KeyedLines([number for number, _ in lines], list(keys), tuple(map(list, columns)))


def _take_values(line: bytes, names: Sequence[Sequence[str]], origin: str) -> list[bytes]:
    """Return the values of some names of an object, which are texts or whole numbers."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{origin}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{origin}: not an object, as {{...}}")
    values = []
    for choices, option in zip(names, ("--id-column", "--label-column"), strict=True):
        value = next((record[name] for name in choices if name in record), None)
        if not isinstance(value, str | int) or value == "":
            listed = " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
            raise CorpusError(f"{origin}: no text under {listed}; name it with {option}")
        values.append(str(value).strip().encode(errors="surrogateescape"))
    return values


def read_cells(text: Text, choose: Callable[[Sequence[str], str], Sequence[int]]) -> Iterator[KeyedLines]:
    """Read a table with a header, whose cells may be quoted.

    Args:
        text: the table.
        choose: the names in the header, and its origin → the indices of the columns, the id's first.

    Raises:
        CorpusError: a row has another form.
    """
    lines = (line.decode(errors="surrogateescape") for _, block in text.blocks() for line in block.splitlines(True))
    header = next(lines, "")
    delimiter = max("\t,;", key=header.count)
    rows = csv.reader(chain([header], lines), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(rows, [])]
        columns = choose(names, f"{text.name}:1")
        numbers: list[int] = []
        kept: list[list[str]] = []
        for row in rows:
            if not any(row):
                continue
            if len(row) != len(names):
                raise CorpusError(f"{text.name}:{rows.line_num}: {len(row)} cells, but the header has {len(names)}")
            numbers.append(rows.line_num)
            kept.append([row[column].strip() for column in columns])
            if len(kept) == 1 << 14:
                yield _encode_rows(numbers, kept)
                numbers, kept = [], []
    except csv.Error as error:
        raise CorpusError(f"{text.name}:{rows.line_num}: {error}") from None
    if kept:
        yield _encode_rows(numbers, kept)


def _encode_rows(numbers: Sequence[int], rows: Sequence[Sequence[str]]) -> KeyedLines:
    keys, *columns = ([cell.encode(errors="surrogateescape") for cell in column] for column in zip(*rows, strict=True))
    return KeyedLines(numbers, keys, tuple(columns))
