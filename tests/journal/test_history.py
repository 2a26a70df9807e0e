"""Reading journals: complete lines count, torn lines are ignored, and damaged lines are refused."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.journal_lines import (
    CONTENT,
    FAILURES,
    HEADER,
    IDS,
    IN_ORDER,
    LINES,
    OTHER_LIST,
    RECORDS,
    TIME,
    WHOLE,
    HashedIds,
    checked,
    done,
    failed,
    header_line,
    line_of,
    list_folder,
    read,
    states,
    write,
)

from e2v_cli.errors import OutputError
from e2v_cli.journal import history as history_module
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.history import DoneLine, parse_done, read_header
from e2v_cli.journal.journal import (
    DONE,
    FAILED,
    FAILED_IN_BATCH,
    LEFT,
    Elapsed,
    Journal,
    JournalFile,
    failure_status,
)
from e2v_cli.options import Shard
from e2v_cli.records import DoneRecord, Failure, Stage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with all kinds of lines."""
    (tmp_path / "journal.1-of-1.1").write_bytes(CONTENT)
    return tmp_path / "journal.1-of-1.1"


def test_written_journal_is_read_back(path: Path) -> None:
    history = read(path.parent)

    assert states(history) == {
        "utt1": DONE,
        "ü 笑\u2028": DONE,
        "utt2": FAILED,
        "utt3": DONE,
        "utt4": FAILED_IN_BATCH,
    }
    assert not history.done_before.any()
    assert history.elapsed == {JournalFile(WHOLE, 1, path): TIME}
    assert history.archives == {"embeddings.1-of-1.1.ark": 90, "embeddings.1-of-1.2.ark": 17}
    assert history.timelines == {"timeline.1-of-1.2": 640}
    assert [line_of(history, utt_id) for utt_id in IN_ORDER] == LINES[:5]
    assert path.read_bytes() == CONTENT


def test_done_line_is_parsed(path: Path) -> None:
    history = read(path.parent)

    assert [parse_done(line) for line in (*history.read_lines(0, 2), *history.read_lines(3, 4))] == [
        DoneLine(
            utt_id=b"utt1",
            num_frames=b"62",
            windows=b"3",
            duration=b"1.2500",
            embedding=b"embeddings.1-of-1.1.ark:5",
            timelines=b"",
            label=b"happy",
            posteriors=b"0.750000\t0.250000",
        ),
        DoneLine("ü 笑\u2028".encode(), b"1", b"1", b"1.0000", b"embeddings.1-of-1.1.ark:90", b"", b"", b""),
        DoneLine(
            b"utt3", b"99", b"1", b"1.0000", b"embeddings.1-of-1.2.ark:17", b"timeline.1-of-1.2:512:128", b"", b""
        ),
    ]


def test_folder_without_journals_has_an_empty_history(tmp_path: Path) -> None:
    history = read(tmp_path)

    assert states(history) == {}
    assert (history.elapsed, history.archives, history.timelines) == ({}, {}, {})


@pytest.mark.parametrize("labels", [(), ("生气", "sad")])
@pytest.mark.parametrize("formats", [(), ("audacity", "rttm", "textgrid")])
def test_written_header_is_read_back(labels: tuple[str, ...], formats: tuple[str, ...], tmp_path: Path) -> None:
    header = dataclasses.replace(HEADER, labels=labels, timeline_formats=formats, join=bool(formats))
    Journal(tmp_path, WHOLE, header).close()

    assert read_header(tmp_path / "journal.1-of-1.1") == header


def test_journals_are_found_by_shard_and_attempt(tmp_path: Path) -> None:
    names = [
        *("journal.1-of-1.1", "journal.1-of-1.2", "journal.1-of-1.10"),
        *("journal.1-of-12.1", "journal.2-of-12.1", "journal.10-of-12.3"),
    ]
    others = ["journal.1-of-1", "journal.1-of-1.1.bak", "journal.a-of-b.1", "journal.", ".journal.1-of-1.1", "journal"]
    for name in [*reversed(names), *others]:
        (tmp_path / name).touch()

    sizes = read(tmp_path).sizes

    assert list(sizes.items()) == [(name, 0) for name in names]


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"0",
        b"000",
        b"00000000",
        b"00000000\n",
        b"00000000\t",
        b"00000000\tend\t{}",
        b"00000000\tend\t{}\n",
        b"\0\0\0\0",
        b"\n",
        bytes(5000) + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_torn_tail_is_ignored(tail: bytes, path: Path) -> None:
    path.write_bytes(CONTENT + tail)

    history = read(path.parent)

    assert len(states(history)) == 5
    assert list(history.elapsed.values()) == [TIME]
    assert path.read_bytes() == CONTENT + tail


def test_truncated_journal_keeps_its_complete_lines(path: Path) -> None:
    """The journal is truncated at every byte of its last two lines."""
    content = b"".join(map(checked, [header_line(), *LINES[:5]]))
    whole = content[: -len(checked(LINES[4]))]
    shorter = whole[: -len(checked(LINES[3]))]
    both = {"utt2": FAILED, "utt4": FAILED_IN_BATCH}
    dones = {"utt1": DONE, "ü 笑\u2028": DONE, "utt3": DONE}
    for size in range(len(shorter), len(content) + 1):
        path.write_bytes(content[:size])

        failures = dict(list(both.items())[: (size >= len(whole)) + (size == len(content))])
        assert states(read(path.parent)) == {**dones, **failures}


def test_second_journal_continues_a_truncated_one(path: Path) -> None:
    """The torn line stays, and its utterance is recorded again."""
    for size in range(len(CONTENT) - len(checked(LINES[-1])) - len(checked(LINES[-2])), len(CONTENT)):
        path.write_bytes(CONTENT[:size])
        second = write(path.parent, failures=FAILURES[1:])

        assert len(states(read(path.parent))) == 5
        assert path.read_bytes() == CONTENT[:size]
        second.unlink()


def test_journal_with_a_torn_header_is_ignored(path: Path) -> None:
    """The header is truncated at every byte. Other journals count."""
    header = checked(header_line())
    write(path.parent, RECORDS[:1])
    for size in range(len(header)):
        path.write_bytes(header[:size])

        assert read_header(path) is None
        assert not has_ended(path)
        history = read(path.parent)
        assert states(history) == {"utt1": DONE}
        assert list(history.elapsed) == [JournalFile(WHOLE, 2, path.parent / "journal.1-of-1.2")]


def test_torn_checksum_of_zeros_is_ignored(tmp_path: Path) -> None:
    """The checksum of an empty text is zero."""
    path = tmp_path / "journal.1-of-1.1"
    headers = (dataclasses.replace(HEADER, pid=pid) for pid in itertools.count())
    header = next(line for line in map(checked, map(header_line, headers)) if line.startswith(b"00"))
    details = (f"failed\tutt2\taudio\tmissing\t{number}\t00000000" for number in itertools.count())
    line = next(line for line in map(checked, details) if line.startswith(b"00"))
    for size in range(len(header)):
        path.write_bytes(header[:size])
        assert read_header(path) is None
        assert states(read(tmp_path)) == {}
    for size in range(len(line)):
        path.write_bytes(header + line[:size])
        assert states(read(tmp_path)) == {}
    path.write_bytes(header + line)
    assert states(read(tmp_path)) == {"utt2": FAILED}


@pytest.mark.parametrize("number", range(1, len(LINES)))
@pytest.mark.parametrize("position", [0, 5, 8, 9, 14, -2, -1])
def test_damaged_line_before_others_is_refused(number: int, position: int, path: Path) -> None:
    lines = CONTENT.splitlines(keepends=True)
    damaged = bytearray(lines[number - 1])
    damaged[position] ^= 0x01
    lines[number - 1] = bytes(damaged)
    content = b"".join(lines)
    path.write_bytes(content)

    message = (
        f"{path}:{number}: damaged, and lines follow it; restore it, or cut it before that line "
        f"(head -n {number - 1}) to compute again what is lost, or use --overwrite"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read(path.parent)
    assert path.read_bytes() == content


def test_line_with_a_hole_is_refused(path: Path) -> None:
    """A file system may lose a page of a file."""
    first, middle = len(checked(header_line())), len(CONTENT) - 100
    path.write_bytes(CONTENT[: first + 20] + bytes(middle - first - 20) + CONTENT[middle:])

    with pytest.raises(OutputError, match=f"^{re.escape(str(path))}:2: damaged, and lines follow it; "):
        read(path.parent)


@pytest.mark.parametrize("kept", range(1, 1 + len(LINES)))
def test_damaged_journal_can_be_truncated_as_advised(kept: int, path: Path) -> None:
    path.write_bytes(b"".join(CONTENT.splitlines(keepends=True)[:kept]))

    assert len(states(read(path.parent))) == min(kept - 1, 5)


@pytest.mark.parametrize(
    "lines",
    [
        ["run\t{}"],
        ["run\t[]"],
        ["run\t1"],
        ["run"],
        ["run\t{"],
        ['run\t{"fingerprint": {}}'],
        [header_line().replace('"host"', '"machine"')],
        [header_line(dataclasses.replace(HEADER, started="yesterday"))],
        [header_line().replace('"format": 3, ', "")],
        [header_line().replace('"format": 3, ', '"format": 2, ')],
        [header_line().replace('"format": 3, ', '"format": 4, ')],
        [header_line().replace('"format": 3, ', '"format": "3", ')],
        [header_line(), "done"],
        [header_line(), "done\tutt1"],
        [header_line(), "done\tutt1\t62\t1\t1.0000\tembeddings.1-of-1.1.ark:5\t"],
        [header_line(), "done\tutt1\t62\t1\t1.0000\tembeddings.1-of-1.1.ark:far\t\t\t00000000"],
        [header_line(), "done\tutt1\t62\t1\t1.0000\tembeddings.1-of-1.1.ark:1:2:3\t\t\t00000000"],
        [header_line(), "done\tutt1\t62\t1\t1.0000\t:5\t\t\t00000000"],
        [header_line(), "done\tutt1\t62\t1\t1.0000\t\ttimeline.1-of-1.1\t\t00000000"],
        [header_line(), "done\tutt1\t62\t1\t1.0000\t\ttimeline.1-of-1.1:5\t\t00000000"],
        [header_line(), "done\tutt1\t62\t1\t1.0000\t\ttimeline.1-of-1.1:5:far\t\t00000000"],
        [header_line(), "done\t62\tembeddings.1-of-1.1.ark:5\t\tutt1\thappy\t0.750000\t1.2500\t1\t0.750000\t0.250000"],
        [header_line(), "failed\tutt1\tmissing"],
        [header_line(), "time\t{"],
        [header_line(), 'time\t{"seconds": 1}'],
        [header_line(), "time\t3.5"],
    ],
)
def test_journal_of_another_version_is_refused(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "journal.1-of-1.1"
    path.write_bytes(b"".join(map(checked, [*lines, LINES[-1]])))

    message = f"{path}: not written by this version of e2v; use the one that wrote it, or --overwrite"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read(tmp_path)


@pytest.fixture(params=[1, 2, 3, 1 << 16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of lines looked up together; it changes no result."""
    size: int = request.param
    monkeypatch.setattr(history_module, "LOOKUP_LINES", size)
    return size


@pytest.mark.usefixtures("chunk")
def test_lines_are_looked_up_in_chunks(path: Path) -> None:
    history = read(path.parent)

    assert len(states(history)) == 5
    assert [line_of(history, utt_id) for utt_id in IN_ORDER] == LINES[:5]


FAILED_FIRST, FAILED_LATER = (failed("utt1", "audio", reason) for reason in ("missing", "truncated"))
FAILED_IN_MODEL = failed("utt1", "model", "not finite")
DONE_FIRST, DONE_LATER = (done("utt1", f"embeddings.1-of-1.{number}.ark:4") for number in (1, 2))
DONE_LINES = [f"done\tutt1\t49\t1\t1.0000\tembeddings.1-of-1.{number}.ark:4\t\t\t00000000" for number in (1, 2)]


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("separate", [False, True], ids=["within a journal", "across journals"])
@pytest.mark.parametrize(
    ("said", "state", "line"),
    [
        ([FAILED_FIRST, DONE_FIRST], DONE, DONE_LINES[0]),
        ([DONE_FIRST, FAILED_FIRST], DONE, DONE_LINES[0]),
        ([DONE_FIRST, FAILED_IN_MODEL], DONE, DONE_LINES[0]),
        ([FAILED_FIRST, DONE_FIRST, FAILED_LATER], DONE, DONE_LINES[0]),
        ([DONE_FIRST, DONE_LATER], DONE, DONE_LINES[1]),
        ([DONE_FIRST, FAILED_FIRST, DONE_LATER, FAILED_LATER], DONE, DONE_LINES[1]),
        ([FAILED_FIRST, FAILED_LATER], FAILED, "failed\tutt1\taudio\ttruncated\tno such file\t00000000"),
        ([FAILED_FIRST, FAILED_IN_MODEL], FAILED_IN_BATCH, "failed\tutt1\tmodel\tnot finite\tno such file\t00000000"),
        ([FAILED_IN_MODEL, FAILED_FIRST], FAILED, "failed\tutt1\taudio\tmissing\tno such file\t00000000"),
    ],
)
def test_later_line_wins_but_a_failure_never_replaces_a_result(
    said: list[DoneRecord | Failure], state: int, line: str, separate: bool, tmp_path: Path
) -> None:
    journals = [[item] for item in said] if separate else [said]
    for items in journals:
        with closing(Journal(tmp_path, WHOLE, HEADER)) as attempt:
            for item in items:
                attempt.append(
                    [item] if isinstance(item, DoneRecord) else [], [item] if isinstance(item, Failure) else [], TIME
                )

    history = read(tmp_path)

    assert states(history) == {"utt1": state}
    assert line_of(history, "utt1") == line


@pytest.mark.parametrize("reverse", [False, True])
def test_failure_of_another_shard_does_not_replace_a_result(reverse: bool, tmp_path: Path) -> None:
    """The run was resumed with another number of shards."""
    first, second = (Shard(2, 1), WHOLE) if reverse else (WHOLE, Shard(2, 1))
    write(tmp_path, [DONE_FIRST], shard=first)
    write(tmp_path, failures=[FAILED_FIRST], shard=second)

    history = read(tmp_path)

    assert states(history) == {"utt1": DONE}
    assert line_of(history, "utt1") == DONE_LINES[0]


OLD, NEW = "2026-01-31T10:00:00.000001+01:00", "2026-01-31T09:30:00+00:00"
"""Half an hour apart, of machines of different time zones."""


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("older", "newer"), [(Shard(3, 3), WHOLE), (WHOLE, Shard(3, 3)), (Shard(3, 3), Shard(3, 1))])
def test_result_or_reason_of_the_attempt_that_began_later_counts(
    older: Shard, newer: Shard, order: tuple[int, int], tmp_path: Path
) -> None:
    """Neither its shard nor the order of reading matters."""
    attempts = [
        ([DONE_FIRST], [failed("utt2", reason="missing")], older, OLD),
        ([DONE_LATER], [failed("utt2", reason="truncated")], newer, NEW),
    ]
    folder = list_folder(tmp_path)
    for records, failures, shard, started in (attempts[index] for index in order):
        write(tmp_path, records, failures, shard=shard, started=started)
        folder.refresh()
        history = folder.read_history(HashedIds())

    assert line_of(history, "utt1") == DONE_LINES[1]
    assert line_of(history, "utt2").startswith("failed\tutt2\taudio\ttruncated\t")


@pytest.mark.parametrize(("older", "newer"), [(Shard(3, 3), WHOLE), (WHOLE, Shard(3, 3))])
def test_result_counts_over_a_newer_failure(older: Shard, newer: Shard, tmp_path: Path) -> None:
    write(tmp_path, [DONE_FIRST], shard=older, started=OLD)
    write(tmp_path, failures=[FAILED_LATER], shard=newer, started=NEW)

    assert line_of(read(tmp_path), "utt1") == DONE_LINES[0]


def test_attempt_number_decides_between_attempts_that_began_at_once(tmp_path: Path) -> None:
    write(tmp_path, shard=WHOLE, started=OLD)
    write(tmp_path, failures=[FAILED_LATER], shard=WHOLE, started=NEW)
    write(tmp_path, failures=[FAILED_FIRST], shard=Shard(3, 3), started=NEW)

    assert line_of(read(tmp_path), "utt1").startswith("failed\tutt1\taudio\ttruncated\t")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_attempt_that_knew_of_another_is_later_whatever_the_clocks_say(order: tuple[int, int], tmp_path: Path) -> None:
    folder = list_folder(tmp_path)
    write(tmp_path, [DONE_FIRST], started=NEW)
    folder.refresh()
    with closing(folder.begin(WHOLE, dataclasses.replace(HEADER, started=OLD))) as attempt:
        attempt.append([DONE_LATER], [], TIME)
    contents = [(tmp_path / f"journal.1-of-1.{number}").read_bytes() for number in (1, 2)]
    folder = RunFolder(tmp_path / "copy", (), ())
    folder.path.mkdir()

    for index in order:
        (folder.path / f"journal.1-of-1.{index + 1}").write_bytes(contents[index])
        folder.refresh()
        history = folder.read_history(HashedIds())

    assert line_of(history, "utt1") == DONE_LINES[1]


OURS, OTHER = 0xAB, 0xCD
"""Checksums of the source that the list has now, and of another one."""


def done_of(checksum: int) -> DoneRecord:
    return dataclasses.replace(DONE_FIRST, source_checksum=checksum)


def failed_of(checksum: int) -> Failure:
    return Failure(dataclasses.replace(FAILED_FIRST.utterance, source_checksum=checksum), "audio", "missing", "gone")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("attempts", "state", "is_changed", "kept"),
    [
        ([done_of(OURS)], DONE, False, DONE),
        ([done_of(OTHER)], LEFT, True, DONE),
        ([done_of(OTHER), done_of(OURS)], DONE, False, DONE),
        ([done_of(OURS), done_of(OTHER)], LEFT, True, DONE),  # a .npy file is of the newest result
        ([failed_of(OURS)], FAILED, False, FAILED),
        ([failed_of(OTHER)], LEFT, False, FAILED),
        ([failed_of(OTHER), failed_of(OURS)], FAILED, False, FAILED),
        ([done_of(OTHER), failed_of(OURS)], FAILED, False, DONE),
        ([failed_of(OURS), done_of(OTHER)], LEFT, True, DONE),
        ([done_of(OURS), failed_of(OURS)], DONE, False, DONE),
        ([done_of(OURS), failed_of(OTHER)], DONE, False, DONE),
        ([failed_of(OTHER), done_of(OURS)], DONE, False, DONE),
    ],
)
def test_results_of_another_source_do_not_count_unless_kept(
    attempts: list[DoneRecord | Failure], state: int, is_changed: bool, kept: int, reverse: bool, tmp_path: Path
) -> None:
    ids = HashedIds()
    ids.checksums = np.full(len(ids), OURS, dtype=np.uint32)
    folders = [RunFolder(tmp_path, (), (), keep_changed) for keep_changed in (False, True)]
    numbered = list(zip(attempts, (OLD, NEW), strict=False))
    for item, started in reversed(numbered) if reverse else numbered:
        records, failures = ([item], []) if isinstance(item, DoneRecord) else ([], [item])
        write(tmp_path, records, failures, started=started)
        for folder in folders:
            folder.refresh()
            folder.read_history(ids)

    history, with_all = (folder.read_history(ids) for folder in folders)

    assert (history.status[0], history.changed[0]) == (state, is_changed)
    assert (with_all.status[0], with_all.changed[0]) == (kept, False)
    assert (history.sources_sha256, with_all.sources_sha256) == (hashlib.sha256(b"\xab\0\0\0" * 6).hexdigest(), None)


def test_shards_and_attempts_are_combined(tmp_path: Path) -> None:
    write(tmp_path, RECORDS[:1], elapsed=Elapsed(1.0, 0.5, 10.0, 1), shard=Shard(2, 1))
    write(tmp_path, [], FAILURES, Elapsed(2.0, 1.5, 0.0, 2), shard=Shard(2, 1))
    write(tmp_path, RECORDS[1:], elapsed=Elapsed(4.0, 3.5, 20.0, 2), shard=Shard(2, 2))

    history = read(tmp_path)

    assert list(states(history).values()) == [DONE, DONE, FAILED, DONE, FAILED_IN_BATCH]
    assert history.elapsed == {
        JournalFile(Shard(2, 1), 1, tmp_path / "journal.1-of-2.1"): Elapsed(1.0, 0.5, 10.0, 1),
        JournalFile(Shard(2, 1), 2, tmp_path / "journal.1-of-2.2"): Elapsed(2.0, 1.5, 0.0, 2),
        JournalFile(Shard(2, 2), 1, tmp_path / "journal.2-of-2.1"): Elapsed(4.0, 3.5, 20.0, 2),
    }


def test_last_time_line_counts(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, WHOLE, HEADER)) as attempt:
        attempt.append(RECORDS[:1], [], Elapsed(1.0, 0.5, 10.0, 1))
        attempt.append(RECORDS[1:], [], Elapsed(2.0, 1.5, 30.0, 3))
        attempt.end(Elapsed(2.25, 1.75, 30.0, 3))

    assert list(read(tmp_path).elapsed.values()) == [Elapsed(2.25, 1.75, 30.0, 3)]


@pytest.mark.parametrize(
    ("stage", "reason", "state"),
    [
        ("audio", "missing", FAILED),
        ("corpus", "anything", FAILED),
        ("model", "not finite", FAILED_IN_BATCH),
        ("model", "out of memory", FAILED_IN_BATCH),
        ("model", "worker died", FAILED),
    ],
)
def test_model_failure_keeps_its_position_in_the_batch(stage: Stage, reason: str, state: int, tmp_path: Path) -> None:
    """An utterance that killed a worker loses its position."""
    write(tmp_path, failures=[failed("utt3", stage, reason)])

    assert failure_status(stage, reason) == state
    assert states(read(tmp_path)) == {"utt3": state}


def test_utterances_done_with_another_list_are_done_before(tmp_path: Path) -> None:
    write(tmp_path, RECORDS[:2], FAILURES, input_sha256=OTHER_LIST)
    write(tmp_path, RECORDS[2:])

    history = read(tmp_path)

    assert list(states(history).values()) == [DONE, DONE, FAILED, DONE, FAILED_IN_BATCH]
    assert history.done_before.tolist() == [True, True, False, False, False, False]


def test_earlier_failure_that_succeeds_now_is_not_counted_as_done_before(tmp_path: Path) -> None:
    write(tmp_path, [], FAILURES[:1], input_sha256=OTHER_LIST)
    write(tmp_path, [done("utt2")])

    history = read(tmp_path)

    assert states(history) == {"utt2": DONE}
    assert not history.done_before.any()


def test_utterances_outside_the_list_are_skipped(tmp_path: Path) -> None:
    """Their embeddings are still in the archives."""
    records = [RECORDS[0], done("of a longer list", "embeddings.1-of-1.1.ark:1000")]
    write(tmp_path, records, [failed("of a longer list too"), FAILURES[0]], input_sha256=OTHER_LIST)

    history = read(tmp_path)

    assert states(history) == {"utt1": DONE, "utt2": FAILED}
    assert history.archives == {"embeddings.1-of-1.1.ark": 1000}
    assert [line_of(history, utt_id) for utt_id in ("utt1", "utt2")] == [LINES[0], LINES[3]]


def test_last_offset_of_each_archive_is_read(tmp_path: Path) -> None:
    places = ["embeddings.1-of-2.1.ark:300", "embeddings.1-of-2.1.ark:2", "embeddings.2-of-2.1.ark:7", ""]
    write(tmp_path, [done(utt_id, place) for utt_id, place in zip(IDS, places, strict=False)])

    assert read(tmp_path).archives == {"embeddings.1-of-2.1.ark": 300, "embeddings.2-of-2.1.ark": 7}


def test_folder_of_npy_files_is_read(tmp_path: Path) -> None:
    write(tmp_path, [done("utt1", "embeddings/utt1.npy"), done("utt3", "embeddings/a%3A7.npy")])

    assert read(tmp_path).archives == {"embeddings": 0}


def test_file_end_of_sized_embeddings_is_read(tmp_path: Path) -> None:
    """Formats other than Kaldi archives have sizes."""
    places = ["embeddings.1-of-2.1.bin:300:20", "embeddings.1-of-2.1.bin:0:300", "embeddings.2-of-2.1.ark:7"]
    write(tmp_path, [done(utt_id, place) for utt_id, place in zip(IDS, places, strict=False)])

    history = read(tmp_path)
    assert history.timelines == {"embeddings.1-of-2.1.bin": 320}
    assert history.archives == {"embeddings.2-of-2.1.ark": 7}


def test_end_of_each_timeline_file_is_read(tmp_path: Path) -> None:
    """Utterances are in any order, and some have no rows."""
    places = ["timeline.1-of-2.1:300:20", "timeline.1-of-2.1:0:300", "timeline.2-of-2.1:7:0", ""]
    write(tmp_path, [done(utt_id, timeline=place) for utt_id, place in zip(IDS, places, strict=False)])

    assert read(tmp_path).timelines == {"timeline.1-of-2.1": 320, "timeline.2-of-2.1": 7}


def test_timeline_rows_outside_the_list_count(tmp_path: Path) -> None:
    """They are still in the files."""
    records = [done("of a longer list", timeline="timeline.1-of-1.1:0:1000"), done("utt1")]
    write(tmp_path, records, input_sha256=OTHER_LIST)

    assert read(tmp_path).timelines == {"timeline.1-of-1.1": 1000}


@pytest.mark.parametrize("gap", [0, 1, 400, 1 << 16])
def test_lines_are_read_in_list_order(gap: int, tmp_path: Path) -> None:
    """The lines are in several journals, in any order, between other lines."""
    ids = [f"utt{number}" for number in range(60)]
    order = sorted(ids, key=hash)
    for first in range(4):
        with closing(Journal(tmp_path, Shard(4, first + 1), HEADER)) as attempt:
            for utt_id in order[first::4]:
                record = dataclasses.replace(done(utt_id, f"embeddings/{utt_id}.npy"), label="x" * int(utt_id[3:]))
                attempt.append([record, *[done("of a longer list")] * (hash(utt_id) % 3)], [], TIME)

    history = read(tmp_path, ids)

    expected = [
        f"done\t{utt_id}\t49\t1\t1.0000\tembeddings/{utt_id}.npy\t\t{'x' * number}\t00000000\n".encode()
        for number, utt_id in enumerate(ids)
    ]
    assert history.read_lines(0, 60, gap) == expected
    assert history.read_lines(0, 0, gap) == []
    for first, end in ((0, 1), (7, 30), (59, 60)):
        assert history.read_lines(first, end, gap) == expected[first:end]


def has_ended(path: Path) -> bool:
    return any(file.path == path for file in read(path.parent).ended)


def test_journal_with_an_end_line_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "journal.1-of-1.1"
    with closing(Journal(tmp_path, WHOLE, HEADER)) as attempt:
        assert not has_ended(path)
        attempt.append(RECORDS, FAILURES, TIME)
        assert not has_ended(path)
        attempt.end(TIME)
        assert has_ended(path)

    content = path.read_bytes()
    for size in range(len(content) - 120, len(content)):
        path.write_bytes(content[:size])
        assert not has_ended(path)
    for ending in (b"", b"\n", b"end\t{}\n", content + b"torn", content + b"\n", content + checked(LINES[-1])):
        path.write_bytes(ending)
        assert not has_ended(path)
