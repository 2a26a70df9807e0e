"""Lists with named columns: JSON lines of FunASR, NeMo and EmoBox, and tables (CSV, TSV) with a header.

    {"key": "utt1", "source": "a.wav"}                                  FunASR
    {"audio_filepath": "a.wav", "offset": 1.25, "duration": 2.25}       NeMo: with an offset, a segment
    {"key": "utt1", "wav": "a.wav", "emo": "happy"}                     EmoBox
    utt_id,path                                                         a table, below its header

All other columns are ignored, and so is a duration without an offset: the utterance is the whole file then.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.corpus.lists import BLANKS
from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment

SOURCE_NAMES = ("audio_filepath", "source", "wav", "path", "file", "filename", "file_name", "audio")
"""Names of the column of audio; if a list has several, the first here counts."""

ID_NAMES = ("key", "utt_id", "id", "name")
"""Names of the column of ids; if a list has several, the first here counts."""

TIME_NAMES = ("offset", "start", "end", "stop")
"""Names of columns that a table must not have: its rows would be parts of their files."""


class Row(NamedTuple):
    """A line of a list."""

    number: int
    """Number of the line, counted from 1."""
    utt_id: str | None
    """Id of the utterance; None: it is made of the path."""
    source: str
    segment: Segment | None = None
    """Part of the audio that is the utterance; None: all of it."""


class TableHeader(NamedTuple):
    """The header of a table."""

    delimiter: str
    names: Sequence[str]
    """Names of the columns, in lower case."""


def find_header(line: bytes) -> TableHeader | None:
    """Find the names of columns in a line; None: the line is no header, or names no column of audio."""
    text = line.decode(errors="replace").strip()
    if "/" in text or os.path.splitext(text)[1].lower() in audio_suffixes():
        return None
    for delimiter in (",", "\t"):
        names = [name.strip(' "').lower() for name in text.split(delimiter)]
        if any(name in names for name in SOURCE_NAMES):
            return TableHeader(delimiter, names)
    return None


def read_json_lines(file: BinaryIO, name: str) -> Iterator[Row]:
    """Read JSON lines of the list that messages call ``name``.

    Raises:
        CorpusError: a line has another form.
    """
    for number, line in enumerate(file, 1):
        if line.strip(BLANKS):
            origin = f"{name}:{number}"
            yield _make_row(_parse_object(line, origin), number, origin)


def read_delimited(file: BinaryIO, name: str) -> Iterator[Row]:
    """Read a table with a header, which messages call ``name``.

    Raises:
        CorpusError: a line has another form.
    """
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip(BLANKS))
    number, first = next(lines)
    header = _read_header(first, f"{name}:{number}")
    for number, line in lines:
        origin = f"{name}:{number}"
        yield _make_row(_parse_cells(line, header, origin), number, origin)


def _read_header(line: bytes, origin: str) -> TableHeader:
    """Read the first line of a table.

    Raises:
        CorpusError: it names no column of audio, or one of times.
    """
    header = find_header(line)
    if header is None:
        raise CorpusError(f"{origin}: no column of audio; name it one of {', '.join(SOURCE_NAMES)}")
    times = [name for name in header.names if name in TIME_NAMES]
    if times:
        raise CorpusError(
            f'{origin}: column "{times[0]}": a table has no segments; write JSON lines with offset and duration, '
            "or a Kaldi data directory"
        )
    return header


def _parse_object(line: bytes, origin: str) -> Mapping[str, object]:
    """Parse a line of JSON; paths in it may be any bytes."""
    try:
        record = json.loads(os.fsdecode(line))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f'{origin}: not JSON: {error}; a line is like {{"key": "utt1", "source": "a.wav"}}') from None
    if not isinstance(record, dict):
        raise CorpusError(f'{origin}: not an object; a line is like {{"key": "utt1", "source": "a.wav"}}')
    return record


def _parse_cells(line: bytes, header: TableHeader, origin: str) -> Mapping[str, object]:
    """Parse a row of a table; no cell has a line break."""
    text = os.fsdecode(line.strip(b"\r\n"))
    try:
        (cells,) = csv.reader([text], delimiter=header.delimiter, strict=True, skipinitialspace=True)
    except (csv.Error, ValueError) as error:
        raise CorpusError(f"{origin}: {error}; a row is one line, with quotes around cells that need them") from None
    if len(cells) != len(header.names):
        raise CorpusError(
            f"{origin}: {len(cells)} cells, but the header has {len(header.names)}; quote cells with a delimiter"
        )
    return dict(zip(header.names, map(str.strip, cells), strict=True))


def _make_row(record: Mapping[str, object], number: int, origin: str) -> Row:
    """Take the id, the audio and the segment from the columns of a line."""
    source_name = next((name for name in SOURCE_NAMES if name in record), None)
    if source_name is None:
        raise CorpusError(f"{origin}: no audio; one of {', '.join(SOURCE_NAMES)} must name it")
    source = _take_text(record, source_name, origin)
    id_name = next((name for name in ID_NAMES if name in record), None)
    utt_id = None if id_name is None else _take_text(record, id_name, origin)
    return Row(number, utt_id, source, _take_segment(record, origin))


def _take_text(record: Mapping[str, object], name: str, origin: str) -> str:
    """Take a text from a column.

    Raises:
        CorpusError: it is another value, is empty, or has half of a surrogate pair.
    """
    value = record[name]
    if isinstance(value, str) and value:
        with suppress(UnicodeEncodeError):
            if value.isascii() or os.fsencode(value):
                return value
    raise CorpusError(f'{origin}: "{name}" is {json.dumps(value)[:40]}; it must be a string')


def _take_segment(record: Mapping[str, object], origin: str) -> Segment | None:
    """Take the segment from offset and duration; None if there is no offset, or it is all of the audio."""
    start = _take_seconds(record, "offset", origin)
    if start is None:
        return None
    seconds = _take_seconds(record, "duration", origin)
    if start == 0 and seconds is None:
        return None
    # rounded, as in decimals: 0.7 + 0.1 is less than 0.8
    return Segment(start, None if seconds is None else round(start + seconds, 9))


def _take_seconds(record: Mapping[str, object], name: str, origin: str) -> float | None:
    """Take a time from a column; None if it has none.

    Raises:
        CorpusError: it is no number, or infinite.
    """
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    raise CorpusError(f'{origin}: "{name}" is {json.dumps(value)[:40]}; it must be a number, in seconds')
