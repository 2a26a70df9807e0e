"""Chosen utterances → a Kaldi data directory: lists in C order, subsets of those of the source."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.run_source import RunSource
from e2v_cli.analysis.select.candidates import MILLION, TICKS, Candidates
from e2v_cli.analysis.select.sorted_ids import SortedIds
from e2v_cli.audio.sources import absolute_source
from e2v_cli.corpus.corpus import STDIN
from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.corpus.listed import Listed
from e2v_cli.corpus.lists import BLANKS, open_list, read_table
from e2v_cli.errors import CorpusError
from e2v_cli.system.files import sync_file
from e2v_cli.system.sorting import sort_lines
from e2v_cli.system.text import counted, percent_encoded

END_SECONDS = 0.0001
"""Seconds that are added to the end of a segment that ends with its recording: durations are rounded, and Kaldi cuts
audio beyond the end."""


@dataclass(frozen=True)
class Material:
    """The sources of the lines of a data directory."""

    candidates: Candidates
    ids: SortedIds
    source: RunSource
    speakers: NDArray[np.int32]
    """(candidates,): indices of ``speaker_names``; -1: not known, and the id stands for the speaker."""
    speaker_names: Sequence[bytes]
    maps: Sequence[str] = ()
    """Names of maps that rules have used, and that the directory gets for the same rules."""


def write_data_dir(folder: Path, material: Material, chosen: NDArray[np.bool_]) -> list[str]:
    """Write the lists of chosen utterances, and return notes for the user.

    Args:
        folder: it is there, and empty.
        material: the sources of all candidates.
        chosen: (candidates,): whether each is chosen.

    Raises:
        CorpusError: a list of the source can't be read, or audio has a name that no list can have.
        OSError: a file can't be written.
    """
    with material.source.in_folder(), ExitStack() as stack:
        files = _DataFiles(folder, stack)
        speakers, recordings = _SpeakerLists(files, material), _RecordingLists(files, material)
        maps = [_CarriedMap(files, name, material.source.find(name), stack) for name in ("text", *material.maps)]
        words = [percent_encoded(label).encode() for label in material.candidates.classes]
        first = 0
        for keys in material.ids.chunks():
            rows = first + np.flatnonzero(chosen[first : first + len(keys)])
            chosen_keys = list(compress(keys, chosen[first : first + len(keys)]))
            first += len(keys)
            if chosen_keys:
                _write_numbers(files, chosen_keys, material.candidates, rows, words)
                speakers.write(chosen_keys, rows)
                recordings.write(chosen_keys, (material.candidates.durations[rows] / TICKS).tolist())
                for carried in maps:
                    carried.write(chosen_keys)
        recordings.finish()
        notes = speakers.finish()
        for carried in maps:
            notes += carried.finish()
        notes += _write_genders(files, material.source.find("spk2gender"))
        files.sync()
    return notes


class _DataFiles:
    """The open files of a data directory."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder.absolute(), stack
        self._files: dict[str, BinaryIO] = {}

    def __getitem__(self, name: str) -> BinaryIO:
        """Return the file of a name, made if necessary."""
        if name not in self._files:
            self._files[name] = self._stack.enter_context((self.folder / name).open("w+b"))
        return self._files[name]

    def remove(self, name: str) -> None:
        """Remove a file."""
        if name in self._files:
            self._files.pop(name).close()
            (self.folder / name).unlink()

    def sync(self) -> None:
        """Sync all to disk."""
        for file in self._files.values():
            sync_file(file)


def _join(keys: Iterable[bytes], values: Iterable[bytes]) -> bytes:
    return b"".join([b"%b %b\n" % pair for pair in zip(keys, values, strict=True)])


def _write_numbers(
    files: _DataFiles, keys: Sequence[bytes], candidates: Candidates, rows: NDArray[np.int64], words: Sequence[bytes]
) -> None:
    """Write labels, scores and durations."""
    files["utt2emo"].write(_join(keys, (words[label] for label in candidates.labels[rows].tolist())))
    scores = (b"%.6f" % (score / MILLION) for score in candidates.scores[rows].tolist())
    files["utt2score"].write(_join(keys, scores))
    durations = (b"%.4f" % (ticks / TICKS) for ticks in candidates.durations[rows].tolist())
    files["utt2dur"].write(_join(keys, durations))


class _SpeakerLists:
    """``utt2spk`` and ``spk2utt``."""

    def __init__(self, files: _DataFiles, material: Material) -> None:
        self._utt2spk, self._spk2utt = files["utt2spk"], files["spk2utt"]
        self._numbers, self._names = material.speakers, material.speaker_names
        self._last, self._are_sorted, self._num_unknown = b"", True, 0

    def write(self, keys: Sequence[bytes], rows: NDArray[np.int64]) -> None:
        """Write chosen utterances; one without a speaker is its own."""
        numbers = self._numbers[rows].tolist()
        speakers = [key if number < 0 else self._names[number] for key, number in zip(keys, numbers, strict=True)]
        self._num_unknown += numbers.count(-1)
        self._utt2spk.write(_join(keys, speakers))
        self._are_sorted = self._are_sorted and self._last <= speakers[0] and speakers == sorted(speakers)
        if self._are_sorted:
            self._group(zip(speakers, keys, strict=True))
        self._last = speakers[-1]

    def finish(self) -> list[str]:
        """Write the last line, and return notes."""
        notes = []
        if not self._are_sorted:
            notes.append("speakers are not the beginnings of utt-ids, so validate_data_dir.sh needs --no-spk-sort")
            self._spk2utt.seek(0)
            self._spk2utt.truncate()
            self._last = b""
            self._utt2spk.seek(0)
            swapped = (b"%b %b\n" % (speaker, key) for key, speaker in map(bytes.split, self._utt2spk))
            self._group(line.split() for line in sort_lines(swapped))
        self._spk2utt.write(b"\n")
        if self._num_unknown:
            notes.append(f"{self._num_unknown} utterances are in no utt2spk: each is a speaker of its own")
        return notes

    def _group(self, pairs: Iterable[Sequence[bytes]]) -> None:
        """Write pairs of a speaker and an utterance, in order of the speakers."""
        last, parts = self._last, []
        for speaker, key in pairs:
            if speaker == last:
                parts.append(b" " + key)
            else:
                parts.append(b"%b%b %b" % (b"\n" if last else b"", speaker, key))
                last = speaker
        self._spk2utt.write(b"".join(parts))


class _RecordingLists:
    """``wav.scp``, and where they are needed ``segments`` and ``reco2file_and_channel``."""

    def __init__(self, files: _DataFiles, material: Material) -> None:
        self._files, self._source = files, material.source
        self._corpus = material.source.corpus
        self._may_have_segments = self._corpus.recording_groups is not None
        self._has_segments = False
        self._channel = material.source.channel
        self._file_names = _read_file_names(material.source.find("reco2file_and_channel"))
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 — closed in finish
        self._last = b""

    def write(self, keys: Sequence[bytes], seconds: Sequence[float]) -> None:
        """Write chosen utterances.

        Args:
            keys: their ids.
            seconds: their durations.

        Raises:
            CorpusError: the list has changed, or a path can't stand in a list.
        """
        listed = self._corpus.listed(self._corpus.index.find(hash_keys(keys)))
        if [line.key for line in listed] != list(keys):
            raise CorpusError(
                f"{', '.join(self._source.inputs)}: changed while it was read; run the same command again"
            )
        if not self._may_have_segments:
            self._files["wav.scp"].write(_join(keys, map(_make_source, listed)))
            if self._file_names or self._channel != "mix":
                self._write_channels((line.key, self._describe_channel(line)) for line in listed)
            return
        segments = []
        for line, length in zip(listed, seconds, strict=True):
            recording = line.recording or line.key
            if line.channel is not None and line.recording:
                recording += b"-%d" % (line.channel + 1)
            segments.append(b"%b %b %b\n" % (line.key, recording, _make_times(line, length)))
            self._has_segments = self._has_segments or bool(line.times)
            text = b"%b\t%b\t%b\n" % (recording, self._describe_channel(line), _make_source(line))
            if text != self._last:
                self._lines.write(text)
                self._last = text
        self._files["segments"].write(b"".join(segments))

    def finish(self) -> None:
        """Write the recordings of segments.

        Raises:
            CorpusError: two have the same id.
        """
        if self._may_have_segments:
            self._lines.seek(0)
            last, last_line = b"", b""
            for line in sort_lines(self._lines):
                recording, channel, source = line.removesuffix(b"\n").split(b"\t", 2)
                if recording == last and line != last_line:
                    raise _describe_same_recording(line, last_line)
                if recording != last:
                    self._files["wav.scp"].write(b"%b %b\n" % (recording, source))
                    self._write_channels([(recording, channel)])
                last, last_line = recording, line
            if not self._has_segments:
                self._files.remove("segments")
        self._lines.close()

    def _write_channels(self, channels: Iterable[tuple[bytes, bytes]]) -> None:
        lines = b"".join([b"%b %b\n" % pair for pair in channels if pair[1]])
        if lines:
            self._files["reco2file_and_channel"].write(lines)

    def _describe_channel(self, line: Listed) -> bytes:
        """Describe the channel of a recording: the file, and a letter; empty without a channel."""
        channel = line.recording_channel if line.channel is None else line.channel
        if channel is None and isinstance(self._channel, int):
            channel = self._channel
        if channel is None and self._channel == "split":
            channel = 0  # it has no other
        if channel is None:
            return b""
        recording = line.recording or line.key
        file, name = self._file_names.get(recording, (recording, b""))
        letter = b"%c" % (ord("A") + channel)
        return b"%b %b" % (file, name if name == b"%d" % (channel + 1) else letter)


def _describe_same_recording(*lines: bytes) -> CorpusError:
    cells = [line.decode(errors="backslashreplace").removesuffix("\n").split("\t", 2) for line in lines]
    sources = " and ".join(sorted(source for _, _, source in cells))
    return CorpusError(
        f'two recordings have the id "{cells[0][0]}": {sources}; predict each list into an OUT of its own'
    )


def _make_source(line: Listed) -> bytes:
    """Return the source of a line, its path absolute.

    Raises:
        CorpusError: it can't stand in a list.
    """
    source = line.source
    if not source.startswith(b"/"):
        if source == STDIN.encode():
            raise CorpusError(f'the audio of "{line.key.decode()}" was on standard input; store it in a file')
        source = os.fsencode(absolute_source(os.fsdecode(source), line.folder))
    if b"\n" in source or source[-1:] in BLANKS:
        raise CorpusError(f"{os.fsdecode(source)!r}: no list can have this path; rename the file, and predict it again")
    return source


def _make_times(line: Listed, seconds: float) -> bytes:
    """Return start and end; an end that is the end of the recording gets its time."""
    start, _, end = line.times.partition(b" ")
    if end and float(end) != -1:
        return line.times
    return b"%b %.4f" % (start or b"0", float(start or 0) + seconds + END_SECONDS)


def _read_file_names(paths: Iterable[Path]) -> Mapping[bytes, tuple[bytes, bytes]]:
    """Read the files and channels of ``reco2file_and_channel``, as they are written."""
    rows = (cells for path in paths for _, cells in read_table(path) if len(cells) == 3)
    return {recording: (file, channel) for recording, file, channel in rows}


class _MapIndex:
    """The lines of a map, by their ids."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        offsets, hashes = array("q"), array("q")
        self._file = stack.enter_context(open_list(path))
        begin = self._file.tell()
        for line in self._file:
            if cells := line.split(maxsplit=1):
                offsets.append(begin)
                hashes.append(hash(cells[0]))
            begin += len(line)
        self._index = KeyIndex(np.frombuffer(hashes, dtype=np.int64))
        self._offsets = np.frombuffer(offsets, dtype=np.int64)

    def find(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the text after each id on its line; None: no line has the id."""
        indices = self._index.find(hash_keys(keys))
        found: list[bytes | None] = []
        for key, index in zip(keys, indices.tolist(), strict=True):
            cells = [b""]
            if index >= 0:
                self._file.seek(int(self._offsets[index]))  # neighbours are in its buffer
                cells = self._file.readline().split(maxsplit=1)
            found.append(b"".join(cells[1:]).strip() if cells[0] == key else None)
        return found


class _CarriedMap:
    """A map of the source, like ``text``, which must have all utterances or is left out."""

    def __init__(self, files: _DataFiles, name: str, paths: Iterable[Path], stack: ExitStack) -> None:
        self._files, self._name = files, name
        self._maps = [_MapIndex(path, stack) for path in paths]
        self._num_missing = 0

    def write(self, keys: Sequence[bytes]) -> None:
        """Write the lines of chosen utterances."""
        if not self._maps:
            return
        found = [
            next((text for text in texts if text is not None), None)
            for texts in zip(*(each.find(keys) for each in self._maps), strict=True)
        ]
        lines = [(b"%b %b" % (key, text)).rstrip() for key, text in zip(keys, found, strict=True) if text is not None]
        self._num_missing += len(keys) - len(lines)
        self._files[self._name].write(b"".join([line + b"\n" for line in lines]))

    def finish(self) -> list[str]:
        """Remove the file if it is not whole, and return notes."""
        if not self._num_missing:
            return []
        self._files.remove(self._name)
        return [f"{self._name} is left out: the source's has no line of {self._num_missing} utterances"]


def _write_genders(files: _DataFiles, paths: Iterable[Path]) -> list[str]:
    """Write ``spk2gender``, which must have all speakers or is left out, and return notes."""
    genders = {cells[0]: cells[-1] for path in paths for _, cells in read_table(path)}
    if not genders:
        return []
    files["spk2utt"].seek(0)
    speakers = [line.split(maxsplit=1)[0] for line in files["spk2utt"]]
    missing = sum(speaker not in genders for speaker in speakers)
    if missing:
        return [f"spk2gender is left out: the source's has no line of {counted(missing, 'speaker')}"]
    files["spk2gender"].write(_join(speakers, (genders[speaker] for speaker in speakers)))
    return []
