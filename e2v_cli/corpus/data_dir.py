"""Tables of a Kaldi data directory beside its lists: ``reco2file_and_channel``, ``utt2dur`` and ``utt2spk``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.corpus.lists import BLANKS, CHUNK_LINES, check_id, has_list, open_list, read_table
from e2v_cli.errors import CorpusError

CHUNK_BYTES = 1 << 20
"""Bytes of lines that are looked up together."""

MAX_TIME = 1e9
"""Longest time in a list, in seconds: no recording is as long."""

NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"

_DURATION = re.compile(rb"[ \t\v\f]*(\S+)[ \t\v\f]+(%b)\s*$" % NUMBER.replace(rb"[+-]?", b"", 1))


def read_recording_channels(folder: Path) -> dict[bytes, int]:
    """Read ``reco2file_and_channel``, if there is one: the channel of its file that each recording is, from 0.

    Raises:
        CorpusError: it can't be read, or a line has another form.
    """
    path = folder / "reco2file_and_channel"
    recording_channels: dict[bytes, int] = {}
    for origin, cells in read_table(path) if has_list(path) else ():
        if len(cells) != 3 or not re.fullmatch(rb"[A-H]|[1-8]", cells[2]):
            raise CorpusError(f"{origin}: a line is: recording-id file A, or B, 1, 2 …")
        check_id(cells[0], origin)
        if cells[0] in recording_channels:
            raise CorpusError(f'{origin}: recording "{cells[0].decode()}" again')
        recording_channels[cells[0]] = _parse_recording_channel(cells[2])
    return recording_channels


def read_durations(folder: Path, hashes: NDArray[np.int64], chunk_bytes: int = CHUNK_BYTES) -> NDArray[np.float64]:
    """Read ``utt2dur``, if there is one: (utterances,) seconds, NaN where it has no line.

    Args:
        folder: the data directory.
        hashes: (utterances,) hashes of the ids.
        chunk_bytes: bytes of lines that are looked up together.

    Raises:
        CorpusError: it can't be read, or a line has another form.
    """
    path = folder / "utt2dur"
    durations = np.full(len(hashes), np.nan)
    if not has_list(path):
        return durations
    index: KeyIndex | None = None
    begin, number = 0, 1
    with open_list(path) as file:
        while lines := file.readlines(chunk_bytes):
            keys, seconds = _parse_durations(lines, str(path), number)
            number += len(lines)
            if np.array_equal(keys, hashes[begin : begin + len(keys)]):  # the same order as in the list
                durations[begin : begin + len(keys)] = seconds
                begin += len(keys)
                continue
            index = index or KeyIndex(hashes)
            found = index.find(keys)
            durations[found[found >= 0]] = seconds[found >= 0]
    return durations


def _parse_durations(lines: Sequence[bytes], name: str, first: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Parse lines of ``utt2dur``: hashes of the ids, and seconds.

    Args:
        lines: lines of the file.
        name: name of the file in messages.
        first: number of the first line.

    Raises:
        CorpusError: a line has another form.
    """
    cells = b"".join(lines).split()
    if len(cells) == 2 * len(lines):
        with suppress(ValueError):
            seconds = np.fromiter(map(float, cells[1::2]), dtype=np.float64)
            if ((seconds >= 0) & (seconds <= MAX_TIME)).all():
                return hash_keys(cells[::2]), seconds
    matches = []
    for number, line in enumerate(lines, first):
        if line.strip(BLANKS):
            match = _DURATION.match(line)
            if not match:
                text = line.strip().decode(errors="backslashreplace")
                raise CorpusError(f"{name}:{number}: {text!r}; a line is: utt-id seconds")
            matches.append(match)
    seconds = np.array([min(float(match.group(2)), MAX_TIME) for match in matches], dtype=np.float64)
    return hash_keys(match.group(1) for match in matches), seconds


Pairs = Callable[[Path], Iterator[tuple[str, bytes, bytes]]]
"""Function that reads a list: the origin of each line, an utt-id, and a value of that utterance."""


def number_values(paths: Sequence[Path], read: Pairs, index: KeyIndex) -> tuple[NDArray[np.int32], list[str]]:
    """Number what lists have about utterances: (utterances,) numbers of values, -1 where they have none; the values.

    Args:
        paths: paths of the lists.
        read: reads a list.
        index: index of the utt-ids.

    Raises:
        CorpusError: a list can't be read, a line has another form, or an utterance has two lines.
    """
    values: dict[bytes, int] = {}
    value_of = np.full(len(index), -1, dtype=np.int32)
    lines = chain.from_iterable(map(read, paths))
    while chunk := list(islice(lines, CHUNK_LINES)):
        for origin, _, value in chunk:
            if value not in values:
                values[check_id(value, origin)] = len(values)
        found = index.find(hash_keys(key for _, key, _ in chunk))
        known = np.flatnonzero(found >= 0)
        again = value_of[found[known]] >= 0
        again[np.delete(np.arange(len(known)), np.unique(found[known], return_index=True)[1])] = True
        if again.any():
            origin, key, _ = chunk[known[again.argmax()]]
            raise CorpusError(f'{origin}: utt-id "{key.decode()}" again')
        value_of[found[known]] = np.array([values[value] for _, _, value in chunk])[known]
    return value_of, [value.decode() for value in values]


def read_speaker_lines(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Read the lines of ``utt2spk``: the origin of each, an utt-id, and its speaker.

    Raises:
        CorpusError: it can't be read, or a line has another form.
    """
    for origin, cells in read_table(path):
        if len(cells) != 2:
            raise CorpusError(f"{origin}: a line is: utt-id speaker")
        yield origin, cells[0], cells[1]


def read_recording_lines(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Read the lines of ``segments``: the origin of each, an utt-id, and its recording.

    Raises:
        CorpusError: it can't be read, or a line has another form.
    """
    for origin, cells in read_table(path):
        if len(cells) not in (4, 5):
            raise CorpusError(f"{origin}: a line is: utt-id recording-id start end")
        yield origin, cells[0], cells[1]


def _parse_recording_channel(text: bytes) -> int:
    """Return a channel counted from 0; ``reco2file_and_channel`` has ``A`` … ``H``, or counts from 1."""
    return ord(text) - ord("A") if text.isalpha() else int(text) - 1
