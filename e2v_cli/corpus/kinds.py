"""The kind of a file, by its beginning: audio, or a kind of list."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.audio.sources import is_pipe, is_url
from e2v_cli.corpus.lists import BLANKS, copy_to_disk, split_line
from e2v_cli.corpus.manifests import find_header
from e2v_cli.errors import CorpusError, UsageError

Kind = Literal["scp", "paths", "json", "table"]
"""Kind of a list: Kaldi's ``wav.scp``, one column of paths, JSON lines, or a table with a header."""

HEAD_BYTES = 4096
"""Bytes of a file in which audio has at least one control character, and text has none."""

LINE_BYTES = 1 << 16
"""The most bytes of a first line that are looked at."""

SHOWN_CHARACTERS = 40
"""Most characters of a first line in a message."""

LIST_FORMS = (
    'a list has lines like \'utt1 a.wav\', or paths alone, or JSON like {"key": "utt1", "source": "a.wav"}, '
    "or is a table (CSV) with a header like utt_id,path"
)

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")

_GZIP = b"\x1f\x8b"

_JSON_LINE = re.compile(rb"\s*\{\s*(\"|\}|$)")

_NO_LIST = re.compile(rb"\s*(#|<|\[\s*([{\"]|$))")
"""Pattern of a first line that is no list: a script or comment, markup, or a whole list in JSON."""

_SOURCE = re.compile(rb"-|\S*/\S*|.+\.ark:\d+(\[.*\])?", re.DOTALL)
"""Pattern of a line's audio that is no URL, no command, and has no suffix of audio."""


def is_binary(file: BinaryIO) -> bool:
    """Whether a file is binary, by its first bytes; its position does not change."""
    begin = file.tell()
    head = file.read(HEAD_BYTES)
    file.seek(begin)
    return _CONTROL.search(head) is not None


def tell_kind(file: BinaryIO) -> Kind | None:
    """Return the kind of a list by its first line, without moving the file's position; None: it is not a list."""
    first = read_first_line(file)
    if _JSON_LINE.match(first):
        return "json"
    if find_header(first):
        return "table"
    if _NO_LIST.match(first):
        return None
    cells = split_line(first)
    if len(cells) > 1:
        return "scp" if _is_source(cells[1]) else None
    return "paths" if b"/" in cells[0] or _has_audio_suffix(cells[0]) else None


def read_first_line(file: BinaryIO) -> bytes:
    """Read the first line that is not blank, or its beginning; the file is left where it is."""
    begin = file.tell()
    lines = iter(lambda: file.readline(LINE_BYTES), b"")
    first = next((line for line in lines if line.strip(BLANKS)), b"")
    file.seek(begin)
    return first


def refuse_file(name: str, first_line: bytes) -> NoReturn:
    """Refuse a file that is neither audio nor a list.

    Raises:
        UsageError: always.
    """
    text = first_line.strip(BLANKS).decode(errors="backslashreplace")
    shown = f"{text[:SHOWN_CHARACTERS]}…" if len(text) > SHOWN_CHARACTERS else text
    forms = "name its folder, in which wav.scp is" if Path(name).name == "segments" else LIST_FORMS
    raise UsageError(f"{name}: neither audio nor a list: its first line is {shown!r}; {forms}")


@contextmanager
def unzipped(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Open a list that may be gzip for the block, decompressed: a temporary file then.

    Raises:
        CorpusError: it is damaged, or the disk is full.
        UsageError: it has no list inside.
    """
    begin = file.tell()
    is_gzip = file.read(len(_GZIP)) == _GZIP
    file.seek(begin)
    if not is_gzip:
        yield file
        return
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            if _CONTROL.search(stream.peek(HEAD_BYTES)[:HEAD_BYTES]):
                raise UsageError(f"{name}: gzip of audio or another file, not of a list; decompress it first")
            plain = copy_to_disk(stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{name}: damaged gzip: {error}; compress the list again") from None
    with plain:
        yield plain


def _is_source(text: bytes) -> bool:
    """Whether the rest of a line looks like audio."""
    source = os.fsdecode(text)
    return is_pipe(source) or is_url(source) or _has_audio_suffix(text) or _SOURCE.fullmatch(text) is not None


def _has_audio_suffix(text: bytes) -> bool:
    return Path(os.fsdecode(text)).suffix.lower() in audio_suffixes()
