"""Notes of submitted jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from e2v_cli.cluster.submissions import Submission, find_logs, note_submission, read_submissions
from e2v_cli.errors import OutputError
from e2v_cli.options import Shard


def submission(
    array: str, shards: Sequence[int], count: int, merge: str = "", submitted: str = "2026-01-31T10:00:00+01:00"
) -> Submission:
    return Submission(array, tuple(shards), count, merge, "abc", submitted)


def note(folder: Path, *submissions: Submission) -> None:
    (folder / "slurm").mkdir(exist_ok=True)
    for item in submissions:
        note_submission(folder, item)


def test_submission_is_read_as_written(tmp_path: Path) -> None:
    noted = submission("12", [1, 2, 7], 8, "13")
    note(tmp_path, noted)

    assert read_submissions(tmp_path) == [noted]
    assert os.listdir(tmp_path / "slurm") == ["12.json"]


def test_second_note_of_an_array_replaces_the_first(tmp_path: Path) -> None:
    note(tmp_path, submission("12", [1], 1), submission("12", [1], 1, "13"))

    assert read_submissions(tmp_path) == [submission("12", [1], 1, "13")]


def test_merge_without_an_array_is_noted(tmp_path: Path) -> None:
    note(tmp_path, submission("", [], 8, "13"))

    assert read_submissions(tmp_path) == [submission("", [], 8, "13")]
    assert os.listdir(tmp_path / "slurm") == ["13.json"]


def test_submissions_are_sorted_across_time_zones(tmp_path: Path) -> None:
    ordered = [
        submission("90", [1], 1, submitted="2026-01-31T10:00:00+01:00"),
        submission("7", [1], 1, submitted="2026-01-31T09:30:00+00:00"),
        submission("100", [1], 1, submitted="2026-02-01T00:00:00+14:00"),
        submission("8", [1], 1, submitted="2026-01-31T05:30:00-05:00"),
    ]
    note(tmp_path, *reversed(ordered))

    assert read_submissions(tmp_path) == ordered


def test_folder_without_submissions_has_no_notes(tmp_path: Path) -> None:
    assert read_submissions(tmp_path) == []
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/shards.sh").touch()

    assert read_submissions(tmp_path) == []
    assert find_logs(tmp_path, 4) == {}


GOOD = b'"array": "12", "shards": [1], "count": 1, "merge": "", "input_sha256": "abc"'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"{%b}" % GOOD,
        b'{%b, "submitted": "2026-01-31T10:00:00+01:00", "more": 1}' % GOOD,
        b'{%b, "submitted": "2026-01-31T10:00:00+01:00", "shards": null}' % GOOD,
        b'{%b, "submitted": "yesterday"}' % GOOD,
        b'{%b, "submitted": 5}' % GOOD,
    ],
)
def test_damaged_note_is_named(content: bytes, tmp_path: Path) -> None:
    note(tmp_path, submission("12", [1], 1))
    path = tmp_path / "slurm/12.json"
    path.write_bytes(content)

    message = rf"{re.escape(str(path))}: not a record of submitted jobs \(.+\); remove it"
    with pytest.raises(OutputError, match=f"^{message}$"):
        read_submissions(tmp_path)


def test_unreadable_note_is_named(tmp_path: Path) -> None:
    path = tmp_path / "slurm/12.json"
    path.mkdir(parents=True)

    message = f"{path}: not a record of submitted jobs ([Errno 21] Is a directory: '{path}'); remove it"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read_submissions(tmp_path)


def test_log_of_a_shard_is_that_of_its_newest_job(tmp_path: Path) -> None:
    """The third of four shards was never submitted; jobs of other numbers of shards don't count."""
    note(
        tmp_path,
        submission("12", [1, 2, 4], 4, submitted="2026-01-31T10:00:00+01:00"),
        submission("9", [2, 4], 4, submitted="2026-01-31T11:00:00+01:00"),
        submission("20", [4], 4, submitted="2026-01-31T12:00:00+01:00"),
        submission("30", range(1, 9), 8, submitted="2026-01-31T13:00:00+01:00"),
        submission("", [], 4, "31", submitted="2026-01-31T14:00:00+01:00"),
    )

    assert find_logs(tmp_path, 4) == {
        Shard(4, 1): "log/slurm-12_1.log",
        Shard(4, 2): "log/slurm-9_2.log",
        Shard(4, 4): "log/slurm-20_4.log",
    }
    assert find_logs(tmp_path, 5) == {}
