"""INPUT → Utterance: audio files, folders of them, ``.scp`` lists, Kaldi data directories, standard input.

Lists are read as Kaldi reads them: split at the first white space, relative paths against the current folder. A byte
order mark, CRLF, blank lines and a missing final newline do no harm. Ids are UTF-8; paths may be any bytes.

A list is checked in one pass, of which two numbers a line are kept: where it begins and the hash of its id. Lines are
read again when their turn comes, so that ten million of them need some hundred megabytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from e2v_cli.errors import CorpusError
from e2v_cli.keys import KeyIndex
from e2v_cli.records import Utterance

AUDIO_SUFFIXES = frozenset(
    (".aif", ".aifc", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav")
)
"""What is taken for audio in a folder; a file that is named itself may be called anything."""

STDIN = "-"

_CHUNK = 4096
"""Lines that are read again together."""

_BLANKS = b" \t\r\n\v\f"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PLAIN_LINE = re.compile(rb"[ \t\v\f]*([!\"$-~][!-~]*)[ \t\v\f]+[^\s|][^|]*$")
"""A line that needs no closer look: an id of plain letters that is no comment, and a path without a ``|``."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An audio file that was named or found in a folder; its id depends on what else there is."""

    path: str
    relative: str
    """The path as an id, where its stem alone is ambiguous: within the folder that was named, or from here."""


@dataclass(frozen=True)
class _List:
    """Lines of ``utt-id path``, of which the places and the ids' hashes are kept."""

    descriptor: int
    """Its file, which stays open for as long as this object lives."""
    name: str
    """For messages; empty where the lines were made of paths."""
    offsets: array[int]
    hashes: array[int]

    def __len__(self) -> int:
        return len(self.hashes)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def read(self, index: int) -> tuple[bytes, str]:
        """Read the id and the path of a line."""
        ((key, path),) = self._read_lines(index, index + 1)
        return key, os.fsdecode(path.strip(_BLANKS) if self.name else path)

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""
        for first in range(0, len(self), _CHUNK):
            yield [key for key, _ in self._read_lines(first, min(first + _CHUNK, len(self)))]

    def _read_lines(self, first: int, end: int) -> list[list[bytes]]:
        """Read some lines, split into their id and the rest."""
        separator = None if self.name else b"\t"
        offsets = self.offsets[first : end + 1]
        begin = offsets[0]
        text = os.pread(self.descriptor, offsets[-1] - begin, begin)
        lines = [text[offset - begin : next_one - begin].split(separator, 1) for offset, next_one in pairwise(offsets)]
        if array("q", [hash(line[0]) for line in lines if len(line) == 2]) != self.hashes[first:end]:
            raise CorpusError(f"{self.name}: it changed while it was read; run the same command again")
        return lines

    def line_number(self, index: int) -> int:
        """Count in which line of the file, from 1, an entry stands."""
        size, end = 1 << 24, self.offsets[index]
        chunks = (os.pread(self.descriptor, min(size, end - begin), begin) for begin in range(0, end, size))
        return sum(chunk.count(b"\n") for chunk in chunks) + 1


class Corpus:
    """All utterances of the input, in order, read when they are asked for."""

    def __init__(self, lists: Sequence[_List]) -> None:
        """Join lists whose lines were checked.

        Raises:
            CorpusError: an id stands twice.
        """
        self._lists = lists
        self._ends = list(accumulate(map(len, lists)))
        self.index = KeyIndex(np.concatenate([np.frombuffer(part.hashes, dtype=np.int64) for part in lists]))
        for first, again in self.index.twins():
            key = self._read(again)[0]
            if key == self._read(first)[0]:
                raise CorpusError(
                    f'{self._origin(again)}: utt-id "{key.decode()}" again (first {self._first(first, again)})'
                )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Utterance:
        """Read an utterance."""
        key, path = self._read(index)
        return Utterance(index, key.decode(), path)

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, in order, some thousand at a time."""
        for part in self._lists:
            yield from part.ids()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the ids, in order, each with a newline: what ``predictions.tsv`` has rows of."""
        digest = hashlib.sha256()
        for keys in self.ids():
            digest.update(b"\n".join(keys) + b"\n")
        return digest.hexdigest()

    def _read(self, index: int) -> tuple[bytes, str]:
        part, within = self._locate(index)
        return part.read(within)

    def _locate(self, index: int) -> tuple[_List, int]:
        number = bisect_right(self._ends, index)
        part = self._lists[number]
        return part, index - self._ends[number] + len(part)

    def _origin(self, index: int) -> str:
        part, within = self._locate(index)
        return f"{part.name}:{part.line_number(within)}" if part.name else part.read(within)[1]

    def _first(self, first: int, again: int) -> str:
        """Say where an id was first seen: ``on line 3`` within the same file, else ``at a.scp:3``."""
        part, within = self._locate(first)
        same_file = part.name and part.name == self._locate(again)[0].name
        return f"on line {part.line_number(within)}" if same_file else f"at {self._origin(first)}"


def read_corpus(inputs: Sequence[str]) -> Corpus:
    """Read all inputs, in order.

    Raises:
        CorpusError: an input doesn't exist, a line can't be read, an id stands twice, or there is nothing at all.
    """
    parts: list[_List | list[_Found]] = []
    for item in inputs:
        part = _read_input(item)
        if isinstance(part, list) and parts and isinstance(parts[-1], list):
            parts[-1] += part
        else:
            parts.append(part)
    if not any(map(len, parts)):
        raise CorpusError(
            f"{', '.join(inputs)}: no utterances there; a list has lines like: utt-id path, "
            f"and folders are searched for {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    ids = _choose_ids(parts)
    return Corpus([_list_found(part, ids) if isinstance(part, list) else part for part in parts])


def _read_input(item: str) -> _List | list[_Found]:
    path = Path(item)
    if item == STDIN:
        if sys.stdin is None:
            raise CorpusError("-: standard input is closed")
        return _spool(sys.stdin.buffer, "<stdin>")
    if re.match(r"https?://", item):
        raise CorpusError(f"{item}: URLs are not read by this version; download the file and name it")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".scp":
        try:
            with path.open("rb") as file:
                regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                return _read_list(file, item) if regular else _spool(file, item)
        except OSError as error:
            raise CorpusError(
                f"{item}: {error.strerror}; INPUT is audio, a folder, a .scp list or - for standard input"
            ) from None
    if path.exists() or path.suffix.lower() in AUDIO_SUFFIXES:  # audio that is missing fails alone, later
        return [_Found(item, os.path.relpath(item))]
    raise CorpusError(f"{item}: no such file or folder")


def _read_folder(folder: Path) -> _List | list[_Found]:
    """Read a Kaldi data directory (it holds ``wav.scp``), or all audio below a folder, sorted by path."""
    scp = folder / "wav.scp"
    if (folder / "segments").exists() and scp.exists():
        raise CorpusError(f"{folder / 'segments'}: data directories with segments are not read by this version")
    if scp.exists():
        return _read_input(str(scp))
    found = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to where the walk has been, perhaps to a folder around it
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith("."):
                path = os.path.join(parent, name)
                found.append(_Found(path, os.path.relpath(path, folder)))
    return found


def _refuse_folder(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: {error.strerror}") from None


def _spool(stream: BinaryIO, name: str) -> _List:
    """Keep a list that can be read only once where it can be read again."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        file.seek(0)
        return _read_list(file, name)


def _read_list(file: BinaryIO, name: str) -> _List:
    """Check the lines of a list, and note where each is."""
    begin = len(_BYTE_ORDER_MARK) if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK else 0
    file.seek(begin)
    offsets, hashes = array("q"), array("q")
    for number, line in enumerate(file, 1):
        plain = _PLAIN_LINE.match(line)
        if plain and b"://" not in line and b".ark:" not in line:
            key = plain.group(1)
        elif line.strip(_BLANKS):
            key = _check_line(line, f"{name}:{number}")
        else:
            begin += len(line)
            continue
        offsets.append(begin)
        hashes.append(hash(key))
        begin += len(line)
    offsets.append(begin)
    return _List(os.dup(file.fileno()), name, offsets, hashes)


def _check_line(line: bytes, origin: str) -> bytes:
    """Look at a line closely, and give its id."""
    key, path = _split(line)
    try:
        utt_id = key.decode()
    except UnicodeDecodeError:
        raise CorpusError(f"{origin}: utt-id {key!r} is not UTF-8") from None
    if utt_id.startswith("#"):
        raise CorpusError(f"{origin}: begins with #, but a .scp list has no comments")
    if not path:
        raise CorpusError(f'{origin}: no path behind utt-id "{utt_id}"; a line is: utt-id path')
    if path.endswith(b"|"):
        raise CorpusError(f"{origin}: commands are not run by this version; write their output to files first")
    if re.match(rb"https?://", path):
        raise CorpusError(f"{origin}: URLs are not read by this version; download the audio first")
    if re.search(rb"\.ark:\d+(\[.*\])?$", path):
        raise CorpusError(f"{origin}: archives are not read by this version; write the audio to files first")
    if any(ord(character) < 32 for character in utt_id):
        raise CorpusError(f"{origin}: control characters in utt-id {utt_id!r}")
    return key


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Split a line at its first white space; there may be nothing behind it."""
    key, *rest = re.split(rb"[ \t\v\f]+", line.strip(_BLANKS), maxsplit=1)
    return key, rest[0] if rest else b""


def _choose_ids(parts: Sequence[_List | Sequence[_Found]]) -> Iterator[str]:
    """Choose the ids of all files that were found: their stem where nothing else has it, else their relative path."""
    found = [item for part in parts if not isinstance(part, _List) for item in part]
    stems = Counter(Path(item.path).stem for item in found)
    relatives = Counter(item.relative for item in found)
    by_hash = {hash(os.fsencode(stem)): stem for stem in stems}
    for part in parts:
        if isinstance(part, _List) and stems:
            stems.update(by_hash[value] for value in part.hashes if value in by_hash)
    for item in found:
        stem = Path(item.path).stem
        ambiguous = item.relative if relatives[item.relative] == 1 else os.path.relpath(item.path)
        yield _as_id(stem if stems[stem] == 1 else ambiguous)


def _list_found(found: Sequence[_Found], ids: Iterator[str]) -> _List:
    """Make a list of files that were found."""
    offsets, hashes = array("q", [0]), array("q")
    with tempfile.TemporaryFile() as file:
        for item in found:
            key = next(ids).encode()
            hashes.append(hash(key))
            offsets.append(offsets[-1] + file.write(key + b"\t" + os.fsencode(item.path)))
        file.flush()
        return _List(os.dup(file.fileno()), "", offsets, hashes)


def _as_id(name: str) -> str:
    """Make an id of a file's name: what would break a line or a column, or is not UTF-8, is percent-encoded."""
    unsafe = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]")
    return unsafe.sub(lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match.group())), name)
