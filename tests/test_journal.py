"""What the journal has said is done stays done, and nothing else does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal import Elapsed, Journal, Line, Record
from e2v_cli.records import Entry, FailureEntry
from e2v_cli.settings import Fingerprint

FINGERPRINT: Fingerprint = {"model": "abc", "granularity": "utterance", "batch-seconds": 10.0, "numerics": 1}

LINES: list[Line] = [
    Entry("utt1", 1.25, 62, 1, "happy", (0.75, 0.25), "embeddings.1.ark:5"),
    Entry("ü 笑\u2028", 0.025, 1, 1, None, (), None),
    FailureEntry("utt2", "audio", "missing", "a\tb\n.wav: no such file"),
    Elapsed(1, 3.5, 2.25),
    Entry("utt3", 2.0, 99, 1, "sad", (0.1, 0.9), "embeddings/utt3.npy"),
    FailureEntry("utt4", "model", "not finite", "the model gives NaN or infinite features for it"),
]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A journal's place; whatever happened, it can be opened again at the end."""
    yield tmp_path / "journal.1-of-1"
    assert os.listdir(tmp_path) == ["journal.1-of-1"]


def read(path: Path, fingerprint: Fingerprint = FINGERPRINT) -> Record:
    with closing(Journal(path, fingerprint)) as journal:
        return journal.record


def write(path: Path, lines: list[Line]) -> bytes:
    with closing(Journal(path, FINGERPRINT)) as journal:
        journal.append(lines)
    return path.read_bytes()


def record_of(lines: list[Line]) -> Record:
    record = Record()
    for line in lines:
        record.add(line)
    return record


def test_a_journal_that_is_opened_again_says_what_was_written(path: Path) -> None:
    with closing(Journal(path, FINGERPRINT)) as journal:
        assert journal.record == Record()
        journal.append(LINES[:2])
        journal.append([])
        journal.append(iter(LINES[2:]))
        written = journal.record

    record = read(path)

    assert written == record_of(LINES)
    assert record == written
    assert list(record.entries.values()) == [LINES[0], LINES[1], LINES[4]]
    assert list(record.failures.values()) == [LINES[2], LINES[5]]
    assert record.attempts == {1: LINES[3]}


def test_opening_a_journal_again_does_not_change_it(path: Path) -> None:
    content = write(path, LINES)

    read(path)

    assert path.read_bytes() == content
    assert content.count(b"\n") == 1 + len(LINES)


def test_lines_are_on_disk_when_append_returns(path: Path, tmp_path: Path) -> None:
    with closing(Journal(path, FINGERPRINT)) as journal:
        journal.append(LINES)

        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        try:
            assert read(copy) == record_of(LINES)
        finally:
            copy.unlink()


def test_paths_of_any_bytes_are_kept(path: Path) -> None:
    line = FailureEntry("utt", "audio", "missing", os.fsdecode(b"caf\xe9 \xff.wav: no such file"))

    write(path, [line])

    assert read(path).failures == {"utt": line}


@pytest.mark.parametrize("tail", [b"", b"0", b"00000000 {}", b"00000000 {}\n", b"\0\0\0\0", b"\n", bytes(5000) + b"\n"])
def test_a_torn_tail_is_dropped(tail: bytes, path: Path) -> None:
    content = write(path, LINES)
    path.write_bytes(content + tail)

    assert read(path) == record_of(LINES)
    assert path.read_bytes() == content


def test_wherever_a_journal_is_cut_its_whole_lines_stay(path: Path) -> None:
    """Cut at every byte of the last two lines, and written on."""
    content = write(path, LINES)
    ends = [match.end() for match in re.finditer(rb"\n", content)]
    more = Entry("more", 1.0, 49, 1, None, (), None)
    for size in range(ends[-3], len(content) + 1):
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends) - 1  # the first is the fingerprint's

        assert read(path) == record_of(LINES[:whole])
        assert path.read_bytes() == content[: ends[whole]]

        write(path, [more])
        assert read(path) == record_of([*LINES[:whole], more])


def test_a_journal_whose_first_line_was_torn_begins_anew(path: Path) -> None:
    content = write(path, [])
    for size in range(len(content)):
        path.write_bytes(content[:size])

        assert read(path) == Record()
        assert path.read_bytes() == content


@pytest.mark.parametrize("number", range(1, 1 + len(LINES)))
@pytest.mark.parametrize("place", [0, 5, 8, 12, -2])
def test_a_damaged_line_with_others_behind_it_is_refused(number: int, place: int, path: Path) -> None:
    write(path, LINES)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[number - 1])
    damaged[place] ^= 0x01
    lines[number - 1] = bytes(damaged)
    content = b"".join(lines)
    path.write_bytes(content)

    message = f"{path}:{number}: damaged, and lines follow it; restore it, or use --overwrite"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        Journal(path, FINGERPRINT)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"granularity": "frame"}, "granularity was utterance, is frame"),
        ({"batch-seconds": "auto"}, "batch-seconds was 10.0, is auto"),
        ({"model": "def", "numerics": 2}, "model was abc, is def; numerics was 1, is 2"),
        ({"window": 60}, "window was None, is 60"),
    ],
)
def test_the_journal_of_another_run_is_refused(
    changes: dict[str, str | float], differences: str, path: Path, tmp_path: Path
) -> None:
    content = write(path, LINES)

    message = (
        f"{tmp_path} holds a different run: {differences}. "
        "Choose another -o, or throw away what is there with --overwrite"
    )
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$") as caught:
        Journal(path, {**FINGERPRINT, **changes})

    assert caught.value.exit_code == 4
    assert path.read_bytes() == content
    assert read(path) == record_of(LINES)


def test_the_same_fingerprint_in_another_order_is_the_same_run(path: Path) -> None:
    write(path, LINES)

    assert read(path, {name: FINGERPRINT[name] for name in reversed(list(FINGERPRINT))}) == record_of(LINES)


def test_one_run_at_a_time(path: Path, tmp_path: Path) -> None:
    message = f"{tmp_path}: another e2v is running there; wait for it, or choose another -o"
    with closing(Journal(path, FINGERPRINT)) as journal:
        journal.append(LINES[:2])
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            Journal(path, FINGERPRINT)
        journal.append(LINES[2:])

    assert read(path) == record_of(LINES)


def test_a_journal_that_was_refused_is_let_go_at_once(path: Path) -> None:
    """Even while the error is still at hand."""
    write(path, LINES)
    with pytest.raises(OutputConflictError) as caught:
        Journal(path, {**FINGERPRINT, "model": "def"})

    assert read(path) == record_of(LINES)
    assert "model was abc" in str(caught.value)


FAILED, FAILED_AGAIN = (FailureEntry("utt", "audio", reason, "detail") for reason in ("missing", "truncated"))
DONE, DONE_AGAIN = (Entry("utt", 1.0, 49, 1, "sad", (1.0,), f"embeddings.{attempt}.ark:4") for attempt in (2, 3))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([FAILED, DONE], Record(entries={"utt": DONE})),
        ([FAILED, FAILED_AGAIN], Record(failures={"utt": FAILED_AGAIN})),
        ([DONE, DONE_AGAIN], Record(entries={"utt": DONE_AGAIN})),
        ([FAILED, DONE, FAILED_AGAIN], Record(failures={"utt": FAILED_AGAIN})),
    ],
)
def test_a_later_line_of_an_utterance_replaces_an_earlier_one(lines: list[Line], expected: Record, path: Path) -> None:
    with closing(Journal(path, FINGERPRINT)) as journal:
        for line in lines:
            journal.append([line])
        assert journal.record == expected

    assert read(path) == expected


def test_the_last_line_of_each_attempt_counts(path: Path) -> None:
    write(path, [Elapsed(1, 1.0, 0.5), Elapsed(1, 2.0, 1.5)])
    write(path, [Elapsed(2, 0.25, 0.125)])

    assert read(path).attempts == {1: Elapsed(1, 2.0, 1.5), 2: Elapsed(2, 0.25, 0.125)}


def test_a_journal_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "journal.1-of-1"

    with pytest.raises(OutputError, match=f"^{re.escape(str(path))}: No such file or directory$"):
        Journal(path, FINGERPRINT)
