"""Reading the journals of a run folder: the status of each utterance of a list, and the position of its line."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.errors import OutputError
from e2v_cli.journal.ids import digest_sources
from e2v_cli.journal.journal import (
    DONE,
    END_LINE,
    JOURNAL_FORMAT,
    LEFT,
    SOURCE_DIGITS,
    Elapsed,
    Header,
    JournalFile,
    Machine,
    failure_status,
    start_order,
    with_checksum,
)
from e2v_cli.journal.reasons import Reasons
from e2v_cli.options import Invocation
from e2v_cli.records import DoneRecord, Place

LOOKUP_LINES = 1 << 16
"""Lines that are looked up together."""

GAP = 1 << 12
"""Gaps of up to this many bytes between lines are read, not skipped."""

OPEN_JOURNALS = 256
"""Journals that are open at once while lines are read back."""

_END = with_checksum(END_LINE)[8:]

_BEFORE_SOURCE = -len(f"\t{0:0{SOURCE_DIGITS}}\n")
"""Index of the tab before the last cell of an utterance's line, counted from the end."""

_SOURCE = slice(_BEFORE_SOURCE + 1, -1)
"""Slice of the last cell: the CRC-32 of the source."""


class DoneLine(NamedTuple):
    """The cells of a done line of a journal, as bytes: see ``records.DoneRecord``."""

    utt_id: bytes
    num_frames: bytes
    windows: bytes
    duration: bytes
    embedding: bytes
    """Place of the embedding; the places of several layers are separated by blanks."""
    timelines: bytes
    label: bytes
    posteriors: bytes = b""
    """Posteriors of all labels, separated by tabs; empty if the model has no head."""


def parse_done(line: bytes) -> DoneLine:
    """Parse a line of a journal that begins with ``done``, without its checksums."""
    return DoneLine(*line[5:_BEFORE_SOURCE].split(b"\t", 7))


def parse_record(index: int, line: bytes) -> DoneRecord:
    """Parse a line like ``parse_done``, with one embedding, into its record, without the places of timelines.

    Args:
        index: index of the utterance in the input.
        line: the line.
    """
    done = parse_done(line)
    return DoneRecord(
        index=index,
        utt_id=done.utt_id.decode(),
        duration=float(done.duration),
        num_frames=int(done.num_frames),
        windows=int(done.windows),
        label=done.label.decode(),
        posteriors=tuple(map(float, done.posteriors.split())),
        embedding=Place.parse(done.embedding.decode()),
        source_checksum=int(line[_SOURCE], 16),
    )


def parse_failed(line: bytes) -> bytes:
    """Return the row of ``failures.tsv`` of a line of a journal that begins with ``failed``."""
    return line[7:_BEFORE_SOURCE] + b"\n"


class History:
    """The records of the utterances of a list in the journals of a run folder."""

    def __init__(self, index: KeyIndex, input_sha256: str, checksums: NDArray[np.uint32] | None) -> None:
        """Begin without journals.

        Args:
            index: index of the list's ids.
            input_sha256: digest of the list.
            checksums: (utterances,) checksums of the sources. Results of other sources don't count; None: all results
                count.
        """
        size = len(index)
        self._checksums = checksums
        self._recorded: NDArray[np.uint8] = np.full(size, LEFT, dtype=np.uint8)
        """(utterances,): the status by the utterance's line, whatever its source was."""
        self._is_stale: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        """(utterances,): whether the utterance's line is a result of another source."""
        self.elapsed: dict[JournalFile, Elapsed] = {}
        """Time taken and utterances finished by each attempt."""
        self.reasons = Reasons(size)
        """Reasons of the failed lines."""
        self.archives: dict[str, int] = {}
        """Last offset that the journals record in each archive or folder (0) of embeddings, by path relative to OUT."""
        self.timelines: dict[str, int] = {}
        """Bytes that the journals record of each file of timeline rows, by path relative to OUT."""
        self.ended: set[JournalFile] = set()
        """Attempts whose last line is an end line."""
        self.sizes: dict[str, int] = {}
        """Bytes of the journals when they were read, by name."""
        self.input_sha256 = input_sha256
        """Digest of the list."""
        self.timeline: str | float | None = None
        """The value of ``timeline`` in the fingerprint of the run: results of journals with another are outdated."""
        self._index = index
        self._read_to: dict[JournalFile, int] = {}
        """The end of the last complete line read from each journal."""
        self._journals: list[JournalFile] = []
        self._starts: list[tuple[int, float, int, JournalFile]] = []
        """``start_order`` of each journal."""
        self._timelines: list[str | float | None] = []
        """Value of ``timeline`` in the fingerprint of each journal."""
        self._at_other_list: list[bool] = []
        """Whether each journal is of another list."""
        self._journal_of: NDArray[np.int32] = np.zeros(size, dtype=np.int32)
        self._offset: NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        self._length: NDArray[np.int32] = np.zeros(size, dtype=np.int32)
        """(utterances,): the journal, the offset and the length of each line."""
        self._descriptors: dict[int, int] = {}
        """Descriptors of open journals, the most recently used one last."""
        self._most_open = 0
        """The most journals that are kept open; 0 while none is read."""

    @property
    def status(self) -> NDArray[np.uint8]:
        """(utterances,): LEFT, FAILED, FAILED_IN_BATCH or DONE."""
        status: NDArray[np.uint8] = np.where(self._is_stale | self.outdated, np.uint8(LEFT), self._recorded)
        return status

    @property
    def outdated(self) -> NDArray[np.bool_]:
        """(utterances,): whether the utterance is left only because its result has other timelines."""
        others: NDArray[np.bool_] = np.array([value != self.timeline for value in self._timelines], dtype=np.bool_)
        if not others.any():
            return np.zeros(len(self._recorded), dtype=np.bool_)
        outdated: NDArray[np.bool_] = others[self._journal_of] & (self._recorded == DONE) & ~self._is_stale
        return outdated

    @property
    def changed(self) -> NDArray[np.bool_]:
        """(utterances,): whether the utterance is left only because its result is of another source."""
        changed: NDArray[np.bool_] = self._is_stale.copy()
        return changed

    @property
    def done_before(self) -> NDArray[np.bool_]:
        """(utterances,): whether the utterance was done with another list; it is then in no block of this list."""
        if not any(self._at_other_list):
            return np.zeros(len(self._recorded), dtype=np.bool_)
        at_other_list: NDArray[np.bool_] = np.array(self._at_other_list, dtype=np.bool_)
        done_before: NDArray[np.bool_] = at_other_list[self._journal_of] & (self.status == DONE)
        return done_before

    @property
    def sources_sha256(self) -> str | None:
        """The digest of the list's sources; None if results of other sources count."""
        return None if self._checksums is None else digest_sources(self._checksums)

    def add(self, journal: JournalFile, header: Header | None, size: int) -> None:
        """Read the new lines of a journal up to ``size`` bytes; a failure never replaces a result.

        Of two results or two failures, that of the attempt that began later counts, whatever its shard.

        Raises:
            OutputError: it is damaged before its end, or written by another version.
        """
        if self.sizes.get(journal.path.name) == size:
            return
        self.sizes[journal.path.name] = size
        if header is None:  # its writer was killed before the header was complete
            return
        if journal not in self._read_to:
            self._read_to[journal] = 0
            self._journals.append(journal)
            self._starts.append(start_order(journal, header))
            self._timelines.append(header.fingerprint.get("timeline"))
            self._at_other_list.append(header.input_sha256 != self.input_sha256)
        number = self._journals.index(journal)
        keys: list[bytes] = []
        sources: list[bytes] = []
        lines: list[tuple[int, int, int, int]] = []
        begin = offset = self._read_to[journal]
        text = b""
        farthest: dict[bytes, bytes] = {}
        try:
            for offset, text in _whole_lines(journal.path, begin, size):
                _, kind, key, *cells = text.split(b"\t", 8)
                if kind == b"done":
                    _, _, _, embedding, timelines, _ = cells
                    lines.append((DONE, offset, len(text), 0))
                    keys.append(key)
                    sources.append(text[_SOURCE])
                    for place in embedding.split():
                        self._keep_farthest(place, farthest)
                    for place in timelines.split():
                        self._note_timeline(Place.parse(place.decode()))
                elif kind == b"failed":
                    stage, reason, *_ = cells
                    status = failure_status(stage.decode(), reason.decode())
                    lines.append((status, offset, len(text), self.reasons.number(reason.decode())))
                    keys.append(key)
                    sources.append(text[_SOURCE])
                elif kind == b"time":
                    self.elapsed[journal] = Elapsed(**json.loads(key))
                if len(lines) == LOOKUP_LINES:
                    self._note(number, keys, lines, sources)
                    keys, lines, sources = [], [], []
            for embedding in farthest.values():
                self._note_embedding(Place.parse(embedding.decode()))
            if lines:
                self._note(number, keys, lines, sources)
        except (ValueError, TypeError):
            raise other_version(journal.path) from None
        self._read_to[journal] = offset + len(text)
        if text:  # it has a new complete line
            (self.ended.add if text == _END else self.ended.discard)(journal)
        if self._read_to[journal] < size:  # its last line is torn
            self.ended.discard(journal)

    def read_lines(self, first: int, end: int, gap: int = GAP) -> list[bytes]:
        """Read the lines of utterances ``first`` to ``end``, without checksums; empty if an utterance has no line.

        A line begins with ``done`` or ``failed``, and ends with a line break. ``reading`` keeps journals open.
        """
        if not self._most_open:
            with self.reading():
                return self.read_lines(first, end, gap)
        texts = [b""] * (end - first)
        journal_of, offset, length = self._journal_of[first:end], self._offset[first:end], self._length[first:end]
        for number in np.unique(journal_of[length > 0]):
            chosen = np.flatnonzero((journal_of == number) & (length > 0))
            chosen = chosen[np.argsort(offset[chosen])]
            gaps = offset[chosen][1:] - (offset[chosen] + length[chosen])[:-1]
            descriptor = self._open(int(number))
            for run in np.split(chosen, np.flatnonzero(gaps > gap) + 1):
                begin, last = int(offset[run[0]]), run[-1]
                span = os.pread(descriptor, int(offset[last] + length[last]) - begin, begin)
                for index, at, size in zip(run.tolist(), offset[run].tolist(), length[run].tolist(), strict=True):
                    texts[index] = span[at - begin + 1 : at - begin + size]
        return texts

    @contextmanager
    def reading(self, most: int = OPEN_JOURNALS) -> Iterator[None]:
        """Keep journals open until the block ends, so that ``read_lines`` opens each of the ``most`` latest once."""
        self._most_open = most
        try:
            yield
        finally:
            self._most_open = 0
            self._close_all_but(0)

    def _open(self, number: int) -> int:
        """Return the descriptor of a journal; open it if necessary."""
        descriptor = self._descriptors.pop(number, None)
        if descriptor is None:
            descriptor = os.open(self._journals[number].path, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors[number] = descriptor  # the most recently used one is closed last
        self._close_all_but(self._most_open)
        return descriptor

    def _close_all_but(self, count: int) -> None:
        while len(self._descriptors) > count:
            os.close(self._descriptors.pop(next(iter(self._descriptors))))

    def _note(
        self, number: int, keys: list[bytes], lines: list[tuple[int, int, int, int]], sources: list[bytes]
    ) -> None:
        """Store statuses of utterances, positions of their lines and reasons of failures, in any order of journals."""
        indices, numbers = self._index.find(hash_keys(keys)), np.array(lines, dtype=np.int64)
        is_stale = self._differ(indices, sources)
        done = numbers[:, 0] == DONE
        counts = (indices >= 0) & (done | ~is_stale)  # a failure of another source says nothing of this one
        indices, numbers, is_stale, done = indices[counts], numbers[counts], is_stale[counts], done[counts]
        recorded, journal_of = self._recorded[indices], self._journal_of[indices]
        later = [other for other in np.unique(journal_of).tolist() if self._starts[other] > self._starts[number]]
        is_last = (recorded == LEFT) | ~np.isin(journal_of, later)  # no line of a later attempt is known
        was_done = recorded == DONE
        for chosen in (
            ~done & is_last & (~was_done | self._is_stale[indices]),
            done & (is_last | ~was_done & ~is_stale),
        ):
            at, chosen_numbers = indices[chosen], numbers[chosen]
            self._recorded[at] = chosen_numbers[:, 0]
            self._is_stale[at] = is_stale[chosen]
            self._journal_of[at] = number
            self._offset[at] = chosen_numbers[:, 1]
            self._length[at] = chosen_numbers[:, 2]
            self.reasons.numbers[at] = chosen_numbers[:, 3]

    def _differ(self, indices: NDArray[np.int64], sources: list[bytes]) -> NDArray[np.bool_]:
        """Return which lines are of other sources than the list has at their indices: (lines,).

        Raises:
            ValueError: a checksum is malformed.
        """
        checksums = np.frombuffer(bytes.fromhex(b"".join(sources).decode()), dtype=">u4")
        if len(checksums) != len(sources):
            raise ValueError("checksums are too short")
        if self._checksums is None:
            return np.zeros(len(sources), dtype=np.bool_)
        differ: NDArray[np.bool_] = self._checksums[indices] != checksums
        return differ

    def _keep_farthest(self, place: bytes, farthest: dict[bytes, bytes]) -> None:
        """Keep the place of an embedding if it is the farthest in its archive; the other places are not parsed."""
        archive, _, numbers = place.partition(b":")
        if b":" in numbers:
            self._note_embedding(Place.parse(place.decode()))
            return
        archive = archive.partition(b"/")[0]  # for single files the folder is enough
        known = farthest.get(archive, b"")
        if (len(place), place) > (len(known), known):  # the offset with more digits is larger
            farthest[archive] = place

    def _note_embedding(self, place: Place) -> None:
        if place.size is not None:  # not a Kaldi archive: checked by size, like a timeline
            self._note_timeline(place)
        elif place.offset is not None:
            self.archives[place.file] = max(place.offset, self.archives.get(place.file, 0))
        else:
            self.archives[place.file.partition("/")[0]] = 0

    def _note_timeline(self, place: Place) -> None:
        if place.offset is None or place.size is None:
            raise ValueError(f"{place} is not a place of timeline rows")
        self.timelines[place.file] = max(place.offset + place.size, self.timelines.get(place.file, 0))


def read_header(path: Path) -> Header | None:
    """Read the first line of a journal; None if it is torn.

    Raises:
        OutputError: it is damaged, or written by another version.
    """
    try:
        _, text = next(_whole_lines(path, 0, path.stat().st_size))
        _, kind, content = text.split(b"\t", 2)
        fields = json.loads(content)
        machine, invocation = Machine(**fields["machine"]), Invocation(**fields["invocation"])
        header = Header(**fields)
        if kind != b"run" or header.format != JOURNAL_FORMAT:
            raise other_version(path)
        datetime.fromisoformat(header.started)  # attempts are ordered by it
        return replace(
            header,
            labels=tuple(header.labels),
            timeline_formats=tuple(header.timeline_formats),
            machine=replace(machine, gpus=tuple(machine.gpus)),
            invocation=replace(invocation, command=tuple(invocation.command), inputs=tuple(invocation.inputs)),
        )
    except StopIteration:
        return None
    except (ValueError, TypeError, LookupError):
        raise other_version(path) from None


def _whole_lines(path: Path, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Read the complete lines of a journal from byte ``begin`` on: the offset after each checksum, and the text there.

    Lines that begin at ``end`` or later are left out: an incomplete line there is still being written, not torn.

    Raises:
        OutputError: an incomplete or damaged line is not the last.
    """
    offset = begin
    torn = False
    with path.open("rb") as file:
        file.seek(begin)
        for raw in file:
            if offset >= end:
                return
            if torn:
                number = _count_lines(path, offset)
                raise OutputError(
                    f"{path}:{number}: damaged, and lines follow it; restore it, or cut it before that line "
                    f"(head -n {number - 1}) to compute again what is lost, or use --overwrite"
                )
            text = raw[8:]
            try:
                torn = int(raw[:8], 16) != zlib.crc32(text) or not text  # the checksum of an empty text is zero
            except ValueError:
                torn = True
            if not torn:
                yield offset + 8, text
            offset += len(raw)


def _count_lines(path: Path, end: int) -> int:
    """Count the lines of a file that begin before a byte."""
    with path.open("rb") as file:
        return sum(1 for line in file if (end := end - len(line)) >= 0)


def other_version(path: Path) -> OutputError:
    """Return the error of a journal that this version can't read."""
    return OutputError(f"{path}: not written by this version of e2v; use the one that wrote it, or --overwrite")
