"""The whole text of ``e2v status``, from handmade journals."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from support.journals import INVOCATION, MACHINE

from e2v_cli.cluster.slurm import JobState
from e2v_cli.cluster.submissions import Submission, note_submission
from e2v_cli.commands import status
from e2v_cli.commands.status import State, describe_run
from e2v_cli.corpus import blocks
from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys
from e2v_cli.errors import OutputConflictError, OutputError, SlurmError
from e2v_cli.journal.ids import save_costs, save_ids
from e2v_cli.journal.journal import JOURNAL_FORMAT, Elapsed, Header, Journal
from e2v_cli.journal.locks import locked
from e2v_cli.options import Shard
from e2v_cli.records import DoneRecord, Failure, Utterance

HOST = socket.gethostname()
WHOLE, FIRST, SECOND = Shard(1, 1), Shard(2, 1), Shard(2, 2)


@pytest.fixture(autouse=True)
def _blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists have blocks of four, without smaller ones at the end."""
    monkeypatch.setattr(blocks, "BLOCK_SIZES", (4, 256))
    monkeypatch.setattr(blocks, "TAPER", 1)


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, JobState]:
    """The jobs that Slurm knows; empty until a test adds some."""
    known: dict[str, JobState] = {}

    def ask_states(jobs: Sequence[str]) -> dict[str, JobState]:
        return {name: job for name, job in known.items() if name.partition("_")[0] in jobs}

    monkeypatch.setattr(status, "ask_states", ask_states)
    return known


class List:
    """The ids of a list."""

    recording_groups: NDArray[np.int64] | None = None
    checksums: NDArray[np.uint32] | None = None

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = [utt_id.encode() for utt_id in ids]
        self.index = KeyIndex(hash_keys(self._ids))
        self.digest = digest_of([self._ids], None)

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> Iterator[list[bytes]]:
        yield self._ids


IDS = List([f"utt{number}" for number in range(10)])
"""In blocks of four: the first of two shards has 0 to 3 and 8 to 9, the second 4 to 7."""


def write(
    folder: Path,
    shard: Shard,
    done: Sequence[int] = (),
    failed: Sequence[int] = (),
    elapsed: Elapsed | None = None,
    ids: List = IDS,
    model: str = "abc",
    started: int = 0,
) -> Path:
    """Write the journal of an attempt, and return its path."""
    save_ids(folder, ids)
    head = Header(
        format=JOURNAL_FORMAT,
        fingerprint={"model": model},
        model="sample",
        labels=(),
        input_sha256=ids.digest,
        input_size=len(ids),
        frame_shift=0.02,
        timeline_formats=(),
        join=False,
        mix_devices=False,
        invocation=INVOCATION,
        machine=MACHINE,
        host=HOST,
        pid=1,
        started=f"2026-01-31T10:00:{started:02}+01:00",
    )
    before = set(folder.glob("journal.*"))
    with closing(Journal(folder, shard, head)) as journal:
        if elapsed is not None:
            journal.append(
                [DoneRecord(number, f"utt{number}", 1.0, 49, 1, "", (), None) for number in done],
                [Failure(Utterance(number, f"utt{number}", "x"), "audio", "missing", "gone") for number in failed],
                elapsed,
            )
    (path,) = set(folder.glob("journal.*")) - before
    return path


def describe(folder: Path, state: State = State.WAITING) -> list[str]:
    """Describe a run in the given state: its lines, without the name of its folder."""
    report = describe_run(folder)
    assert report.state is state
    assert report.text.endswith("\n")
    assert report.text.startswith(f"{folder}: ")
    return report.text.removeprefix(f"{folder}: ").splitlines()


def test_new_run_has_all_utterances_left(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 0 done, 0 failed, 10 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/1    0     0       10    –      –         not running: run it again",
    ]


def test_incomplete_run_shows_counts_speed_and_time_left(tmp_path: Path) -> None:
    """Four utterances took 600 s, so six take 900 s."""
    write(tmp_path, WHOLE, [0, 1, 2], [3], Elapsed(620.0, 600.0, 15_123.4, 4))

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 3 done, 1 failed, 6 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/1    3     1       6     25.2×  0:15:00   not running: run it again",
    ]


def test_each_shard_has_a_row(tmp_path: Path) -> None:
    """The first shard took two attempts; its speed is that of the newest."""
    write(tmp_path, FIRST, [0, 1], [], Elapsed(10.0, 5.0, 5.0, 2))
    write(tmp_path, FIRST, [2], [], Elapsed(10.0, 9.0, 18.0, 1), started=5)
    write(tmp_path, SECOND, [4, 5, 7], [6], Elapsed(8.0, 4.0, 400.0, 4), started=1)

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 6 done, 1 failed, 3 left",
        "shard  done  failed  left  speed   ready in  state",
        "1/2    3     0       3     2.0×    0:00:27   not running: run it again",
        "2/2    3     1       0     100.0×",
    ]


def test_shard_that_has_not_begun_has_a_row(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))

    assert describe(tmp_path)[2:] == [
        "shard  done  failed  left  speed  ready in  state",
        "1/2    6     0       0     1.0×",
        "2/2    0     0       4     –      –         not running: run it again",
    ]


@pytest.mark.parametrize(
    ("seconds", "ready_in"), [(0.1, "0:00:00"), (59.4, "0:00:59"), (3599.9, "1:00:00"), (367_384.0, "102:03:04")]
)
def test_times_are_hours_minutes_and_seconds(seconds: float, ready_in: str, tmp_path: Path) -> None:
    write(tmp_path, WHOLE, range(5), [], Elapsed(seconds, seconds, 1.0, 5))

    assert f" {ready_in} " in describe(tmp_path)[-1]


def test_complete_shards_without_final_files_are_not_merged(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(10.0, 5.0, 5.0, 4))

    assert describe(tmp_path) == [
        "not merged yet: e2v merge does it",
        "10 utterances: 10 done, 0 failed, 0 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/2    6     0       0     1.0×",
        "2/2    4     0       0     1.0×",
    ]


def test_run_with_final_files_is_complete(tmp_path: Path) -> None:
    journal = write(tmp_path, WHOLE, range(1, 10), [0], Elapsed(10.0, 5.0, 5.0, 10))
    (tmp_path / "predictions.tsv").touch()
    sizes = hashlib.sha256(f"{journal.name} {journal.stat().st_size}\n".encode()).hexdigest()
    sources = {"input_sha256": IDS.digest, "journal_sizes_sha256": sizes, "output_dir": str(tmp_path)}
    content = {**sources, "files": ["predictions.tsv"]}
    (tmp_path / "run.json").write_text(json.dumps(content))

    assert describe(tmp_path, State.COMPLETE) == [
        "complete",
        "10 utterances: 9 done, 1 failed, 0 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/1    9     1       0     1.0×",
    ]


def test_utterances_of_an_earlier_list_belong_to_no_shard(tmp_path: Path) -> None:
    """Blocks begin at utt2: the first shard has 2 to 5, the second 6 to 9."""
    write(tmp_path, WHOLE, [0, 1], [], Elapsed(10.0, 5.0, 5.0, 2), ids=List(["utt0", "utt1"]))
    write(tmp_path, FIRST, [2], [3], Elapsed(10.0, 5.0, 5.0, 2), started=1)

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 3 done, 1 failed, 6 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/2    1     1       2     1.0×   0:00:05   not running: run it again",
        "2/2    0     0       4     –      –         not running: run it again",
    ]


def test_process_at_work_is_named_with_age_of_its_last_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: path.stat().st_mtime + 7.4))
    with locked(tmp_path, "1-of-1"):
        owner = (tmp_path / ".lock.1-of-1").read_text().removesuffix("\n")

        assert owner.startswith(f"process {os.getpid()} on {HOST} since ")
        assert describe(tmp_path, State.UNDER_WAY)[-1].endswith(
            f"  process {os.getpid()} on {HOST}, last result 7 s ago"
        )

    assert describe(tmp_path)[-1].endswith("  not running: run it again")


def test_process_without_results_is_named(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    with locked(tmp_path, "1-of-1"):
        owner = (tmp_path / ".lock.1-of-1").read_text().removesuffix("\n")

        assert describe(tmp_path, State.UNDER_WAY)[-1] == f"1/1    0     0       10    –      –         {owner}"


FAR = "process 1 on far.example.org since 2026-01-31T10:00:00+01:00"
"""The owner of a lock, on another machine."""

FAR_NAME = "process 1 on far.example.org"
"""The same without the time of its start, as where the time of its last result is known."""


@contextmanager
def held(folder: Path, *shards: Shard, owner: str = FAR) -> Iterator[None]:
    """Hold the locks of shards as a process of another name."""
    with ExitStack() as stack:
        for shard in shards:
            stack.enter_context(locked(folder, shard.name))
            write_owner(folder, shard, owner)
        yield


def write_owner(folder: Path, shard: Shard, owner: str) -> None:
    """Write an owner into a lock, without holding it."""
    (folder / f".lock.{shard.name}").write_text(f"{owner}\n")


def end_process() -> int:
    """Return the number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_process_on_another_machine_is_named_with_its_last_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1))
    write(tmp_path, FIRST, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    os.utime(path, (1000.0, 1000.0))
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: 4600.0))
    with held(tmp_path, SECOND):
        row = describe(tmp_path, State.UNDER_WAY)[4]

    assert row.endswith(f"  0:00:15   {FAR_NAME}, last result 3600 s ago")


@pytest.mark.parametrize("whose", ["ended", "alive again", "far"])
def test_killed_process_is_not_at_work(whose: str, tmp_path: Path) -> None:
    """Its lock is free, though its number may be that of a living process, or of another machine."""
    write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    pids = {"ended": end_process(), "alive again": os.getppid()}
    owner = f"process {pids[whose]} on {HOST} since 2026-01-31T10:00:00+01:00" if whose in pids else FAR
    write_owner(tmp_path, WHOLE, owner)

    assert describe(tmp_path)[-1].endswith(f"  0:00:45   not running: {owner} was killed; run it again")


@pytest.mark.parametrize("text", ["", f"process {{dead}} on {HOST} since 2026-01-31T10:00:00+01:00\n"])
def test_process_that_has_not_written_its_name_is_at_work(text: str, tmp_path: Path) -> None:
    """The name may be that of an earlier process, which was killed."""
    write(tmp_path, WHOLE)
    with locked(tmp_path, WHOLE.name):
        (tmp_path / ".lock.1-of-1").write_text(text.format(dead=end_process()))

        assert describe(tmp_path, State.UNDER_WAY)[-1].endswith("  –      –         an unnamed process")


def refuse_locks(monkeypatch: pytest.MonkeyPatch, error: int = errno.ENOLCK) -> None:
    """Let no lock work from now on."""

    def flock(_file: object, _operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("has_result", [True, False])
def test_age_decides_where_locks_do_not_work(
    error: int, has_result: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of the last result or, before that, of the start."""
    refuse_locks(monkeypatch, error)
    write_owner(tmp_path, WHOLE, FAR)
    os.utime(tmp_path / ".lock.1-of-1", (1000.0, 1000.0))
    path = write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1) if has_result else None)
    os.utime(path, (2000.0, 2000.0))
    last = 2000.0 if has_result else 1000.0
    result = ", last result 599 s ago" if has_result else ""

    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: last + 599))
    row = describe(tmp_path, State.UNDER_WAY)[-1]
    assert row.endswith(f"   {FAR_NAME if has_result else FAR}{result} (locks don't work here, so judged by age)")
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: last + 600))
    assert describe(tmp_path)[-1].endswith(
        f"   not running: {FAR}, no result for 600 s (locks don't work here, so judged by age); run it again"
    )


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("", "not running: run it again"),
        (
            f"process {{dead}} on {HOST} since now\n",
            "not running: process {dead} on {host} since now was killed; run it again",
        ),
    ],
)
def test_released_lock_or_dead_process_is_not_at_work_without_locks(
    text: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch)
    write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    dead = end_process()
    (tmp_path / ".lock.1-of-1").write_text(text.format(dead=dead))

    assert describe(tmp_path)[-1].endswith(f"  0:00:45   {state.format(dead=dead, host=HOST)}")


def test_run_is_under_way_while_any_shard_has_a_process(tmp_path: Path) -> None:
    """The last line names the other shards."""
    shards = [Shard(5, index) for index in range(1, 6)]
    for shard in shards:
        write(tmp_path, shard)  # three blocks: two shards have none
    with held(tmp_path, shards[1]):
        *_, rest = describe(tmp_path, State.UNDER_WAY)
    assert rest == "not running: shards 1,3 of 5; run them again"
    with held(tmp_path, shards[0], shards[1]):
        *_, rest = describe(tmp_path, State.UNDER_WAY)
    assert rest == "not running: shard 3 of 5; run it again"
    with held(tmp_path, *shards[:3]):
        assert describe(tmp_path, State.UNDER_WAY)[-1].startswith("5/5 ")
    assert describe(tmp_path, State.WAITING)[-1].startswith("5/5 ")


def test_complete_shard_at_work_is_named(tmp_path: Path) -> None:
    """It may be trying the failed ones again."""
    write(tmp_path, WHOLE, range(9), [9], Elapsed(10.0, 5.0, 5.0, 10))
    with held(tmp_path, WHOLE):
        lines = describe(tmp_path, State.UNDER_WAY)

    assert lines[0] == "not merged yet: another process is at work"
    assert lines[-1] == f"1/1    9     1       0     1.0×             {FAR_NAME}, last result 0 s ago"


def test_process_at_another_number_of_shards_is_named(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """The jobs of a newer submission were refused because of it."""
    write(tmp_path, FIRST)
    submit(tmp_path, shards=[1], count=1, submitted=SUBMITTED_LATER)
    set_job_state(slurm, "12_1", "FAILED", "n1")
    with held(tmp_path, SECOND):
        lines = describe(tmp_path, State.UNDER_WAY)

    assert lines[3].startswith("1/1    0     0       10    –      –         not running: job 12_1 is FAILED, see ")
    assert lines[4:] == [f"also at work (2-of-2): {FAR}", "not running: shard 1 of 1; run e2v submit again"]


def test_totals_cover_all_shards_at_work(tmp_path: Path) -> None:
    """The first shard takes 9 s for each of its four utterances left, the second 4 s for each of two."""
    write(tmp_path, FIRST, [0, 1], [], Elapsed(20.0, 18.0, 45.0, 2))
    write(tmp_path, SECOND, [4, 5], [], Elapsed(8.0, 8.0, 800.0, 2))
    with held(tmp_path, FIRST, SECOND):
        totals, _, first, second = describe(tmp_path, State.UNDER_WAY)[1:]

    assert totals == "10 utterances: 4 done, 0 failed, 6 left; 102.5× real time, ready in 0:00:36"
    assert first.startswith("1/2    2     0       4     2.5×    0:00:36   process 1 on ")
    assert second.startswith("2/2    2     0       2     100.0×  0:00:08   process 1 on ")


def test_ended_shards_do_not_count_for_total_speed(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1], [], Elapsed(20.0, 18.0, 45.0, 2))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(8.0, 8.0, 800.0, 4))
    with held(tmp_path, FIRST):
        totals = describe(tmp_path, State.UNDER_WAY)[1]

    assert totals == "10 utterances: 6 done, 0 failed, 4 left; 2.5× real time, ready in 0:00:36"


def test_time_left_is_unknown_until_all_shards_have_begun(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1], [], Elapsed(20.0, 18.0, 45.0, 2))
    with held(tmp_path, FIRST, SECOND):
        totals = describe(tmp_path, State.UNDER_WAY)[1]

    assert totals == "10 utterances: 2 done, 0 failed, 8 left; 2.5× real time"


def test_status_changes_no_file(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    path.write_bytes(path.read_bytes() + b"torn")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    describe(tmp_path)

    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    message = f"{tmp_path} holds no run: choose the -o of e2v predict"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        describe_run(tmp_path)


def test_missing_ids_are_named(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    path = tmp_path / f"input.{IDS.digest[:16]}"
    path.unlink()

    message = f"{path}: No such file or directory; run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        describe_run(tmp_path)


def test_journals_of_different_runs_are_refused(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    write(tmp_path, SECOND, model="def", started=1)

    message = (
        f"{tmp_path} holds a different run: model was abc, is def. "
        "Choose another -o, or delete that run with --overwrite"
    )
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
        describe_run(tmp_path)


# -- Slurm jobs --------------------------------------------------------------------------------------------------------


def submit(
    folder: Path,
    array: str = "12",
    shards: Sequence[int] = (1, 2),
    count: int = 2,
    merge: str = "13",
    submitted: str = "2026-01-31T09:59:00+01:00",
    ids: List = IDS,
) -> None:
    """Note a submission as ``e2v submit`` does."""
    save_ids(folder, ids)
    (folder / "slurm").mkdir(exist_ok=True)
    note_submission(folder, Submission(array, tuple(shards), count, merge, ids.digest, submitted))


def set_job_state(slurm: dict[str, JobState], name: str, state: str, node: str = "", reason: str = "None") -> None:
    """Set the state of a job in Slurm."""
    slurm[name] = JobState(name, state, node, reason)


def test_pending_jobs_are_listed(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """No journal exists yet."""
    submit(tmp_path)
    set_job_state(slurm, "12_1", "PENDING", reason="Resources")
    set_job_state(slurm, "12_2", "PENDING", reason="Priority")
    set_job_state(slurm, "13", "PENDING", reason="Dependency")

    assert describe(tmp_path, State.UNDER_WAY) == [
        "in progress",
        "10 utterances: 0 done, 0 failed, 10 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/2    0     0       6     –      –         job 12_1 waits (Resources)",
        "2/2    0     0       4     –      –         job 12_2 waits (Priority)",
    ]


def test_running_jobs_are_listed(slurm: dict[str, JobState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them has not written its lock yet."""
    submit(tmp_path)
    set_job_state(slurm, "12_1", "RUNNING", "n1")
    set_job_state(slurm, "12_2", "CONFIGURING", "n2")
    path = write(tmp_path, FIRST, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    owner = f"{FAR}, start 1 of job 12_1"
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: path.stat().st_mtime + 7.4))
    with held(tmp_path, FIRST, owner=owner):
        lines = describe(tmp_path, State.UNDER_WAY)

    assert lines == [
        "in progress",
        "10 utterances: 1 done, 0 failed, 9 left; 1.0× real time",
        "shard  done  failed  left  speed  ready in  state",
        f"1/2    1     0       5     1.0×   0:00:25   {FAR_NAME}, start 1 of job 12_1, last result 7 s ago",
        "2/2    0     0       4     –      –         job 12_2 is CONFIGURING on n2",
    ]


@pytest.mark.parametrize("ended", ["FAILED", "OUT_OF_MEMORY", "TIMEOUT", "CANCELLED", "NODE_FAIL", "COMPLETED"])
def test_ended_job_of_an_incomplete_shard_is_reported(ended: str, slurm: dict[str, JobState], tmp_path: Path) -> None:
    """No process continues its shard, while the other job runs, and the merge waits for that."""
    submit(tmp_path)
    set_job_state(slurm, "12_1", "RUNNING", "n1")
    set_job_state(slurm, "12_2", ended, "n2")
    set_job_state(slurm, "13", "PENDING", reason="Dependency")
    write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1))

    log = tmp_path / "log/slurm-12_2.log"
    assert describe(tmp_path, State.UNDER_WAY) == [
        "in progress",
        "10 utterances: 1 done, 0 failed, 9 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/2    0     0       6     –      –         job 12_1 is RUNNING on n1",
        f"2/2    1     0       3     1.0×   0:00:15   not running: job 12_2 is {ended}, see {log}; "
        "run e2v submit again",
        "not running: shard 2 of 2; run e2v submit again",
    ]


def test_jobs_unknown_to_slurm_are_gone(tmp_path: Path) -> None:
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))

    log = tmp_path / "log/slurm-12_2.log"
    assert describe(tmp_path, State.WAITING)[3:] == [
        "1/2    6     0       0     1.0×",
        f"2/2    0     0       4     –      –         not running: job 12_2 is gone, see {log}; run e2v submit again",
    ]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "PENDING", "NODE_FAIL", ""])
def test_held_lock_counts_regardless_of_slurm(
    state: str, slurm: dict[str, JobState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm may have lost the node, requeued the job or forgotten it, and the process still works."""
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    path = write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1), started=1)
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: path.stat().st_mtime + 60))
    if state:
        set_job_state(slurm, "12_2", state, "far")
    with held(tmp_path, SECOND, owner=f"{FAR}, start 1 of job 12_2"):
        row = describe(tmp_path, State.UNDER_WAY)[-1]

    assert row == f"2/2    1     0       3     1.0×   0:00:15   {FAR_NAME}, start 1 of job 12_2, last result 60 s ago"


@pytest.mark.parametrize(
    ("state", "reason", "described", "run"),
    [
        ("RUNNING", "None", "job 12_2 is RUNNING on far", State.UNDER_WAY),
        ("PENDING", "BeginTime", "job 12_2 waits (BeginTime)", State.UNDER_WAY),
        ("NODE_FAIL", "None", "not running: job 12_2 is NODE_FAIL, see {log}; run e2v submit again", State.WAITING),
        # Slurm has forgotten it
        ("", "", "not running: job 12_2 is gone, see {log}; run e2v submit again", State.WAITING),
    ],
)
def test_job_is_described_where_no_process_holds_the_lock(
    state: str, reason: str, described: str, run: State, slurm: dict[str, JobState], tmp_path: Path
) -> None:
    """A process that was killed, perhaps on another node, has left its name."""
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1), started=1)
    write_owner(tmp_path, SECOND, f"{FAR}, start 1 of job 12_2")
    if state:
        set_job_state(slurm, "12_2", state, "far", reason)

    row = f"2/2    1     0       3     1.0×   0:00:15   {described.format(log=tmp_path / 'log/slurm-12_2.log')}"
    assert describe(tmp_path, run)[-1] == row


def refuse(_: Sequence[str]) -> dict[str, JobState]:
    raise SlurmError("squeue: no such command here")


def test_locks_are_asked_if_slurm_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status, "ask_states", refuse)
    submit(tmp_path)
    write(tmp_path, FIRST)
    with held(tmp_path, FIRST, owner=f"{FAR}, start 1 of job 12_1"):
        rows = describe(tmp_path, State.UNDER_WAY)[3:]

    assert rows == [
        f"1/2    0     0       6     –      –         {FAR}, start 1 of job 12_1",
        "2/2    0     0       4     –      –         job 12_2, whose state is not known",
    ]
    assert caplog.messages == ["squeue: no such command here"]


def test_merging_process_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, WHOLE, range(10), [], Elapsed(10.0, 5.0, 5.0, 10))

    with locked(tmp_path, "merge"):
        owner = (tmp_path / ".lock.merge").read_text().removesuffix("\n")
        head, *_, last = describe(tmp_path, State.UNDER_WAY)
    assert (head, last) == ("not merged yet: another process is merging", f"also at work (merge): {owner}")
    assert describe(tmp_path, State.WAITING)[0] == "not merged yet: e2v merge does it"


def test_process_killed_in_a_job_is_reported_with_its_log(slurm: dict[str, JobState], tmp_path: Path) -> None:
    submit(tmp_path, shards=[1], count=1)
    set_job_state(slurm, "12_1", "OUT_OF_MEMORY", HOST)
    write_owner(
        tmp_path, WHOLE, f"process {end_process()} on {HOST} since 2026-01-31T10:00:00+01:00, start 1 of job 12_1"
    )

    log = tmp_path / "log/slurm-12_1.log"
    assert describe(tmp_path, State.WAITING)[-1].endswith(
        f"  not running: job 12_1 is OUT_OF_MEMORY, see {log}; run e2v submit again"
    )


def test_newest_job_of_each_shard_counts(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """The second shard was submitted again."""
    submit(tmp_path)
    submit(tmp_path, "14", [2], merge="15", submitted="2026-01-31T09:59:30+01:00")
    for name, state in (("12_1", "RUNNING"), ("12_2", "FAILED"), ("13", "CANCELLED"), ("14_2", "PENDING")):
        set_job_state(slurm, name, state, "n1", "Resources")

    assert describe(tmp_path, State.UNDER_WAY)[3:] == [
        "1/2    0     0       6     –      –         job 12_1 is RUNNING on n1",
        "2/2    0     0       4     –      –         job 14_2 waits (Resources)",
    ]


@pytest.mark.parametrize(
    ("merge", "head", "run"),
    [
        ("PENDING", "not merged yet: job 13 will do it", State.UNDER_WAY),
        ("RUNNING", "not merged yet: job 13 will do it", State.UNDER_WAY),
        ("FAILED", "not merged yet: e2v merge does it", State.WAITING),
        ("COMPLETED", "not merged yet: e2v merge does it", State.WAITING),
        ("", "not merged yet: e2v merge does it", State.WAITING),
    ],
)
def test_merge_job_is_named_while_pending_or_running(
    merge: str, head: str, run: State, slurm: dict[str, JobState], tmp_path: Path
) -> None:
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(10.0, 5.0, 5.0, 4))
    if merge:
        set_job_state(slurm, "13", merge, "n1", "Dependency")

    assert describe(tmp_path, run) == [
        head,
        "10 utterances: 10 done, 0 failed, 0 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/2    6     0       0     1.0×",
        "2/2    4     0       0     1.0×",
    ]


def test_lost_shard_is_named_while_the_merge_is_pending(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """The merge does not continue it."""
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    set_job_state(slurm, "12_2", "FAILED", "n1")
    set_job_state(slurm, "13", "PENDING", reason="Dependency")

    head, *_, last = describe(tmp_path, State.UNDER_WAY)
    assert (head, last) == ("in progress", "not running: shard 2 of 2; run e2v submit again")


def test_merge_job_submitted_alone_is_named(slurm: dict[str, JobState], tmp_path: Path) -> None:
    submit(tmp_path)
    submit(tmp_path, "", [], merge="15", submitted="2026-01-31T11:00:00+01:00")
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(10.0, 5.0, 5.0, 4))
    set_job_state(slurm, "13", "FAILED")
    set_job_state(slurm, "15", "PENDING", reason="Priority")

    assert describe(tmp_path, State.UNDER_WAY)[0] == "not merged yet: job 15 will do it"


SUBMITTED_LATER = "2026-01-31T09:30:00+00:00"
"""Half an hour after the attempts, on a machine of another time zone."""

SUBMITTED_EARLIER = "2026-01-31T10:30:00+02:00"


def test_results_of_a_job_that_ends_while_slurm_is_asked_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise --watch would end at the moment of completion as if something were left."""
    submit(tmp_path, shards=[1], count=1)

    def ask_states(_: Sequence[str]) -> dict[str, JobState]:
        write(tmp_path, WHOLE, range(10), [], Elapsed(10.0, 5.0, 5.0, 10))
        return {"12_1": JobState("12_1", "COMPLETED", "n1", "None"), "13": JobState("13", "PENDING", "", "Dependency")}

    monkeypatch.setattr(status, "ask_states", ask_states)
    assert describe(tmp_path, State.UNDER_WAY)[0] == "not merged yet: job 13 will do it"


def test_submission_newer_than_all_journals_sets_number_of_shards(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """In blocks of four: the first of three shards has 0 to 3, the second 4 to 7, the third 8 to 9."""
    write(tmp_path, WHOLE, [0, 1, 2, 4], [], Elapsed(10.0, 5.0, 5.0, 4))
    submit(tmp_path, shards=[1, 2, 3], count=3, submitted=SUBMITTED_LATER)
    for index in (1, 2, 3):
        set_job_state(slurm, f"12_{index}", "PENDING", reason="Priority")

    assert describe(tmp_path, State.UNDER_WAY) == [
        "in progress",
        "10 utterances: 4 done, 0 failed, 6 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/3    3     0       1     –      –         job 12_1 waits (Priority)",
        "2/3    1     0       3     –      –         job 12_2 waits (Priority)",
        "3/3    0     0       2     –      –         job 12_3 waits (Priority)",
    ]


def test_submission_older_than_a_journal_is_ignored(slurm: dict[str, JobState], tmp_path: Path) -> None:
    submit(tmp_path, shards=[1, 2, 3], count=3, submitted=SUBMITTED_EARLIER)
    set_job_state(slurm, "12_1", "PENDING", reason="Priority")
    write(tmp_path, WHOLE, [0, 1, 2, 4], [], Elapsed(10.0, 4.0, 4.0, 4))

    assert describe(tmp_path, State.WAITING)[2:] == [
        "shard  done  failed  left  speed  ready in  state",
        "1/1    4     0       6     1.0×   0:00:06   not running: run it again",
    ]


def test_submission_of_a_grown_list_covers_new_utterances(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """Blocks of new utterances begin at utt2: the first shard has 2 to 5, the second 6 to 9."""
    write(tmp_path, WHOLE, [0, 1], [], Elapsed(10.0, 5.0, 5.0, 2), ids=List(["utt0", "utt1"]))
    submit(tmp_path, submitted=SUBMITTED_LATER)
    for index in (1, 2):
        set_job_state(slurm, f"12_{index}", "PENDING", reason="Priority")

    assert describe(tmp_path, State.UNDER_WAY) == [
        "in progress",
        "10 utterances: 2 done, 0 failed, 8 left",
        "shard  done  failed  left  speed  ready in  state",
        "1/2    0     0       4     –      –         job 12_1 waits (Priority)",
        "2/2    0     0       4     –      –         job 12_2 waits (Priority)",
    ]


def test_shards_follow_saved_costs(tmp_path: Path) -> None:
    """Blocks of 4, 40 and 2 seconds: the second one is dealt first."""
    save_costs(tmp_path, IDS.digest, np.array([1, 1, 1, 1, 10, 10, 10, 10, 1, 1], np.float32))
    write(tmp_path, FIRST, [4], [], Elapsed(10.0, 5.0, 5.0, 1))
    write(tmp_path, SECOND, [0, 9], [], Elapsed(10.0, 5.0, 5.0, 2))

    assert describe(tmp_path)[3:] == [
        "1/2    1     0       3     1.0×   0:00:15   not running: run it again",
        "2/2    2     0       4     1.0×   0:00:10   not running: run it again",
    ]


def test_malformed_record_of_jobs_is_named(tmp_path: Path) -> None:
    submit(tmp_path)
    path = tmp_path / "slurm/12.json"
    path.write_text("{")

    message = rf"^{re.escape(str(path))}: not a record of submitted jobs \(.+\); remove it$"
    with pytest.raises(OutputError, match=message):
        describe_run(tmp_path)
