"""OUT as a whole: whose it is, who is at work there, which list it is of, and what is thrown away with it."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from array import array
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from kaldiio.matio import read_kaldi
from numpy.typing import NDArray

from e2v_cli.durable import naming, published, remove_drafts
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.keys import KeyIndex, digest_of
from e2v_cli.process import HOST, is_dead, now
from e2v_cli.settings import Shard
from e2v_cli.slurm import Task

logger = logging.getLogger(__name__)

COMMON_RESULTS = ("predictions.tsv", "failures.tsv", "run.json", "utt2dur", "utt2num_frames", "frame_shift")

EMBEDDING_LISTS = {"none": (), "ark": ("embeddings.scp",), "ark,t": ("embeddings.scp",), "npy": ("embeddings.tsv",)}
"""The files that say where embeddings are, by ``--embeddings``."""

LABEL_LISTS = ("utt2emo",)
"""What there is of a model with a head."""

TIMELINES = ("timeline.tsv", "timeline.rttm", "timeline.ctm")

RESULTS = (*COMMON_RESULTS, *EMBEDDING_LISTS["ark"], *EMBEDDING_LISTS["npy"], *LABEL_LISTS, *TIMELINES)

_IDS_PATTERNS = tuple("input." + "[0-9a-f]" * 16 + suffix for suffix in ("", ".pieces", ".costs"))

_OTHERS = (
    *("journal.*-of-*.*", *_IDS_PATTERNS),
    *("embeddings.*-of-*.*.ark", "embeddings/*.npy", "timeline.*-of-*.*", "audacity/*.txt", "textgrid/*.TextGrid"),
    *("log/worker.*-of-*.*.log", "log/launcher.*-of-*.log", "log/slurm-*.log", "slurm/*.json", "slurm/*.sh"),
)
"""What else a run leaves. The journals come first: nothing may speak of what is gone."""

MERGE = "merge"
"""The name of the lock of who merges; those of shards have the names of shards."""

_OWNER_SECONDS = 1.0
"""For so long a lock whose owner has not said yet who it is is asked again."""


@dataclass(frozen=True)
class Owner:
    """Who is at work in OUT."""

    pid: int
    host: str
    since: str
    task: Task | None = None
    """Of Slurm's."""

    @classmethod
    def of_this_process(cls) -> Owner:
        """Say who this process is."""
        return cls(os.getpid(), HOST, now(), Task.of_this_process(os.environ))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Read what an owner wrote into its lock; None where there is none."""
        match = re.fullmatch(r"process (\d+) on (\S+) since (\S+?)(?:, start (\d+) of job (\S+))?\n", text)
        if not match:
            return None
        pid, host, since, start, job = match.groups()
        return cls(int(pid), host, since, Task(job, int(start)) if job else None)

    def __str__(self) -> str:
        task = f", {self.task}" if self.task else ""
        return f"process {self.pid} on {self.host} since {self.since}{task}"

    @property
    def is_dead(self) -> bool:
        """Whether it is certain that it is dead."""
        return is_dead(self.host, self.pid)


class Ids(Protocol):
    """The ids of a list, in order."""

    index: KeyIndex

    @property
    def pieces(self) -> NDArray[np.int64] | None:
        """(utterances,) numbers of what is decoded together; None: each by itself."""

    @property
    def digest(self) -> str:
        """The SHA-256 of both."""

    def __len__(self) -> int: ...

    def ids(self) -> Iterator[list[bytes]]:
        """Read them, some thousand at a time."""


class IdList:
    """The ids of the list that OUT is of, as ``save_ids`` left them for who has not the list itself."""

    def __init__(self, output_dir: Path, digest: str) -> None:
        """Open and check them.

        Raises:
            OutputError: they are missing or damaged.
        """
        self.digest = digest
        self.pieces: NDArray[np.int64] | None = None
        self._path = _ids_path(output_dir, digest)
        hashes = array("q")
        try:
            with suppress(FileNotFoundError):
                self.pieces = np.fromfile(_pieces_path(self._path), dtype="<i8")
            found = digest_of(self._hashed_ids(hashes), self.pieces)
        except OSError as error:
            raise OutputError(f"{self._path}: {error.strerror}; run e2v predict again to go on") from None
        if found != digest:
            raise OutputError(f"{self._path}: damaged; remove it, and run e2v predict again to go on")
        self.index = KeyIndex(np.frombuffer(hashes, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.index)

    def _hashed_ids(self, hashes: array[int]) -> Iterator[list[bytes]]:
        """Read them, and note their hashes."""
        for keys in self.ids():
            hashes.extend(map(hash, keys))
            yield keys

    def ids(self) -> Iterator[list[bytes]]:
        """Read them, some thousand at a time."""
        with self._path.open("rb") as file:
            while lines := file.readlines(1 << 16):
                yield [line[:-1] for line in lines]


def save_ids(output_dir: Path, ids: Ids) -> None:
    """Keep the ids of a list in OUT, under a name made of their digest."""
    path = _ids_path(output_dir, ids.digest)
    if path.exists():
        return
    if ids.pieces is not None:
        with published(_pieces_path(path)) as file:
            file.write(ids.pieces.astype("<i8").tobytes())
    with published(path) as file:
        file.writelines(b"\n".join(keys) + b"\n" for keys in ids.ids())


def save_costs(output_dir: Path, digest: str, costs: NDArray[np.float32]) -> None:
    """Keep the costs by which a list is dealt to shards in OUT, for all who deal it."""
    with published(_costs_path(_ids_path(output_dir, digest))) as file:
        file.write(costs.astype("<f4").tobytes())


def read_costs(output_dir: Path, ids: Ids) -> NDArray[np.float32] | None:
    """Read the costs by which a list is dealt to shards: (utterances,); None where all are the same.

    Raises:
        OutputError: they can't be read.
    """
    path = _costs_path(_ids_path(output_dir, ids.digest))
    try:
        costs = np.fromfile(path, dtype="<f4").astype(np.float32)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError.of(error) from None
    if len(costs) != len(ids) or not np.isfinite(costs).all():
        raise OutputError(f"{path}: damaged; remove it, and run all shards again to go on")
    return costs


def remove_other_ids(output_dir: Path, digest: str) -> None:
    """Remove the ids of lists that OUT was of before."""
    own = _ids_path(output_dir, digest)
    for path in chain.from_iterable(map(output_dir.glob, _IDS_PATTERNS)):
        if path not in (own, _pieces_path(own), _costs_path(own)):
            path.unlink(missing_ok=True)


def remove_other_results(output_dir: Path, files: Sequence[str], dropped: Set[str]) -> None:
    """Remove final files that an earlier publication left, and that are not of this one.

    Args:
        output_dir: OUT.
        files: the final files of this one.
        dropped: formats of the timeline that an earlier one had, and this one has not.
    """
    for name in set(RESULTS) - set(files):
        (output_dir / name).unlink(missing_ok=True)
    for folder, pattern in (("audacity", "*.txt"), ("textgrid", "*.TextGrid")):
        if folder in dropped:
            for path in (output_dir / folder).glob(pattern):
                path.unlink(missing_ok=True)


def _ids_path(output_dir: Path, digest: str) -> Path:
    return output_dir / f"input.{digest[:16]}"


def _pieces_path(ids_path: Path) -> Path:
    return ids_path.with_name(f"{ids_path.name}.pieces")


def _costs_path(ids_path: Path) -> Path:
    return ids_path.with_name(f"{ids_path.name}.costs")


def make_folder(output_dir: Path) -> None:
    """Make OUT where it isn't there.

    Raises:
        OutputError: it can't be made, or lists of paths in it could not be read.
    """
    if re.search(rb"[\x00-\x1f]", bytes(output_dir.resolve())):
        raise OutputError(f"{str(output_dir)!r}: no list of embeddings could name such a path; choose another -o")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output_dir}: {error.strerror}; choose another -o") from None


def refuse_foreign_files(output_dir: Path, known: bool) -> None:
    """Keep out of folders that are somebody else's.

    Raises:
        OutputConflictError: OUT is a Kaldi data directory, or holds results that can't be resumed.
    """
    if (output_dir / "wav.scp").exists():
        raise OutputConflictError(
            f"{output_dir} is a Kaldi data directory, and its utt2dur would be replaced: choose another -o"
        )
    if known:
        return
    for name in RESULTS:
        if (output_dir / name).exists():
            raise OutputConflictError(
                f"{output_dir} holds {name}, but no journal of its run: choose another -o, or use --overwrite"
            )


def check_timelines(output_dir: Path, timelines: dict[str, int]) -> None:
    """Check that what holds rows of the timeline is there, as far as the journals speak of it.

    Raises:
        OutputError: it is gone, or shorter.
    """
    for name, size in sorted(timelines.items()):
        path = output_dir / name
        if not path.exists() or path.stat().st_size < size:
            raise OutputError(
                f"{path} is gone, or ends before byte {size}, but the journal speaks of it: "
                "bring it back, or use --overwrite"
            )


def check_archives(output_dir: Path, archives: dict[str, int]) -> None:
    """Check that what holds embeddings is there, as far as the journals speak of it.

    Raises:
        OutputError: it is gone, or shorter.
    """
    for name, offset in sorted(archives.items()):
        path = output_dir / name
        if not path.exists():
            raise OutputError(f"{path} is gone, but the journal speaks of it: bring it back, or use --overwrite")
        if offset:
            try:
                _check_record(path, offset)
            except Exception:  # kaldiio says it in many ways
                raise OutputError(
                    f"{path} ends before what the journal speaks of at {offset}: restore it, or use --overwrite"
                ) from None


def _check_record(path: Path, offset: int) -> None:
    """Read a vector or matrix, unless it may be larger than memory: then its size alone."""
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(15)
        file.seek(offset)
        if matrix := re.match(rb"\0BFM \x04(.{4})\x04(.{4})", head, re.DOTALL):
            rows, columns = (int.from_bytes(size, "little") for size in matrix.groups())
            if path.stat().st_size < offset + 15 + 4 * rows * columns:
                raise EOFError
        elif head.startswith((b"\0B", b" [")):  # of anything else kaldiio may run code
            read_kaldi(file)
        else:
            raise ValueError(head)


def remove_results(output_dir: Path) -> None:
    """Clear OUT of what an earlier run left; what is not e2v's stays, and without a journal that is all but results."""
    for name in (*RESULTS, "npy.*-of-*", *_IDS_PATTERNS):
        remove_drafts(output_dir / name)
    had_run = any(output_dir.glob("journal.*-of-*.*"))
    for pattern in (*(_OTHERS if had_run else ()), *RESULTS):
        for path in output_dir.glob(pattern):
            path.unlink(missing_ok=True)
    for folder in ("embeddings", "audacity", "textgrid", "log", "slurm"):
        with suppress(OSError):  # it is not there, or holds what is not e2v's
            (output_dir / folder).rmdir()


@contextmanager
def locked(output_dir: Path, name: str, wait: bool = False) -> Iterator[None]:
    """Let no other process at what has this name in OUT.

    Raises:
        OutputConflictError: another one is there, and there was no word of waiting for it.
    """
    path = output_dir / f".lock.{name}"
    with path.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, task = _read_holder(file), Task.of_this_process(os.environ)
            if holder is None or holder.task is None or task is None or not task.follows(holder.task):
                raise _conflict(output_dir, holder) from None
            logger.warning("%s is still at work, perhaps on a node that was lost: going on beside it", holder)
        except OSError as error:  # what several writers do together is right all the same, only done twice
            logger.warning("%s: %s: nothing keeps other runs out of OUT", path, error.strerror)
        own = f"{Owner.of_this_process()}\n".encode()
        with naming(path):
            file.truncate(0)
            file.write(own)
        try:
            yield
        finally:
            with suppress(OSError):
                file.seek(0)
                if file.read() == own:  # not that of who goes on beside it
                    file.truncate(0)


def refuse_other_runs(output_dir: Path, shard: Shard, at_other_lists: Set[Shard]) -> None:
    """Check that nobody is at work in OUT but other shards of the same run, at the same list.

    Raises:
        OutputConflictError: somebody is.
    """
    for path in output_dir.glob(".lock.*-of-*"):
        match = re.fullmatch(r"\.lock\.(\d+)-of-(\d+)", path.name)
        if not match:
            continue
        other = Shard(count=int(match.group(2)), index=int(match.group(1)))
        same_run = other.count == shard.count and other not in at_other_lists
        if other != shard and not same_run:
            with path.open("rb") as file:
                _refuse_if_held(output_dir, file)


def _refuse_if_held(output_dir: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _conflict(output_dir, _read_holder(file)) from None
    except OSError:
        pass  # no locks here: what several writers do together is right all the same


def read_owner(output_dir: Path, name: str) -> Owner | None:
    """Read who is at what has this name in OUT, or was when it was killed."""
    try:
        return Owner.parse((output_dir / f".lock.{name}").read_text(encoding="utf-8"))
    except OSError:
        return None


def _read_holder(file: BinaryIO | FileIO) -> Owner | None:
    """Read who holds a lock; None where it doesn't say so soon."""
    deadline = time.monotonic() + _OWNER_SECONDS
    while True:
        file.seek(0)
        owner = Owner.parse(file.read().decode(errors="replace"))
        if owner is not None and not owner.is_dead:  # one that is dead had it before
            return owner
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def _conflict(output_dir: Path, holder: Owner | None) -> OutputConflictError:
    who = f" ({holder})" if holder else ""
    return OutputConflictError(f"{output_dir}: another e2v is running there{who}; wait for it, or choose another -o")
