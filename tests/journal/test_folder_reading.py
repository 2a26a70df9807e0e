"""The run folder reads only new lines of its journals, with the result of a full read."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.journal_lines import (
    HEADER,
    IDS,
    LIST,
    OTHER_LIST,
    RECORDS,
    TIME,
    WHOLE,
    HashedIds,
    checked,
    done,
    header_line,
    line_of,
    list_folder,
    states,
    write,
)

from e2v_cli.journal import history as history_module
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.history import History
from e2v_cli.journal.journal import DONE, LEFT, Elapsed, Journal, JournalFile
from e2v_cli.options import Shard

LISTED = HashedIds()
FIRST, SECOND, THIRD = (Shard(3, index) for index in (1, 2, 3))

_opened: list[Path] | None = None
"""The files opened since it was set to a list; None: nothing is noted."""


def _note_opening(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | os.PathLike):
        _opened.append(Path(arguments[0]))


sys.addaudithook(_note_opening)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files opened from here on."""
    files: list[Path] = []
    monkeypatch.setattr(sys.modules[__name__], "_opened", files)
    return files


def count_opens(opened: list[Path]) -> dict[str, int]:
    """Count the openings of each journal, and reset the count."""
    names = [path.name for path in opened if path.name.startswith("journal.")]
    opened.clear()
    return {name: names.count(name) for name in sorted(names)}


def make_content(rng: random.Random, shard: Shard) -> bytes:
    """Make a journal of random lines; its utterances overlap with those of other journals."""
    digest = rng.choice([LIST, LIST, OTHER_LIST])
    started = f"2026-01-31T10:00:0{rng.randrange(4)}+01:00"
    lines = [header_line(dataclasses.replace(HEADER, input_sha256=digest, pid=rng.randrange(10_000), started=started))]
    for number in range(rng.randrange(12)):
        utt_id = rng.choice([*IDS, "of a longer list"])
        archive = f"embeddings.{shard.name}.{number % 2}.ark:{rng.randrange(1000)}"
        timeline = f"timeline.{shard.name}:{rng.randrange(1000)}:{rng.randrange(100)}"
        lines += rng.choice(
            [
                [f"done\t{utt_id}\t49\t1\t1.0000\t{archive}\t\thappy\t0.750000\t0.250000\t00000000"],
                [f"done\t{utt_id}\t{number}\t1\t1.0000\t\t{timeline}\t\t00000000"],
                [f"done\t{utt_id}\t{number}\t1\t1.0000\tembeddings/a.npy\t\t\t00000000"],
                [f"failed\t{utt_id}\taudio\tmissing\t{rng.random()}\t00000000"],
                [f"failed\t{utt_id}\tmodel\tnot finite\t{rng.random()}\t00000000"],
                [f'time\t{{"wall_seconds": {number}, "finished": {number}}}'],
            ]
        )
    end = ['time\t{"wall_seconds": 99.5}', "end\t{}"]
    return b"".join(map(checked, lines + end * rng.choice([0, 1])))


def describe(folder: RunFolder, history: History) -> list[object]:
    """Collect everything that is read from journals."""
    return [
        history.status.tolist(),
        history.done_before.tolist(),
        list(history.elapsed.items()),
        history.archives,
        history.timelines,
        history.ended,
        list(history.sizes.items()),
        [history.read_lines(index, index + 1) for index, state in enumerate(history.status.tolist()) if state != LEFT],
        folder.find_ended(history),
        folder.describe_sources(LIST, history.sizes),
    ]


@pytest.mark.parametrize("seed", range(40))
def test_incremental_read_equals_a_full_read(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals are torn at any byte, and begin and grow in any order."""
    rng = random.Random(seed)
    monkeypatch.setattr(history_module, "LOOKUP_LINES", rng.choice([1, 2, 3, 1 << 16]))
    left: dict[Path, bytes] = {}
    for shard in (FIRST, SECOND, THIRD, WHOLE):
        for attempt in range(1, rng.choice([1, 2, 3, 3]) + 1):
            left[tmp_path / f"journal.{shard.name}.{attempt}"] = make_content(rng, shard)
    folder = list_folder(tmp_path)
    histories = []

    while left:
        for path in rng.sample(sorted(left), rng.randint(1, len(left))):
            size = rng.choice([0, rng.randrange(20), rng.randrange(400), left[path].find(b"\n") + 1, 2000])
            with path.open("ab") as file:
                file.write(left[path][:size])
            left[path] = left[path][size:]
            if not left[path]:
                del left[path]
        folder.refresh()
        histories.append(folder.read_history(LISTED))
        anew = list_folder(tmp_path)
        assert describe(folder, histories[-1]) == describe(anew, anew.read_history(LISTED))

    assert all(history is histories[0] for history in histories)


def test_completed_torn_line_counts(tmp_path: Path) -> None:
    """The line is still being written at the first read."""
    path = tmp_path / "journal.1-of-3.1"
    header, line = checked(header_line()), checked("done\tutt1\t49\t1\t1.0000\t\t\thappy\t0.750000\t0.250000\t00000000")
    for size in range(len(header) + len(line)):
        path.write_bytes((header + line)[:size])
        folder = list_folder(tmp_path)
        assert states(folder.read_history(LISTED)) == {}

        path.write_bytes(header + line)
        folder.refresh()
        assert states(folder.read_history(LISTED)) == {"utt1": DONE}


def test_attempt_that_ends_during_the_read_has_ended(tmp_path: Path) -> None:
    """Its last line is torn when the folder is listed, and complete when the journal is read."""
    write(tmp_path, RECORDS)
    path = tmp_path / "journal.1-of-1.1"
    for cut in (1, 5, len(checked("end\t{}"))):
        whole = path.read_bytes()
        with path.open("ab") as file:
            file.write(checked("end\t{}")[:-cut])
        folder = list_folder(tmp_path)
        with path.open("ab") as file:
            file.write(checked("end\t{}")[-cut:])
        folder.read_history(LISTED)
        folder.refresh()
        assert folder.find_ended(folder.read_history(LISTED)) == {WHOLE}
        path.write_bytes(whole)


def test_journal_with_a_torn_line_after_its_end_has_not_ended(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, WHOLE, HEADER)) as attempt:
        attempt.end(TIME)
    folder = list_folder(tmp_path)
    assert folder.find_ended(folder.read_history(LISTED)) == {WHOLE}

    with (tmp_path / "journal.1-of-1.1").open("ab") as file:
        file.write(b"torn")
    folder.refresh()

    assert folder.find_ended(folder.read_history(LISTED)) == set()


def test_later_line_of_an_earlier_journal_does_not_count(tmp_path: Path) -> None:
    """The result is that of reading the journals in order."""
    with closing(Journal(tmp_path, FIRST, HEADER)) as attempt:
        write(tmp_path, [done("utt1", "embeddings.2-of-3.1.ark:4")], shard=SECOND)
        folder = list_folder(tmp_path)
        folder.read_history(LISTED)
        attempt.append([done("utt1", "embeddings.1-of-3.1.ark:4")], [], TIME)
        folder.refresh()

    assert "embeddings.2-of-3.1.ark:4" in line_of(folder.read_history(LISTED), "utt1")


def test_sources_do_not_depend_on_the_read_order(tmp_path: Path) -> None:
    """Otherwise the next start would not recognise a run that its first shard published."""
    write(tmp_path, shard=SECOND)
    write(tmp_path, shard=THIRD)
    folder = list_folder(tmp_path)
    folder.read_history(LISTED)
    folder.begin(FIRST, HEADER).close()
    folder.refresh()
    sizes = folder.read_history(LISTED).sizes

    assert list(sizes) == ["journal.1-of-3.1", "journal.2-of-3.1", "journal.3-of-3.1"]
    anew = list_folder(tmp_path)
    assert folder.describe_sources(LIST, sizes) == anew.describe_sources(LIST, anew.read_history(LISTED).sizes)


def test_deleted_journal_no_longer_counts(tmp_path: Path) -> None:
    write(tmp_path, [done("utt1")], shard=FIRST)
    write(tmp_path, [done("utt2")], shard=SECOND)
    folder = list_folder(tmp_path)
    assert states(folder.read_history(LISTED)) == {"utt1": DONE, "utt2": DONE}

    (tmp_path / "journal.1-of-3.1").unlink()
    folder.refresh()
    history = folder.read_history(LISTED)

    assert states(history) == {"utt2": DONE}
    assert list(history.elapsed) == [JournalFile(SECOND, 1, tmp_path / "journal.2-of-3.1")]
    assert list(history.sizes) == ["journal.2-of-3.1"]


def test_truncated_journal_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, [done("utt1"), done("utt2")])
    folder = list_folder(tmp_path)
    folder.read_history(LISTED)

    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    folder.refresh()

    assert states(folder.read_history(LISTED)) == {"utt1": DONE}


def test_another_list_starts_a_new_history(tmp_path: Path) -> None:
    write(tmp_path, [done("utt1")])
    folder = list_folder(tmp_path)
    assert not folder.read_history(LISTED).done_before.any()

    history = folder.read_history(HashedIds(digest=OTHER_LIST))

    assert history.done_before.tolist() == [True, False, False, False, False, False]
    assert not folder.read_history(LISTED).done_before.any()


def test_journal_is_opened_once_for_its_header_and_once_for_its_lines(tmp_path: Path, opened: list[Path]) -> None:
    names = [write(tmp_path, RECORDS, shard=shard).name for shard in (FIRST, FIRST, SECOND)]
    opened.clear()

    folder = list_folder(tmp_path)
    assert count_opens(opened) == dict.fromkeys(names, 1)
    folder.read_history(LISTED)
    assert count_opens(opened) == dict.fromkeys(names, 1)
    folder.refresh()
    folder.find_run()
    folder.find_ended(folder.read_history(LISTED))
    folder.is_published(LIST)
    assert count_opens(opened) == {}


def test_only_grown_journals_are_opened_again(tmp_path: Path, opened: list[Path]) -> None:
    write(tmp_path, RECORDS[:1], shard=FIRST)
    folder = list_folder(tmp_path)
    folder.read_history(LISTED)
    opened.clear()
    with closing(folder.begin(SECOND, HEADER)) as attempt:
        assert count_opens(opened) == {"journal.2-of-3.1": 1}  # opened for writing; its header is not read again
        attempt.append(RECORDS[1:], [], Elapsed())
        folder.refresh()
        assert len(states(folder.read_history(LISTED))) == 3
        assert count_opens(opened) == {"journal.2-of-3.1": 1}
        attempt.append([done("utt2")], [], Elapsed())
        folder.refresh()
        assert len(states(folder.read_history(LISTED))) == 4
        assert count_opens(opened) == {"journal.2-of-3.1": 1}


def test_journal_with_a_torn_header_is_opened_once(tmp_path: Path, opened: list[Path]) -> None:
    (tmp_path / "journal.1-of-1.1").write_bytes(checked(header_line())[:-1])
    opened.clear()
    folder = list_folder(tmp_path)
    assert list(folder.read_history(LISTED).sizes) == ["journal.1-of-1.1"]

    assert count_opens(opened) == {"journal.1-of-1.1": 1}


def find_open(folder: Path) -> list[str]:
    """Return the names of the files of a folder that this process has open."""
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sorted(link.readlink().name for link in links if link.is_symlink() and link.readlink().parent == folder)


def test_reading_lines_opens_each_journal_once(tmp_path: Path, opened: list[Path]) -> None:
    for shard, record in zip((FIRST, SECOND, THIRD), RECORDS, strict=True):
        write(tmp_path, [record], shard=shard)
    history = list_folder(tmp_path).read_history(LISTED)
    names = [f"journal.{shard.name}.1" for shard in (FIRST, SECOND, THIRD)]
    indices = [index for index, state in enumerate(history.status.tolist()) if state != LEFT]
    opened.clear()

    with history.reading():
        for _ in range(3):
            for index in indices:
                history.read_lines(index, index + 1)
        assert find_open(tmp_path) == names
    assert count_opens(opened) == dict.fromkeys(names, 1)
    assert find_open(tmp_path) == []

    for _ in range(2):
        history.read_lines(indices[0], indices[0] + 2)
        assert find_open(tmp_path) == []
    assert count_opens(opened) == {names[0]: 2, names[1]: 2}


@pytest.mark.parametrize("limit", [1, 2])
def test_number_of_open_journals_is_limited(limit: int, tmp_path: Path) -> None:
    """The most recently used journals stay open."""
    for shard, record in zip((FIRST, SECOND, THIRD), RECORDS, strict=True):
        write(tmp_path, [record], shard=shard)
    history = list_folder(tmp_path).read_history(LISTED)
    expected = {index: history.read_lines(index, index + 1) for index in (0, 1, 3)}

    with history.reading(limit):
        for indices in ((0, 1, 3), (3, 1, 0), (1, 3, 1)):
            for index in indices:
                assert history.read_lines(index, index + 1) == expected[index]
                assert len(find_open(tmp_path)) <= limit
        assert find_open(tmp_path) == ["journal.2-of-3.1", "journal.3-of-3.1"][:limit]


def test_missing_journal_leaves_no_journal_open(tmp_path: Path) -> None:
    for shard, record in zip((FIRST, SECOND), RECORDS, strict=False):
        write(tmp_path, [record], shard=shard)
    history = list_folder(tmp_path).read_history(LISTED)
    (tmp_path / "journal.2-of-3.1").unlink()

    with pytest.raises(FileNotFoundError, match=r"journal\.2-of-3\.1"):
        history.read_lines(0, 2)
    assert find_open(tmp_path) == []
    with pytest.raises(FileNotFoundError), history.reading():
        history.read_lines(0, 2)
    assert find_open(tmp_path) == []
