"""INPUT → Utterance: audio files, folders of them, ``.scp`` lists, Kaldi data directories, standard input.

Lists are read as Kaldi reads them: split at the first white space, relative paths against the current folder. A byte
order mark, CRLF, blank lines and a missing final newline do no harm. Ids are UTF-8; paths may be any bytes.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from e2v_cli.errors import CorpusError
from e2v_cli.records import Utterance

AUDIO_SUFFIXES = frozenset(
    (".aif", ".aifc", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav")
)
"""What is taken for audio in a folder; a file that is named itself may be called anything."""

STDIN = "-"


@dataclass(frozen=True, slots=True)
class _Listed:
    """An utterance as it was found, before ids are made unique."""

    utt_id: str | None
    """None: to be made of the path."""
    path: str
    relative: str
    """The path as an id, where its stem alone is ambiguous: within the folder that was named, or from here."""
    origin: str
    """Where it was found, for messages: ``wav.scp:17``."""


def read_corpus(inputs: Sequence[str]) -> list[Utterance]:
    """Read all inputs, in order.

    Raises:
        CorpusError: an input doesn't exist, a line can't be read, an id stands twice, or there is nothing at all.
    """
    listed = [entry for item in inputs for entry in _read_input(item)]
    if not listed:
        raise CorpusError(
            f"{', '.join(inputs)}: no utterances there; a list has lines like: utt-id path, "
            f"and folders are searched for {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    stems = Counter(entry.utt_id if entry.utt_id is not None else Path(entry.path).stem for entry in listed)
    relatives = Counter(entry.relative for entry in listed)
    utterances = []
    seen: dict[str, str] = {}
    for index, entry in enumerate(listed):
        utt_id = entry.utt_id
        if utt_id is None:
            stem = Path(entry.path).stem
            ambiguous = entry.relative if relatives[entry.relative] == 1 else os.path.relpath(entry.path)
            utt_id = _as_id(stem if stems[stem] == 1 else ambiguous)
        if utt_id in seen:
            first = _first(seen[utt_id], entry.origin)
            raise CorpusError(f'{entry.origin}: utt-id "{utt_id}" again (first {first})')
        seen[utt_id] = entry.origin
        utterances.append(Utterance(index, utt_id, entry.path))
    return utterances


def _read_input(item: str) -> Iterator[_Listed]:
    path = Path(item)
    if item == STDIN:
        if sys.stdin is None:
            raise CorpusError("-: standard input is closed")
        yield from _read_scp(sys.stdin.buffer, "<stdin>")
    elif re.match(r"https?://", item):
        raise CorpusError(f"{item}: URLs are not read by this version; download the file and name it")
    elif path.is_dir():
        yield from _read_folder(path)
    elif path.suffix == ".scp":
        try:
            with path.open("rb") as file:
                yield from _read_scp(file, item)
        except OSError as error:
            raise CorpusError(
                f"{item}: {error.strerror}; INPUT is audio, a folder, a .scp list or - for standard input"
            ) from None
    elif path.exists() or path.suffix.lower() in AUDIO_SUFFIXES:  # audio that is missing fails alone, later
        yield _Listed(None, item, os.path.relpath(item), item)
    else:
        raise CorpusError(f"{item}: no such file or folder")


def _read_folder(folder: Path) -> Iterator[_Listed]:
    """Read a Kaldi data directory (it holds ``wav.scp``), or all audio below a folder, sorted by path."""
    scp = folder / "wav.scp"
    if (folder / "segments").exists() and scp.exists():
        raise CorpusError(f"{folder / 'segments'}: data directories with segments are not read by this version")
    if scp.exists():
        yield from _read_input(str(scp))
        return
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
                yield _Listed(None, path, os.path.relpath(path, folder), path)


def _refuse_folder(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: {error.strerror}") from None


def _read_scp(file: BinaryIO, name: str) -> Iterator[_Listed]:
    for number, raw in enumerate(file, 1):
        line = raw.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n\v\f") if number == 1 else raw.strip(b" \t\r\n\v\f")
        if not line:
            continue
        origin = f"{name}:{number}"
        key, *rest = re.split(rb"[ \t\v\f]+", line, maxsplit=1)
        try:
            utt_id = key.decode()
        except UnicodeDecodeError:
            raise CorpusError(f"{origin}: utt-id {key!r} is not UTF-8") from None
        if utt_id.startswith("#"):
            raise CorpusError(f"{origin}: begins with #, but a .scp list has no comments")
        if not rest:
            raise CorpusError(f'{origin}: no path behind utt-id "{utt_id}"; a line is: utt-id path')
        path = os.fsdecode(rest[0])
        if path.endswith("|"):
            raise CorpusError(f"{origin}: commands are not run by this version; write their output to files first")
        if re.match(r"https?://", path):
            raise CorpusError(f"{origin}: URLs are not read by this version; download the audio first")
        if re.search(r"\.ark:\d+(\[.*\])?$", path):
            raise CorpusError(f"{origin}: archives are not read by this version; write the audio to files first")
        if any(ord(character) < 32 for character in utt_id):
            raise CorpusError(f"{origin}: control characters in utt-id {utt_id!r}")
        yield _Listed(utt_id, path, path, origin)


def _as_id(name: str) -> str:
    """Make an id of a file's name: what would break a line or a column, or is not UTF-8, is percent-encoded."""
    unsafe = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]")
    return unsafe.sub(lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match.group())), name)


def _first(first: str, again: str) -> str:
    """Say where an id was first seen: ``on line 3`` within the same file, else ``at a.scp:3``."""
    (first_file, _, first_line), again_file = first.rpartition(":"), again.rpartition(":")[0]
    in_list = first_line.isdecimal() and first_file == again_file
    return f"on line {first_line}" if in_list else f"at {first}"
