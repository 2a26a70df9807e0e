"""Segments, each an utterance: of ``segments`` in a Kaldi data directory, or of a list that has times of its own."""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.formats import seekable_suffixes
from e2v_cli.audio.sources import is_url
from e2v_cli.corpus.corpus import Recordings
from e2v_cli.corpus.data_dir import MAX_TIME, NUMBER, number_values, read_durations, read_speaker_lines
from e2v_cli.corpus.ids import KeyIndex
from e2v_cli.corpus.listed import Listed, list_utterance
from e2v_cli.corpus.lists import (
    BLANKS,
    LineList,
    ListWriter,
    check_id,
    has_list,
    index_lines,
    make_segment,
    mix_checksums,
    open_list,
)
from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment, Tier, Utterance
from e2v_cli.system.text import percent_encoded, redact

GROUP_SEGMENTS = 64
"""The most segments of a seekable recording that are decoded together, so that others may have another core; of a
recording in any other format, all segments are."""

_LINE = re.compile(
    rb"[ \t\v\f]*(\S+)[ \t\v\f]+(\S+)[ \t\v\f]+(%b)[ \t\v\f]+(%b)(?:[ \t\v\f]+(\d|[AB]))?\s*$" % (NUMBER, NUMBER)
)

_PLAIN_LINE = re.compile(_LINE.pattern.replace(rb"(\S+)", rb"([!\"$-~][!-~]*)", 1))


class RecordingList(Protocol):
    """The recordings that segments are parts of."""

    name: str

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """(recordings,): checksums of the sources."""

    def utterance(self, position: int, index: int) -> Utterance:
        """Read the recording at a position of the list, for the ``index``-th utterance of the corpus."""


class Segments:
    """A list of segments, each of them an utterance."""

    def __init__(
        self, lines: LineList, recordings: RecordingList, recording_of: NDArray[np.int64], starts: NDArray[np.float64]
    ) -> None:
        """Join segments to their recordings.

        Args:
            lines: the segments.
            recordings: the recordings.
            recording_of: (segments,) the position of each one's recording; -1 without a recording.
            starts: (segments,) seconds from the beginning of the recording.
        """
        self.name = lines.name
        self.root = None
        self.hashes = lines.hashes
        self.ids = lines.ids
        self.origin = lines.origin
        self._lines = lines
        self._recordings = recordings
        self._recording_of = recording_of
        self._starts = starts

    def utterance(self, position: int, index: int) -> Utterance:
        """Read the segment at a position of this list, which is the ``index``-th utterance of the corpus."""
        key, rest = self._lines.read(position)
        recording_id, start, end, *channel = rest.split()
        number = int(self._recording_of[position])
        recording = self._recordings.utterance(number, index) if number >= 0 else None
        if recording is None or recording.utt_id.encode() != recording_id:
            name = recording_id.decode(errors="backslashreplace")
            fault = f'{self.origin(position)}: recording "{name}" is not in {self._recordings.name}'
            return Utterance(index, key.decode(), "", fault=fault)
        segment = Segment(float(start), None if float(end) == -1 else float(end))
        fault = (
            ""
            if _is_valid(segment)
            else f"{self.origin(position)}: {_describe_fault(f'from {start.decode()} to {end.decode()} s')}"
        )
        return Utterance(
            index,
            key.decode(),
            recording.source,
            recording.folder,
            segment,
            channel=_parse_segment_channel(channel[0]) if channel else None,
            recording_channel=recording.recording_channel,
            fault=fault,
            recording_id=recording.utt_id,
        )

    def listed(self, positions: NDArray[np.int64]) -> list[Listed]:
        """Read the segments at some positions, as lines of a Kaldi data directory: those with a recording."""
        lines, recording = [], Utterance(0, "", "")
        numbers = self._recording_of[positions].tolist()
        last = -1
        for number, (key, rest) in zip(numbers, self._lines.read_some(positions), strict=True):
            if number != last:
                recording, last = self._recordings.utterance(number, 0), number
            recording_id, start, end, *channel = rest.split()
            lines.append(
                Listed(
                    key,
                    recording_id,
                    os.fsencode(recording.source),
                    recording.folder,
                    b"%b %b" % (start, end),
                    _parse_segment_channel(channel[0]) if channel else None,
                    recording.recording_channel,
                )
            )
        return lines

    @cached_property
    def checksums(self) -> NDArray[np.uint32]:
        """(segments,): checksums of the lines and of the recordings' sources."""
        known = self._recording_of >= 0
        of_recordings = np.zeros(len(known), dtype=np.uint32)
        of_recordings[known] = self._recordings.checksums[self._recording_of[known]]
        return mix_checksums(self._lines.checksums, of_recordings)

    def durations(self) -> NDArray[np.float64]:
        """Return the duration of each segment, NaN where no list has it: (segments,) seconds."""
        durations = read_durations(Path(self.name).parent, np.frombuffer(self.hashes, dtype=np.int64))
        for position, (_, rest) in enumerate(self._lines.entries()):
            _, start, end = rest.split()[:3]
            if float(end) != -1:
                seconds = float(end) - float(start)
                # invalid segments are not decoded
                durations[position] = seconds if 0 < seconds <= MAX_TIME else 0.0
        return durations

    def tiers(self) -> Iterator[Tier | None]:
        """Read the tier of each segment: its channel and its speaker."""
        for (_, rest), speaker in zip(self._lines.entries(), self.speakers(), strict=True):
            channel = rest.split()[3:]
            yield Tier(_parse_segment_channel(channel[0]) if channel else None, speaker)

    def speakers(self) -> Iterator[str]:
        """Read the speaker of each segment from an ``utt2spk`` beside the list; empty if it names none."""
        path = Path(self.name).parent / "utt2spk"
        index = KeyIndex(np.frombuffer(self.hashes, dtype=np.int64))
        speaker_of, speakers = number_values([path] if has_list(path) else [], read_speaker_lines, index)
        speakers.append("")  # the last, which -1 is
        return (speakers[number] for number in speaker_of.tolist())

    def recording_groups(self) -> NDArray[np.int64]:
        """Number the recording groups, (segments,): the segments of a recording, or of a part of it."""
        unknown = self._recording_of < 0  # they are not decoded
        recording_of = np.where(unknown, -1 - np.arange(len(unknown)), self._recording_of)

        def source_of(position: int) -> str:
            return self._recordings.utterance(int(self._recording_of[position]), 0).source

        return _group_segments(recording_of, self._starts, source_of)


class ListedSegments:
    """A list of audio, with the segment of each line: every line is an utterance."""

    def __init__(self, recordings: Recordings, starts: NDArray[np.float64], ends: NDArray[np.float64]) -> None:
        """Cut recordings.

        Args:
            recordings: one for each line, whatever its source.
            starts: (lines,) seconds from the beginning of the recording.
            ends: (lines,) seconds from the beginning of the recording; NaN: its end.
        """
        self.name = recordings.name
        self.root = recordings.root
        self.hashes = recordings.hashes
        self.checksums = recordings.checksums
        self.ids = recordings.ids
        self.origin = recordings.origin
        self._recordings = recordings
        self._starts = starts
        self._ends = ends

    def utterance(self, position: int, index: int) -> Utterance:
        """Read the segment at a position of this list, which is the ``index``-th utterance of the corpus."""
        whole = self._recordings.utterance(position, index)
        segment = make_segment(float(self._starts[position]), float(self._ends[position]))
        if segment is None or _is_valid(segment):
            recording_id = percent_encoded(redact(whole.source)) if segment else ""
            return replace(whole, segment=segment, recording_id=recording_id)
        end = "" if segment.end is None else f" to {segment.end:.10g}"
        return replace(whole, fault=f"{self.origin(position)}: {_describe_fault(f'from {segment.start:.10g}{end} s')}")

    def listed(self, positions: NDArray[np.int64]) -> list[Listed]:
        """Read the utterances at some positions, as lines of a Kaldi data directory."""
        return [list_utterance(self.utterance(position, 0)) for position in positions.tolist()]

    def durations(self) -> NDArray[np.float64]:
        """Return the duration of each segment, NaN where no list has it: (lines,) seconds."""
        durations = self._ends - self._starts
        invalid = ~np.isnan(durations) & ~((durations > 0) & (durations <= MAX_TIME))
        durations[invalid] = 0.0  # they are not decoded
        return np.where(np.isnan(durations), self._recordings.durations(), durations)

    def tiers(self) -> Iterator[Tier | None]:
        """Yield the tier of each line, without a speaker; None if the line is a whole recording."""
        for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True):
            yield Tier() if make_segment(start, end) else None

    def recording_groups(self) -> NDArray[np.int64]:
        """Number the recording groups, (lines,): the segments of a recording, or of a part of it."""
        return _group_segments(self._recordings.hash_sources(), self._starts, lambda at: self.utterance(at, 0).source)


def list_audio(
    writer: ListWriter, name: str, folder: str, stdin_audio: str, root: str | None
) -> Recordings | ListedSegments:
    """List the audio of a list that e2v made; the other arguments are those of ``Recordings``."""
    recordings = Recordings(writer.finish(name), folder, {}, stdin_audio, root)
    if not writer.starts:
        return recordings
    starts, ends = (np.frombuffer(times, dtype=np.float64) for times in (writer.starts, writer.ends))
    return ListedSegments(recordings, starts, ends)


def _is_valid(segment: Segment) -> bool:
    return 0 <= segment.start < (MAX_TIME if segment.end is None else segment.end) <= MAX_TIME


def _describe_fault(times: str) -> str:
    return f"{times}: not 0 <= start < end <= 1e9"


def _group_segments(
    recording_of: NDArray[np.int64], starts: NDArray[np.float64], source_of: Callable[[int], str]
) -> NDArray[np.int64]:
    """Number the recording groups: (segments,), by first appearance.

    Args:
        recording_of: (segments,) a number of each one's recording.
        starts: (segments,) seconds from the beginning of the recording.
        source_of: returns the source of the recording of the segment at a position.
    """
    _, firsts, recordings, counts = np.unique(recording_of, return_index=True, return_inverse=True, return_counts=True)
    num_groups = np.ones(len(counts), dtype=np.int64)
    seekable = _compile_suffixes(seekable_suffixes())
    for number in np.flatnonzero(counts > GROUP_SEGMENTS).tolist():
        source = source_of(int(firsts[number]))
        if seekable.search(source) and not is_url(source):
            num_groups[number] = math.ceil(counts[number] / GROUP_SEGMENTS)
    by_appearance = np.argsort(firsts)
    first_group = np.empty_like(num_groups)
    first_group[by_appearance] = np.cumsum(num_groups[by_appearance]) - num_groups[by_appearance]
    by_recording = np.lexsort((starts, recordings))  # a group has neighbours in time, not in the list
    rank = np.empty(len(recordings), dtype=np.int64)
    rank[by_recording] = np.arange(len(recordings)) - np.repeat(np.cumsum(counts) - counts, counts)
    groups: NDArray[np.int64] = first_group[recordings] + rank * num_groups[recordings] // counts[recordings]
    return groups


def read_segments(path: Path, recordings: RecordingList, index: KeyIndex) -> Segments:
    """Read ``segments``: lines of ``utt-id recording-id start end``, perhaps with a channel counted from 0.

    Args:
        path: path of the file.
        recordings: the recordings of the same folder.
        index: index of the recordings' ids.

    Raises:
        CorpusError: it can't be read, or a line has another form.
    """
    with open_list(path) as file:
        begin = file.tell()
        lines = index_lines(file, str(path), _PLAIN_LINE, _check_segment_line)
        file.seek(begin)
        wanted, starts = _read_recordings_and_starts(file)
    recording_of = index.find(np.frombuffer(wanted, dtype=np.int64))
    return Segments(lines, recordings, recording_of, np.frombuffer(starts, dtype=np.float64))


def _check_segment_line(line: bytes, origin: str) -> bytes:
    """Check a line, and return its id.

    Raises:
        CorpusError: it has another form.
    """
    key = check_id(line.split(maxsplit=1)[0], origin)
    if not _LINE.match(line):
        text = line.strip(BLANKS).decode(errors="backslashreplace")
        raise CorpusError(
            f"{origin}: {text!r}; a line is: utt-id recording-id start end, in seconds, end -1 for the recording's, "
            "and perhaps a channel counted from 0"
        )
    return key


def _parse_segment_channel(text: bytes) -> int:
    """Return a channel counted from 0; ``segments`` has ``A`` or ``B``, or counts from 0, too."""
    return ord(text) - ord("A") if text.isalpha() else int(text)


def _compile_suffixes(suffixes: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern of the names that end with one of the suffixes, in any case."""
    return re.compile(rf"({'|'.join(map(re.escape, suffixes))})$", re.IGNORECASE)


def _read_recordings_and_starts(file: Iterable[bytes]) -> tuple[array[int], array[float]]:
    """Read the hash of each line's recording id, and the second at which the segment begins."""
    recordings, starts = array("q"), array("d")
    for line in file:
        cells = line.split(maxsplit=3)
        if cells:
            recordings.append(hash(cells[1]))
            starts.append(float(cells[2]))
    return recordings, starts
