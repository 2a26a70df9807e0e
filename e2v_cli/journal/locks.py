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

_OWNER_SECONDS = 1.0
"""Seconds to wait for the new holder of a lock to write its name into it."""


@dataclass(frozen=True)
class Owner:
    """A process at work in a run folder."""

    pid: int
    host: str
    since: str
    task: Task | None = None
    """Its Slurm task."""

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
        task = f", {self.task}" if self.task else ""
        return f"process {self.pid} on {self.host} since {self.since}{task}"

    @property
    def is_dead(self) -> bool:
        """Whether it is certainly dead."""
        return is_dead(self.host, self.pid)


@contextmanager
def locked(output_dir: Path, name: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock NAME of the run folder until the block ends.

    Raises:
        OutputConflictError: another process holds it, and ``wait`` is false.
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
        except OSError as error:  # concurrent writers give correct results, only computed twice
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
                if file.read() == own:  # not of a restarted task beside it
                    file.truncate(0)


def refuse_held_shards(output_dir: Path, names: Iterable[str], shard: Shard, at_other_lists: Set[Shard]) -> None:
    """Check that no process works in OUT, except at other shards of the same run and list.

    Args:
        output_dir: OUT.
        names: names of its entries.
        shard: the one that is about to be computed.
        at_other_lists: shards whose newest attempt was at another list.

    Raises:
        OutputConflictError: such a process works there.
    """
    for name in names:
        match = re.fullmatch(r"\.lock\.(\d+)-of-(\d+)", name)
        if not match:
            continue
        other = Shard(count=int(match.group(2)), index=int(match.group(1)))
        same_run = other.count == shard.count and other not in at_other_lists
        if other != shard and not same_run:
            with (output_dir / name).open("rb") as file:
                _refuse_if_held(output_dir, file)


def _refuse_if_held(output_dir: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _conflict(output_dir, _read_holder(file)) from None
    except OSError:
        pass  # no locks here: concurrent writers give correct results


def read_owner(output_dir: Path, name: str) -> Owner | None:
    """Read the holder of the lock NAME, or its last holder if that was killed; None if it is free."""
    try:
        return Owner.parse((output_dir / f".lock.{name}").read_text(encoding="utf-8"))
    except OSError:
        return None


def _read_holder(file: BinaryIO | FileIO) -> Owner | None:
    """Read the holder of a lock; None if it doesn't write its name soon."""
    deadline = time.monotonic() + _OWNER_SECONDS
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
