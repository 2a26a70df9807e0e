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

from e2v_cli import batching, status
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal import Elapsed, Header, Journal
from e2v_cli.keys import KeyIndex, digest_of, hash_keys
from e2v_cli.output import locked, save_ids
from e2v_cli.records import Entry, Failure, Utterance
from e2v_cli.settings import Shard
from e2v_cli.status import describe_run

HOST = socket.gethostname()
WHOLE, FIRST, SECOND = Shard(1, 1), Shard(2, 1), Shard(2, 2)


@pytest.fixture(autouse=True)
def _fours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are cut into blocks of four, to their end."""
    monkeypatch.setattr(batching, "BLOCK_SIZES", (4, 256))
    monkeypatch.setattr(batching, "TAPER", 1)


class List:
    """The ids of a list."""

    pieces: NDArray[np.int64] | None = None

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
                [Entry(number, 1.0, 49, "", "", f"utt{number}\t1.0000\t1") for number in done],
                [Failure(Utterance(number, f"utt{number}", "x"), "audio", "missing", "gone") for number in failed],
                elapsed,
            )
    (path,) = set(folder.glob("journal.*")) - before
    return path


def describe(folder: Path) -> list[str]:
    """Describe a run: its lines, without the name of its folder."""
    text = describe_run(folder).text
    assert text.endswith("\n")
    assert text.startswith(f"{folder}: ")
    return text.removeprefix(f"{folder}: ").splitlines()


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
        "not merged yet",
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

    assert describe(tmp_path) == [
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
        assert describe(tmp_path)[-1].endswith(f"  {owner}, last result 7 s ago")

    assert describe(tmp_path)[-1].endswith("  nobody: run it (again)")


def test_who_has_no_result_yet_is_named(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    with locked(tmp_path, "1-of-1"):
        owner = (tmp_path / ".lock.1-of-1").read_text().removesuffix("\n")

        assert describe(tmp_path)[-1] == f"1/1    0     0       10    –      –         {owner}"


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
