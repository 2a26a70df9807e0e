"""All utterances of the input: a sequence of lists, from which each utterance is read when it is needed."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, repeat
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.data_dir import read_durations
from e2v_cli.corpus.found import make_id
from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys
from e2v_cli.corpus.listed import Listed
from e2v_cli.corpus.lists import LineList, mix_checksums
from e2v_cli.errors import CorpusError
from e2v_cli.options import IdForm
from e2v_cli.records import Tier, Utterance

STDIN = "-"
"""Standard input: as INPUT a list, in a list audio."""


class UtteranceList(Protocol):
    """The utterances of one INPUT."""

    @property
    def name(self) -> str:
        """The list's name in messages; empty if there is no list."""

    @property
    def root(self) -> str | None:
        """The folder that paths in ids are relative to; empty: no folder; None: ids are not made of paths."""

    @property
    def hashes(self) -> array[int]:
        """(utterances,): hashes of the ids."""

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """(utterances,): checksums of the sources."""

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""

    def utterance(self, position: int, index: int) -> Utterance:
        """Read the utterance at a position of this list, which is the ``index``-th of the corpus."""

    def listed(self, positions: NDArray[np.int64]) -> list[Listed]:
        """Read the utterances at some positions, as lines of a Kaldi data directory."""

    def origin(self, position: int) -> str:
        """Return where an utterance is written, as in ``wav.scp:17``, or its file."""

    def recording_groups(self) -> NDArray[np.int64]:
        """Number the recording groups: (utterances,), by first appearance, counted from 0."""

    def durations(self) -> NDArray[np.float64]:
        """Return the duration of each utterance, NaN where no list has it: (utterances,) seconds."""

    def tiers(self) -> Iterator[Tier | None]:
        """Read the tier of each utterance in the timeline of its recording; None if it is a recording itself."""


class Recordings:
    """A list of recordings, each of them an utterance."""

    def __init__(
        self,
        lines: LineList,
        folder: str,
        recording_channels: dict[bytes, int],
        stdin_audio: str,
        root: str | None = None,
    ) -> None:
        self._lines = lines
        self.name = lines.name
        self.root = root
        self.hashes = lines.hashes
        self.ids = lines.ids
        self._folder = folder
        self._recording_channels = recording_channels
        self._stdin_audio = stdin_audio

    def utterance(self, position: int, index: int) -> Utterance:
        """Read the utterance at a position of this list, which is the ``index``-th of the corpus."""
        key, value = self._lines.read(position)
        source = os.fsdecode(value)
        if self.name and source == STDIN:
            source = self._stdin_audio
        return Utterance(index, key.decode(), source, self._folder, recording_channel=self._recording_channels.get(key))

    def listed(self, positions: NDArray[np.int64]) -> list[Listed]:
        """Read the utterances at some positions, as lines of a Kaldi data directory."""
        channels, folder = self._recording_channels, self._folder
        return [
            Listed(key, b"", source, folder, recording_channel=channels.get(key))
            for key, source in self._lines.read_some(positions)
        ]

    @cached_property
    def checksums(self) -> NDArray[np.uint32]:
        """(utterances,): checksums of the sources and of the recordings' channels."""
        if not self._recording_channels:
            return self._lines.checksums
        channels = [self._recording_channels.get(key, -1) for keys in self.ids() for key in keys]
        return mix_checksums(self._lines.checksums, np.array(channels))

    def origin(self, position: int) -> str:
        """Return where an utterance is written, as in ``wav.scp:17``, or its file."""
        return self._lines.origin(position) if self.name else os.fsdecode(self._lines.read(position)[1])

    def hash_sources(self) -> NDArray[np.int64]:
        """Hash the sources: (utterances,)."""
        return hash_keys(source for _, source in self._lines.entries())

    def recording_groups(self) -> NDArray[np.int64]:
        """Number the recording groups, (utterances,): each utterance is one."""
        return np.arange(len(self.hashes))

    def durations(self) -> NDArray[np.float64]:
        """Return the duration of each, NaN where no ``utt2dur`` beside the list has it: (utterances,) seconds."""
        if not self._folder:
            return np.full(len(self.hashes), np.nan)
        return read_durations(Path(self._folder), np.frombuffer(self.hashes, dtype=np.int64))

    def tiers(self) -> Iterator[Tier | None]:
        """Return None for each."""
        return repeat(None, len(self.hashes))


class Corpus:
    """All utterances of the input, in order."""

    def __init__(self, lists: Sequence[UtteranceList], waits: bool = False) -> None:
        """Join lists whose lines were checked.

        Args:
            lists: the list of each INPUT, in order.
            waits: whether the lists have commands or URLs, whose audio is waited for.

        Raises:
            CorpusError: an id is duplicate.
        """
        self.waits = waits
        self._lists = lists
        self._ends = list(accumulate(len(each.hashes) for each in lists))
        self.index = KeyIndex(self.hashes())
        for first, again in self.index.duplicates():
            if self[again].utt_id == self[first].utt_id:
                raise CorpusError(self._describe_duplicates(first, again))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Utterance:
        """Read an utterance."""
        utterances, position = self._locate(index)
        checksum = int(utterances.checksums[position])
        return replace(utterances.utterance(position, index), source_checksum=checksum)

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, in order, some thousand at a time."""
        for each in self._lists:
            yield from each.ids()

    def listed(self, indices: NDArray[np.int64]) -> list[Listed]:
        """Read some utterances, in any order, as lines of a Kaldi data directory."""
        numbers = np.searchsorted(self._ends, indices, side="right")
        lines: list[Listed | None] = [None] * len(indices)
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            begin = self._ends[number] - len(self._lists[number].hashes)
            found = self._lists[number].listed(indices[rows] - begin)
            for row, line in zip(rows.tolist(), found, strict=True):
                lines[row] = line
        return [line for line in lines if line is not None]

    def origin(self, index: int) -> str:
        """Return where an utterance is written, as in ``wav.scp:17``, or its file."""
        utterances, position = self._locate(index)
        return utterances.origin(position)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all ids, in order, and of the recording groups."""
        return digest_of(self.ids(), self.recording_groups)

    def hashes(self) -> NDArray[np.int64]:
        """Return the hashes of all ids: (utterances,)."""
        return np.concatenate([np.frombuffer(each.hashes, dtype=np.int64) for each in self._lists])

    @cached_property
    def checksums(self) -> NDArray[np.uint32]:
        """(utterances,): checksums of the sources: path, command or URL, segment and channel, as the list has them."""
        return np.concatenate([each.checksums for each in self._lists])

    @cached_property
    def recording_groups(self) -> NDArray[np.int64] | None:
        """The number of each utterance's recording group: (utterances,); None if each utterance is one."""
        if all(isinstance(each, Recordings) for each in self._lists):
            return None
        numbers = [each.recording_groups() for each in self._lists]
        firsts = accumulate((int(groups.max(initial=-1)) + 1 for groups in numbers[:-1]), initial=0)
        return np.concatenate([groups + first for groups, first in zip(numbers, firsts, strict=True)])

    @cached_property
    def durations(self) -> NDArray[np.float64]:
        """The duration of each utterance, NaN where no list has it: (utterances,) seconds.

        Raises:
            CorpusError: a list of durations can't be read.
        """
        return np.concatenate([each.durations() for each in self._lists])

    def tiers(self) -> Iterator[Tier | None]:
        """Read the tier of each utterance in the timeline of its recording; None if it is a recording itself.

        Raises:
            CorpusError: a list of speakers can't be read.
        """
        for each in self._lists:
            yield from each.tiers()

    def _locate(self, index: int) -> tuple[UtteranceList, int]:
        """Find the list that an utterance is in, and its position there."""
        number = bisect_right(self._ends, index)
        utterances = self._lists[number]
        return utterances, index - self._ends[number] + len(utterances.hashes)

    def _describe_duplicates(self, first: int, again: int) -> str:
        """Describe two utterances with the same id; if it is made of a path, also what to do."""
        utt_id, sources = self[again].utt_id, [self[index].source for index in (first, again)]
        roots = [self._locate(index)[0].root for index in (first, again)]
        if roots == [None, None] or sources[0] == sources[1]:
            return f'{self.origin(again)}: utt-id "{utt_id}" again (first {self._describe_first(first, again)})'
        names = [
            self.origin(index) if root is None else source
            for index, root, source in zip((first, again), roots, sources, strict=True)
        ]
        return f'{" and ".join(names)} have the same id, "{utt_id}"; {_advise_on_ids(utt_id, sources, roots)}'

    def _describe_first(self, first: int, again: int) -> str:
        """Describe where an id is first: ``on line 3`` within the same file, else ``at a.scp:3``."""
        name, origin = self._locate(first)[0].name, self.origin(first)
        same_file = name and name == self._locate(again)[0].name
        return f"on line {origin.rpartition(':')[2]}" if same_file else f"at {origin}"


def _advise_on_ids(utt_id: str, sources: Sequence[str], roots: Sequence[str | None]) -> str:
    """Choose what tells two utterances apart whose id is made of a path, or of two."""
    for form in get_args(IdForm):
        ids = {
            utt_id.encode() if root is None else make_id(source, form, root)
            for source, root in zip(sources, roots, strict=True)
        }
        if len(ids) > 1:
            return f"--id {form} tells them apart"
    return "name the folder that holds both, or list them with other ids, as in: utt-id path"
