"""Ids and words by the ten million: hashes and codes in memory, ids in a temporary file.

Ids are compared without a suffix of audio: one corpus lists ``a.wav`` where another has ``a``. Only where two ids of a
reference differ by nothing else they are compared as they are written.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.keyed import CHUNK_BYTES, KeyedLines
from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.corpus.lists import check_id, stored_on_disk
from e2v_cli.errors import CorpusError

_SUFFIX = re.compile(rb"(?:%b)$" % b"|".join(map(re.escape, map(str.encode, audio_suffixes()))), re.I | re.M)


def without_suffixes(keys: list[bytes]) -> list[bytes]:
    """Remove suffixes of audio from ids; the same list if none has one."""
    joined = b"\n".join(keys)
    if b"." not in joined or not _SUFFIX.search(joined):
        return keys
    return _SUFFIX.sub(b"", joined).split(b"\n")


class IdFinder:
    """The utterances of a reference by their ids: hashes in memory, ids in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 — closed with this object
        self._written: list[NDArray[np.int64]] = []
        self._plain: list[NDArray[np.int64]] = []
        self._removes_suffixes = True
        self._hashes = np.empty(0, dtype=np.int64)
        self._index = KeyIndex(self._hashes)
        self._next = 0
        """Index of the utterance after the one that was found last; 0 after the last utterance."""

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: list[bytes], numbers: Sequence[int], name: str) -> None:
        """Add ids.

        Args:
            keys: the ids.
            numbers: of their lines.
            name: of their text.

        Raises:
            CorpusError: an id can be none in a list, or the disk is full.
        """
        lines = b"\n".join(keys) + b"\n"
        if lines.count(b"\n") != len(keys) or b"\t" in lines or b"\n\n" in lines or lines[:1] == b"\n":
            for key, number in zip(keys, numbers, strict=True):
                check_id(key, f"{name}:{number}")
                if not key:
                    raise CorpusError(f"{name}:{number}: no utt-id")
        with stored_on_disk():
            self._file.write(lines)
        plain = without_suffixes(keys)
        self._written.append(hash_keys(keys))
        self._plain.append(self._written[-1] if plain is keys else hash_keys(plain))

    def finish(self, name: str, reread: Callable[[], Iterable[KeyedLines]]) -> None:
        """Index the ids.

        Args:
            name: of their text.
            reread: reads it again.

        Raises:
            CorpusError: an id is there twice.
        """
        refuse_duplicates(np.concatenate(self._written), name, reread)
        self._hashes = np.concatenate(self._plain)
        self._removes_suffixes = not len(find_equal(self._hashes.copy()))
        if not self._removes_suffixes:
            self._hashes = np.concatenate(self._written)
        self._written, self._plain = [], []
        self._index = KeyIndex(self._hashes)

    def hashes_of(self, keys: list[bytes]) -> NDArray[np.int64]:
        """Hash ids as those of the reference are: (keys,)."""
        return hash_keys(without_suffixes(keys) if self._removes_suffixes else keys)

    def find(self, hashes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find utterances by ``hashes_of`` their ids: (keys,) indices; -1: not found."""
        end = self._next + len(hashes)
        if np.array_equal(self._hashes[self._next : end], hashes):  # in the same order, as they mostly are
            found = np.arange(self._next, end)
        else:
            found = self._index.find(hashes)
        last = int(found.max(initial=-1)) + 1
        self._next = last if last < len(self) else 0
        return found

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""
        self._file.seek(0)
        while lines := self._file.readlines(CHUNK_BYTES):
            yield [line[:-1] for line in lines]

    def first_id(self, chosen: NDArray[np.bool_]) -> str:
        """Return the first id of chosen utterances, (utterances,)."""
        index = int(chosen.argmax())
        for keys in self.ids():
            if index < len(keys):
                return keys[index].decode(errors="backslashreplace")
            index -= len(keys)
        raise IndexError(index)


def find_equal(hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort hashes in place, and return those that are equal to the one before."""
    hashes.sort()
    equal: NDArray[np.int64] = hashes[1:][hashes[1:] == hashes[:-1]]
    return equal


def refuse_duplicates(
    hashes: NDArray[np.int64],
    name: str,
    reread: Callable[[], Iterable[KeyedLines]],
    hash_ids: Callable[[list[bytes]], NDArray[np.int64]] = hash_keys,
) -> None:
    """Check that no id is there twice.

    Args:
        hashes: of the ids, by ``hash_ids``; they are sorted in place.
        name: of their text.
        reread: reads it again, to name the lines.
        hash_ids: hashes ids.

    Raises:
        CorpusError: one is.
    """
    same = find_equal(hashes)
    if not len(same):
        return
    first: dict[int, tuple[int, bytes]] = {}
    for chunk in reread():
        found = hash_ids(chunk.keys)
        for row in np.flatnonzero(np.isin(found, same)).tolist():
            number, key = chunk.numbers[row], chunk.keys[row]
            before, other = first.setdefault(int(found[row]), (number, key))
            if before != number:
                shown, known = key.decode(errors="backslashreplace"), other.decode(errors="backslashreplace")
                as_known = "" if key == other else f', as "{known}"'
                raise CorpusError(f'{name}:{number}: utt-id "{shown}" again (first on line {before}{as_known})')


class WordCodes:
    """A column of words: the code of each, in the order in which they come."""

    def __init__(self, name: str, limit: int | None = None) -> None:
        """Begin without any.

        Args:
            name: of the text.
            limit: the most different words; None: no limit.
        """
        self.name = name
        self._limit = limit
        self.words: list[str] = []
        self.first_lines: list[int] = []
        """(words,): the number of the first line of each."""
        self.counts: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        """(words,): the number of lines of each."""
        self._codes: dict[bytes, int] = {}

    def encode(self, words: list[bytes], numbers: Sequence[int]) -> NDArray[np.int32]:
        """Return the codes of words: (words,).

        Raises:
            CorpusError: they are too many, or not UTF-8.
        """
        try:
            codes = np.fromiter(map(self._codes.__getitem__, words), dtype=np.int32, count=len(words))
        except KeyError:
            for word, number in zip(words, numbers, strict=True):
                if word not in self._codes:
                    self._add(word, number)
            codes = np.fromiter(map(self._codes.__getitem__, words), dtype=np.int32, count=len(words))
        counts = np.bincount(codes, minlength=len(self.words))
        counts[: len(self.counts)] += self.counts
        self.counts = counts
        return codes

    def _add(self, word: bytes, number: int) -> None:
        if len(self.words) == self._limit:
            raise CorpusError(
                f"{self.name}:{number}: more than {self._limit:,} different labels; is it the right column?"
            )
        try:
            self.words.append(word.decode())
        except UnicodeDecodeError:
            raise CorpusError(f"{self.name}:{number}: {word!r} is not UTF-8; save the file as UTF-8") from None
        self.first_lines.append(number)
        self._codes[word] = len(self._codes)
