"""INPUT → Utterance: audio files, folders of them, ``.scp`` lists, Kaldi data directories, URLs, standard input.

Lists are read as Kaldi reads them: split at the first white space, relative paths against the current folder (and
against the list's own, where only that has them). A byte order mark, CRLF, blank lines and a missing final newline do
no harm. Ids are UTF-8; paths may be any bytes. What is wrong with a whole list stops e2v before any work; what is wrong
with a segment alone is its own failure.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from e2v_cli.errors import CorpusError
from e2v_cli.keys import KeyIndex, digest_of
from e2v_cli.lists import (
    BYTE_ORDER_MARK,
    LineList,
    check_entry,
    check_id,
    index_lines,
    make_list,
    open_list,
    split_line,
    spool,
)
from e2v_cli.records import Utterance
from e2v_cli.segments import read_durations, read_segments, read_sides
from e2v_cli.sources import is_pipe, is_url

AUDIO_SUFFIXES = frozenset(
    (".aif", ".aifc", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav")
)
"""What is taken for audio in a folder; a file that is named itself may be called anything."""

STDIN = "-"
"""As INPUT it is a list, in a list it is audio."""

_PLAIN_LINE = re.compile(rb"[ \t\v\f]*([!\"$-~][!-~]*)[ \t\v\f]+(?!https?:)[^\s|-][^|]*$")
"""A line that needs no closer look: an id of plain letters that is no comment, and a path without a ``|``."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An audio file that was named or found in a folder; its id depends on what else there is."""

    path: str
    relative: str
    """The path as an id, where its stem alone is ambiguous: within the folder that was named, or from here."""

    @property
    def stem(self) -> str:
        """Its name without folder and suffix."""
        name = self.path
        if is_url(name):
            with suppress(ValueError):  # an address that can't be one fails when it is asked for
                name = unquote(urlsplit(name).path)
        return Path(name).stem or self.relative


@dataclass(frozen=True)
class _Files:
    """Audio files that were named one by one, or found."""

    found: list[_Found]
    folder: str = ""
    """Where relative paths are looked for that the current folder doesn't have."""


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

    def pieces(self) -> NDArray[np.int64]:
        """Number what is decoded together: (utterances,), by first appearance, counted from 0."""

    def durations(self) -> NDArray[np.float64]:
        """Say how long each utterance is, NaN where no list says: (utterances,) seconds."""


class Recordings:
    """A list of recordings, each of them an utterance."""

    def __init__(self, lines: LineList, folder: str, sides: dict[bytes, int], stdin_audio: str) -> None:
        self._lines = lines
        self.name = lines.name
        self.hashes = lines.hashes
        self.ids = lines.ids
        self._folder = folder
        self._sides = sides
        self._stdin_audio = stdin_audio

    def utterance(self, place: int, index: int) -> Utterance:
        """Read the utterance at a place."""
        key, value = self._lines.read(place)
        source = os.fsdecode(value)
        if self.name and source == STDIN:
            source = self._stdin_audio
        return Utterance(index, key.decode(), source, self._folder, side=self._sides.get(key))

    def origin(self, place: int) -> str:
        """Say where it is written, or which file it is."""
        return self._lines.origin(place) if self.name else os.fsdecode(self._lines.read(place)[1])

    def pieces(self) -> NDArray[np.int64]:
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
        for first, again in self.index.twins():
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
        return digest_of(self.ids(), self.pieces)

    @cached_property
    def pieces(self) -> NDArray[np.int64] | None:
        """Number what is decoded together: (utterances,); None where that is each utterance by itself."""
        if all(isinstance(part, Recordings) for part in self._parts):
            return None
        numbers = [part.pieces() for part in self._parts]
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


def read_corpus(inputs: Sequence[str], allow_pipes: bool = False) -> Corpus:
    """Read all inputs, in order.

    Args:
        inputs: as on the command line.
        allow_pipes: whether a list may hold commands to be run.

    Raises:
        CorpusError: an input doesn't exist, a line can't be read, an id stands twice, or there is nothing at all.
    """
    reader = _Reader(allow_pipes, stdin_is_list=STDIN in inputs)
    parts: list[Part | _Files] = []
    for item in inputs:
        part = reader.read(item)
        last = parts[-1] if parts else None
        if isinstance(part, _Files) and isinstance(last, _Files) and part.folder == last.folder:
            last.found.extend(part.found)
        else:
            parts.append(part)
    if not any(len(part.found) if isinstance(part, _Files) else len(part.hashes) for part in parts):
        raise CorpusError(
            f"{', '.join(inputs)}: no utterances there; a list has lines like: utt-id path, "
            f"and folders are searched for {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    ids = _choose_ids(parts)
    return Corpus([_list_files(part, ids) if isinstance(part, _Files) else part for part in parts], reader.waits)


class _Reader:
    """Reads inputs, and notes what is to be known of all of them together."""

    def __init__(self, allow_pipes: bool, stdin_is_list: bool) -> None:
        self.waits = False
        """There are commands or URLs, whose audio is waited for."""
        self._allow_pipes = allow_pipes
        self._stdin_is_list = stdin_is_list
        self._stdin_audio = ""
        """Where the audio on standard input was copied to."""

    def read(self, item: str) -> Part | _Files:
        """Read an input."""
        path = Path(item)
        if item == STDIN:
            with spool(_standard_input()) as file:
                return self._read_scp(file, "<stdin>", "", {})
        if is_url(item):
            self.waits = True
            return _Files([_Found(item, item)])
        if is_pipe(item):
            raise CorpusError(f"{item}: a command can only stand in a list: echo 'utt1 {item}' | e2v predict - …")
        if path.is_dir():
            return self._read_folder(path)
        if path.suffix == ".scp":
            return self._open_scp(path, {})
        if path.exists() or path.suffix.lower() in AUDIO_SUFFIXES:  # audio that is missing fails alone, later
            return _Files([_Found(item, os.path.relpath(item))])
        raise CorpusError(f"{item}: no such file or folder")

    def _read_folder(self, folder: Path) -> Part | _Files:
        """Read a Kaldi data directory (it holds ``wav.scp``), or all audio below a folder, sorted by path."""
        if not (folder / "wav.scp").exists():
            if (folder / "segments").exists():
                raise CorpusError(f"{folder / 'wav.scp'}: no such file, but there are segments of its recordings")
            return _Files(_search(folder))
        recordings = self._open_scp(folder / "wav.scp", read_sides(folder))
        if not (folder / "segments").exists():
            return recordings
        if not isinstance(recordings, Recordings):
            raise CorpusError(f"{folder / 'wav.scp'}: one column, but segments need recording ids before the paths")
        index = Corpus([recordings]).index  # refuses an id that stands twice
        return read_segments(folder / "segments", recordings, index)

    def _open_scp(self, path: Path, sides: dict[bytes, int]) -> Recordings | _Files:
        try:
            with open_list(str(path)) as file:
                return self._read_scp(file, str(path), str(path.parent), sides)
        except OSError as error:
            raise CorpusError(
                f"{path}: {error.strerror}; INPUT is audio, a folder, a .scp list or - for standard input"
            ) from None

    def _read_scp(self, file: BinaryIO, name: str, folder: str, sides: dict[bytes, int]) -> Recordings | _Files:
        if _has_one_column(file):
            return _Files(list(self._read_paths(file, name)), folder)
        lines = index_lines(file, name, _PLAIN_LINE, self._look_closely)
        return Recordings(lines, folder, sides, self._stdin_audio)

    def _look_closely(self, line: bytes, origin: str) -> bytes:
        """Check a line, and give its id."""
        key, *rest = split_line(line)
        check_id(key, origin)
        if not rest:
            raise CorpusError(f'{origin}: no path behind utt-id "{key.decode()}"; a line is: utt-id path')
        source = os.fsdecode(rest[0])
        self._look_at_source(source, origin)
        if source == STDIN:
            self._keep_standard_input(origin)
        return key

    def _look_at_source(self, source: str, origin: str) -> None:
        """Refuse commands that are not allowed, and note whether the audio is waited for."""
        if is_pipe(source) and not self._allow_pipes:
            raise CorpusError(
                f"{origin}: {source!r} is a command; --allow-pipes lets e2v run the commands of a list, "
                "for lists that you trust"
            )
        self.waits = self.waits or is_pipe(source) or is_url(source)

    def _read_paths(self, file: BinaryIO, name: str) -> Iterator[_Found]:
        """Read a list of one column."""
        for number, line in enumerate(file, 1):
            cells = split_line(line.removeprefix(BYTE_ORDER_MARK))
            if cells == [b""]:
                continue
            if len(cells) > 1:
                raise CorpusError(f"{name}:{number}: two columns, but the first line has one: write an utt-id in each")
            path = os.fsdecode(check_entry(cells[0], f"{name}:{number}"))
            self._look_at_source(path, f"{name}:{number}")
            yield _Found(path, path if is_url(path) else os.path.normpath(path))

    def _keep_standard_input(self, origin: str) -> None:
        """Copy the audio on standard input to where workers can read it."""
        if self._stdin_is_list or self._stdin_audio:
            other = "the list itself" if self._stdin_is_list else "the audio of another line"
            raise CorpusError(f"{origin}: - is audio on standard input, but that is {other}")
        try:
            keeper = tempfile.TemporaryDirectory(prefix="e2v-")
            path = Path(keeper.name, "standard input")
            with path.open("wb") as file:
                shutil.copyfileobj(_standard_input(), file)
        except OSError as error:
            raise CorpusError(
                f"{tempfile.gettempdir()}: {error.strerror}; the audio on standard input is kept there: set TMPDIR"
            ) from None
        _KEPT.append(keeper)  # removed when e2v ends
        self._stdin_audio = str(path)


_KEPT: list[object] = []
"""Temporary folders that are there for as long as the process."""


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise CorpusError("-: standard input is closed")
    return sys.stdin.buffer


def _has_one_column(file: BinaryIO) -> bool:
    """Say whether a list is one of paths alone: its first line has one column, which looks like one."""
    first = next((cells for line in file if (cells := split_line(line.removeprefix(BYTE_ORDER_MARK))) != [b""]), [])
    file.seek(0)
    return len(first) == 1 and (b"/" in first[0] or Path(os.fsdecode(first[0])).suffix.lower() in AUDIO_SUFFIXES)


def _search(folder: Path) -> list[_Found]:
    """Find all audio below a folder, also in linked folders, sorted by path."""
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


def _choose_ids(parts: Sequence[Part | _Files]) -> Iterator[str]:
    """Choose the ids of all files that were found: their stem where nothing else has it, else their relative path."""
    found = [item for part in parts if isinstance(part, _Files) for item in part.found]
    stems = Counter(item.stem for item in found)
    relatives = Counter(item.relative for item in found)
    by_hash = {hash(os.fsencode(stem)): stem for stem in stems}
    for part in parts:
        if not isinstance(part, _Files) and stems:
            stems.update(by_hash[value] for value in part.hashes if value in by_hash)
    for item in found:
        elsewhere = item.path if is_url(item.path) else os.path.relpath(item.path)
        ambiguous = item.relative if relatives[item.relative] == 1 else elsewhere
        yield _as_id(item.stem if stems[item.stem] == 1 else ambiguous)


def _list_files(files: _Files, ids: Iterator[str]) -> Recordings:
    """Make a list of files that were found."""
    lines = make_list((next(ids).encode(), os.fsencode(item.path)) for item in files.found)
    return Recordings(lines, files.folder, {}, "")


def _as_id(name: str) -> str:
    """Make an id of a file's name: what would break a line or a column, or is not UTF-8, is percent-encoded."""
    unsafe = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]")
    return unsafe.sub(lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match.group())), name)


class _Channels:
    """The utterances of a corpus, those of recordings with several channels once for each: ``utt1-1``, ``utt1-2``."""

    name = ""

    def __init__(self, corpus: Corpus, places: array[int], channels: array[int], hashes: array[int]) -> None:
        self.hashes = hashes
        self._corpus = corpus
        self._places = places
        self._channels = channels

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""
        first, place = 0, 0
        for keys in self._corpus.ids():
            split = []
            while first < len(self._places) and self._places[first] < place + len(keys):
                split.append(_split_id(keys[self._places[first] - place], self._channels[first]))
                first += 1
            place += len(keys)
            yield split

    def utterance(self, place: int, index: int) -> Utterance:
        """Read the utterance at a place."""
        whole, channel = self._corpus[self._places[place]], self._channels[place]
        utt_id = _split_id(whole.utt_id.encode(), channel).decode()
        return replace(whole, index=index, utt_id=utt_id, channel=whole.channel if channel < 0 else channel)

    def origin(self, place: int) -> str:
        """Say where it is written, or which file it is."""
        return self._corpus.origin(self._places[place])

    def pieces(self) -> NDArray[np.int64]:
        """Number what is decoded together: all channels of what was together without them."""
        together = self._corpus.pieces
        return np.asarray(self._places) if together is None else together[np.asarray(self._places)]

    def durations(self) -> NDArray[np.float64]:
        """Say how long each utterance is: as long as all channels together; (utterances,) seconds."""
        durations: NDArray[np.float64] = self._corpus.durations[np.asarray(self._places)]
        return durations


def _split_id(key: bytes, channel: int) -> bytes:
    return key if channel < 0 else b"%b-%d" % (key, channel + 1)


def split_channels(
    corpus: Corpus, count_channels: Callable[[Utterance, Callable[[], bool]], int], num_threads: int
) -> Corpus:
    """Make one utterance of each channel of recordings that have several, unless the list says which it is.

    Args:
        corpus: the utterances.
        count_channels: reads how many channels the recording of one has, unless told to stop; 0 where it can't be read.
        num_threads: so many are read at once.

    Raises:
        CorpusError: an id with its channel's number stands there already.
    """
    places, channels, hashes = array("q"), array("h"), array("q")
    known: dict[tuple[str, str], int] = {}
    stop = threading.Event()

    def count(utterance: Utterance) -> int:
        if utterance.fault or utterance.channel is not None or utterance.side is not None:
            return 1
        if utterance.segment is None:
            return count_channels(utterance, stop.is_set)
        recording = (utterance.source, utterance.folder)
        if recording not in known:
            known[recording] = count_channels(utterance, stop.is_set)
        return known[recording]

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for first in range(0, len(corpus), 1024):
                utterances = [corpus[index] for index in range(first, min(first + 1024, len(corpus)))]
                for utterance, number in zip(utterances, pool.map(count, utterances), strict=True):
                    for channel in range(number) if number > 1 else (-1,):
                        places.append(utterance.index)
                        channels.append(channel)
                        hashes.append(hash(_split_id(utterance.utt_id.encode(), channel)))
        finally:
            stop.set()
    return Corpus([_Channels(corpus, places, channels, hashes)], corpus.waits)
