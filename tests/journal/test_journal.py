"""Writing journals: their bytes, a file for each attempt, and complete lines on a full disk."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.journal_lines import (
    CONTENT,
    FAILURES,
    HEADER,
    LINES,
    RECORDS,
    TIME,
    WHOLE,
    checked,
    failed,
    line_of,
    read,
    states,
    write,
)

from e2v_cli.journal.history import read_header
from e2v_cli.journal.journal import Elapsed, Journal
from e2v_cli.options import Shard


def test_journal_bytes(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, WHOLE, HEADER)) as attempt:
        attempt.append(RECORDS, FAILURES, TIME)
        attempt.append([], [], TIME)
        attempt.end(Elapsed(4.0, 2.5, 120.0, 5))

    last = 'time\t{"wall_seconds": 4.0, "encode_seconds": 2.5, "audio_seconds": 120.0, "finished": 5}'
    assert os.listdir(tmp_path) == ["journal.1-of-1.1"]
    assert (tmp_path / "journal.1-of-1.1").read_bytes() == CONTENT + b"".join(
        map(checked, [LINES[-1], last, "end\t{}"])
    )
    assert checked("end\t{}") == b"a2473e39\tend\t{}\n"


def test_cells_have_no_tabs_and_line_breaks(tmp_path: Path) -> None:
    record = dataclasses.replace(RECORDS[0], label="very\thap\npy\r")
    path = write(tmp_path, [record], [failed("utt2", reason="not\tfound", detail="a\r\nb")])

    lines = path.read_bytes().splitlines(keepends=True)
    assert lines[1] == checked(LINES[0].replace("happy", "very hap py "))
    assert lines[2] == checked("failed\tutt2\taudio\tnot found\ta  b\t00000000")


def test_lines_are_in_the_file_when_append_returns(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, WHOLE, HEADER)) as attempt:
        attempt.append(RECORDS, FAILURES, TIME)

        assert (tmp_path / "journal.1-of-1.1").read_bytes() == CONTENT


def test_paths_of_any_bytes_are_kept(tmp_path: Path) -> None:
    detail = os.fsdecode(b"caf\xe9 \xff.wav: no such file")
    path = write(tmp_path, failures=[failed("utt1", detail=detail)])

    assert b"\tcaf\xe9 \xff.wav: no such file\t00000000\n" in path.read_bytes()
    assert line_of(read(tmp_path), "utt1") == f"failed\tutt1\taudio\tmissing\t{detail}\t00000000"


def test_model_path_may_be_any_bytes(tmp_path: Path) -> None:
    header = dataclasses.replace(HEADER, model=os.fsdecode(b"./mod\xe8le"))
    Journal(tmp_path, WHOLE, header).close()

    assert read_header(tmp_path / "journal.1-of-1.1") == header


def test_every_attempt_writes_its_own_journal(tmp_path: Path) -> None:
    """Attempts may overlap, as on file systems without locks."""
    attempts = [
        Journal(tmp_path, shard, HEADER) for shard in (WHOLE, WHOLE, Shard(3, 2), Shard(3, 1), Shard(3, 2), WHOLE)
    ]
    attempts[1].append(RECORDS, [], TIME)
    attempts[0].append([], FAILURES, TIME)
    for attempt in attempts:
        attempt.close()

    assert sorted(os.listdir(tmp_path)) == [
        "journal.1-of-1.1",
        "journal.1-of-1.2",
        "journal.1-of-1.3",
        "journal.1-of-3.1",
        "journal.2-of-3.1",
        "journal.2-of-3.2",
    ]
    assert len(states(read(tmp_path))) == 5


def test_times_add_up() -> None:
    assert Elapsed(1.0, 0.5, 10.0, 1) + Elapsed(2.0, 1.5, 30.0, 3) == Elapsed(3.0, 2.0, 40.0, 4)
    assert sum([], Elapsed()) == Elapsed(0.0, 0.0, 0.0, 0)


def test_journal_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "journal.1-of-1.1"

    with pytest.raises(
        FileNotFoundError, match=f"^{re.escape(f'[Errno 2] No such file or directory: {str(path)!r}')}$"
    ):
        Journal(path.parent, WHOLE, HEADER)


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Limit the size of files until the block ends, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("missing", [1, 50, 300])
def test_full_disk_keeps_complete_lines(missing: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.1-of-1.1"
    with closing(Journal(tmp_path, WHOLE, HEADER)) as attempt:
        with limited_file_size(len(CONTENT) - missing):
            with pytest.raises(OSError, match=f"^{re.escape(f'[Errno 27] File too large: {str(path)!r}')}$"):
                attempt.append(RECORDS, FAILURES, TIME)

    assert path.read_bytes() == CONTENT[:-missing]
    lines = CONTENT[:-missing].count(b"\n") - 1
    assert len(states(read(tmp_path))) == min(lines, 5)
    second = write(tmp_path, RECORDS, FAILURES)
    assert second.name == "journal.1-of-1.2"
    assert len(states(read(tmp_path))) == 5
