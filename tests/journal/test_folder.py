"""OUT as a whole: one run at a time, nothing of others' is touched, and what is missing is named."""

from __future__ import annotations

import os
import pickle
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.archives import write_archive

from e2v_cli.cluster.task import Task
from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal.ids import IdList, read_costs, remove_other_ids, save_costs, save_ids
from e2v_cli.journal.locks import Owner, locked, read_owner, refuse_other_runs
from e2v_cli.journal.results import (
    RESULTS,
    check_archives,
    check_timelines,
    make_folder,
    refuse_foreign_files,
    remove_results,
)
from e2v_cli.options import Shard
from e2v_cli.system.process import HOST

WHOLE, FIRST, SECOND = Shard(1, 1), Shard(2, 1), Shard(2, 2)


class List:
    """The ids of a list, read a few at a time; it may break in the middle."""

    def __init__(
        self, ids: Sequence[bytes], breaks: bool = False, recording_groups: Sequence[int] | None = None
    ) -> None:
        self._ids, self._breaks = ids, breaks
        self.index = KeyIndex(hash_keys(ids))
        self.recording_groups: NDArray[np.int64] | None = (
            None if recording_groups is None else np.array(recording_groups)
        )
        self.digest = digest_of([ids], self.recording_groups)

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> Iterator[list[bytes]]:
        for first in range(0, len(self), 3):
            yield list(self._ids[first : first + 3])
            if self._breaks:
                raise OSError(5, "Input/output error")


IDS = List([b"z", b"my call", "ü\u2028".encode(), b"a", b"../x"])

SEGMENTS = List([b"a", b"b", b"c"], recording_groups=[0, 1, 0])
"""A list of which the first and the last are decoded together."""


@contextmanager
def locked_by_another_process(folder: Path, name: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Have another process take a lock and keep it until its standard input ends."""
    program = (
        "import sys, pathlib; from e2v_cli.output import locked\n"
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
    """Match the message of a conflict; when the other one began can't be foretold."""
    when = r"\d+-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
    owner = rf"process {pid} on {re.escape(socket.gethostname())} since {when}{task}"
    return rf"^{re.escape(str(folder))}: another e2v is running there \({owner}\); wait for it, or choose another -o$"


def test_a_lock_keeps_others_out_and_names_its_owner(tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, "1-of-1") as other:
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, other.pid)) as caught:
            with locked(tmp_path, "1-of-1"):
                pass
    assert caught.value.exit_code == 4


def test_a_lock_ends_with_its_owner_however_it_ends(tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, "1-of-1") as other:
        pass
    assert other.returncode == -9
    dead = read_owner(tmp_path, WHOLE.name)
    assert dead is not None
    assert (dead.pid, dead.host, dead.is_dead) == (other.pid, socket.gethostname(), True)

    with locked(tmp_path, "1-of-1"):
        owner = read_owner(tmp_path, WHOLE.name)
        assert owner is not None
        assert (owner.pid, owner.is_dead) == (os.getpid(), False)


def test_a_lock_says_who_has_it_and_since_when(tmp_path: Path) -> None:
    before = datetime.now().astimezone().replace(microsecond=0)
    with locked(tmp_path, "2-of-2"):
        owner = read_owner(tmp_path, SECOND.name)
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, os.getpid())):
            with locked(tmp_path, "2-of-2"):
                pass

    assert owner is not None
    assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
    assert before <= datetime.fromisoformat(owner.since) <= datetime.now().astimezone()
    assert read_owner(tmp_path, SECOND.name) is None  # who has left owns nothing any more


OWNER = Owner(17, "host", "2026-01-31T23:59:59+01:00")


def test_an_owner_is_written_as_it_is_read() -> None:
    assert str(OWNER) == "process 17 on host since 2026-01-31T23:59:59+01:00"
    assert Owner.parse(f"{OWNER}\n") == OWNER


def test_an_owner_is_written_with_its_task() -> None:
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
def test_what_is_not_whole_names_no_owner(text: str) -> None:
    assert Owner.parse(text) is None


def test_who_is_alive_on_another_machine_is_not_known() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert Owner(ended.pid, socket.gethostname(), "now").is_dead
    assert not Owner(ended.pid, "far.example.org", "now").is_dead
    assert not Owner(os.getppid(), socket.gethostname(), "now").is_dead


def element(start: int, job: int = 12, number: int = 3) -> dict[str, str]:
    """Name what an element of a job array finds in its environment when it is started for the so many-th time."""
    return {
        "SLURM_JOB_ID": "15",
        "SLURM_ARRAY_JOB_ID": str(job),
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_RESTART_COUNT": str(start - 1),
    }


def be(task: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in task.items():
        monkeypatch.setenv(name, value)


def test_a_task_of_slurm_says_so_in_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(element(2), monkeypatch)
    with locked(tmp_path, "3-of-4"):
        assert (tmp_path / ".lock.3-of-4").read_text().endswith(", start 2 of job 12_3\n")
        owner = read_owner(tmp_path, "3-of-4")

    assert owner is not None
    assert (owner.pid, owner.host, owner.task) == (os.getpid(), socket.gethostname(), Task("12_3", 2))


@pytest.mark.parametrize("start", [2, 7])
def test_a_task_that_was_started_again_goes_on_beside_what_was_cut_off(
    start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a node that was lost it may still be at work, and hold the lock, without anybody being able to end it."""
    be(element(start), monkeypatch)
    with locked_by_another_process(tmp_path, "3-of-4", **element(1)):
        before = (tmp_path / ".lock.3-of-4").read_text().removesuffix("\n")
        assert before.endswith(", start 1 of job 12_3")
        with locked(tmp_path, "3-of-4"):
            owner = read_owner(tmp_path, "3-of-4")
            assert owner is not None
            assert (owner.pid, owner.task) == (os.getpid(), Task("12_3", start))
        assert (tmp_path / ".lock.3-of-4").read_bytes() == b""

    message = f"{before} is still at work, perhaps on a node that was lost: going on beside it"
    assert caplog.messages == [message]


@pytest.mark.parametrize(
    ("theirs", "mine", "named"),
    [
        # the same start, an earlier one, another element, another job
        (element(2), element(2), ", start 2 of job 12_3"),
        (element(3), element(2), ", start 3 of job 12_3"),
        (element(1), element(2, number=4), ", start 1 of job 12_3"),
        (element(1), element(2, job=13), ", start 1 of job 12_3"),
        # one of both is no task
        (element(1), {}, ", start 1 of job 12_3"),
        ({}, element(2), ""),
    ],
)
def test_any_other_task_is_kept_out(
    theirs: dict[str, str],
    mine: dict[str, str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with locked_by_another_process(tmp_path, "3-of-4", **theirs) as other:
        before = (tmp_path / ".lock.3-of-4").read_text()
        be(mine, monkeypatch)
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, other.pid, named)):
            with locked(tmp_path, "3-of-4"):
                pass
        assert (tmp_path / ".lock.3-of-4").read_text() == before
    assert caplog.messages == []


def test_who_has_not_said_which_task_it_is_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2v_cli.journal.locks._OWNER_SECONDS", 0.1)
    be(element(2), monkeypatch)
    with locked_by_another_process(tmp_path, "3-of-4", **element(1)):
        (tmp_path / ".lock.3-of-4").write_bytes(b"")
        message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            with locked(tmp_path, "3-of-4"):
                pass


def test_a_lock_is_let_go_when_something_goes_wrong(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        with locked(tmp_path, "1-of-1"):
            raise KeyError
    with locked(tmp_path, "1-of-1"):
        pass


def test_an_owner_that_has_not_said_yet_who_it_is_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2v_cli.journal.locks._OWNER_SECONDS", 0.1)
    with locked(tmp_path, "1-of-1"):
        (tmp_path / ".lock.1-of-1").write_bytes(b"")
        message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            with locked(tmp_path, "1-of-1"):
                pass


def test_an_owner_may_take_a_moment_to_say_who_it_is(tmp_path: Path) -> None:
    path = tmp_path / ".lock.1-of-1"
    with locked(tmp_path, "1-of-1"), ThreadPoolExecutor(1) as pool:
        owner = path.read_text()
        path.write_bytes(b"process 1")

        def say_it() -> None:
            time.sleep(0.2)
            path.write_text(owner)

        said = pool.submit(say_it)
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, os.getpid())):
            with locked(tmp_path, "1-of-1"):
                pass
        said.result()


def test_locks_of_different_names_do_not_meet(tmp_path: Path) -> None:
    with locked(tmp_path, "1-of-2"), locked(tmp_path, "2-of-2"), locked(tmp_path, "merge"):
        assert sorted(os.listdir(tmp_path)) == [".lock.1-of-2", ".lock.2-of-2", ".lock.merge"]


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
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
def test_runs_in_other_numbers_of_shards_are_kept_apart(theirs: Shard, mine: Shard, tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, theirs.name) as other, locked(tmp_path, mine.name):
        with pytest.raises(OutputConflictError, match=conflict(tmp_path, other.pid)):
            refuse_other_runs(tmp_path, mine, set())


@pytest.mark.parametrize(("theirs", "mine"), [(FIRST, SECOND), (Shard(12, 11), Shard(12, 1))])
def test_shards_of_the_same_run_may_be_at_work_together(theirs: Shard, mine: Shard, tmp_path: Path) -> None:
    with locked_by_another_process(tmp_path, theirs.name), locked(tmp_path, mine.name):
        refuse_other_runs(tmp_path, mine, set())


def test_runs_that_have_ended_are_no_others(tmp_path: Path) -> None:
    """Their locks are still files."""
    for name in ("1-of-1", "1-of-2", "2-of-3", "merge"):
        with locked(tmp_path, name):
            pass
    with locked_by_another_process(tmp_path, "3-of-3"):
        pass
    with locked(tmp_path, "1-of-1"):
        refuse_other_runs(tmp_path, WHOLE, set())
    with locked(tmp_path, "2-of-2"):
        refuse_other_runs(tmp_path, SECOND, set())


def test_who_merges_is_no_other_run(tmp_path: Path) -> None:
    with locked(tmp_path, "merge"), locked(tmp_path, "1-of-1"):
        refuse_other_runs(tmp_path, WHOLE, set())


def test_nobody_owns_what_was_never_locked(tmp_path: Path) -> None:
    assert read_owner(tmp_path, WHOLE.name) is None


def test_who_had_a_lock_before_and_is_dead_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the moment between taking it and saying so."""
    monkeypatch.setattr("e2v_cli.journal.locks._OWNER_SECONDS", 0.1)
    with locked_by_another_process(tmp_path, "1-of-1"):
        pass
    dead = (tmp_path / ".lock.1-of-1").read_text()
    with locked(tmp_path, "1-of-1"):
        (tmp_path / ".lock.1-of-1").write_text(dead)
        message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            with locked(tmp_path, "1-of-1"):
                pass


def test_ids_are_kept_for_who_has_not_the_list(tmp_path: Path) -> None:
    save_ids(tmp_path, IDS)

    assert os.listdir(tmp_path) == [f"input.{IDS.digest[:16]}"]
    assert (tmp_path / f"input.{IDS.digest[:16]}").read_bytes() == "z\nmy call\nü\u2028\na\n../x\n".encode()
    found = IdList(tmp_path, IDS.digest)
    assert len(found) == 5
    assert found.digest == IDS.digest
    assert [utt_id for keys in found.ids() for utt_id in keys] == [utt_id for keys in IDS.ids() for utt_id in keys]
    assert found.index.find(hash_keys([b"a", b"nothing", b"z"])).tolist() == [3, -1, 0]


def test_many_ids_are_read_some_at_a_time(tmp_path: Path) -> None:
    ids = List([f"speaker{number % 97}-utt{number}".encode() for number in range(20_000)])
    save_ids(tmp_path, ids)

    found = IdList(tmp_path, ids.digest)

    chunks = list(found.ids())
    assert len(chunks) > 1
    assert max(map(len, chunks)) < 10_000
    assert [utt_id for keys in chunks for utt_id in keys] == [utt_id for keys in ids.ids() for utt_id in keys]


def test_what_is_decoded_together_is_kept_beside_the_ids(tmp_path: Path) -> None:
    save_ids(tmp_path, SEGMENTS)

    name = f"input.{SEGMENTS.digest[:16]}"
    assert sorted(os.listdir(tmp_path)) == [name, f"{name}.pieces"]
    assert (tmp_path / name).read_bytes() == b"a\nb\nc\n"
    assert (tmp_path / f"{name}.pieces").read_bytes() == b"\0" * 8 + b"\1" + b"\0" * 15
    found = IdList(tmp_path, SEGMENTS.digest)
    assert found.digest == SEGMENTS.digest
    assert found.recording_groups is not None
    assert found.recording_groups.tolist() == [0, 1, 0]


def test_a_list_of_whole_files_has_no_pieces(tmp_path: Path) -> None:
    """The same ids in segments are another list."""
    whole = List([b"a", b"b", b"c"])
    for ids in (SEGMENTS, whole):
        save_ids(tmp_path, ids)

    assert whole.digest != SEGMENTS.digest
    assert IdList(tmp_path, whole.digest).recording_groups is None
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("content", [None, b"", b"\0" * 8 + b"\1" + b"\0" * 14, b"\1" + b"\0" * 23, b"\0" * 32])
def test_pieces_that_are_damaged_or_gone_are_named_as_their_ids(content: bytes | None, tmp_path: Path) -> None:
    """Who removes the ids, as the message says, gets both anew."""
    save_ids(tmp_path, SEGMENTS)
    path = tmp_path / f"input.{SEGMENTS.digest[:16]}"
    recording_groups = path.with_name(f"{path.name}.pieces")
    if content is None:
        recording_groups.unlink()
    else:
        recording_groups.write_bytes(content)

    message = f"{path}: damaged; remove it, and run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        IdList(tmp_path, SEGMENTS.digest)

    path.unlink()
    save_ids(tmp_path, SEGMENTS)
    assert IdList(tmp_path, SEGMENTS.digest).digest == SEGMENTS.digest


def test_ids_are_not_there_before_their_pieces(tmp_path: Path) -> None:
    """Who finds the ids of a list finds both."""
    name = f"input.{SEGMENTS.digest[:16]}"
    (tmp_path / f"{name}.pieces").mkdir()

    with pytest.raises(IsADirectoryError):
        save_ids(tmp_path, SEGMENTS)

    assert os.listdir(tmp_path) == [f"{name}.pieces"]


def test_ids_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    """Whoever reads them at the same time is not disturbed."""
    save_ids(tmp_path, IDS)
    before = (tmp_path / f"input.{IDS.digest[:16]}").stat()
    save_ids(tmp_path, IDS)
    save_ids(tmp_path, List([b"another"]))

    assert (tmp_path / f"input.{IDS.digest[:16]}").stat() == before
    assert len(os.listdir(tmp_path)) == 2


def test_ids_that_could_not_be_written_whole_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error: "):
        save_ids(tmp_path, List([b"a", b"b", b"c", b"d"], breaks=True))

    assert os.listdir(tmp_path) == []


def test_ids_that_are_missing_are_named(tmp_path: Path) -> None:
    message = f"{tmp_path}/input.{IDS.digest[:16]}: No such file or directory; run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        IdList(tmp_path, IDS.digest)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"z\nmy call\n",
        "z\nmy call\nü\u2028\na\n../x".encode(),
        "z\nmy call\nü\u2028\na\n../y\n".encode(),
        "z\nmy call\nü\u2028\na\n../x\n\n".encode(),
        "my call\nz\nü\u2028\na\n../x\n".encode(),
        "z\r\nmy call\r\nü\u2028\r\na\r\n../x\r\n".encode(),
    ],
)
def test_ids_that_are_damaged_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"input.{IDS.digest[:16]}"
    path.write_bytes(content)

    message = f"{path}: damaged; remove it, and run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        IdList(tmp_path, IDS.digest)


def test_ids_of_other_lists_are_removed(tmp_path: Path) -> None:
    """And nothing else, whatever it is called."""
    for ids in (IDS, List([b"another"])):
        save_ids(tmp_path, ids)
    theirs = ["input.scp", "input.txt", "input.0123456789abcdef.bak", "input.0123456789ABCDEF", "inputs"]
    for name in theirs:
        (tmp_path / name).touch()

    remove_other_ids(tmp_path, IDS.digest)

    assert sorted(os.listdir(tmp_path)) == sorted([f"input.{IDS.digest[:16]}", *theirs])


def test_pieces_of_other_lists_are_removed_with_their_ids(tmp_path: Path) -> None:
    for ids in (IDS, SEGMENTS):
        save_ids(tmp_path, ids)
    own = f"input.{SEGMENTS.digest[:16]}"

    remove_other_ids(tmp_path, SEGMENTS.digest)
    assert sorted(os.listdir(tmp_path)) == [own, f"{own}.pieces"]
    save_ids(tmp_path, IDS)
    remove_other_ids(tmp_path, IDS.digest)
    assert os.listdir(tmp_path) == [f"input.{IDS.digest[:16]}"]


def test_costs_are_kept_for_all_who_deal_the_list(tmp_path: Path) -> None:
    costs = np.array([1.5, 0.0, 3.25, 1e9, 7.0], np.float32)
    save_costs(tmp_path, IDS.digest, costs)

    assert os.listdir(tmp_path) == [f"input.{IDS.digest[:16]}.costs"]
    assert (tmp_path / f"input.{IDS.digest[:16]}.costs").read_bytes() == costs.astype("<f4").tobytes()
    found = read_costs(tmp_path, IDS)
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, 0.0, 3.25, 1e9, 7.0]


def test_costs_of_another_list_say_nothing(tmp_path: Path) -> None:
    save_costs(tmp_path, SEGMENTS.digest, np.ones(3, np.float32))

    assert read_costs(tmp_path, IDS) is None


def test_costs_are_replaced_whole(tmp_path: Path) -> None:
    """Shards that begin at the same time may all write them."""
    path = tmp_path / f"input.{IDS.digest[:16]}.costs"
    save_costs(tmp_path, IDS.digest, np.zeros(5, np.float32))
    with path.open("rb") as old:
        save_costs(tmp_path, IDS.digest, np.ones(5, np.float32))

        assert old.read() == bytes(20)
    found = read_costs(tmp_path, IDS)
    assert found is not None
    assert found.tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("costs", [[], [1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, np.nan, 1, 1], [1, 1, 1, 1, np.inf]])
def test_costs_that_are_damaged_are_named(costs: list[float], tmp_path: Path) -> None:
    path = tmp_path / f"input.{IDS.digest[:16]}.costs"
    np.array(costs, "<f4").tofile(path)

    message = f"{path}: damaged; remove it, and run all shards again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read_costs(tmp_path, IDS)


def test_costs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / f"input.{IDS.digest[:16]}.costs"
    path.mkdir()

    message = f"{path}: Is a directory; what is done is safe, run the same command again"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read_costs(tmp_path, IDS)


def test_costs_of_other_lists_are_removed_with_their_ids(tmp_path: Path) -> None:
    for ids in (IDS, SEGMENTS):
        save_ids(tmp_path, ids)
        save_costs(tmp_path, ids.digest, np.ones(len(ids), np.float32))
    own = f"input.{SEGMENTS.digest[:16]}"

    remove_other_ids(tmp_path, SEGMENTS.digest)

    assert sorted(os.listdir(tmp_path)) == [own, f"{own}.costs", f"{own}.pieces"]


def test_folders_are_made_with_those_around_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "exp" / "emotion")
    make_folder(tmp_path / "exp" / "emotion")

    assert os.listdir(tmp_path / "exp") == ["emotion"]


@pytest.mark.parametrize(
    ("name", "reason"), [("file", "File exists"), ("file/out", "Not a directory"), ("x" * 300, "File name too long")]
)
def test_folders_that_cannot_be_made_are_named(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    message = f"{tmp_path / name}: {reason}; choose another -o"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        make_folder(tmp_path / name)


@pytest.mark.parametrize("known", [False, True])
def test_a_kaldi_data_directory_is_never_written_to(known: bool, tmp_path: Path) -> None:
    (tmp_path / "wav.scp").touch()
    (tmp_path / "utt2dur").touch()

    message = f"{tmp_path} is a Kaldi data directory, and its utt2dur would be replaced: choose another -o"
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
        refuse_foreign_files(tmp_path, known)


@pytest.mark.parametrize("name", RESULTS)
def test_results_without_a_journal_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()

    message = f"{tmp_path} holds {name}, but no journal of its run: choose another -o, or use --overwrite"
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
        refuse_foreign_files(tmp_path, known=False)
    refuse_foreign_files(tmp_path, known=True)


def test_other_files_in_out_do_no_harm(tmp_path: Path) -> None:
    for name in ("notes.txt", "input.scp", ".hidden", "log"):
        (tmp_path / name).touch()

    refuse_foreign_files(tmp_path, known=False)


def test_archives_that_are_whole_are_fine(tmp_path: Path) -> None:
    write_archive(tmp_path / "embeddings.1-of-1.1.ark", 100)
    (tmp_path / "embeddings").mkdir()

    check_archives(tmp_path, {"embeddings.1-of-1.1.ark": 100, "embeddings": 0})
    check_archives(tmp_path, {})


@pytest.mark.parametrize(
    ("archives", "message"),
    [
        (
            {"embeddings.1-of-1.1.ark": 100, "embeddings.1-of-1.2.ark": 5},
            "{out}/embeddings.1-of-1.2.ark is gone, but the journal speaks of it: bring it back, or use --overwrite",
        ),
        (
            {"embeddings.1-of-1.1.ark": 200},
            "{out}/embeddings.1-of-1.1.ark ends before what the journal speaks of at 200: "
            "restore it, or use --overwrite",
        ),
        (
            {"embeddings.1-of-1.3.ark": 100},
            "{out}/embeddings.1-of-1.3.ark ends before what the journal speaks of at 100: "
            "restore it, or use --overwrite",
        ),
        (
            {"embeddings": 0},
            "{out}/embeddings is gone, but the journal speaks of it: bring it back, or use --overwrite",
        ),
    ],
)
def test_archives_that_are_gone_or_shorter_are_named(archives: dict[str, int], message: str, tmp_path: Path) -> None:
    write_archive(tmp_path / "embeddings.1-of-1.1.ark", 100)
    cut = tmp_path / "embeddings.1-of-1.3.ark"
    write_archive(cut, 100)
    os.truncate(cut, cut.stat().st_size - 1)

    with pytest.raises(OutputError, match=f"^{re.escape(message.format(out=tmp_path))}$"):
        check_archives(tmp_path, archives)


@pytest.mark.parametrize(
    ("size", "shape", "sound"),
    [
        (15 + 4 * 6, (2, 3), True),
        (15 + 4 * 6 - 1, (2, 3), False),
        (14, (2, 3), False),
        (15, (0, 0), True),
        (15 + 8_000_000_000, (1_000_000, 2000), True),
        (15 + 8_000_000_000 - 1, (1_000_000, 2000), False),
    ],
)
def test_of_a_matrix_no_more_than_its_size_is_looked_at(
    size: int, shape: tuple[int, int], sound: bool, tmp_path: Path
) -> None:
    """It may be larger than memory; here all but its header is a hole in the file."""
    path = tmp_path / "embeddings.1-of-1.1.ark"
    path.write_bytes(b"k " + b"\0BFM " + b"".join(b"\4" + number.to_bytes(4, "little") for number in shape))
    os.truncate(path, 2 + size)

    if sound:
        check_archives(tmp_path, {path.name: 2})
    else:
        message = f"{path} ends before what the journal speaks of at 2: restore it, or use --overwrite"
        with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
            check_archives(tmp_path, {path.name: 2})


@pytest.mark.parametrize("name", ["embeddings.1-of-1.1.ark", "touch ran |", "a[0:1].ark"])
@pytest.mark.parametrize("content", [b"PKL" + pickle.dumps(Path), b"NPY\x01\x00", b"AUDIO\x01\x00", b"RIFF"])
def test_nothing_that_stands_in_an_archive_is_run(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"k " + content)

    with pytest.raises(OutputError, match=" ends before what the journal speaks of at 2: "):
        check_archives(tmp_path, {name: 2})

    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(("size", "sound"), [(100, True), (101, True), (99, False), (0, False), (None, False)])
def test_rows_of_the_timeline_that_are_gone_are_named(size: int | None, sound: bool, tmp_path: Path) -> None:
    (tmp_path / "timeline.1-of-2.1").write_bytes(bytes(5))
    path = tmp_path / "timeline.2-of-2.1"
    if size is not None:
        path.write_bytes(bytes(size))
    spoken_of = {"timeline.2-of-2.1": 100, "timeline.1-of-2.1": 5}

    if sound:
        check_timelines(tmp_path, spoken_of)
    else:
        message = (
            f"{path} is gone, or ends before byte 100, but the journal speaks of it: bring it back, or use --overwrite"
        )
        with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
            check_timelines(tmp_path, spoken_of)


def test_without_timelines_none_is_missed(tmp_path: Path) -> None:
    check_timelines(tmp_path, {})


def make_files(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


DEAD = 1 << 22
"""No process has this number."""

OURS = [
    *RESULTS,
    *("journal.1-of-1.1", "journal.10-of-12.3", "input.0123456789abcdef", "input.0123456789abcdef.pieces"),
    "input.0123456789abcdef.costs",
    *(f".{name}.{HOST}-{DEAD}-0123abcd.part" for name in ("predictions.tsv", "timeline.ctm")),
    *(
        f".{name}.{HOST}-{DEAD}-0123abcd.part"
        for name in ("npy.1-of-1", *(f"input.0123456789abcdef{suffix}" for suffix in ("", ".pieces", ".costs")))
    ),
    *("embeddings.1-of-1.1.ark", "embeddings.2-of-3.10.ark", "embeddings/a.npy", "embeddings/a b%3A.npy"),
    *("timeline.1-of-1.1", "timeline.2-of-3.10", "audacity/a.txt", "audacity/a%2Fb.txt", "textgrid/ü.TextGrid"),
    *("log/worker.1-of-1.1.log", "log/launcher.1-of-1.log", "log/slurm-12_3.log", "log/slurm-13-merge.log"),
    *("slurm/shards.sh", "slurm/merge.sh", "slurm/12.json"),
]

THEIRS = [
    *("notes.txt", "predictions.tsv.bak", "journal.md", "journal", "input.scp", "input.txt", "my.ark", ".hidden"),
    *("embeddings.ark", "embeddings.zip", "plots/a.npy", ".video.mp4.part", "utt2spk", "log.txt"),
    *("timeline.png", "timeline", "textgrid/a.txt", "audacity/project.aup3", "input.0123456789abcdef.bak"),
]


def test_overwriting_removes_what_is_there_of_a_run(tmp_path: Path) -> None:
    make_files(tmp_path, OURS)

    remove_results(tmp_path)

    assert os.listdir(tmp_path) == []


def test_overwriting_keeps_locks(tmp_path: Path) -> None:
    """Who has one would go on, and somebody else could take a new one."""
    make_files(tmp_path, OURS)
    with locked(tmp_path, "1-of-1"), locked(tmp_path, "merge"):
        remove_results(tmp_path)

        assert sorted(os.listdir(tmp_path)) == [".lock.1-of-1", ".lock.merge"]


def test_what_could_be_removed_in_part_alone_is_spoken_of_by_nobody(tmp_path: Path) -> None:
    """Journals go first, so that they never speak of what is gone."""
    make_files(tmp_path, OURS)
    (tmp_path / "embeddings.1-of-1.7.ark").mkdir()

    with pytest.raises((IsADirectoryError, PermissionError)):
        remove_results(tmp_path)

    assert not list(tmp_path.glob("journal.*"))


def test_overwriting_removes_nothing_but_results_where_no_run_was(tmp_path: Path) -> None:
    make_files(tmp_path, [*RESULTS, "embeddings/precious.npy"])

    remove_results(tmp_path)

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == ["embeddings/precious.npy"]


def test_overwriting_leaves_what_is_not_of_a_run(tmp_path: Path) -> None:
    make_files(tmp_path, [*OURS, *THEIRS, "embeddings/readme", "log/of mine", "slurm/my.sbatch"])

    remove_results(tmp_path)

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*THEIRS, "embeddings/readme", "log/of mine", "slurm/my.sbatch"}


def test_overwriting_nothing_is_fine(tmp_path: Path) -> None:
    remove_results(tmp_path)

    assert os.listdir(tmp_path) == []
