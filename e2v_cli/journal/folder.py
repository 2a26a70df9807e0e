"""OUT as one object that lists itself and reads its journals once: its run, and whether an attempt may begin."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path

import numpy as np
from kaldiio.matio import read_kaldi
from numpy.typing import NDArray

from e2v_cli.corpus.blocks import BlockPlan
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.inference.kept import KEPT_FILES
from e2v_cli.journal.history import History, read_header
from e2v_cli.journal.ids import (
    IDS_PATTERNS,
    Ids,
    digest_sources,
    digest_tiers,
    names_beside,
    names_of_ids,
    read_sources,
    save_ids,
    save_sources,
)
from e2v_cli.journal.journal import DONE, JOURNAL_NAME, Header, Journal, JournalFile, holds_run, start_order
from e2v_cli.journal.locks import refuse_held_shards
from e2v_cli.options import DEVICE_KEYS, Fingerprint, ResultOptions, RunOptions, Shard, describe_timelines
from e2v_cli.system.files import dead_drafts, exists

_LOGS = ("log/worker.*-of-*.*.log", "log/launcher.*-of-*.log", "log/slurm-*.log", "slurm/*.json", "slurm/*.sh")
"""Logs, and the records and scripts of jobs."""
PAGE = "report.html"
"""File that ``e2v report`` makes of the results; it is deleted with them."""


@dataclass(frozen=True)
class Run:
    """The run of a folder, as its newest attempt describes it."""

    header: Header
    num_shards: int


class RunFolder:
    """OUT: its entries and its journals as they were when ``refresh`` last looked."""

    def __init__(
        self,
        path: Path,
        results: Collection[str],
        data: Collection[str],
        keep_changed: bool = False,
        keeps_frames: Callable[[Fingerprint], bool] = lambda _: False,
    ) -> None:
        """Hold the path of a folder, without reading it.

        Args:
            path: OUT.
            results: names of the final files that any run may write there.
            data: patterns, relative to OUT, of all other files that workers and publications write.
            keep_changed: whether results still count after the source of their utterance changed in the list.
            keeps_frames: whether a run with this fingerprint keeps all frames, from which timelines can be remade.
        """
        self.path = path
        self._keeps_frames = keeps_frames
        self._keep_changed = keep_changed
        self._results, self._data = results, data
        self._names: frozenset[str] = frozenset()
        self._sizes: dict[JournalFile, int] = {}
        self._headers: dict[JournalFile, Header] = {}
        self._history: History | None = None

    def refresh(self, tolerant: bool = False) -> None:
        """List the folder, and read the headers of journals that are new; ``tolerant``: of those that can be read.

        Raises:
            OutputError: a journal is damaged, or written by another version.
        """
        ignored = (FileNotFoundError, OutputError) if tolerant else (FileNotFoundError,)
        names, sizes = [], {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                names.append(entry.name)
                if match := JOURNAL_NAME.fullmatch(entry.name):
                    index, count, attempt = map(int, match.groups())
                    with suppress(FileNotFoundError):  # another process has just discarded it
                        sizes[JournalFile(Shard(count, index), attempt, self.path / entry.name)] = entry.stat().st_size
        self._names = frozenset(names)
        self._sizes = {file: sizes[file] for file in sorted(sizes)}
        self._headers = {file: header for file, header in self._headers.items() if file in sizes}
        for file in self._sizes:
            if file not in self._headers:
                with suppress(*ignored):  # another process may just have discarded it
                    if header := read_header(file.path):
                        self._headers[file] = header

    def make(self, overwrite: bool = False) -> None:
        """Create the folder, unless it exists and holds foreign files.

        Raises:
            OutputError: it can't be created, or its path has control characters, which no list can hold.
            OutputConflictError: it is a Kaldi data directory, or holds results that can't be resumed.
        """
        if re.search(rb"[\x00-\x1f]", bytes(self.path.resolve())):
            raise OutputError(f"{str(self.path)!r}: a list of embeddings can't hold this path; choose another -o")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror}; choose another -o") from None
        self.refuse_foreign_files(overwrite)

    def refuse_foreign_files(self, overwrite: bool = False) -> None:
        """Check that the folder holds no foreign files.

        Raises:
            OutputConflictError: it is a Kaldi data directory, or holds results that can't be resumed.
        """
        if os.path.lexists(self.path / "wav.scp"):
            raise OutputConflictError(
                f"{self.path} is a Kaldi data directory, and its utt2dur would be replaced: choose another -o"
            )
        found = next((name for name in self._results if exists(self.path / name)), None)
        if found and not overwrite and not holds_run(self.path):
            raise OutputConflictError(
                f"{self.path} holds {found}, but no journal of its run: choose another -o, or use --overwrite"
            )

    def guard(self, fingerprint: Fingerprint, ids: Ids, run: RunOptions) -> History:
        """Check that a run may begin or resume here, and read the history of its list.

        Raises:
            OutputConflictError: another run works here, or the folder holds one; the message names the differences.
            OutputError: a journal is damaged, or a file that it records is missing.
        """
        self.refresh(tolerant=run.overwrite)
        wanted = (ids.digest, fingerprint.get("timeline"))
        headers = ((other, self._headers[file]) for other, file in self._newest().items())
        of_other_runs = {
            other for other, head in headers if (head.input_sha256, head.fingerprint.get("timeline")) != wanted
        }
        refuse_held_shards(self.path, self._names, run.shard, of_other_runs)
        if run.overwrite:
            self._remove_everything()
        self.refuse_other_fingerprints(fingerprint, run.mix_devices)
        history = self.read_history(ids)
        history.timeline = fingerprint.get("timeline")
        if run.changed == "refuse":
            self._refuse_changed_sources(history, ids)
        self.check_places(history)
        return history

    def begin(self, shard: Shard, header: Header) -> Journal:
        """Begin an attempt at a shard, and return its journal.

        Raises:
            OutputConflictError: another run began at the same moment.
        """
        attempts = [file.attempt for file in self._sizes if file.shard == shard]
        header = replace(header, sequence=1 + max((known.sequence for known in self._headers.values()), default=-1))
        journal = Journal(self.path, shard, header, max(attempts, default=0) + 1)
        self._headers[journal.file] = header
        try:
            self.refresh()
            self.refuse_other_fingerprints(header.fingerprint)
        except (OSError, OutputError, OutputConflictError):
            journal.discard()
            journal.close()
            raise
        return journal

    @property
    def has_journals(self) -> bool:
        """Whether any journal exists, complete or not."""
        return bool(self._sizes)

    def find_run(self) -> Run:
        """Find the run of the folder.

        Raises:
            OutputError: it holds none.
            OutputConflictError: it holds several, with different fingerprints.
        """
        if not self._headers:
            raise OutputError(f"{self.path} holds no run: choose the -o of e2v predict")
        newest = self._last()
        header = self._headers[newest]
        self.refuse_other_fingerprints(header.fingerprint)
        return Run(header, newest.shard.count)

    def _last(self) -> JournalFile:
        """Return the journal of the newest attempt at any shard; there is one."""
        return max(self._headers, key=lambda file: start_order(file, self._headers[file]))

    def refuse_other_fingerprints(self, wanted: Fingerprint, mix_devices: bool = False) -> None:
        """Check that all journals of the folder are of the same run, perhaps on several kinds of device.

        Raises:
            OutputConflictError: a journal is of another run; the message names the differences.
        """
        mix_devices = mix_devices or self.mixes_devices
        for file in sorted(self._headers):
            found = self._headers[file].fingerprint
            different = [key for key in dict.fromkeys([*found, *wanted]) if found.get(key) != wanted.get(key)]
            is_device_alone = "device" in different and set(different) <= DEVICE_KEYS
            is_timeline_alone = different == ["timeline"]
            if not different or (is_device_alone and mix_devices) or (is_timeline_alone and self._keeps_frames(wanted)):
                continue
            described = "; ".join(f"{key} was {found.get(key)}, is {wanted.get(key)}" for key in different)
            advice = "Go on with --mix-devices, choose" if is_device_alone else "Choose"
            if is_timeline_alone:
                advice = (
                    "A timeline is made of frames, which this run did not keep (--granularity frame --embeddings npy, "
                    "or ark, in fp32 and not compressed, without --layers): choose"
                )
            raise OutputConflictError(
                f"{self.path} holds a different run: {described}. "
                f"{advice} another -o, or delete that run with --overwrite"
            )

    @property
    def mixes_devices(self) -> bool:
        """Whether any attempt allowed that others have another kind of device."""
        return any(header.mix_devices for header in self._headers.values())

    @property
    def headers(self) -> Mapping[JournalFile, Header]:
        """The headers of all attempts."""
        return self._headers

    def _refuse_changed_sources(self, history: History, ids: Ids) -> None:
        """Check that no utterance is done whose source in the list is another one now.

        Raises:
            OutputConflictError: there are such utterances; the message names the first three.
        """
        indices = np.flatnonzero(history.changed)
        if not len(indices):
            return
        keys = chain.from_iterable(ids.ids())
        first = 0
        named = []
        for index in indices[:3].tolist():
            named.append(next(islice(keys, index - first, None)).decode())
            first = index + 1
        others = f" and {len(indices) - 3} others" if len(indices) > 3 else ""
        num_done = len(indices) + int((history.status == DONE).sum())
        raise OutputConflictError(
            f"{self.path}: the list names other audio now for {len(indices)} of the {num_done} utterances that are "
            f"done: {', '.join(named)}{others}. Keep their results with --keep-changed, if files have only moved; "
            "compute them again with --recompute-changed; or choose another -o"
        )

    def save_list(self, ids: Ids) -> None:
        """Write the ids of a list, and the checksums of its sources, so that all processes count the same results."""
        save_ids(self.path, ids)
        save_sources(self.path, ids.digest, self._checksums_that_count(ids))

    def _checksums_that_count(self, ids: Ids) -> NDArray[np.uint32] | None:
        """Return the checksums that results must have to count: (utterances,); None: all count."""
        return None if self._keep_changed else ids.checksums

    def read_history(self, ids: Ids) -> History:
        """Read the records of a list from the journals; only the new lines of those read before.

        Raises:
            OutputError: a journal is damaged.
        """
        sizes = {file.path.name: size for file, size in self._sizes.items()}
        history = self._history
        if (
            history is None
            or history.input_sha256 != ids.digest
            or any(
                sizes.get(name, -1) < size for name, size in history.sizes.items()
            )  # a journal was removed or truncated
        ):
            history = self._history = History(ids.index, ids.digest, self._checksums_that_count(ids))
        for file, size in self._sizes.items():
            history.add(file, self._headers.get(file), size)
        history.timeline = self._headers[self._last()].fingerprint.get("timeline") if self._headers else None
        history.sizes = sizes  # in order of the files, not of reading
        history.elapsed = dict(sorted(history.elapsed.items()))
        return history

    def find_ended(self, history: History) -> set[Shard]:
        """Find the shards whose newest attempt is complete and was at the list of a history."""
        return {
            shard
            for shard, file in self._newest().items()
            if file in history.ended and self._headers[file].input_sha256 == history.input_sha256
        }

    def has_same_timelines(self, shard: Shard, results: ResultOptions) -> bool:
        """Whether the newest attempt at a shard had these timelines, in these formats."""
        newest = self._newest().get(shard)
        if newest is None:
            return False
        header, timeline = self._headers[newest], describe_timelines(results.timelines)
        found = (header.timeline_formats, header.join, header.fingerprint.get("timeline"))
        return found == (results.timeline_formats, results.join, timeline)

    def is_published(self, input_sha256: str) -> bool:
        """Whether all final files exist, and were made from this list and from the journals as they are."""
        try:
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if not isinstance(content, dict):
            return False
        sizes = {file.path.name: size for file, size in self._sizes.items()}
        sources = self.describe_sources(input_sha256, sizes)
        if any(content.get(name) != value for name, value in sources.items()):
            return False
        checksums = read_sources(self.path, input_sha256)
        if checksums is not None and content.get("sources_sha256") != digest_sources(checksums):
            return False
        return all(exists(self.path / name) for name in content["files"])

    def describe_sources(self, input_sha256: str, sizes: Mapping[str, int]) -> dict[str, str]:
        """Describe what final files are made of: the list, its tiers, the journals, and the path of OUT.

        Args:
            input_sha256: digest of the list.
            sizes: bytes of the journals by name; a journal changes only by growing.
        """
        lines = "".join(f"{name} {size}\n" for name, size in sizes.items())
        tiers_sha256 = digest_tiers(self.path, input_sha256)
        return {
            "input_sha256": input_sha256,
            **({"tiers_sha256": tiers_sha256} if tiers_sha256 else {}),
            "journal_sizes_sha256": hashlib.sha256(lines.encode()).hexdigest(),
            "output_dir": str(self.path.resolve()),
        }

    def check_places(self, history: History) -> None:
        """Check that the files of embeddings and timelines hold all that the journals record.

        Raises:
            OutputError: a file is missing or too short.
        """
        for name, offset in sorted(history.archives.items()):
            _check_archive(self.path / name, offset)
        for name, size in sorted(history.timelines.items()):
            path = self.path / name
            if not exists(path) or path.stat().st_size < size:
                raise OutputError(
                    f"{path} is missing, or ends before byte {size}, but the journal lists it: "
                    "restore it, or use --overwrite"
                )

    def remove_drafts(self, finals: Sequence[str]) -> None:
        """Remove drafts of final files that dead writers left; ``finals`` are names or patterns."""
        for name in dead_drafts(self._names, finals):
            (self.path / name).unlink(missing_ok=True)

    def remove_other_results(self, files: Collection[str], unused: Iterable[str], digest: str) -> None:
        """Remove the files of earlier publications, the ids of other lists, and windows of utterances that are done.

        Args:
            files: final files of this publication.
            unused: patterns, relative to OUT, of other files that are not of this publication.
            digest: digest of the list.
        """
        for name in set(self._results) - set(files):
            (self.path / name).unlink(missing_ok=True)
        self._remove(unused)
        own = names_of_ids(digest)
        for name in self._names - own:
            if any(fnmatchcase(name, pattern) for pattern in (*IDS_PATTERNS, KEPT_FILES)):
                (self.path / name).unlink(missing_ok=True)

    def _remove_everything(self) -> None:
        """Remove all files of an earlier run; without a journal, remove only results."""
        self.remove_drafts([*self._results, *self._data, "npy.*-of-*", *IDS_PATTERNS])
        beside = {name for head in self._headers.values() for name in names_beside(head.fingerprint)}
        # journals first: none may record a missing file
        others = ("journal.*-of-*.*", *IDS_PATTERNS, *self._data, *beside, *_LOGS, PAGE)
        self._remove((*(others if self.has_journals else ()), *self._results))
        self._history = None
        self.refresh()

    def _remove(self, patterns: Iterable[str]) -> None:
        """Remove files by patterns relative to OUT, in their order, and the folders that are empty then."""
        for pattern in patterns:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
            if "/" in pattern:
                for folder in self.path.glob(pattern.partition("/")[0]):
                    with suppress(OSError):  # it holds other files
                        folder.rmdir()

    def _newest(self) -> dict[Shard, JournalFile]:
        """Find the newest attempt at each shard whose header is whole: attempts at a shard have ascending numbers."""
        return {file.shard: file for file in sorted(self._headers)}


def plan_blocks(history: History, ids: Ids, costs: NDArray[np.float32] | None) -> BlockPlan:
    """Plan the blocks of a list: all utterances but those that were done with another list.

    Args:
        history: records of the list in the journals.
        ids: the list.
        costs: (utterances,) for dealing blocks to shards; None: all are equal.
    """
    return BlockPlan(np.flatnonzero(~history.done_before), ids.recording_groups, costs)


def _check_archive(path: Path, offset: int) -> None:
    """Check that an archive is complete up to its last record.

    Raises:
        OutputError: it is missing or too short.
    """
    if not exists(path):
        raise OutputError(f"{path} is missing, but the journal lists it: restore it, or use --overwrite")
    if offset:
        try:
            _check_record(path, offset)
        except Exception:  # kaldiio raises anything
            raise OutputError(
                f"{path} ends before the embedding at byte {offset}: restore it, or use --overwrite"
            ) from None


def _check_record(path: Path, offset: int) -> None:
    """Read a record; of a plain vector or matrix, which may be larger than memory, check only the size."""
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(15)
        file.seek(offset)
        if match := re.match(rb"\0BF(?:M \x04(.{4})|V )\x04(.{4})", head, re.DOTALL):
            sizes = [int.from_bytes(size, "little") for size in match.groups() if size]
            if path.stat().st_size < offset + 5 + 5 * len(sizes) + 4 * math.prod(sizes):
                raise EOFError
        elif head.startswith((b"\0B", b" [")):  # kaldiio may run code of other records
            read_kaldi(file)
        else:
            raise ValueError(head)
