"""INPUT → Utterance: audio files, folders of them, ``.scp`` lists, Kaldi data directories, URLs, standard input.

Lists are read as Kaldi reads them: split at the first white space, relative paths against the current folder (and
against the list's own, where only that has them). A byte order mark, CRLF, blank lines and a missing final newline do
no harm. Ids are UTF-8; paths may be any bytes. An error in a list stops e2v before any work; one in a segment alone is
a failure of that segment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.audio.sources import is_pipe, is_url
from e2v_cli.corpus.corpus import STDIN, Corpus, Recordings, UtteranceList
from e2v_cli.corpus.data_dir import read_recording_channels
from e2v_cli.corpus.lists import (
    check_entry,
    check_id,
    copy_to_disk,
    has_list,
    index_lines,
    make_list,
    open_list,
    split_line,
)
from e2v_cli.corpus.segments import read_segments
from e2v_cli.errors import CorpusError
from e2v_cli.system.files import exists, is_directory
from e2v_cli.system.text import percent_encoded

_PLAIN_LINE = re.compile(rb"[ \t\v\f]*([!\"$-~][!-~]*)[ \t\v\f]+(?!https?:)[^\s|-][^|]*$")
"""A line that needs no other check: an id of plain letters that is no comment, and a path without a ``|``."""


@dataclass(frozen=True, slots=True)
class _FoundFile:
    """An audio file that was named or found in a folder; its id depends on the other files."""

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
class _FoundFiles:
    """Audio files that were named one by one, or found."""

    found: list[_FoundFile]
    folder: str = ""
    """The list's own, for relative paths that the current folder doesn't have."""


def read_corpus(inputs: Sequence[str], allow_pipes: bool = False) -> Corpus:
    """Read all inputs, in order.

    Args:
        inputs: as on the command line.
        allow_pipes: whether a list may hold commands to be run.

    Raises:
        CorpusError: an input doesn't exist, a line can't be read, an id is duplicate, or there are no utterances.
    """
    reader = _InputReader(allow_pipes, stdin_is_list=STDIN in inputs)
    lists: list[UtteranceList | _FoundFiles] = []
    for item in inputs:
        utterances = reader.read(item)
        last = lists[-1] if lists else None
        if isinstance(utterances, _FoundFiles) and isinstance(last, _FoundFiles) and utterances.folder == last.folder:
            last.found.extend(utterances.found)
        else:
            lists.append(utterances)
    if not any(len(each.found) if isinstance(each, _FoundFiles) else len(each.hashes) for each in lists):
        raise CorpusError(
            f"{', '.join(inputs)}: no utterances found; a list has lines like: utt-id path, "
            f"and folders are searched for {' '.join(sorted(audio_suffixes()))}"
        )
    ids = _choose_ids(lists)
    return Corpus([_list_files(each, ids) if isinstance(each, _FoundFiles) else each for each in lists], reader.waits)


class _InputReader:
    """A reader of inputs, and the state that they share."""

    def __init__(self, allow_pipes: bool, stdin_is_list: bool) -> None:
        self.waits = False
        """Whether there are commands or URLs, whose audio is waited for."""
        self._allow_pipes = allow_pipes
        self._stdin_is_list = stdin_is_list
        self._stdin_audio = ""
        """The file that the audio on standard input was copied to."""

    def read(self, item: str) -> UtteranceList | _FoundFiles:
        """Read an input."""
        path = Path(item)
        if item == STDIN:
            with copy_to_disk(_standard_input()) as file:
                return self._read_scp(file, "<stdin>", "", {})
        if is_url(item):
            self.waits = True
            return _FoundFiles([_FoundFile(item, item)])
        if is_pipe(item):
            raise CorpusError(f"{item}: a command can only stand in a list: echo 'utt1 {item}' | e2v predict - …")
        if is_directory(path):
            return self._read_folder(path)
        if path.suffix == ".scp" and has_list(path):
            return self._read_list(path, {})
        if exists(path) or path.suffix.lower() in audio_suffixes():  # audio that is missing fails alone, later
            return _FoundFiles([_FoundFile(item, os.path.relpath(item))])
        raise CorpusError(
            f"{item}: no such file or folder; INPUT is audio, a folder, a .scp list or - for standard input"
        )

    def _read_folder(self, folder: Path) -> UtteranceList | _FoundFiles:
        """Read a Kaldi data directory (it holds ``wav.scp``), or all audio below a folder, sorted by path."""
        has_segments = has_list(folder / "segments")
        if not has_list(folder / "wav.scp"):
            if has_segments:
                raise CorpusError(f"{folder / 'wav.scp'}: no such file, but there are segments of its recordings")
            return _FoundFiles(_find_audio_files(folder))
        recordings = self._read_list(folder / "wav.scp", read_recording_channels(folder))
        if not has_segments:
            return recordings
        if not isinstance(recordings, Recordings):
            raise CorpusError(f"{folder / 'wav.scp'}: one column, but segments need recording ids before the paths")
        index = Corpus([recordings]).index  # refuses duplicate ids
        return read_segments(folder / "segments", recordings, index)

    def _read_list(self, path: Path, recording_channels: dict[bytes, int]) -> Recordings | _FoundFiles:
        with open_list(path) as file:
            return self._read_scp(file, str(path), str(path.parent), recording_channels)

    def _read_scp(
        self, file: BinaryIO, name: str, folder: str, recording_channels: dict[bytes, int]
    ) -> Recordings | _FoundFiles:
        if _has_one_column(file):
            return _FoundFiles(list(self._read_paths(file, name)), folder)
        lines = index_lines(file, name, _PLAIN_LINE, self._check_scp_line)
        return Recordings(lines, folder, recording_channels, self._stdin_audio)

    def _check_scp_line(self, line: bytes, origin: str) -> bytes:
        """Check a line, and return its id.

        Raises:
            CorpusError: it has another form, or is a command that is not allowed.
        """
        key, *rest = split_line(line)
        check_id(key, origin)
        if not rest:
            raise CorpusError(f'{origin}: no path behind utt-id "{key.decode()}"; a line is: utt-id path')
        source = os.fsdecode(rest[0])
        self._check_source(source, origin)
        if source == STDIN:
            self._keep_standard_input(origin)
        return key

    def _check_source(self, source: str, origin: str) -> None:
        """Refuse commands that are not allowed, and note whether the audio is waited for."""
        if is_pipe(source) and not self._allow_pipes:
            raise CorpusError(
                f"{origin}: {source!r} is a command; --allow-pipes lets e2v run the commands of a list, "
                "for lists that you trust"
            )
        self.waits = self.waits or is_pipe(source) or is_url(source)

    def _read_paths(self, file: BinaryIO, name: str) -> Iterator[_FoundFile]:
        """Read a list of one column."""
        for number, line in enumerate(file, 1):
            cells = split_line(line)
            if cells == [b""]:
                continue
            if len(cells) > 1:
                raise CorpusError(f"{name}:{number}: two columns, but the first line has one: write an utt-id in each")
            path = os.fsdecode(check_entry(cells[0], f"{name}:{number}"))
            self._check_source(path, f"{name}:{number}")
            yield _FoundFile(path, path if is_url(path) else os.path.normpath(path))

    def _keep_standard_input(self, origin: str) -> None:
        """Copy the audio on standard input to a file, which workers can read.

        Raises:
            CorpusError: standard input is used already, or the disk is full.
        """
        if self._stdin_is_list or self._stdin_audio:
            other = "the list itself" if self._stdin_is_list else "the audio of another line"
            raise CorpusError(f"{origin}: - reads audio from standard input, which is already {other}")
        try:
            keeper = tempfile.TemporaryDirectory(prefix="e2v-")
            path = Path(keeper.name, "standard input")
            with path.open("wb") as file:
                shutil.copyfileobj(_standard_input(), file)
        except OSError as error:
            raise CorpusError(
                f"{tempfile.gettempdir()}: {error.strerror}; audio from standard input is stored there: set TMPDIR"
            ) from None
        _KEPT.append(keeper)  # removed when e2v ends
        self._stdin_audio = str(path)


_KEPT: list[object] = []
"""Temporary folders that last as long as the process."""


def _standard_input() -> BinaryIO:
    """Return standard input.

    Raises:
        CorpusError: it is closed.
    """
    if sys.stdin is None:
        raise CorpusError("-: standard input is closed")
    return sys.stdin.buffer


def _has_one_column(file: BinaryIO) -> bool:
    """Whether a list is one of paths alone: its first line has one column, which looks like a path."""
    begin = file.tell()
    first = next((cells for line in file if (cells := split_line(line)) != [b""]), [])
    file.seek(begin)
    return len(first) == 1 and (b"/" in first[0] or Path(os.fsdecode(first[0])).suffix.lower() in audio_suffixes())


def _find_audio_files(folder: Path) -> list[_FoundFile]:
    """Find all audio below a folder, also in linked folders, sorted by path."""
    suffixes = audio_suffixes()
    found = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder that was visited, perhaps a parent
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                path = os.path.join(parent, name)
                found.append(_FoundFile(path, os.path.relpath(path, folder)))
    return found


def _refuse_folder(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: {error.strerror}") from None


def _choose_ids(lists: Sequence[UtteranceList | _FoundFiles]) -> Iterator[str]:
    """Choose ids for all files that were found: the stem if it is unique, else the relative path; both as words."""
    found = [item for each in lists if isinstance(each, _FoundFiles) for item in each.found]
    stems = Counter(item.stem for item in found)
    relatives = Counter(item.relative for item in found)
    by_hash = {hash(percent_encoded(stem).encode()): stem for stem in stems}
    for each in lists:
        if not isinstance(each, _FoundFiles) and stems:
            stems.update(by_hash[value] for value in each.hashes if value in by_hash)
    for item in found:
        elsewhere = item.path if is_url(item.path) else os.path.relpath(item.path)
        ambiguous = item.relative if relatives[item.relative] == 1 else elsewhere
        yield percent_encoded(item.stem if stems[item.stem] == 1 else ambiguous)


def _list_files(files: _FoundFiles, ids: Iterator[str]) -> Recordings:
    """Make a list of files that were found."""
    lines = make_list((next(ids).encode(), os.fsencode(item.path)) for item in files.found)
    return Recordings(lines, files.folder, {}, "")
