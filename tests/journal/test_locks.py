"""Locks of a run folder: one holder each, named in the error of a refused process."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

import pytest

from e2v_cli.cluster.task import Task
from e2v_cli.errors import OutputConflictError
from e2v_cli.journal.locks import LockState, Owner, locked, read_lock, refuse_held_shards
from e2v_cli.options import Shard

WHOLE, FIRST, SECOND = Shard(1, 1), Shard(2, 1), Shard(2, 2)


@contextmanager
def locked_by_another_process(folder: Path, name: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process until its standard input ends."""
    program = (
        "import sys, pathlib; from e2v_cli.journal.locks import locked\n"
        f"with locked(pathlib.Path({str(folder)!r}), {name!r}):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def conflict(folder: Path, pid: int, task: str = "") -> str:
    """Return a pattern of the conflict message, with any start time."""
    when = r"\d+-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
    owner = rf"process {pid} on {re.escape(socket.gethostname())} since {when}{task}"
    return rf"^{re.escape(str(folder))}: another e2v is running there \({owner}\); wait for it, or choose another -o$"


def test_held_lock_is_refused_and_names_its_owner(tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, "1-of-1") as other:
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, other.pid)) as caught:
            with locked(tmp_path, "1-of-1"):
                pass
    assert caught.value.exit_code == 4


def test_killed_owner_releases_its_lock(tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, "1-of-1") as other:
        pass
    assert other.returncode == -9
    lock = read_lock(tmp_path, WHOLE.name)
    assert lock.owner is not None
    assert (lock.owner.pid, lock.owner.host, lock.owner.is_dead) == (other.pid, socket.gethostname(), True)
    assert lock.is_held is False

    with locked(tmp_path, "1-of-1"):
        lock = read_lock(tmp_path, WHOLE.name)
        assert lock.owner is not None
        assert (lock.owner.pid, lock.owner.is_dead, lock.is_held) == (os.getpid(), False, True)


def test_lock_names_its_owner_and_start_time(tmp_path: Path) -> None:
    before = datetime.now().astimezone().replace(microsecond=0)
    with locked(tmp_path, "2-of-2"):
        owner = read_lock(tmp_path, SECOND.name).owner
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, os.getpid())):
            with locked(tmp_path, "2-of-2"):
                pass

    assert owner is not None
    assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
    assert before <= datetime.fromisoformat(owner.since) <= datetime.now().astimezone()
    released = read_lock(tmp_path, SECOND.name)
    assert (released.owner, released.is_held) == (None, False)


OWNER = Owner(17, "host", "2026-01-31T23:59:59+01:00")


def test_owner_text_round_trips() -> None:
    assert str(OWNER) == "process 17 on host since 2026-01-31T23:59:59+01:00"
    assert Owner.parse(f"{OWNER}\n") == OWNER


def test_owner_text_with_slurm_task_round_trips() -> None:
    owner = Owner(17, "host", "2026-01-31T23:59:59+01:00", Task("12_3", 2))

    assert str(owner) == "process 17 on host since 2026-01-31T23:59:59+01:00, start 2 of job 12_3"
    assert Owner.parse(f"{owner}\n") == owner


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", str(OWNER), f"{OWNER}\n\n", f"{OWNER} more\n", "process x on y since z\n"),
        *(f"{OWNER}, start 2 of job 12_3", f"{OWNER}, start 2 of job \n", f"{OWNER}, start of job 12_3\n"),
    ],
)
def test_incomplete_text_has_no_owner(text: str) -> None:
    assert Owner.parse(text) is None


def test_process_on_another_host_is_not_reported_dead() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert Owner(ended.pid, socket.gethostname(), "now").is_dead
    assert not Owner(ended.pid, "far.example.org", "now").is_dead
    assert not Owner(os.getppid(), socket.gethostname(), "now").is_dead


def element(start: int, job: int = 12, number: int = 3) -> dict[str, str]:
    """Return the environment of an array task at this start."""
    return {
        "SLURM_JOB_ID": "15",
        "SLURM_ARRAY_JOB_ID": str(job),
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_RESTART_COUNT": str(start - 1),
    }


def set_environment(task: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in task.items():
        monkeypatch.setenv(name, value)


def test_lock_names_the_slurm_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(element(2), monkeypatch)
    with locked(tmp_path, "3-of-4"):
        assert (tmp_path / ".lock.3-of-4").read_text().endswith(", start 2 of job 12_3\n")
        owner = read_lock(tmp_path, "3-of-4").owner

    assert owner is not None
    assert (owner.pid, owner.host, owner.task) == (os.getpid(), socket.gethostname(), Task("12_3", 2))


@pytest.mark.parametrize("start", [2, 7])
def test_requeued_task_takes_the_lock_of_its_earlier_start(
    start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The earlier start may still run on a lost node, and hold the lock."""
    set_environment(element(start), monkeypatch)
    with locked_by_another_process(tmp_path, "3-of-4", **element(1)):
        before = (tmp_path / ".lock.3-of-4").read_text().removesuffix("\n")
        assert before.endswith(", start 1 of job 12_3")
        with locked(tmp_path, "3-of-4"):
            owner = read_lock(tmp_path, "3-of-4").owner
            assert owner is not None
            assert (owner.pid, owner.task) == (os.getpid(), Task("12_3", start))
        assert (tmp_path / ".lock.3-of-4").read_bytes() == b""

    message = f"{before} is still running, perhaps on a lost node: starting beside it"
    assert caplog.messages == [message]


@pytest.mark.parametrize(
    ("theirs", "mine", "named"),
    [
        # the same start, an earlier start, another array task, another job
        (element(2), element(2), ", start 2 of job 12_3"),
        (element(3), element(2), ", start 3 of job 12_3"),
        (element(1), element(2, number=4), ", start 1 of job 12_3"),
        (element(1), element(2, job=13), ", start 1 of job 12_3"),
        # one of the two is not a Slurm task
        (element(1), {}, ", start 1 of job 12_3"),
        ({}, element(2), ""),
    ],
)
def test_other_tasks_are_refused(
    theirs: dict[str, str],
    mine: dict[str, str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with locked_by_another_process(tmp_path, "3-of-4", **theirs) as other:
        before = (tmp_path / ".lock.3-of-4").read_text()
        set_environment(mine, monkeypatch)
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, other.pid, named)):
            with locked(tmp_path, "3-of-4"):
                pass
        assert (tmp_path / ".lock.3-of-4").read_text() == before
    assert caplog.messages == []


def test_lock_without_a_task_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(element(2), monkeypatch)
    with locked_by_another_process(tmp_path, "3-of-4", **element(1)):
        (tmp_path / ".lock.3-of-4").write_bytes(b"")
        message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            with locked(tmp_path, "3-of-4", owner_seconds=0.1):
                pass


def test_exception_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        with locked(tmp_path, "1-of-1"):
            raise KeyError
    with locked(tmp_path, "1-of-1"):
        pass


def test_conflict_with_an_empty_lock_names_no_owner(tmp_path: Path) -> None:
    with locked(tmp_path, "1-of-1"):
        (tmp_path / ".lock.1-of-1").write_bytes(b"")
        message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            with locked(tmp_path, "1-of-1", owner_seconds=0.1):
                pass


def test_conflict_waits_for_the_owner_name(tmp_path: Path) -> None:
    path = tmp_path / ".lock.1-of-1"
    with locked(tmp_path, "1-of-1"), ThreadPoolExecutor(1) as pool:
        owner = path.read_text()
        path.write_bytes(b"process 1")

        def write_owner() -> None:
            time.sleep(0.2)
            path.write_text(owner)

        said = pool.submit(write_owner)
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, os.getpid())):
            with locked(tmp_path, "1-of-1", owner_seconds=60):
                pass
        said.result()


def test_locks_of_different_names_are_independent(tmp_path: Path) -> None:
    with locked(tmp_path, "1-of-2"), locked(tmp_path, "2-of-2"), locked(tmp_path, "merge"):
        assert sorted(os.listdir(tmp_path)) == [".lock.1-of-2", ".lock.2-of-2", ".lock.merge"]


def test_waiting_process_gets_the_released_lock(tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, "merge") as first:
        with ThreadPoolExecutor(1) as pool:

            def wait() -> str:
                with locked(tmp_path, "merge", wait=True):
                    return (tmp_path / ".lock.merge").read_text()

            waiting = pool.submit(wait)
            time.sleep(0.2)
            assert not waiting.done()
            assert first.stdin is not None
            first.stdin.close()
            assert waiting.result(10).startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [(WHOLE, FIRST), (FIRST, WHOLE), (SECOND, Shard(3, 1)), (Shard(12, 2), SECOND), (Shard(22, 1), SECOND)],
)
def test_run_with_another_shard_count_is_refused(theirs: Shard, mine: Shard, tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, theirs.name) as other, locked(tmp_path, mine.name):
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, other.pid)):
            refuse_held_shards(tmp_path, os.listdir(tmp_path), mine, set())


@pytest.mark.parametrize(("theirs", "mine"), [(FIRST, SECOND), (Shard(12, 11), Shard(12, 1))])
def test_shards_of_one_run_work_at_the_same_time(theirs: Shard, mine: Shard, tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, theirs.name), locked(tmp_path, mine.name):
        refuse_held_shards(tmp_path, os.listdir(tmp_path), mine, set())


def test_released_locks_refuse_no_run(tmp_path: Path) -> None:
    """Lock files stay after their release."""
    for name in ("1-of-1", "1-of-2", "2-of-3", "merge"):
        with locked(tmp_path, name):
            pass
    with locked_by_another_process(tmp_path, "3-of-3"):
        pass
    with locked(tmp_path, "1-of-1"):
        refuse_held_shards(tmp_path, os.listdir(tmp_path), WHOLE, set())
    with locked(tmp_path, "2-of-2"):
        refuse_held_shards(tmp_path, os.listdir(tmp_path), SECOND, set())


def test_merge_lock_refuses_no_run(tmp_path: Path) -> None:
    with locked(tmp_path, "merge"), locked(tmp_path, "1-of-1"):
        refuse_held_shards(tmp_path, os.listdir(tmp_path), WHOLE, set())


def test_lock_is_not_held_by_the_process_that_has_its_text(tmp_path: Path) -> None:
    """The number of a killed process may be that of another one by now."""
    path = tmp_path / ".lock.1-of-1"
    owner = Owner(os.getpid(), socket.gethostname(), "2026-01-31T23:59:59+01:00")
    path.write_text(f"{owner}\n")
    os.utime(path, (1000.0, 2000.0))

    assert read_lock(tmp_path, "1-of-1") == LockState(owner, False, 2000.0)
    with locked(tmp_path, "1-of-1"):
        path.write_text(f"{OWNER}\n")
        os.utime(path, (1000.0, 3000.0))
        assert read_lock(tmp_path, "1-of-1") == LockState(OWNER, True, 3000.0)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_lock_is_not_known_to_be_held_where_locks_do_not_work(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Work begins all the same, with a warning."""

    def flock(_file: object, _operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, "1-of-1"), locked(tmp_path, "1-of-2"):
        assert read_lock(tmp_path, "1-of-1").is_held is None
        refuse_held_shards(tmp_path, os.listdir(tmp_path), WHOLE, set())

    assert caplog.messages == [
        f"{tmp_path}/.lock.{name}: {os.strerror(error)}: locks don't work there: run no second e2v on OUT"
        for name in ("1-of-1", "1-of-2")
    ]


@pytest.mark.parametrize("text", ["", f"{OWNER}\n"])
def test_start_waits_for_readers_of_its_lock(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader goes when the start has been refused twice; the text is of a process that was killed elsewhere."""
    path = tmp_path / ".lock.1-of-1"
    path.write_text(text)
    real, refused = fcntl.flock, []
    with path.open("rb") as reader:

        def flock(file: IO[bytes], operation: int) -> None:
            try:
                real(file, operation)
            except BlockingIOError:
                refused.append(operation)
                if len(refused) == 2:
                    real(reader, fcntl.LOCK_UN)
                raise

        real(reader, fcntl.LOCK_SH)
        monkeypatch.setattr(fcntl, "flock", flock)
        with locked(tmp_path, "1-of-1"):
            assert read_lock(tmp_path, "1-of-1").is_held
    assert refused == [fcntl.LOCK_EX | fcntl.LOCK_NB] * 2 + [fcntl.LOCK_SH | fcntl.LOCK_NB]


def test_reader_that_stays_is_a_conflict(tmp_path: Path) -> None:
    (tmp_path / ".lock.1-of-1").touch()
    with (tmp_path / ".lock.1-of-1").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            with locked(tmp_path, "1-of-1", owner_seconds=0.1, readers_seconds=0.1):
                pass


def test_reading_a_lock_again_and_again_refuses_no_start(tmp_path: Path) -> None:
    (tmp_path / ".lock.1-of-1").touch()
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            read_lock(tmp_path, "1-of-1")
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(200):
                with locked(tmp_path, "1-of-1"):
                    pass
        finally:
            stop.set()
    assert all(reader.result() for reader in readers)


def test_dead_previous_owner_is_not_named(tmp_path: Path) -> None:
    """Simulates the moment between locking the file and writing the owner."""
    with locked_by_another_process(tmp_path, "1-of-1"):
        pass
    dead = (tmp_path / ".lock.1-of-1").read_text()
    with locked(tmp_path, "1-of-1"):
        (tmp_path / ".lock.1-of-1").write_text(dead)
        message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            with locked(tmp_path, "1-of-1", owner_seconds=0.1):
                pass
