"""``e2v merge``: shards are merged, and missing ones are named."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.journals import (
    COMMON,
    FAILURES,
    FIRST,
    IDS,
    PREDICTIONS,
    SECOND,
    SUMMARY,
    UTT2EMO,
    List,
    done,
    done_records,
    final_files,
    header,
    open_folder,
    write,
    write_run,
)

from e2v_cli.cluster.submissions import Submission, note_submission
from e2v_cli.commands.merge import Merged, describe_missing, merge
from e2v_cli.corpus import blocks as batching
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal.folder import plan_blocks
from e2v_cli.journal.ids import save_costs, save_ids
from e2v_cli.journal.journal import Elapsed
from e2v_cli.journal.locks import locked
from e2v_cli.options import Shard
from e2v_cli.records import DoneRecord

SLOWEST = dataclasses.replace(SUMMARY, wall_seconds=7.0, encode_seconds=3.5)
"""Of ``write_run``, whose shards took different times."""

LONG_LIST = List([f"utt{number}" for number in range(18)])
"""In blocks of four: the first of three shards has 0 to 3 and 12 to 15, the second 4 to 7 and 16 to 17."""


@pytest.fixture(autouse=True)
def _blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists have blocks of four, without smaller ones at the end."""
    monkeypatch.setattr(batching, "BLOCK_SIZES", (4, 256))
    monkeypatch.setattr(batching, "TAPER", 1)


def test_shards_are_merged(tmp_path: Path) -> None:
    """Their time is that of the slowest shard; times of attempts at a shard add up."""
    write_run(tmp_path)

    merged = merge(tmp_path)

    assert merged == Merged(SLOWEST, is_new=True)
    assert final_files(tmp_path) == {**COMMON, "predictions.tsv": PREDICTIONS, "utt2emo": UTT2EMO}


def test_merged_run_is_unchanged(tmp_path: Path) -> None:
    """Until a final file is missing, or a journal is added."""
    write_run(tmp_path)
    merge(tmp_path)
    summary = dataclasses.replace(SLOWEST, audio_seconds=round(SLOWEST.audio_seconds, 3), reasons=())
    complete = Merged(summary, is_new=False)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.glob("[a-z]*")}

    assert merge(tmp_path) == complete
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.glob("[a-z]*")} == before

    (tmp_path / "utt2dur").unlink()
    assert merge(tmp_path).is_new
    assert (tmp_path / "utt2dur").read_text() == COMMON["utt2dur"]
    write(tmp_path, [], header(started=9), SECOND, Elapsed(1.0, 0.5, 1.0, 0))
    assert merge(tmp_path).is_new
    assert merge(tmp_path) == complete


def test_ids_of_other_lists_are_removed(tmp_path: Path) -> None:
    """Users' own lists stay."""
    save_ids(tmp_path, List(["another", "list"]))
    (tmp_path / "input.scp").write_text("z z.wav\n")
    (tmp_path / "input.deadbeef").touch()
    write_run(tmp_path)

    merge(tmp_path)

    assert sorted(path.name for path in tmp_path.glob("input.*")) == sorted(
        [f"input.{IDS.digest[:16]}", "input.deadbeef", "input.scp"]
    )


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """A journal without a whole header does not count."""
    (tmp_path / "journal.1-of-1.1").write_bytes(b"0123")

    message = f"{tmp_path} holds no run: choose the -o of e2v predict"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


def records_of(numbers: Sequence[int]) -> list[DoneRecord]:
    return [done(f"utt{number}") for number in numbers]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path, records_of([0, 1, 2, 3, 12, 13, 14, 15]), header(LONG_LIST), Shard(3, 1))
    write(tmp_path, records_of([4, 5, 16, 17]), header(LONG_LIST), Shard(3, 2), end=False)
    save_ids(tmp_path, LONG_LIST)

    message = (
        f"{tmp_path} is not complete: 6 of 18 utterances are left; "
        "run e2v predict again with --shard 2/3 (2 left), 3/3 (4 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert final_files(tmp_path) == {}

    write(tmp_path, records_of([6, 7]), header(LONG_LIST), Shard(3, 2))
    write(tmp_path, records_of([8, 9, 10, 11]), header(LONG_LIST), Shard(3, 3))

    assert merge(tmp_path).summary.done == 18


def test_shards_exclude_utterances_done_with_another_list(tmp_path: Path) -> None:
    """Blocks begin at utt4: the second shard has 8 to 11 and 16 to 17."""
    write(tmp_path, records_of(range(4)), header(List(["utt0", "utt1", "utt2", "utt3"])))
    write(tmp_path, records_of([4, 5, 6, 7, 12, 13, 14, 15]), header(LONG_LIST, started=1), FIRST)
    save_ids(tmp_path, LONG_LIST)

    message = (
        f"{tmp_path} is not complete: 6 of 18 utterances are left; run e2v predict again with --shard 2/2 (6 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert plan_blocks(open_folder(tmp_path).read_history(LONG_LIST), LONG_LIST, None).members.tolist() == list(
        range(4, 18)
    )


def test_shards_of_segments_keep_recordings_whole(tmp_path: Path) -> None:
    """Five recordings have segments in turn: the first of two shards has all of 0, 1 and 4."""
    segments = List([f"utt{number}" for number in range(15)], recording_groups=[number % 5 for number in range(15)])
    write(tmp_path, records_of([0, 5, 10, 1, 6, 11, 3]), header(segments), FIRST)
    save_ids(tmp_path, segments)

    message = (
        f"{tmp_path} is not complete: 8 of 15 utterances are left; "
        "run e2v predict again with --shard 1/2 (3 left), 2/2 (5 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


def test_shards_follow_saved_costs(tmp_path: Path) -> None:
    """The last block, of two utterances, is the dearest: the first of three shards has only that."""
    write(tmp_path, records_of([16, 17, 0]), header(LONG_LIST), Shard(3, 1))
    save_ids(tmp_path, LONG_LIST)
    save_costs(tmp_path, LONG_LIST.digest, np.array([1] * 16 + [50, 50], np.float32))

    message = (
        f"{tmp_path} is not complete: 15 of 18 utterances are left; "
        "run e2v predict again with --shard 2/3 (7 left), 3/3 (8 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


def submit(folder: Path, array: str, shards: Sequence[int], count: int, started: int = 0) -> None:
    """Note a submission as ``e2v submit`` does."""
    (folder / "slurm").mkdir(exist_ok=True)
    when = f"2026-01-31T09:00:{started:02}+01:00"
    note_submission(folder, Submission(array, tuple(shards), count, "99", LONG_LIST.digest, when))


def test_shards_lost_by_a_job_are_named_with_its_log(tmp_path: Path) -> None:
    """The log is that of the newest job; a shard without a job has none."""
    write(tmp_path, records_of([0, 1, 2, 3, 12, 13, 14]), header(LONG_LIST), Shard(3, 1), end=False)
    write(tmp_path, records_of([4, 5, 16, 17]), header(LONG_LIST), Shard(3, 2), end=False)
    save_ids(tmp_path, LONG_LIST)
    submit(tmp_path, "12", [1, 2], 3)
    submit(tmp_path, "14", [2], 3, started=5)
    submit(tmp_path, "16", [1, 2], 2, started=9)

    log = tmp_path / "log"
    message = (
        f"{tmp_path} is not complete: 7 of 18 utterances are left, of shards 1/3 (1 left, see {log}/slurm-12_1.log), "
        f"2/3 (2 left, see {log}/slurm-14_2.log), 3/3 (4 left); run the same e2v submit command again"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert final_files(tmp_path) == {}


def test_shards_never_submitted_are_named_without_jobs(tmp_path: Path) -> None:
    """The submitted jobs are of another number of shards."""
    write(tmp_path, records_of([0, 1, 2, 3, 12, 13, 14, 15]), header(LONG_LIST), Shard(3, 1))
    save_ids(tmp_path, LONG_LIST)
    submit(tmp_path, "12", [1, 2], 2)

    message = (
        f"{tmp_path} is not complete: 10 of 18 utterances are left; "
        "run e2v predict again with --shard 2/3 (6 left), 3/3 (4 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


def test_complete_run_has_no_missing_shards(tmp_path: Path) -> None:
    """Jobs make no difference."""
    write(tmp_path, records_of(range(18)), header(LONG_LIST), FIRST)
    submit(tmp_path, "12", [1, 2], 2)

    folder = open_folder(tmp_path)
    assert describe_missing(folder, folder.read_history(LONG_LIST), 2, LONG_LIST) == ""


def test_incomplete_run_of_one_shard_is_to_be_resumed(tmp_path: Path) -> None:
    write(tmp_path, records_of([3, 4]), header(LONG_LIST), end=False)
    save_ids(tmp_path, LONG_LIST)

    message = f"{tmp_path} is not complete: 16 of 18 utterances are left; run the same e2v predict command again"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


@pytest.mark.parametrize(
    ("embeddings", "place", "content", "message"),
    [
        (
            "ark",
            "e.ark:10",
            None,
            "{out}/e.ark is missing, but the journal lists it: restore it, or use --overwrite",
        ),
        (
            "ark",
            "e.ark:10",
            bytes(10),
            "{out}/e.ark ends before the embedding at byte 10: restore it, or use --overwrite",
        ),
        (
            "npy",
            "embeddings/z.npy",
            None,
            "{out}/embeddings is missing, but the journal lists it: restore it, or use --overwrite",
        ),
    ],
)
def test_missing_embeddings_are_named(
    embeddings: str, place: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    ids = List(["z"])
    write(
        tmp_path,
        [done("z", embedding=place)],
        header(ids, embeddings=embeddings),
    )
    save_ids(tmp_path, ids)
    if content is not None:
        (tmp_path / "e.ark").write_bytes(content)

    with pytest.raises(OutputError, match=f"^{re.escape(message.format(out=tmp_path))}$"):
        merge(tmp_path)
    assert final_files(tmp_path).keys() <= {"e.ark"}


def test_shards_of_different_runs_are_not_merged(tmp_path: Path) -> None:
    write(tmp_path, done_records(), header(), FIRST)
    write(tmp_path, FAILURES, header(embeddings="ark", model="def", started=1), SECOND)
    save_ids(tmp_path, IDS)

    message = (
        f"{tmp_path} holds a different run: model was abc, is def; embeddings was none, is ark. "
        "Choose another -o, or delete that run with --overwrite"
    )
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$") as caught:
        merge(tmp_path)
    assert caught.value.exit_code == 4


def test_only_one_merge_runs_at_a_time(tmp_path: Path) -> None:
    write_run(tmp_path)
    message = (
        f"{re.escape(str(tmp_path))}: another e2v is running there \\(process {os.getpid()} on .*\\); wait for it, "
    )
    with locked(tmp_path, "merge"):
        with pytest.raises(OutputConflictError, match=f"^{message}or choose another -o$"):
            merge(tmp_path)

    assert merge(tmp_path).summary.done == 4


def test_grown_list_is_merged_from_both_journals(tmp_path: Path) -> None:
    """Results of ids that only the shorter list had stay, but are not shown."""
    shorter, longer = List(["z", "not any more"]), List(["z", "my%20call", "gone"])
    write(tmp_path, [done_records()[3], done("not any more")], header(shorter))
    write(tmp_path, [done_records()[2], FAILURES[1]], header(longer, started=9))
    for ids in (shorter, longer):
        save_ids(tmp_path, ids)

    assert merge(tmp_path).summary.done == 2

    head, *rows = PREDICTIONS.splitlines(keepends=True)
    assert final_files(tmp_path)["predictions.tsv"] == head + "".join(rows[:2])
    assert not (tmp_path / f"input.{shorter.digest[:16]}").exists()


def test_unreadable_counts_are_reported(tmp_path: Path) -> None:
    write_run(tmp_path)
    merge(tmp_path)
    facts = json.loads((tmp_path / "run.json").read_text())
    del facts["counts"]["done"]
    (tmp_path / "run.json").write_text(json.dumps(facts))

    message = f"{tmp_path}/run.json: no counts can be read from it; remove it and run the same command again"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
