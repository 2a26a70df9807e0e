"""The run folder: foreign files are kept, missing files are named, and one run works at a time."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from support.archives import write_archive
from support.journal_lines import LIST, HashedIds, checked, header_line
from support.journals import FINGERPRINT, FIRST, IDS, SECOND, WHOLE, List, done, header, open_folder, write

from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal import folder as folder_module
from e2v_cli.journal.folder import RunFolder, plan_blocks
from e2v_cli.journal.history import History, read_header
from e2v_cli.journal.ids import save_costs, save_ids
from e2v_cli.journal.journal import DONE, Header
from e2v_cli.journal.locks import locked
from e2v_cli.options import RunOptions, Shard
from e2v_cli.results.formats import result_names
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.process import HOST

RESULTS = result_names()


def test_parent_folders_are_created(tmp_path: Path) -> None:
    open_run_folder(tmp_path / "exp" / "emotion").make()
    open_run_folder(tmp_path / "exp" / "emotion").make()

    assert os.listdir(tmp_path / "exp") == ["emotion"]


@pytest.mark.parametrize(
    ("name", "reason"), [("file", "File exists"), ("file/out", "Not a directory"), ("x" * 300, "File name too long")]
)
def test_folder_creation_error_names_the_folder(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    message = f"{tmp_path / name}: {reason}; choose another -o"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        open_run_folder(tmp_path / name).make()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("has_journal", [False, True])
def test_kaldi_data_directory_is_never_written_to(overwrite: bool, has_journal: bool, tmp_path: Path) -> None:
    (tmp_path / "wav.scp").touch()
    (tmp_path / "utt2dur").touch()
    if has_journal:
        write(tmp_path, [], header())

    message = f"{tmp_path} is a Kaldi data directory, and its utt2dur would be replaced: choose another -o"
    for check in (RunFolder.make, RunFolder.refuse_foreign_files):
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            check(open_run_folder(tmp_path), overwrite)


@pytest.mark.parametrize("name", RESULTS)
def test_results_without_a_journal_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()

    message = f"{tmp_path} holds {name}, but no journal of its run: choose another -o, or use --overwrite"
    for check in (RunFolder.make, RunFolder.refuse_foreign_files):
        with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
            check(open_run_folder(tmp_path))
        check(open_run_folder(tmp_path), overwrite=True)
    (tmp_path / "journal.1-of-1.1").touch()
    for check in (RunFolder.make, RunFolder.refuse_foreign_files):
        check(open_run_folder(tmp_path))


def test_other_files_in_out_are_accepted(tmp_path: Path) -> None:
    for name in ("notes.txt", "input.scp", ".hidden", "log"):
        (tmp_path / name).touch()

    open_run_folder(tmp_path).make()


def check_places(path: Path, archives: Mapping[str, int] = {}, timelines: Mapping[str, int] = {}) -> None:
    history = History(HashedIds([]).index, LIST, None)
    history.archives.update(archives)
    history.timelines.update(timelines)
    open_run_folder(path).check_places(history)


def test_complete_archives_pass_the_check(tmp_path: Path) -> None:
    write_archive(tmp_path / "embeddings.1-of-1.1.ark", 100)
    (tmp_path / "embeddings").mkdir()

    check_places(tmp_path, {"embeddings.1-of-1.1.ark": 100, "embeddings": 0})
    check_places(tmp_path, {})


@pytest.mark.parametrize(
    ("archives", "message"),
    [
        (
            {"embeddings.1-of-1.1.ark": 100, "embeddings.1-of-1.2.ark": 5},
            "{out}/embeddings.1-of-1.2.ark is missing, but the journal lists it: restore it, or use --overwrite",
        ),
        (
            {"embeddings.1-of-1.1.ark": 200},
            "{out}/embeddings.1-of-1.1.ark ends before the embedding at byte 200: restore it, or use --overwrite",
        ),
        (
            {"embeddings.1-of-1.3.ark": 100},
            "{out}/embeddings.1-of-1.3.ark ends before the embedding at byte 100: restore it, or use --overwrite",
        ),
        (
            {"embeddings": 0},
            "{out}/embeddings is missing, but the journal lists it: restore it, or use --overwrite",
        ),
    ],
)
def test_missing_or_truncated_archives_are_named(archives: dict[str, int], message: str, tmp_path: Path) -> None:
    write_archive(tmp_path / "embeddings.1-of-1.1.ark", 100)
    cut = tmp_path / "embeddings.1-of-1.3.ark"
    write_archive(cut, 100)
    os.truncate(cut, cut.stat().st_size - 1)

    with pytest.raises(OutputError, match=f"^{re.escape(message.format(out=tmp_path))}$"):
        check_places(tmp_path, archives)


@pytest.mark.parametrize(
    ("size", "shape", "sound"),
    [
        (15 + 4 * 6, (2, 3), True),
        (15 + 4 * 6 - 1, (2, 3), False),
        (14, (2, 3), False),
        (15, (0, 0), True),
        (15 + 8_000_000_000, (1_000_000, 2000), True),
        (15 + 8_000_000_000 - 1, (1_000_000, 2000), False),
        (10 + 4 * 6, (6,), True),
        (10 + 4 * 6 - 4, (6,), False),
        (9, (6,), False),
        (10, (0,), True),
    ],
)
def test_record_is_checked_by_size_without_reading_it(
    size: int, shape: tuple[int, ...], sound: bool, tmp_path: Path
) -> None:
    """A matrix may be larger than memory. Here all but the header is a hole in the file."""
    path = tmp_path / "embeddings.1-of-1.1.ark"
    kind = b"\0BFM " if len(shape) == 2 else b"\0BFV "
    path.write_bytes(b"k " + kind + b"".join(b"\4" + number.to_bytes(4, "little") for number in shape))
    os.truncate(path, 2 + size)

    if sound:
        check_places(tmp_path, {path.name: 2})
    else:
        message = f"{path} ends before the embedding at byte 2: restore it, or use --overwrite"
        with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
            check_places(tmp_path, {path.name: 2})


@pytest.mark.parametrize("name", ["embeddings.1-of-1.1.ark", "touch ran |", "a[0:1].ark"])
@pytest.mark.parametrize("content", [b"PKL" + pickle.dumps(Path), b"NPY\x01\x00", b"AUDIO\x01\x00", b"RIFF"])
def test_archive_content_is_never_executed(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"k " + content)

    with pytest.raises(OutputError, match=" ends before the embedding at byte 2: "):
        check_places(tmp_path, {name: 2})

    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(("size", "sound"), [(100, True), (101, True), (99, False), (0, False), (None, False)])
def test_missing_timeline_rows_are_named(size: int | None, sound: bool, tmp_path: Path) -> None:
    (tmp_path / "timeline.1-of-2.1").write_bytes(bytes(5))
    path = tmp_path / "timeline.2-of-2.1"
    if size is not None:
        path.write_bytes(bytes(size))
    spoken_of = {"timeline.2-of-2.1": 100, "timeline.1-of-2.1": 5}

    if sound:
        check_places(tmp_path, timelines=spoken_of)
    else:
        message = (
            f"{path} is missing, or ends before byte 100, but the journal lists it: restore it, or use --overwrite"
        )
        with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
            check_places(tmp_path, timelines=spoken_of)


def test_run_without_timelines_passes_the_check(tmp_path: Path) -> None:
    check_places(tmp_path, timelines={})


def make_files(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


DEAD = 1 << 22
"""A process id that is never in use."""

OURS = [
    *RESULTS,
    *("journal.1-of-1.1", "journal.10-of-12.3", "input.0123456789abcdef", "input.0123456789abcdef.groups"),
    *("input.0123456789abcdef.costs", "input.0123456789abcdef.sources"),
    *(f".{name}.{HOST}-{DEAD}-0123abcd.part" for name in ("predictions.tsv", "timeline.rttm")),
    *(
        f".{name}.{HOST}-{DEAD}-0123abcd.part"
        for name in ("npy.1-of-1", *(f"input.0123456789abcdef{suffix}" for suffix in ("", ".groups", ".costs")))
    ),
    *("embeddings.1-of-1.1.ark", "embeddings.2-of-3.10.ark", "embeddings/a.npy", "embeddings/a b%3A.npy"),
    *("timeline.1-of-1.1", "timeline.2-of-3.10", "audacity/a.txt", "audacity/a%2Fb.txt", "textgrid/ü.TextGrid"),
    *("log/worker.1-of-1.1.log", "log/launcher.1-of-1.log", "log/slurm-12_3.log", "log/slurm-13-merge.log"),
    *("slurm/shards.sh", "slurm/merge.sh", "slurm/12.json"),
]

OVERWRITE = RunOptions(overwrite=True)

THEIRS = [
    *("notes.txt", "predictions.tsv.bak", "journal.md", "journal", "input.scp", "input.txt", "my.ark", ".hidden"),
    *("embeddings.ark", "embeddings.zip", "plots/a.npy", ".video.mp4.part", "utt2spk", "log.txt"),
    *("timeline.png", "timeline", "textgrid/a.txt", "audacity/project.aup3", "input.0123456789abcdef.bak"),
]


def clear(path: Path) -> None:
    """Begin a new run with ``--overwrite``."""
    history = open_run_folder(path).guard(FINGERPRINT, IDS, OVERWRITE)
    assert not history.status.any()


def test_overwriting_removes_all_files_of_a_run(tmp_path: Path) -> None:
    make_files(tmp_path, OURS)

    clear(tmp_path)

    assert os.listdir(tmp_path) == []


def test_overwriting_keeps_locks(tmp_path: Path) -> None:
    """A holder still works, and a new lock file would admit another run."""
    make_files(tmp_path, OURS)
    with locked(tmp_path, "1-of-1"), locked(tmp_path, "merge"):
        clear(tmp_path)

        assert sorted(os.listdir(tmp_path)) == [".lock.1-of-1", ".lock.merge"]


def test_failed_removal_leaves_no_journal(tmp_path: Path) -> None:
    """Journals are removed first, so that none records a missing file."""
    make_files(tmp_path, OURS)
    (tmp_path / "embeddings.1-of-1.7.ark").mkdir()

    with pytest.raises((IsADirectoryError, PermissionError)):
        clear(tmp_path)

    assert not list(tmp_path.glob("journal.*"))


def test_overwriting_without_a_journal_removes_only_results(tmp_path: Path) -> None:
    make_files(tmp_path, [*RESULTS, "embeddings/precious.npy"])

    clear(tmp_path)

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == ["embeddings/precious.npy"]


def test_overwriting_keeps_foreign_files(tmp_path: Path) -> None:
    make_files(tmp_path, [*OURS, *THEIRS, "embeddings/readme", "log/of mine", "slurm/my.sbatch"])

    clear(tmp_path)

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*THEIRS, "embeddings/readme", "log/of mine", "slurm/my.sbatch"}


def test_overwriting_an_empty_folder_succeeds(tmp_path: Path) -> None:
    clear(tmp_path)

    assert os.listdir(tmp_path) == []


def test_path_with_control_characters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a\nb"
    message = f"{str(path)!r}: a list of embeddings can't hold this path; choose another -o"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        open_run_folder(path).make()
    assert os.listdir(tmp_path) == []


OLD_HEADER = (
    'run\t{"format": 2, "fingerprint": {"model": "abc", "batch-seconds": "auto"}, "model": "sample", '
    '"labels": ["sad"], "input_sha256": "0", "input_size": 6, "frame_shift": 0.02, "timeline_formats": [], '
    '"join": false, "host": "host", "pid": 17, "started": "2026-01-31T10:00:00+01:00"}'
)
"""Of the format before this one."""
"""A header of format 1."""


@pytest.mark.parametrize(
    "content",
    [
        checked(OLD_HEADER) + checked("done\t62\tembeddings.1-of-1.1.ark:5\t\tutt1\tsad\t0.9\t1.2500\t1\t0.1\t0.9"),
        checked(header_line(header()).replace('"format": 3', '"format": 4')),
        b"torn\n" + checked(header_line(header())),
        checked("nothing known\tof it"),
    ],
    ids=["format 2", "format 4", "damaged", "something else"],
)
def test_unreadable_journal_is_named_and_can_be_overwritten(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.1-of-1.1"
    path.write_bytes(content)
    write(tmp_path, [done("z")], header(), SECOND)
    make_files(tmp_path, ["predictions.tsv", "embeddings/z.npy", "notes.txt"])
    before = sorted(os.listdir(tmp_path))
    reason = (
        ":1: damaged, and lines follow it; restore it, or cut it before that line (head -n 0) "
        "to compute again what is lost, or use --overwrite"
        if content.startswith(b"torn")
        else ": not written by this version of e2v; use the one that wrote it, or --overwrite"
    )

    for shard in (WHOLE, FIRST):
        with pytest.raises(OutputError, match=f"^{re.escape(f'{path}{reason}')}$"):
            open_run_folder(tmp_path).guard(FINGERPRINT, IDS, RunOptions(shard))
    assert sorted(os.listdir(tmp_path)) == before

    folder = open_run_folder(tmp_path)
    folder.refresh(tolerant=True)
    assert folder.has_journals
    assert folder.find_run().num_shards == 2
    with pytest.raises(OutputError, match=f"^{re.escape(f'{path}{reason}')}$"):
        folder.refresh()

    folder.guard(FINGERPRINT, IDS, OVERWRITE)
    assert os.listdir(tmp_path) == ["notes.txt"]
    assert not open_folder(tmp_path).has_journals
    assert open_folder(tmp_path).guard(FINGERPRINT, IDS, RunOptions()).sizes == {}


def test_run_is_overwritten_by_another_run(tmp_path: Path) -> None:
    write(tmp_path, [done("z")], header())
    other = {**FINGERPRINT, "granularity": "frame"}
    folder = open_run_folder(tmp_path)
    message = f"{tmp_path} holds a different run: granularity was utterance, is frame. "
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}"):
        folder.guard(other, IDS, RunOptions())

    assert not folder.guard(other, IDS, OVERWRITE).status.any()
    folder.begin(WHOLE, dataclasses.replace(header(), fingerprint=other)).close()

    assert os.listdir(tmp_path) == ["journal.1-of-1.1"]
    assert open_folder(tmp_path).find_run().header.fingerprint == other


def test_run_resumes_with_its_done_utterances(tmp_path: Path) -> None:
    write(tmp_path, [done("z"), done("ü")], header())

    history = open_run_folder(tmp_path).guard(FINGERPRINT, IDS, RunOptions())

    assert (history.status == DONE).tolist() == [True, False, False, True, False, False]
    assert plan_blocks(history, IDS, None).members.tolist() == [0, 1, 2, 3, 4, 5]


def test_utterances_done_with_another_list_are_not_in_blocks(tmp_path: Path) -> None:
    write(tmp_path, [done("z"), done("ü")], header(List(["z", "ü"])))

    history = open_run_folder(tmp_path).guard(FINGERPRINT, IDS, RunOptions())

    assert plan_blocks(history, IDS, None).members.tolist() == [1, 2, 4, 5]


def test_run_with_missing_embeddings_does_not_resume(tmp_path: Path) -> None:
    write(tmp_path, [done("z", embedding="embeddings.1-of-1.1.ark:4")], header())

    message = f"{tmp_path}/embeddings.1-of-1.1.ark is missing, but the journal lists it: "
    with pytest.raises(OutputError, match=f"^{re.escape(message)}"):
        open_run_folder(tmp_path).guard(FINGERPRINT, IDS, RunOptions())


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_a_working_run_is_not_touched(overwrite: bool, tmp_path: Path) -> None:
    write(tmp_path, [done("z")], header(), FIRST)
    before = sorted([*os.listdir(tmp_path), ".lock.1-of-2"])
    with locked(tmp_path, FIRST.name):
        with pytest.raises(OutputConflictError, match=": another e2v is running there "):
            open_run_folder(tmp_path).guard(FINGERPRINT, IDS, RunOptions(overwrite=overwrite))
    assert sorted(os.listdir(tmp_path)) == before


def test_shards_of_the_same_list_work_at_the_same_time(tmp_path: Path) -> None:
    """Shards of another list have other blocks."""
    write(tmp_path, [], header(), FIRST, end=False)
    with locked(tmp_path, FIRST.name):
        open_run_folder(tmp_path).guard(FINGERPRINT, IDS, RunOptions(SECOND))
        with pytest.raises(OutputConflictError, match=": another e2v is running there "):
            open_run_folder(tmp_path).guard(FINGERPRINT, List(["another"]), RunOptions(SECOND))
        write(tmp_path, [], header(List(["another"])), FIRST, end=False)
        open_run_folder(tmp_path).guard(FINGERPRINT, List(["another"]), RunOptions(SECOND))


def test_attempt_has_the_next_number_of_its_shard(tmp_path: Path) -> None:
    for shard, count in ((FIRST, 2), (SECOND, 11)):
        for _ in range(count):
            write(tmp_path, [], header(), shard)
    folder = open_folder(tmp_path)
    before = set(os.listdir(tmp_path))

    for shard in (FIRST, SECOND, Shard(2, 1)):
        folder.begin(shard, header()).close()

    assert set(os.listdir(tmp_path)) - before == {"journal.1-of-2.3", "journal.2-of-2.12", "journal.1-of-2.4"}


def test_concurrent_attempts_have_separate_journals(tmp_path: Path) -> None:
    folders = [open_folder(tmp_path) for _ in range(3)]
    for folder in folders:
        folder.begin(WHOLE, header()).close()

    assert sorted(os.listdir(tmp_path)) == ["journal.1-of-1.1", "journal.1-of-1.2", "journal.1-of-1.3"]


def test_later_of_two_concurrent_runs_discards_its_journal(tmp_path: Path) -> None:
    """Neither run sees the other's journal at its first check."""
    mine, theirs = open_run_folder(tmp_path), open_run_folder(tmp_path)
    mine.guard(FINGERPRINT, IDS, RunOptions(FIRST))
    other = dataclasses.replace(header(), fingerprint={**FINGERPRINT, "granularity": "frame"})
    theirs.guard(other.fingerprint, IDS, RunOptions(SECOND))
    with_theirs = theirs.begin(SECOND, other)

    message = (
        f"{tmp_path} holds a different run: granularity was frame, is utterance. "
        "Choose another -o, or delete that run with --overwrite"
    )
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
        mine.begin(FIRST, header())

    assert os.listdir(tmp_path) == ["journal.2-of-2.1"]
    with_theirs.close()
    assert open_folder(tmp_path).find_run().header == other
    theirs.refresh()
    assert theirs.find_run().header == other


def test_attempt_beside_an_unreadable_journal_is_discarded(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    (tmp_path / "journal.2-of-2.1").write_bytes(checked(OLD_HEADER))

    with pytest.raises(OutputError, match=r"journal\.2-of-2\.1: not written by this version of e2v; "):
        folder.begin(FIRST, header())

    assert os.listdir(tmp_path) == ["journal.2-of-2.1"]


@pytest.mark.parametrize("moment", ["stat", "header"])
def test_journal_discarded_during_the_listing_is_ignored(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run began at the same moment, and discarded its journal."""
    write(tmp_path, [done("z")], header())
    write(tmp_path, [], header(), SECOND)
    gone = tmp_path / "journal.2-of-2.1"
    if moment == "stat":
        listing = list(os.scandir(tmp_path))
        gone.unlink()
        monkeypatch.setattr("e2v_cli.journal.folder.os.scandir", lambda _: nullcontext(listing))
    else:

        def remove_and_read(path: Path) -> Header | None:
            gone.unlink(missing_ok=True)
            return read_header(path)

        monkeypatch.setattr(folder_module, "read_header", remove_and_read)

    folder = open_folder(tmp_path)

    assert folder.find_run().num_shards == 1
    assert (folder.read_history(IDS).status == DONE).sum() == 1


def test_results_of_earlier_publications_and_lists_are_removed(tmp_path: Path) -> None:
    another = List(["another"])
    for ids in (IDS, another):
        save_ids(tmp_path, ids)
        save_costs(tmp_path, ids.digest, np.ones(len(ids), np.float32))
    make_files(tmp_path, ["predictions.tsv", "embeddings.scp", "audacity/a.txt", "textgrid/a.TextGrid", *THEIRS])

    open_folder(tmp_path).remove_other_results(["predictions.tsv"], ["audacity/*.txt"], IDS.digest)

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    own = f"input.{IDS.digest[:16]}"
    assert left == {*THEIRS, own, f"{own}.costs", "predictions.tsv", "textgrid/a.TextGrid"}
