"""TODO."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.data_dir import read_durations
from e2v_cli.corpus.ids import KeyIndex, digest_of
from e2v_cli.corpus.lists import (
    LineList,
)
from e2v_cli.errors import CorpusError
from e2v_cli.records import Utterance

STDIN = "-"
"""As INPUT it is a list, in a list it is audio."""


class Part(Protocol):
    """Utterances of one INPUT."""

    @property
    def name(self) -> str:
        """What the list is called in messages; empty where there is none."""

    @property
    def hashes(self) -> array[int]:
        """(utterances,): of their ids."""

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""

    def utterance(self, place: int, index: int) -> Utterance:
        """Read the utterance at a place, which is the ``index``-th of the corpus."""

    def origin(self, place: int) -> str:
        """Say where it is written, or which file it is."""

    def recording_groups(self) -> NDArray[np.int64]:
        """Number what is decoded together: (utterances,), by first appearance, counted from 0."""

    def durations(self) -> NDArray[np.float64]:
        """Say how long each utterance is, NaN where no list says: (utterances,) seconds."""


class Recordings:
    """A list of recordings, each of them an utterance."""

    def __init__(self, lines: LineList, folder: str, recording_channels: dict[bytes, int], stdin_audio: str) -> None:
        self._lines = lines
        self.name = lines.name
        self.hashes = lines.hashes
        self.ids = lines.ids
        self._folder = folder
        self._recording_channels = recording_channels
        self._stdin_audio = stdin_audio

    def utterance(self, place: int, index: int) -> Utterance:
        """Read the utterance at a place."""
        key, value = self._lines.read(place)
        source = os.fsdecode(value)
        if self.name and source == STDIN:
            source = self._stdin_audio
        return Utterance(index, key.decode(), source, self._folder, recording_channel=self._recording_channels.get(key))

    def origin(self, place: int) -> str:
        """Say where it is written, or which file it is."""
        return self._lines.origin(place) if self.name else os.fsdecode(self._lines.read(place)[1])

    def recording_groups(self) -> NDArray[np.int64]:
        """Number what is decoded together: each by itself."""
        return np.arange(len(self.hashes))

    def durations(self) -> NDArray[np.float64]:
        """Say how long each utterance is, NaN where no ``utt2dur`` beside the list says: (utterances,) seconds."""
        if not self._folder:
            return np.full(len(self.hashes), np.nan)
        return read_durations(Path(self._folder), np.frombuffer(self.hashes, dtype=np.int64))


class Corpus:
    """All utterances of the input, in order, read when they are asked for."""

    def __init__(self, parts: Sequence[Part], waits: bool = False) -> None:
        """Join lists whose lines were checked.

        Args:
            parts: the lists.
            waits: whether there are commands or URLs among them, whose audio is waited for.

        Raises:
            CorpusError: an id stands twice.
        """
        self.waits = waits
        self._parts = parts
        self._ends = list(accumulate(len(part.hashes) for part in parts))
        self.index = KeyIndex(np.concatenate([np.frombuffer(part.hashes, dtype=np.int64) for part in parts]))
        for first, again in self.index.duplicates():
            utt_id = self[again].utt_id
            if utt_id == self[first].utt_id:
                raise CorpusError(f'{self.origin(again)}: utt-id "{utt_id}" again (first {self._first(first, again)})')

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Utterance:
        """Read an utterance."""
        part, place = self._locate(index)
        return part.utterance(place, index)

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, in order, some thousand at a time."""
        for part in self._parts:
            yield from part.ids()

    def origin(self, index: int) -> str:
        """Say where an utterance is written, as in ``wav.scp:17``, or which file it is."""
        part, place = self._locate(index)
        return part.origin(place)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all ids, in order, and of the pieces."""
        return digest_of(self.ids(), self.recording_groups)

    @cached_property
    def recording_groups(self) -> NDArray[np.int64] | None:
        """Number what is decoded together: (utterances,); None where that is each utterance by itself."""
        if all(isinstance(part, Recordings) for part in self._parts):
            return None
        numbers = [part.recording_groups() for part in self._parts]
        firsts = accumulate((int(part.max(initial=-1)) + 1 for part in numbers[:-1]), initial=0)
        return np.concatenate([part + first for part, first in zip(numbers, firsts, strict=True)])

    @cached_property
    def durations(self) -> NDArray[np.float64]:
        """Say how long each utterance is, NaN where no list says: (utterances,) seconds.

        Raises:
            CorpusError: a list of durations can't be read.
        """
        return np.concatenate([part.durations() for part in self._parts])

    def _locate(self, index: int) -> tuple[Part, int]:
        number = bisect_right(self._ends, index)
        part = self._parts[number]
        return part, index - self._ends[number] + len(part.hashes)

    def _first(self, first: int, again: int) -> str:
        """Say where an id was first seen: ``on line 3`` within the same file, else ``at a.scp:3``."""
        name, origin = self._locate(first)[0].name, self.origin(first)
        same_file = name and name == self._locate(again)[0].name
        return f"on line {origin.rpartition(':')[2]}" if same_file else f"at {origin}"
