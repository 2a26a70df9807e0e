"""What a Kaldi data directory says of its recordings: ``segments`` of them, and which channel of a file each is."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.sources import is_url
from e2v_cli.corpus.data_dir import MAX_TIME, NUMBER, parse_channel, read_durations
from e2v_cli.corpus.ids import KeyIndex
from e2v_cli.corpus.lists import BLANKS, BYTE_ORDER_MARK, LineList, check_id, index_lines, open_list
from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment, Utterance

GROUP_SEGMENTS = 64
"""So many segments of a recording that can be entered anywhere are worth a decoder of their own, perhaps on another
core; of any other recording all segments are decoded together."""

ENTERED_ANYWHERE = re.compile(r"\.(wav|flac|w64|aif|aiff|aifc|au|sph)$", re.IGNORECASE)
"""Files in which a decoder finds any sample without decoding those before it."""

_LINE = re.compile(
    rb"[ \t\v\f]*(\S+)[ \t\v\f]+(\S+)[ \t\v\f]+(%b)[ \t\v\f]+(%b)(?:[ \t\v\f]+(\d|[AB]))?\s*$" % (NUMBER, NUMBER)
)

_PLAIN_LINE = re.compile(_LINE.pattern.replace(rb"(\S+)", rb"([!\"$-~][!-~]*)", 1))


class RecordingList(Protocol):
    """The recordings that segments are parts of."""

    name: str

    def utterance(self, place: int, index: int) -> Utterance:
        """Read the recording at a place."""


class Segments:
    """A list of segments, each of them an utterance."""

    def __init__(
        self, lines: LineList, recordings: RecordingList, recording_of: NDArray[np.int64], starts: NDArray[np.float64]
    ) -> None:
        """Join segments to their recordings.

        Args:
            lines: the segments.
            recordings: the recordings.
            recording_of: (segments,) the place of each one's recording; -1 where there is none.
            starts: (segments,) where each begins, in seconds.
        """
        self.name = lines.name
        self.hashes = lines.hashes
        self.ids = lines.ids
        self.origin = lines.origin
        self._lines = lines
        self._recordings = recordings
        self._recording_of = recording_of
        self._starts = starts

    def utterance(self, place: int, index: int) -> Utterance:
        """Read the segment at a place."""
        key, rest = self._lines.read(place)
        recording_id, start, end, *channel = rest.split()
        number = int(self._recording_of[place])
        recording = self._recordings.utterance(number, index) if number >= 0 else None
        if recording is None or recording.utt_id.encode() != recording_id:
            name = recording_id.decode(errors="backslashreplace")
            fault = f'{self.origin(place)}: recording "{name}" is not in {self._recordings.name}'
            return Utterance(index, key.decode(), "", fault=fault)
        segment = Segment(float(start), None if float(end) == -1 else float(end))
        fault = ""
        if not 0 <= segment.start < (MAX_TIME if segment.end is None else segment.end) <= MAX_TIME:
            fault = f"{self.origin(place)}: from {start.decode()} to {end.decode()} s there is nothing"
        return Utterance(
            index,
            key.decode(),
            recording.source,
            recording.folder,
            segment,
            channel=parse_channel(channel[0]) if channel else None,
            recording_channel=recording.recording_channel,
            fault=fault,
        )

    def durations(self) -> NDArray[np.float64]:
        """Say how long each segment is, NaN where nothing says: (segments,) seconds."""
        durations = read_durations(Path(self.name).parent, np.frombuffer(self.hashes, dtype=np.int64))
        for place, (_, rest) in enumerate(self._lines.entries()):
            _, start, end = rest.split()[:3]
            if float(end) != -1:
                seconds = float(end) - float(start)
                durations[place] = seconds if 0 < seconds <= MAX_TIME else 0.0  # nothing is decoded of what can't be
        return durations

    def recording_groups(self) -> NDArray[np.int64]:
        """Number what is decoded together: the segments of a recording, or of a part of it; (segments,)."""
        unknown = self._recording_of < 0  # nothing is decoded of them
        recording_of = np.where(unknown, -1 - np.arange(len(unknown)), self._recording_of)
        _, firsts, recordings, counts = np.unique(
            recording_of, return_index=True, return_inverse=True, return_counts=True
        )
        num_groups = np.ones(len(counts), dtype=np.int64)
        for number in np.flatnonzero(counts > GROUP_SEGMENTS).tolist():
            place = int(self._recording_of[firsts[number]])
            source = self._recordings.utterance(place, 0).source
            if ENTERED_ANYWHERE.search(source) and not is_url(source):
                num_groups[number] = math.ceil(counts[number] / GROUP_SEGMENTS)
        by_appearance = np.argsort(firsts)
        first_group = np.empty_like(num_groups)
        first_group[by_appearance] = np.cumsum(num_groups[by_appearance]) - num_groups[by_appearance]
        by_recording = np.lexsort((self._starts, recordings))  # a piece is of neighbours, however they are listed
        rank = np.empty(len(recordings), dtype=np.int64)
        rank[by_recording] = np.arange(len(recordings)) - np.repeat(np.cumsum(counts) - counts, counts)
        groups: NDArray[np.int64] = first_group[recordings] + rank * num_groups[recordings] // counts[recordings]
        return groups


def read_segments(path: Path, recordings: RecordingList, index: KeyIndex) -> Segments:
    """Read ``segments``: lines of ``utt-id recording-id start end``, perhaps with a channel counted from 0.

    Args:
        path: where they are.
        recordings: what they are parts of.
        index: which recording stands where.

    Raises:
        CorpusError: it can't be read, or a line has another form.
    """
    try:
        with open_list(str(path)) as file:
            lines = index_lines(file, str(path), _PLAIN_LINE, _look_closely)
            file.seek(0)
            wanted, starts = _read_columns(file)
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None
    places = index.find(np.frombuffer(wanted, dtype=np.int64))
    return Segments(lines, recordings, places, np.frombuffer(starts, dtype=np.float64))


def _look_closely(line: bytes, origin: str) -> bytes:
    """Check a line, and give its id."""
    key = check_id(line.split(maxsplit=1)[0], origin)
    if not _LINE.match(line):
        text = line.strip(BLANKS).decode(errors="backslashreplace")
        raise CorpusError(
            f"{origin}: {text!r}; a line is: utt-id recording-id start end, in seconds, end -1 for the recording's, "
            "and perhaps a channel counted from 0"
        )
    return key


def _read_columns(file: Iterable[bytes]) -> tuple[array[int], array[float]]:
    """Read the hash of each line's recording, and where the segment begins."""
    recordings, starts = array("q"), array("d")
    for line in file:
        cells = line.removeprefix(BYTE_ORDER_MARK).split(maxsplit=3)
        if cells:
            recordings.append(hash(cells[1]))
            starts.append(float(cells[2]))
    return recordings, starts
