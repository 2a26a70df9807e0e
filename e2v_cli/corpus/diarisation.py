"""A diarisation in NIST's RTTM → segments of recordings, and their speakers."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.data_dir import MAX_TIME, NUMBER
from e2v_cli.corpus.found import format_times
from e2v_cli.corpus.lists import BLANKS, ListWriter, check_id, open_list, stored_on_disk
from e2v_cli.corpus.segments import Segments
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.records import Segment, Utterance
from e2v_cli.system.text import percent_encoded

_TURN = re.compile(
    rb"\s*SPEAKER\s+(\S+)\s+(<NA>|\d)\s+(%b)\s+(%b)\s+\S+\s+\S+\s+(\S+)(\s|$)"
    % ((NUMBER.replace(rb"[+-]?", b"", 1),) * 2)
)

_NO_TURN = re.compile(
    rb"\s*(;;|(SEGMENT|NOSCORE|NO_RT_METADATA|LEXEME|NON-LEX|NON-SPEECH|FILLER|EDIT|IP|SU|CB|A/P|SPKR-INFO)\s)"
)
"""Pattern of lines without a turn: comments, and the other types of lines in RTTM."""

_NOT_AVAILABLE = b"<NA>"

UNKNOWN_SPEAKER = b"unknown"
"""Name of a speaker whose name is ``<NA>``."""

_NO_CHANNELS = frozenset((_NOT_AVAILABLE, b"0", b"1"))
"""Values in the channel column of files with one channel: Kaldi writes 0, other tools 1."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """A line of RTTM: a speaker's part of a recording."""

    number: int
    """Number of the line, counted from 1."""
    recording: bytes
    channel: bytes
    start: Decimal
    end: Decimal
    """End of the turn in seconds, as ``start``."""
    speaker: bytes

    @property
    def key(self) -> bytes:
        """Id of the segment: recording, speaker and times."""
        times = Segment(float(self.start), float(self.end))
        return b"%b-%b%b" % (self.recording, self.speaker, format_times(times))


class DiarisedSegments(Segments):
    """Segments of a diarisation, whose ids are those of their speakers and their times."""

    def speakers(self) -> Iterator[str]:
        """Read the speaker of each: recording and name, since diarisers name those of each recording alike."""
        for keys in self.ids():
            yield from (key.rsplit(b"-", 2)[0].decode() for key in keys)


def cut_recordings(corpus: Corpus, path: Path) -> Corpus:
    """Cut recordings at the turns of a diarisation, each of which becomes an utterance.

    Args:
        corpus: the recordings.
        path: path of the RTTM.

    Raises:
        CorpusError: the RTTM can't be read, has no turn, or has two with the same id.
        UsageError: the corpus has segments.
    """
    if corpus.recording_groups is not None:
        raise UsageError(
            f"--segments-rttm {path}: INPUT has segments of its own; name recordings: audio, a folder of it, or wav.scp"
        )
    writer, wanted, starts = ListWriter(), array("q"), array("d")
    with open_list(path) as file, stored_on_disk():
        begin = file.tell()
        has_channels = not all(turn.channel in _NO_CHANNELS for turn in _read_turns(file, path))
        file.seek(begin)
        for turn in _read_turns(file, path):
            wanted.append(hash(turn.recording))
            starts.append(float(turn.start))
            channel = b" %d" % _parse_channel(turn, path) if has_channels else b""
            times = f"{turn.recording.decode()} {turn.start} {turn.end}".encode()
            writer.add(turn.key, times + channel, number=turn.number)
    if not len(writer):
        raise CorpusError(f"{path}: no line of type SPEAKER, so there is no utterance")
    recording_of = corpus.index.find(np.frombuffer(wanted, dtype=np.int64))
    lines = writer.finish(str(path))
    return Corpus([DiarisedSegments(lines, _Recordings(corpus), recording_of, np.frombuffer(starts))], corpus.waits)


class _Recordings:
    """All utterances of a corpus, as the recordings of segments."""

    def __init__(self, corpus: Corpus) -> None:
        self.name = "INPUT"
        self._corpus = corpus

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """(recordings,): checksums of the sources."""
        return self._corpus.checksums

    def utterance(self, position: int, index: int) -> Utterance:
        """Read the recording at a position, for the ``index``-th utterance of the corpus of segments."""
        return replace(self._corpus[position], index=index)


def _read_turns(file: BinaryIO, path: Path) -> Iterator[_Turn]:
    """Read the turns of an RTTM.

    Raises:
        CorpusError: a line has another form.
    """
    for number, line in enumerate(file, 1):
        match = _TURN.match(line)
        if match is None or max(map(float, match.group(3, 4))) > MAX_TIME:
            if line.strip(BLANKS) and not _NO_TURN.match(line):
                text = line.strip(BLANKS).decode(errors="backslashreplace")
                raise CorpusError(
                    f"{path}:{number}: {text!r}; a line is: SPEAKER recording-id channel start length <NA> <NA> "
                    "speaker <NA> <NA>, in seconds"
                )
            continue
        recording, channel, start, length, name, _ = match.groups()
        first = Decimal(start.decode())
        speaker = UNKNOWN_SPEAKER if name == _NOT_AVAILABLE else percent_encoded(os.fsdecode(name)).encode()
        check_id(recording, f"{path}:{number}")
        yield _Turn(number, recording, channel, first, first + Decimal(length.decode()), speaker)


def _parse_channel(turn: _Turn, path: Path) -> int:
    """Return the channel of a turn, counted from 0; RTTM counts from 1.

    Raises:
        CorpusError: the turn has no channel, but other lines have.
    """
    if turn.channel in (_NOT_AVAILABLE, b"0"):
        raise CorpusError(
            f"{path}:{turn.number}: channel {turn.channel.decode()}, but other lines have channels, counted from 1"
        )
    return int(turn.channel) - 1
