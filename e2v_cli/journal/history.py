"""TODO."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.errors import OutputError
from e2v_cli.journal.journal import (
    DONE,
    LEFT,
    Elapsed,
    Header,
    JournalFile,
    checked,
    failure_status,
    json_line,
    other_version,
)

_CHUNK = 1 << 16
"""Lines that are looked up together."""

_GAP = 1 << 12
"""Bytes between two lines that are rather read than skipped."""


class Record:
    """What the journals of an OUT say of the utterances of a list."""

    def __init__(self, index: KeyIndex, input_sha256: str) -> None:
        """Begin with nothing said.

        Args:
            index: the list's ids by their place.
            input_sha256: the list's digest.
        """
        size = len(index)
        self.status: NDArray[np.uint8] = np.full(size, LEFT, dtype=np.uint8)
        """(utterances,): LEFT, FAILED, FAILED_IN_BATCH or DONE."""
        self.done_before: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        """(utterances,): whether one was done when the list was another; it has no part in the blocks of this one."""
        self.elapsed: dict[JournalFile, Elapsed] = {}
        """What each attempt has taken and done."""
        self.archives: dict[str, int] = {}
        """What holds embeddings, relative to OUT, and the last offset in it that is spoken of."""
        self.timelines: dict[str, int] = {}
        """Files with rows of the timeline, relative to OUT, and how many bytes of them are spoken of."""
        self.sizes: dict[str, int] = {}
        """How many bytes the journals had, by name."""
        self._index, self._input_sha256 = index, input_sha256
        self._journals: list[JournalFile] = []
        self._journal_of: NDArray[np.int32] = np.zeros(size, dtype=np.int32)
        self._offset: NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        self._length: NDArray[np.int32] = np.zeros(size, dtype=np.int32)
        """(utterances,): in which journal, where, and how long the line of each is."""

    def add(self, journal: JournalFile) -> None:
        """Read a journal: a later line replaces an earlier one, but a failure never what is done.

        Raises:
            OutputError: it is damaged elsewhere than at its end, or written by another version.
        """
        size = self.sizes[journal.path.name] = journal.path.stat().st_size
        header = read_header(journal.path)
        if header is None:
            return
        self._journals.append(journal)
        keys: list[bytes] = []
        lines: list[tuple[int, int, int]] = []
        try:
            for offset, text in _whole_lines(journal.path, size):
                _, kind, content = text.split(b"\t", 2)
                if kind == b"done":
                    _, place, timeline, key, _ = content.split(b"\t", 4)
                    lines.append((DONE, offset, len(text)))
                    keys.append(key)
                    if place:
                        self._note_embedding(place)
                    if timeline:
                        self._note_timeline(timeline)
                elif kind == b"failed":
                    _, _, _, key, stage, reason, _ = content.split(b"\t", 6)
                    lines.append((failure_status(stage.decode(), reason.decode()), offset, len(text)))
                    keys.append(key)
                elif kind == b"time":
                    self.elapsed[journal] = Elapsed(**json.loads(content))
                if len(lines) == _CHUNK:
                    self._note(keys, lines, header)
                    keys, lines = [], []
        except (ValueError, TypeError):
            raise other_version(journal.path) from None
        if lines:
            self._note(keys, lines, header)

    def read_lines(self, first: int, end: int) -> list[bytes]:
        """Read the content of the lines of utterances ``first`` to ``end``, all of which have one.

        Each is ``kind TAB frames TAB embedding TAB timeline TAB row NEWLINE``.
        """
        texts = [b""] * (end - first)
        journal_of, offset, length = self._journal_of[first:end], self._offset[first:end], self._length[first:end]
        for number in np.unique(journal_of):
            chosen = np.flatnonzero(journal_of == number)
            chosen = chosen[np.argsort(offset[chosen])]
            gaps = offset[chosen][1:] - (offset[chosen] + length[chosen])[:-1]
            with self._journals[number].path.open("rb", buffering=0) as file:
                for run in np.split(chosen, np.flatnonzero(gaps > _GAP) + 1):
                    begin, last = int(offset[run[0]]), run[-1]
                    span = os.pread(file.fileno(), int(offset[last] + length[last]) - begin, begin)
                    for place, at, size in zip(run.tolist(), offset[run].tolist(), length[run].tolist(), strict=True):
                        texts[place] = span[at - begin + 1 : at - begin + size]
        return texts

    def _note(self, keys: list[bytes], lines: list[tuple[int, int, int]], header: Header) -> None:
        places = self._index.find(hash_keys(keys))
        known = places >= 0
        places, numbers = places[known], np.array(lines, dtype=np.int64)[known]
        done = numbers[:, 0] == DONE
        for chosen in (~done & (self.status[places] != DONE), done):
            at, chosen_numbers = places[chosen], numbers[chosen]
            self.status[at] = chosen_numbers[:, 0]
            self._journal_of[at] = len(self._journals) - 1
            self._offset[at] = chosen_numbers[:, 1]
            self._length[at] = chosen_numbers[:, 2]
        if header.input_sha256 != self._input_sha256:
            self.done_before[places[done]] = True

    def _note_embedding(self, place: bytes) -> None:
        archive, _, offset = place.decode().partition(":")
        if offset:
            self.archives[archive] = max(int(offset), self.archives.get(archive, 0))
        else:
            self.archives[archive.partition("/")[0]] = 0

    def _note_timeline(self, place: bytes) -> None:
        name, offset, length = place.decode().split(":")
        self.timelines[name] = max(int(offset) + int(length), self.timelines.get(name, 0))


def read_header(path: Path) -> Header | None:
    """Read who wrote a journal, and what; None where it was killed before it could say so.

    Raises:
        OutputError: it is damaged, or written by another version.
    """
    try:
        _, text = next(_whole_lines(path, path.stat().st_size))
        _, kind, content = text.split(b"\t", 2)
        if kind != b"run":
            raise other_version(path)
        header = Header(**json.loads(content))
        return replace(header, labels=tuple(header.labels), timeline_formats=tuple(header.timeline_formats))
    except StopIteration:
        return None
    except (ValueError, TypeError):
        raise other_version(path) from None


def has_ended(path: Path) -> bool:
    """Say whether a journal's last line is that its shard has nothing left."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
        last = file.read().splitlines(keepends=True)[-1:]
    return last == [checked(json_line("end", {}))]


def _whole_lines(path: Path, end: int) -> Iterator[tuple[int, bytes]]:
    """Read where the lines of a journal begin behind their checksums, and what they say from there.

    What is written behind ``end`` meanwhile is not looked at: half a line there is none that was torn.

    Raises:
        OutputError: one that is not whole has others behind it.
    """
    offset = 0
    torn = False
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if offset >= end:
                return
            if torn:
                raise OutputError(
                    f"{path}:{number - 1}: damaged, and lines follow it; restore it, or cut it before that line "
                    f"(head -n {number - 2}) to compute again what is lost, or use --overwrite"
                )
            text = raw[8:]
            try:
                torn = int(raw[:8], 16) != zlib.crc32(text) or not text  # nothing at all has a checksum of zero
            except ValueError:
                torn = True
            if not torn:
                yield offset + 8, text
            offset += len(raw)
