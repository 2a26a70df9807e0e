"""INPUT → Utterance: audio files, folders of them, lists, Kaldi data directories, URLs, standard input.

A list is told by its content (``corpus.kinds``), whatever its name. Lines of an id and audio are read as Kaldi reads
them: split at the first white space, relative paths against the current folder (and against the list's own, where only
that has them). A byte order mark, CRLF, blank lines and a missing final newline do no harm. Ids are UTF-8; paths may be
any bytes. An error in a list stops e2v before any work; one in a segment alone is a failure of that segment.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.audio.sources import is_other_url, is_pipe, is_url
from e2v_cli.corpus.corpus import STDIN, Corpus, Recordings, UtteranceList
from e2v_cli.corpus.data_dir import read_recording_channels
from e2v_cli.corpus.diarisation import cut_recordings
from e2v_cli.corpus.found import format_times, make_id, search_folder
from e2v_cli.corpus.kinds import Kind, is_binary, read_first_line, refuse_file, tell_kind, unzipped
from e2v_cli.corpus.lists import (
    ListWriter,
    check_entry,
    check_id,
    copy_to_disk,
    has_list,
    index_lines,
    open_list,
    split_line,
    stored_on_disk,
)
from e2v_cli.corpus.manifests import Row, read_delimited, read_json_lines
from e2v_cli.corpus.segments import list_audio, read_segments
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.options import InputOptions
from e2v_cli.system.files import is_directory, is_regular_file

logger = logging.getLogger(__name__)

_PLAIN_LINE = re.compile(rb"[ \t\v\f]*([!\"$-~][!-~]*)[ \t\v\f]+(?![A-Za-z][A-Za-z0-9+.-]*://)[^\s|-][^|]*$")
"""Pattern of a line that needs no other check: an id of plain letters, no comment, and a path without a ``|``."""

_COPY = (
    "only http:// and https:// are read; copy it here, or list a command that prints it, with --allow-pipes: "
    "utt1 aws s3 cp s3://… - |"
)
"""Remedy for URLs that can't be downloaded."""

_SCP_NAME = re.compile(r".*\.scp(\.gz)?", re.IGNORECASE | re.DOTALL)
"""Pattern of the name of a file that is a list, whatever its content."""

_SPECIFIER = re.compile(r"(?P<kind>(scp|ark)(,[a-z]+)*):(?P<path>.*)", re.DOTALL)

_DESCRIPTOR = re.compile(r"/dev/(fd/\d+|stdin)|/proc/(self|\d+)/fd/\d+")
"""Pattern of the path of an open file descriptor, as a shell writes ``<(command)``."""


def read_corpus(options: InputOptions) -> Corpus:
    """Read all inputs, in order, whatever the channel; what folders left out is logged.

    Raises:
        CorpusError: a line can't be read, an id is duplicate, or there are no utterances.
        UsageError: inputs don't exist, or one is neither audio nor a list.
    """
    inputs = options.inputs
    _refuse_missing(inputs)
    reader = _InputReader(options)
    lists: list[UtteranceList | ListWriter] = []
    empty = []
    with stored_on_disk():
        for item in inputs:
            utterances = reader.read(item)
            if isinstance(utterances, str):  # audio, in a list with that before it
                last = lists[-1] if lists else None
                if not isinstance(last, ListWriter):
                    lists.append(last := ListWriter())
                last.add(make_id(utterances, options.id_form or "stem"), os.fsencode(utterances))
                continue
            lists.append(utterances)
            if not utterances.hashes:
                empty.append(item)
        if not any(each.hashes for each in lists):
            what = (
                f"{', '.join(inputs)}: no utterances found; a list has lines like: utt-id path, "
                f"and folders are searched for {' '.join(sorted(audio_suffixes()))}"
            )
            raise CorpusError("; ".join([what, *reader.notes]))
        for note in (*reader.notes, *(f"{item}: no utterances found" for item in empty)):
            logger.warning("%s", note)
        listed = [list_audio(each, "", "", "", root="") if isinstance(each, ListWriter) else each for each in lists]
        corpus = Corpus(listed, reader.waits)
    return corpus if options.segments_rttm is None else cut_recordings(corpus, options.segments_rttm)


def _refuse_missing(inputs: Sequence[str]) -> None:
    """Check that all inputs exist, but for what is fetched.

    Raises:
        UsageError: some don't, or are URLs of another kind; the message names all.
        CorpusError: it can't be told.
    """
    missing = [item for item in inputs if not (is_url(item) or is_pipe(item) or _exists(item))]
    if others := [item for item in missing if is_other_url(item)]:
        raise UsageError(f"{', '.join(others)}: {_COPY}")
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: no such file or folder; INPUT is audio, a folder, a list or - for standard input"
        )


def _exists(item: str) -> bool:
    """Whether there is a file or folder of an INPUT, or standard input is meant."""
    location = _strip_specifier(item)
    return location == STDIN or has_list(Path(location))


def is_only_here(item: str) -> bool:
    """Whether no other process can read an INPUT: standard input, or a pipe."""
    location = item.removeprefix("scp:")
    if location == STDIN or _DESCRIPTOR.fullmatch(location):
        return True
    with suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.stat(location).st_mode)
    return False


class _InputReader:
    """A reader of inputs, and the state that they share."""

    def __init__(self, options: InputOptions) -> None:
        self.waits = False
        """Whether the inputs have commands or URLs, whose audio is waited for."""
        self.stdin_audio = ""
        """Path of the file that the audio on standard input was copied to; empty: none was copied."""
        self.notes: list[str] = []
        """Notes for the user; none of them is an error."""
        self._options = options
        self._stdin_is_list = any(item.removeprefix("scp:") == STDIN for item in options.inputs)

    def read(self, item: str) -> UtteranceList | str:
        """Read an input; audio is returned as it is: a path or URL."""
        if is_url(item):
            self.waits = True
            return item
        location = _strip_specifier(item)
        if is_pipe(item):
            run = (
                f"e2v predict <({location.rstrip(' |')})"
                if location != item
                else f"echo 'utt1 {item}' | e2v predict - …"
            )
            raise CorpusError(f"{item}: a command can only stand in a list: {run}")
        if location == STDIN:
            return self._read_standard_input()
        path = Path(location)
        if location != item:
            return self._read_list(path, {})
        if is_directory(path):
            return self._read_folder(path)
        if path.suffix.lower() in audio_suffixes():
            return item
        return self._read_list(path, {}) if _SCP_NAME.fullmatch(path.name) else self._read_file(path, item)

    def _read_standard_input(self) -> UtteranceList:
        with copy_to_disk(standard_input()) as file, unzipped(file, STDIN) as plain:
            if is_binary(plain):
                raise UsageError(
                    "-: not text, but a list is read from here; for audio: e2v predict <(echo utt1 -) < AUDIO"
                )
            return self._read_lines(plain, tell_kind(plain), Path("<stdin>"), {})

    def _read_folder(self, folder: Path) -> UtteranceList:
        """Read a Kaldi data directory (it holds ``wav.scp``), or all audio below a folder, sorted by path."""
        has_segments = has_list(folder / "segments")
        if not has_list(folder / "wav.scp"):
            if has_segments:
                raise CorpusError(f"{folder / 'wav.scp'}: no such file, but there are segments of its recordings")
            found, left_out = search_folder(folder, self._options.hidden, self._options.id_form or "path")
            self.notes += [str(left_out)] if str(left_out) else []
            return list_audio(found, "", "", "", root=str(folder))
        recordings = self._read_list(folder / "wav.scp", read_recording_channels(folder))
        if not has_segments:
            return recordings
        if not isinstance(recordings, Recordings) or recordings.root is not None:
            raise CorpusError(f"{folder / 'wav.scp'}: one column, but segments need recording ids before the paths")
        index = Corpus([recordings]).index  # refuses duplicate ids
        return read_segments(folder / "segments", recordings, index)

    def _read_list(self, path: Path, recording_channels: dict[bytes, int]) -> UtteranceList:
        """Read a file that must be a list."""
        with open_list(path) as file, unzipped(file, str(path)) as plain:
            return self._read_lines(plain, tell_kind(plain), path, recording_channels)

    def _read_file(self, path: Path, item: str) -> UtteranceList | str:
        """Read a file that is audio or a list."""
        if _is_device(path):
            return item
        with open_list(path) as file, unzipped(file, item) as plain:
            if is_binary(plain):
                if is_regular_file(path):
                    return item
                raise UsageError(
                    f"{item}: audio from a pipe; save it, or name it in a list: e2v predict <(echo utt1 -) < AUDIO"
                )
            kind, first = tell_kind(plain), read_first_line(plain)
            if first and kind is None:
                refuse_file(item, first)
            if not first and is_regular_file(path):
                return item  # which fails alone
            return self._read_lines(plain, kind, path, {})

    def _read_lines(
        self, file: BinaryIO, kind: Kind | None, path: Path, recording_channels: dict[bytes, int]
    ) -> UtteranceList:
        """Read a list of a kind; one of no kind is read as Kaldi's, whose errors name the line."""
        name = str(path)
        folder = "" if _DESCRIPTOR.fullmatch(name) else str(path.parent)
        if kind is None or kind == "scp":
            lines = index_lines(file, name, _PLAIN_LINE, self._check_scp_line)
            return Recordings(lines, folder, recording_channels, self.stdin_audio)
        readers = {"paths": _read_paths, "json": read_json_lines, "table": read_delimited}
        return self._collect(readers[kind](file, name), name, folder)

    def _collect(self, rows: Iterable[Row], name: str, folder: str) -> UtteranceList:
        """Collect the rows of a list, whose ids are all in it, or are all made."""
        writer, has_ids = ListWriter(), True
        with stored_on_disk():
            for row in rows:
                origin = f"{name}:{row.number}"
                self._check_source(row.source, origin)
                if len(writer) and has_ids != (row.utt_id is not None):
                    raise CorpusError(
                        f"{origin}: an id here or in the first line, but not in both; write one in each, or in none"
                    )
                has_ids = row.utt_id is not None
                writer.add(self._key_of(row, origin), os.fsencode(row.source), row.segment, row.number)
            return list_audio(writer, name, folder, self.stdin_audio, root=None if has_ids else "")

    def _key_of(self, row: Row, origin: str) -> bytes:
        """Return the id of a row, or make one.

        Raises:
            CorpusError: it can't be one.
        """
        if row.utt_id is not None:
            return check_id(os.fsencode(row.utt_id), origin)
        key = make_id(row.source, self._options.id_form or "stem")
        return key + format_times(row.segment) if row.segment else key

    def _check_scp_line(self, line: bytes, origin: str) -> bytes:
        """Check a line, and return its id.

        Raises:
            CorpusError: it has another form, or is a command that is not allowed.
        """
        key, *rest = split_line(line)
        check_id(key, origin)
        if not rest:
            raise CorpusError(f'{origin}: no path after utt-id "{key.decode()}"; a line is: utt-id path')
        source = os.fsdecode(rest[0])
        self._check_source(source, origin)
        return key

    def _check_source(self, source: str, origin: str) -> None:
        """Refuse commands that are not allowed, note whether the audio is waited for, and keep standard input."""
        if is_pipe(source) and not self._options.allow_pipes:
            raise CorpusError(
                f"{origin}: {source!r} is a command; --allow-pipes lets e2v run the commands of a list, "
                "for lists that you trust"
            )
        if is_other_url(source):
            raise CorpusError(f"{origin}: {source}: {_COPY}")
        self.waits = self.waits or is_pipe(source) or is_url(source)
        if source == STDIN:
            self._keep_standard_input(origin)

    def _keep_standard_input(self, origin: str) -> None:
        """Copy the audio on standard input to a file, which workers can read.

        Raises:
            CorpusError: standard input is used already, or the disk is full.
        """
        if self._stdin_is_list or self.stdin_audio:
            other = "the list itself" if self._stdin_is_list else "the audio of another line"
            raise CorpusError(f"{origin}: - reads audio from standard input, which is already {other}")
        try:
            keeper = tempfile.TemporaryDirectory(prefix="e2v-")
            path = Path(keeper.name, "standard input")
            with path.open("wb") as file:
                shutil.copyfileobj(standard_input(), file)
        except OSError as error:
            raise CorpusError(
                f"{tempfile.gettempdir()}: {error.strerror}; audio from standard input is stored there: set TMPDIR"
            ) from None
        _KEPT.append(keeper)  # removed when e2v ends
        self.stdin_audio = str(path)


_KEPT: list[object] = []
"""Temporary folders that last as long as the process."""


def standard_input() -> BinaryIO:
    """Return standard input.

    Raises:
        CorpusError: it is closed.
    """
    if sys.stdin is None:
        raise CorpusError("-: standard input is closed")
    return sys.stdin.buffer


def _strip_specifier(item: str) -> str:
    """Return PATH of Kaldi's ``scp:PATH``; any other input as it is.

    Raises:
        UsageError: it is another of Kaldi's specifiers.
    """
    match = _SPECIFIER.fullmatch(item)
    if match is None or has_list(Path(item)):
        return item
    if match["kind"] != "scp":
        raise UsageError(f"{item}: of Kaldi's specifiers, e2v takes scp:PATH alone")
    return match["path"]


def _is_device(path: Path) -> bool:
    """Whether a path is neither a file nor a pipe; False if that can't be told."""
    with suppress(OSError):
        mode = os.stat(path).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode))
    return False


def _read_paths(file: BinaryIO, name: str) -> Iterator[Row]:
    """Read a list of one column."""
    for number, line in enumerate(file, 1):
        cells = split_line(line)
        if cells == [b""]:
            continue
        if len(cells) > 1:
            raise CorpusError(f"{name}:{number}: two columns, but the first line has one: write an utt-id in each")
        yield Row(number, None, os.fsdecode(check_entry(cells[0], f"{name}:{number}")))
