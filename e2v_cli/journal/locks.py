"""Locks of a run folder, and the processes that hold them."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from e2v_cli.cluster.task import Task
from e2v_cli.errors import OutputConflictError
from e2v_cli.options import Shard
from e2v_cli.system.files import naming
from e2v_cli.system.process import HOST, is_dead, now

logger = logging.getLogger(__name__)

MERGE = "merge"
"""Name of the lock for merging; a shard's lock has the name of the shard."""

_PREFIX = ".lock."
"""Begins the file name of a lock."""

OWNER_SECONDS = 1.0
"""Seconds to wait for the new holder of a lock to write its name into it."""

READERS_SECONDS = 10.0
"""Seconds to wait for processes that only read a lock."""


@dataclass(frozen=True)
class Owner:
    """A process at work in a run folder."""

    pid: int
    host: str
    since: str
    task: Task | None = None
    """Slurm task of the process; None outside of a job."""

    @classmethod
    def of_this_process(cls) -> Owner:
        """Return this process."""
        return cls(os.getpid(), HOST, now(), Task.of_this_process(os.environ))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Parse the text that an owner writes into its lock; None if the text is not valid."""
        match = re.fullmatch(r"process (\d+) on (\S+) since (\S+?)(?:, start (\d+) of job (\S+))?\n", text)
        if not match:
            return None
        pid, host, since, start, job = match.groups()
        return cls(int(pid), host, since, Task(job, int(start)) if job else None)

    def __str__(self) -> str:
        return self._describe(f" since {self.since}")

    @property
    def name(self) -> str:
        """Description of the process without the time of its start."""
        return self._describe()

    def _describe(self, since: str = "") -> str:
        task = f", {self.task}" if self.task else ""
        return f"process {self.pid} on {self.host}{since}{task}"

    @property
    def is_dead(self) -> bool:
        """Whether the process is certainly dead."""
        return is_dead(self.host, self.pid)


@dataclass(frozen=True)
class LockState:
    """A lock as another process finds it."""

    owner: Owner | None
    """Holder of the lock, or a last holder that was killed; None: the lock names no holder."""
    is_held: bool | None
    """Whether a process holds it; None where locks don't work."""
    written: float
    """Time when a name was last written into the lock or removed, in seconds since the epoch."""


@contextmanager
def locked(
    output_dir: Path,
    name: str,
    wait: bool = False,
    owner_seconds: float = OWNER_SECONDS,
    readers_seconds: float = READERS_SECONDS,
) -> Iterator[None]:
    """Hold the lock NAME of the run folder until the block ends.

    Raises:
        OutputConflictError: another process holds it, and ``wait`` is false.
    """
    path = output_dir / f"{_PREFIX}{name}"
    with path.open("a+b", buffering=0) as file:
        try:
            _acquire(file, wait, readers_seconds)
        except BlockingIOError:
            holder, task = _read_holder(file, owner_seconds), Task.of_this_process(os.environ)
            if holder is None or holder.task is None or task is None or not task.follows(holder.task):
                raise _conflict(output_dir, holder) from None
            logger.warning("%s is still running, perhaps on a lost node: starting beside it", holder)
        except OSError as error:  # concurrent writers give correct results, only computed twice
            logger.warning("%s: %s: locks don't work there: run no second e2v on OUT", path, error.strerror)
        own = f"{Owner.of_this_process()}\n".encode()
        with naming(path):
            file.truncate(0)
            file.write(own)
        try:
            yield
        finally:
            with suppress(OSError):
                file.seek(0)
                if file.read() == own:  # not of a restarted task beside it
                    file.truncate(0)


def _acquire(file: FileIO, wait: bool, readers_seconds: float) -> None:
    """Acquire a lock, exclusively.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is false. Processes that read it don't count.
        OSError: locks don't work here.
    """
    deadline = time.monotonic() + readers_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if _is_held(file) or time.monotonic() > deadline:
                raise
        fcntl.flock(file, fcntl.LOCK_UN)  # only readers had it
        time.sleep(0.001)


def _is_held(file: BinaryIO | FileIO) -> bool | None:
    """Whether a process holds a lock exclusively; None where locks don't work.

    If none does, this process shares the lock with other readers from then on, so that no process acquires it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def read_locks(output_dir: Path) -> dict[str, LockState]:
    """Read the states of all locks of the run folder, by their names.

    Raises:
        OSError: a file can't be read.
    """
    names = (name.removeprefix(_PREFIX) for name in sorted(os.listdir(output_dir)) if name.startswith(_PREFIX))
    return {name: read_lock(output_dir, name) for name in names}


def read_lock(output_dir: Path, name: str) -> LockState:
    """Read the state of the lock NAME of the run folder; no process that wants it is refused because of that.

    Raises:
        OSError: the file can't be read.
    """
    with (output_dir / f"{_PREFIX}{name}").open("rb") as file:  # closing it ends the share
        is_held = _is_held(file)
        owner = Owner.parse(file.read().decode(errors="replace"))
        return LockState(owner, is_held, os.fstat(file.fileno()).st_mtime)


def refuse_held_shards(output_dir: Path, names: Iterable[str], shard: Shard, of_other_runs: Set[Shard]) -> None:
    """Check that no process works in OUT, except at other shards of the same run, list and timelines.

    Args:
        output_dir: OUT.
        names: names of the entries of OUT.
        shard: the shard that is about to be computed.
        of_other_runs: shards whose newest attempt was at another list, or had other timelines.

    Raises:
        OutputConflictError: such a process works there.
    """
    for name in names:
        match = re.fullmatch(r"\.lock\.(\d+)-of-(\d+)", name)
        if not match:
            continue
        other = Shard(count=int(match.group(2)), index=int(match.group(1)))
        same_run = other.count == shard.count and other not in of_other_runs
        if other != shard and not same_run:
            with (output_dir / name).open("rb") as file:
                if _is_held(file):  # where locks don't work, concurrent writers give correct results
                    raise _conflict(output_dir, _read_holder(file))


def _read_holder(file: BinaryIO | FileIO, seconds: float = OWNER_SECONDS) -> Owner | None:
    """Read the holder of a lock; None if it doesn't write its name soon."""
    deadline = time.monotonic() + seconds
    while True:
        file.seek(0)
        owner = Owner.parse(file.read().decode(errors="replace"))
        if owner is not None and not owner.is_dead:  # a dead owner held it before
            return owner
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def _conflict(output_dir: Path, holder: Owner | None) -> OutputConflictError:
    who = f" ({holder})" if holder else ""
    return OutputConflictError(f"{output_dir}: another e2v is running there{who}; wait for it, or choose another -o")
