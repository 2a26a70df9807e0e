"""How far a run is, word by word, from journals made by hand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

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
def _fours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are cut into blocks of four, to their end."""
    monkeypatch.setattr(blocks, "BLOCK_SIZES", (4, 256))
    monkeypatch.setattr(blocks, "TAPER", 1)


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, JobState]:
    """What Slurm knows of jobs: nothing, unless a test says so."""
    known: dict[str, JobState] = {}

    def ask_states(jobs: Sequence[str]) -> dict[str, JobState]:
        return {name: job for name, job in known.items() if name.partition("_")[0] in jobs}

    monkeypatch.setattr(status, "ask_states", ask_states)
    return known


class List:
    """The ids of a list."""

    recording_groups: NDArray[np.int64] | None = None

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
    """Write the journal of an attempt, and say where it is."""
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
        host=HOST,
        pid=1,
        started=f"2026-01-31T10:00:{started:02}+01:00",
    )
    before = set(folder.glob("journal.*"))
    with closing(Journal(folder, shard, head)) as journal:
        if elapsed is not None:
            journal.append(
                [DoneRecord(number, f"utt{number}", 1.0, 49, 1, "", (), None, None) for number in done],
                [Failure(Utterance(number, f"utt{number}", "x"), "audio", "missing", "gone") for number in failed],
                elapsed,
            )
    (path,) = set(folder.glob("journal.*")) - before
    return path


def describe(folder: Path, state: State = State.WAITING) -> list[str]:
    """Describe a run that is in a state: its lines, without the name of its folder."""
    report = describe_run(folder)
    assert report.state is state
    assert report.text.endswith("\n")
    assert report.text.startswith(f"{folder}: ")
    return report.text.removeprefix(f"{folder}: ").splitlines()


def test_a_run_that_is_at_its_beginning(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 0 done, 0 failed, 10 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/1    0     0       10    –      –         nobody: run it (again)",
    ]


def test_a_run_that_is_half_done(tmp_path: Path) -> None:
    """Four utterances took 600 s, so six will take 900 s."""
    write(tmp_path, WHOLE, [0, 1, 2], [3], Elapsed(620.0, 600.0, 15_123.4, 4))

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 3 done, 1 failed, 6 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/1    3     1       6     25.2×  0:15:00   nobody: run it (again)",
    ]


def test_shards_are_told_apart(tmp_path: Path) -> None:
    """The first took two attempts, of which the newest says how fast it is."""
    write(tmp_path, FIRST, [0, 1], [], Elapsed(10.0, 5.0, 5.0, 2))
    write(tmp_path, FIRST, [2], [], Elapsed(10.0, 9.0, 18.0, 1), started=5)
    write(tmp_path, SECOND, [4, 5, 7], [6], Elapsed(8.0, 4.0, 400.0, 4), started=1)

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 6 done, 1 failed, 3 left",
        "shard  done  failed  left  speed   ready in  who",
        "1/2    3     0       3     2.0×    0:00:27   nobody: run it (again)",
        "2/2    3     1       0     100.0×",
    ]


def test_a_shard_that_has_not_begun(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))

    assert describe(tmp_path)[2:] == [
        "shard  done  failed  left  speed  ready in  who",
        "1/2    6     0       0     1.0×",
        "2/2    0     0       4     –      –         nobody: run it (again)",
    ]


@pytest.mark.parametrize(
    ("seconds", "ready_in"), [(0.1, "0:00:00"), (59.4, "0:00:59"), (3599.9, "1:00:00"), (367_384.0, "102:03:04")]
)
def test_times_are_hours_minutes_and_seconds(seconds: float, ready_in: str, tmp_path: Path) -> None:
    write(tmp_path, WHOLE, range(5), [], Elapsed(seconds, seconds, 1.0, 5))

    assert f" {ready_in} " in describe(tmp_path)[-1]


def test_a_run_that_is_only_to_be_merged(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(10.0, 5.0, 5.0, 4))

    assert describe(tmp_path) == [
        "not merged yet: e2v merge does it",
        "10 utterances: 10 done, 0 failed, 0 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/2    6     0       0     1.0×",
        "2/2    4     0       0     1.0×",
    ]


def test_a_run_that_is_complete(tmp_path: Path) -> None:
    journal = write(tmp_path, WHOLE, range(1, 10), [0], Elapsed(10.0, 5.0, 5.0, 10))
    (tmp_path / "predictions.tsv").touch()
    sources = hashlib.sha256(f"{tmp_path}\n{journal.name} {journal.stat().st_size}\n".encode()).hexdigest()
    content = {"input_sha256": IDS.digest, "sources_sha256": sources, "files": ["predictions.tsv"]}
    (tmp_path / "run.json").write_text(json.dumps(content))

    assert describe(tmp_path, State.COMPLETE) == [
        "complete",
        "10 utterances: 9 done, 1 failed, 0 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/1    9     1       0     1.0×",
    ]


def test_what_was_done_with_another_list_is_nobodys_share(tmp_path: Path) -> None:
    """The blocks are of utt2 and what follows: the first shard has 2 to 5, the second 6 to 9."""
    write(tmp_path, WHOLE, [0, 1], [], Elapsed(10.0, 5.0, 5.0, 2), ids=List(["utt0", "utt1"]))
    write(tmp_path, FIRST, [2], [3], Elapsed(10.0, 5.0, 5.0, 2), started=1)

    assert describe(tmp_path) == [
        "not complete",
        "10 utterances: 3 done, 1 failed, 6 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/2    1     1       2     1.0×   0:00:05   nobody: run it (again)",
        "2/2    0     0       4     –      –         nobody: run it (again)",
    ]


def test_who_is_at_work_is_named_and_when_it_was_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: path.stat().st_mtime + 7.4))
    with locked(tmp_path, "1-of-1"):
        owner = (tmp_path / ".lock.1-of-1").read_text().removesuffix("\n")

        assert owner.startswith(f"process {os.getpid()} on {HOST} since ")
        assert describe(tmp_path, State.UNDER_WAY)[-1].endswith(f"  {owner}, last result 7 s ago")

    assert describe(tmp_path)[-1].endswith("  nobody: run it (again)")


def test_who_has_no_result_yet_is_named(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    with locked(tmp_path, "1-of-1"):
        owner = (tmp_path / ".lock.1-of-1").read_text().removesuffix("\n")

        assert describe(tmp_path, State.UNDER_WAY)[-1] == f"1/1    0     0       10    –      –         {owner}"


def test_who_was_killed_is_known_to_be_dead(tmp_path: Path) -> None:
    write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = f"process {ended.pid} on {HOST} since 2026-01-31T10:00:00+01:00"
    (tmp_path / ".lock.1-of-1").write_text(f"{owner}\n")

    assert describe(tmp_path)[-1].endswith(f"  0:00:45   {owner}, which is dead: run it again")


def test_of_another_machine_it_is_known_when_it_was_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1))
    write(tmp_path, FIRST, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    os.utime(path, (1000.0, 1000.0))
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: 4600.0))
    owner = "process 1 on far.example.org since 2026-01-31T10:00:00+01:00"
    (tmp_path / ".lock.2-of-2").write_text(f"{owner}\n")

    assert describe(tmp_path)[-1].endswith(f"  0:00:15   {owner}, last result 3600 s ago")


def owner_of(folder: Path, shard: Shard, text: str) -> str:
    """Write who is at work at a shard, on another machine, where nobody knows whether he is alive."""
    owner = f"process 1 on far.example.org since 2026-01-31T10:00:00+01:00{text}"
    (folder / f".lock.{shard.name}").write_text(f"{owner}\n")
    return owner


def test_a_run_is_under_way_where_all_that_is_left_is_at_work(tmp_path: Path) -> None:
    """And waits where one of its shards is forgotten."""
    write(tmp_path, FIRST, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1))
    owner_of(tmp_path, FIRST, "")

    assert describe(tmp_path, State.WAITING)[-1].endswith("  nobody: run it (again)")
    owner_of(tmp_path, SECOND, "")
    describe(tmp_path, State.UNDER_WAY)
    write(tmp_path, SECOND, [5, 6, 7], [], Elapsed(10.0, 5.0, 5.0, 3), started=1)
    (tmp_path / ".lock.2-of-2").unlink()
    describe(tmp_path, State.UNDER_WAY)


def test_totals_are_those_of_all_that_are_at_work(tmp_path: Path) -> None:
    """The first shard takes 9 s for each of the four that it has left, the second 4 s for each of two."""
    write(tmp_path, FIRST, [0, 1], [], Elapsed(20.0, 18.0, 45.0, 2))
    write(tmp_path, SECOND, [4, 5], [], Elapsed(8.0, 8.0, 800.0, 2))
    for shard in (FIRST, SECOND):
        owner_of(tmp_path, shard, "")

    totals, _, first, second = describe(tmp_path, State.UNDER_WAY)[1:]

    assert totals == "10 utterances: 4 done, 0 failed, 6 left; 102.5× real time, ready in 0:00:36"
    assert first.startswith("1/2    2     0       4     2.5×    0:00:36   process 1 on ")
    assert second.startswith("2/2    2     0       2     100.0×  0:00:08   process 1 on ")


def test_who_has_ended_is_not_fast_any_more(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1], [], Elapsed(20.0, 18.0, 45.0, 2))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(8.0, 8.0, 800.0, 4))
    owner_of(tmp_path, FIRST, "")

    totals = describe(tmp_path, State.UNDER_WAY)[1]
    assert totals == "10 utterances: 6 done, 0 failed, 4 left; 2.5× real time, ready in 0:00:36"


def test_when_all_is_ready_is_not_known_before_all_have_begun(tmp_path: Path) -> None:
    write(tmp_path, FIRST, [0, 1], [], Elapsed(20.0, 18.0, 45.0, 2))
    for shard in (FIRST, SECOND):
        owner_of(tmp_path, shard, "")

    assert describe(tmp_path, State.UNDER_WAY)[1] == "10 utterances: 2 done, 0 failed, 8 left; 2.5× real time"


def test_a_status_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    path.write_bytes(path.read_bytes() + b"torn")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    describe(tmp_path)

    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_there_must_be_a_run(tmp_path: Path) -> None:
    message = f"{tmp_path} holds no run: name the folder that was e2v predict's -o"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        describe_run(tmp_path)


def test_there_must_be_ids(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    path = tmp_path / f"input.{IDS.digest[:16]}"
    path.unlink()

    message = f"{path}: No such file or directory; run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        describe_run(tmp_path)


def test_there_must_be_one_run_alone(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    write(tmp_path, SECOND, model="def", started=1)

    message = (
        f"{tmp_path} holds a different run: model was abc, is def. "
        "Choose another -o, or throw away what is there with --overwrite"
    )
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
        describe_run(tmp_path)


# -- jobs of Slurm's ---------------------------------------------------------------------------------------------------


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


def say(slurm: dict[str, JobState], name: str, state: str, node: str = "", reason: str = "None") -> None:
    """Have Slurm say how a job is."""
    slurm[name] = JobState(name, state, node, reason)


def test_jobs_that_have_not_begun(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """There is no journal yet."""
    submit(tmp_path)
    say(slurm, "12_1", "PENDING", reason="Resources")
    say(slurm, "12_2", "PENDING", reason="Priority")
    say(slurm, "13", "PENDING", reason="Dependency")

    assert describe(tmp_path, State.UNDER_WAY) == [
        "not complete",
        "10 utterances: 0 done, 0 failed, 10 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/2    0     0       6     –      –         job 12_1 waits (Resources)",
        "2/2    0     0       4     –      –         job 12_2 waits (Priority)",
    ]


def test_jobs_at_work(slurm: dict[str, JobState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them has not said yet who it is."""
    submit(tmp_path)
    say(slurm, "12_1", "RUNNING", "n1")
    say(slurm, "12_2", "CONFIGURING", "n2")
    path = write(tmp_path, FIRST, [0], [], Elapsed(10.0, 5.0, 5.0, 1))
    owner = owner_of(tmp_path, FIRST, ", start 1 of job 12_1")
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: path.stat().st_mtime + 7.4))

    assert describe(tmp_path, State.UNDER_WAY) == [
        "not complete",
        "10 utterances: 1 done, 0 failed, 9 left; 1.0× real time",
        "shard  done  failed  left  speed  ready in  who",
        f"1/2    1     0       5     1.0×   0:00:25   {owner}, last result 7 s ago",
        "2/2    0     0       4     –      –         job 12_2 begins on n2",
    ]


@pytest.mark.parametrize("ended", ["FAILED", "OUT_OF_MEMORY", "TIMEOUT", "CANCELLED", "NODE_FAIL", "COMPLETED"])
def test_jobs_that_ended_before_their_shard_did(ended: str, slurm: dict[str, JobState], tmp_path: Path) -> None:
    """Nobody goes on with it, though the other one is at work, and the merge waits for that."""
    submit(tmp_path)
    say(slurm, "12_1", "RUNNING", "n1")
    say(slurm, "12_2", ended, "n2")
    say(slurm, "13", "PENDING", reason="Dependency")
    write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1))

    log = tmp_path / "log/slurm-12_2.log"
    assert describe(tmp_path, State.WAITING) == [
        "not complete",
        "10 utterances: 1 done, 0 failed, 9 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/2    0     0       6     –      –         job 12_1 begins on n1",
        f"2/2    1     0       3     1.0×   0:00:15   nobody: job 12_2 is {ended}, see {log}; e2v submit again",
    ]


def test_jobs_that_slurm_does_not_know_any_more(tmp_path: Path) -> None:
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))

    assert describe(tmp_path, State.WAITING)[3:] == [
        "1/2    6     0       0     1.0×",
        f"2/2    0     0       4     –      –         nobody: job 12_2 is gone, see {tmp_path}/log/slurm-12_2.log; "
        "e2v submit again",
    ]


@pytest.mark.parametrize(
    ("state", "reason", "who", "run"),
    [
        ("RUNNING", "None", "{owner}, last result 60 s ago", State.UNDER_WAY),
        ("COMPLETING", "None", "{owner}, last result 60 s ago", State.UNDER_WAY),
        # it was requeued, and who had the lock was cut off
        ("PENDING", "BeginTime", "job 12_2 waits (BeginTime)", State.UNDER_WAY),
        ("NODE_FAIL", "None", "nobody: job 12_2 is NODE_FAIL, see {log}; e2v submit again", State.WAITING),
        # it is so long ago that Slurm has forgotten it
        ("", "", "nobody: job 12_2 is gone, see {log}; e2v submit again", State.WAITING),
    ],
)
def test_whether_who_has_a_lock_on_another_node_is_alive_is_for_slurm_to_say(
    state: str,
    reason: str,
    who: str,
    run: State,
    slurm: dict[str, JobState],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    path = write(tmp_path, SECOND, [4], [], Elapsed(10.0, 5.0, 5.0, 1), started=1)
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: path.stat().st_mtime + 60))
    owner = owner_of(tmp_path, SECOND, ", start 1 of job 12_2")
    if state:
        say(slurm, "12_2", state, "far", reason)

    described = who.format(owner=owner, log=tmp_path / "log/slurm-12_2.log")
    assert describe(tmp_path, run)[-1] == f"2/2    1     0       3     1.0×   0:00:15   {described}"


def refuse(_: Sequence[str]) -> dict[str, JobState]:
    raise SlurmError("squeue: no such command here")


def test_where_slurm_can_not_be_asked_a_lock_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status, "ask_states", refuse)
    submit(tmp_path)
    write(tmp_path, FIRST)
    owner = owner_of(tmp_path, FIRST, ", start 1 of job 12_1")

    assert describe(tmp_path, State.UNDER_WAY)[3:] == [
        f"1/2    0     0       6     –      –         {owner}",
        "2/2    0     0       4     –      –         job 12_2, of which Slurm can't be asked",
    ]
    assert caplog.messages == ["squeue: no such command here"]


@pytest.mark.parametrize("name", ["1-of-1", "merge"])
def test_who_is_about_to_merge_is_waited_for(name: str, tmp_path: Path) -> None:
    write(tmp_path, WHOLE, range(10), [], Elapsed(10.0, 5.0, 5.0, 10))

    with locked(tmp_path, name):
        assert describe(tmp_path, State.UNDER_WAY)[0] == "not merged yet: somebody is at it"
    assert describe(tmp_path, State.WAITING)[0] == "not merged yet: e2v merge does it"


def test_who_was_killed_in_a_job_is_looked_up_in_its_log(slurm: dict[str, JobState], tmp_path: Path) -> None:
    submit(tmp_path, shards=[1], count=1)
    say(slurm, "12_1", "OUT_OF_MEMORY", HOST)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = f"process {ended.pid} on {HOST} since 2026-01-31T10:00:00+01:00, start 1 of job 12_1"
    (tmp_path / ".lock.1-of-1").write_text(f"{owner}\n")

    log = tmp_path / "log/slurm-12_1.log"
    assert describe(tmp_path, State.WAITING)[-1].endswith(
        f"  nobody: job 12_1 is OUT_OF_MEMORY, see {log}; e2v submit again"
    )


def test_the_newest_job_of_each_shard_counts(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """The second one was submitted again."""
    submit(tmp_path)
    submit(tmp_path, "14", [2], merge="15", submitted="2026-01-31T09:59:30+01:00")
    for name, state in (("12_1", "RUNNING"), ("12_2", "FAILED"), ("13", "CANCELLED"), ("14_2", "PENDING")):
        say(slurm, name, state, "n1", "Resources")

    assert describe(tmp_path, State.UNDER_WAY)[3:] == [
        "1/2    0     0       6     –      –         job 12_1 begins on n1",
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
def test_the_job_that_merges(merge: str, head: str, run: State, slurm: dict[str, JobState], tmp_path: Path) -> None:
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(10.0, 5.0, 5.0, 4))
    if merge:
        say(slurm, "13", merge, "n1", "Dependency")

    assert describe(tmp_path, run) == [
        head,
        "10 utterances: 10 done, 0 failed, 0 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/2    6     0       0     1.0×",
        "2/2    4     0       0     1.0×",
    ]


def test_a_merge_that_waits_for_other_shards_is_no_help_to_one_that_is_lost(
    slurm: dict[str, JobState], tmp_path: Path
) -> None:
    submit(tmp_path)
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    say(slurm, "12_2", "FAILED", "n1")
    say(slurm, "13", "PENDING", reason="Dependency")

    assert describe(tmp_path, State.WAITING)[0] == "not complete"


def test_a_merge_that_was_submitted_alone(slurm: dict[str, JobState], tmp_path: Path) -> None:
    submit(tmp_path)
    submit(tmp_path, "", [], merge="15", submitted="2026-01-31T11:00:00+01:00")
    write(tmp_path, FIRST, [0, 1, 2, 3, 8, 9], [], Elapsed(10.0, 5.0, 5.0, 6))
    write(tmp_path, SECOND, [4, 5, 6, 7], [], Elapsed(10.0, 5.0, 5.0, 4))
    say(slurm, "13", "FAILED")
    say(slurm, "15", "PENDING", reason="Priority")

    assert describe(tmp_path, State.UNDER_WAY)[0] == "not merged yet: job 15 will do it"


SUBMITTED_LATER = "2026-01-31T09:30:00+00:00"
"""Half an hour behind the attempts, on a machine of another time zone."""

SUBMITTED_EARLIER = "2026-01-31T10:30:00+02:00"


def test_a_submission_that_is_newer_than_all_journals_says_into_what_the_run_is_cut(
    slurm: dict[str, JobState], tmp_path: Path
) -> None:
    """Of blocks of four, the first of three shards has 0 to 3, the second 4 to 7, the third 8 to 9."""
    write(tmp_path, WHOLE, [0, 1, 2, 4], [], Elapsed(10.0, 5.0, 5.0, 4))
    submit(tmp_path, shards=[1, 2, 3], count=3, submitted=SUBMITTED_LATER)
    for index in (1, 2, 3):
        say(slurm, f"12_{index}", "PENDING", reason="Priority")

    assert describe(tmp_path, State.UNDER_WAY) == [
        "not complete",
        "10 utterances: 4 done, 0 failed, 6 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/3    3     0       1     –      –         job 12_1 waits (Priority)",
        "2/3    1     0       3     –      –         job 12_2 waits (Priority)",
        "3/3    0     0       2     –      –         job 12_3 waits (Priority)",
    ]


def test_a_submission_that_is_older_than_a_journal_is_history(slurm: dict[str, JobState], tmp_path: Path) -> None:
    submit(tmp_path, shards=[1, 2, 3], count=3, submitted=SUBMITTED_EARLIER)
    say(slurm, "12_1", "PENDING", reason="Priority")
    write(tmp_path, WHOLE, [0, 1, 2, 4], [], Elapsed(10.0, 4.0, 4.0, 4))

    assert describe(tmp_path, State.WAITING)[2:] == [
        "shard  done  failed  left  speed  ready in  who",
        "1/1    4     0       6     1.0×   0:00:06   nobody: run it (again)",
    ]


def test_a_submission_of_a_list_that_has_grown(slurm: dict[str, JobState], tmp_path: Path) -> None:
    """Of what is new, the blocks are of utt2 and what follows: the first shard has 2 to 5, the second 6 to 9."""
    write(tmp_path, WHOLE, [0, 1], [], Elapsed(10.0, 5.0, 5.0, 2), ids=List(["utt0", "utt1"]))
    submit(tmp_path, submitted=SUBMITTED_LATER)
    for index in (1, 2):
        say(slurm, f"12_{index}", "PENDING", reason="Priority")

    assert describe(tmp_path, State.UNDER_WAY) == [
        "not complete",
        "10 utterances: 2 done, 0 failed, 8 left",
        "shard  done  failed  left  speed  ready in  who",
        "1/2    0     0       4     –      –         job 12_1 waits (Priority)",
        "2/2    0     0       4     –      –         job 12_2 waits (Priority)",
    ]


def test_shards_are_those_of_the_costs_that_all_agreed_on(tmp_path: Path) -> None:
    """Blocks of 4, 40 and 2 seconds: the second one is the first to be dealt."""
    save_costs(tmp_path, IDS.digest, np.array([1, 1, 1, 1, 10, 10, 10, 10, 1, 1], np.float32))
    write(tmp_path, FIRST, [4], [], Elapsed(10.0, 5.0, 5.0, 1))
    write(tmp_path, SECOND, [0, 9], [], Elapsed(10.0, 5.0, 5.0, 2))

    assert describe(tmp_path)[3:] == [
        "1/2    1     0       3     1.0×   0:00:15   nobody: run it (again)",
        "2/2    2     0       4     1.0×   0:00:10   nobody: run it (again)",
    ]


def test_jobs_that_were_noted_badly_are_named(tmp_path: Path) -> None:
    submit(tmp_path)
    path = tmp_path / "slurm/12.json"
    path.write_text("{")

    message = rf"^{re.escape(str(path))}: no note of jobs that were submitted \(.+\); remove it$"
    with pytest.raises(OutputError, match=message):
        describe_run(tmp_path)
