"""Published timelines: input order, joined spans, and other formats."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support.journals import FAILURES, List, done, final_files, header, is_published, write

from e2v_cli.commands.merge import merge
from e2v_cli.errors import OutputError
from e2v_cli.journal.ids import save_ids

TIMELINE_HEADER = "utt_id\tstart\tend\tlabel\tscore\tangry\tsad\trecording\trecording_start\trecording_end\n"
ROWS = {
    "../x": (
        "../x\t0.0000\t1.0000\tangry\t0.750000\t0.750000\t0.250000\t../x\t0.0000\t1.0000\n"
        "../x\t1.0000\t2.0000\tangry\t0.250000\t0.250000\t0.750000\t../x\t1.0000\t2.0000\n"
        "../x\t2.0000\t2.5000\tsad\t1.000000\t0.000000\t1.000000\t../x\t2.0000\t2.5000\n"
    ),
    "my%20call": "my%20call\t0.0000\t0.9000\tsad\t0.500000\t0.500000\t0.500000\tmy%20call\t0.0000\t0.9000\n",
    "ü": "",
}
"""Rows of the timeline by utterance; the last one has none."""


def write_timeline(
    folder: Path, formats: tuple[str, ...] = (), join: bool = False
) -> tuple[List, dict[str, tuple[int, int]]]:
    """Write the files of a run with a timeline; return its list, and the offset and size of each utterance's rows."""
    ids = List(["ü", "my%20call", "gone", "../x"])
    durations = {"../x": 2.5, "my%20call": 0.9, "ü": 0.03}
    content, places = b"", {}
    for utt_id in ("../x", "my%20call", "ü"):
        rows = ROWS[utt_id].encode()
        places[utt_id] = (len(content), len(rows))
        content += rows
    (folder / "timeline.1-of-1.1").write_bytes(content)
    records = [
        done(utt_id, duration=durations[utt_id], timeline="timeline.1-of-1.1:{}:{}".format(*places[utt_id]))
        for utt_id in ("my%20call", "../x", "ü")
    ]
    write(folder, [*records, FAILURES[1]], header(ids, timeline=1.0, formats=formats, join=join))
    save_ids(folder, ids)
    return ids, places


def test_timeline_is_in_list_order(tmp_path: Path) -> None:
    write_timeline(tmp_path)

    merge(tmp_path)

    files = final_files(tmp_path)
    assert files["timeline.tsv"] == TIMELINE_HEADER + ROWS["my%20call"] + ROWS["../x"]
    assert {name for name in files if name.startswith("timeline")} == {"timeline.tsv", "timeline.1-of-1.1"}


def test_join_option_joins_the_timeline(tmp_path: Path) -> None:
    write_timeline(tmp_path, join=True)

    merge(tmp_path)

    assert final_files(tmp_path)["timeline.tsv"] == (
        TIMELINE_HEADER
        + ROWS["my%20call"]
        + "../x\t0.0000\t2.0000\tangry\t0.500000\t0.500000\t0.500000\t../x\t0.0000\t2.0000\n"
        "../x\t2.0000\t2.5000\tsad\t1.000000\t0.000000\t1.000000\t../x\t2.0000\t2.5000\n"
    )


def test_timeline_in_other_formats(tmp_path: Path) -> None:
    write_timeline(tmp_path, formats=("audacity", "rttm", "textgrid"))

    merge(tmp_path)

    assert (tmp_path / "timeline.rttm").read_text() == (
        "SPEAKER my%20call 1 0.0000 0.9000 <NA> <NA> sad 0.500000 <NA>\n"
        "SPEAKER ../x 1 0.0000 1.0000 <NA> <NA> angry 0.750000 <NA>\n"
        "SPEAKER ../x 1 1.0000 1.0000 <NA> <NA> angry 0.250000 <NA>\n"
        "SPEAKER ../x 1 2.0000 0.5000 <NA> <NA> sad 1.000000 <NA>\n"
    )
    assert sorted(os.listdir(tmp_path / "audacity")) == ["%2E.%2Fx.txt", "my%2520call.txt"]
    assert (tmp_path / "audacity/my%2520call.txt").read_text() == "0.000000\t0.900000\tsad\n"
    assert sorted(os.listdir(tmp_path / "textgrid")) == ["%2E.%2Fx.TextGrid", "my%2520call.TextGrid"]
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["files"] == [
        *("failures.tsv", "frame_shift", "predictions.tsv", "timeline.rttm", "timeline.tsv"),
        *("utt2dur", "utt2emo", "utt2num_frames"),
    ]


def test_files_of_unused_timeline_formats_are_removed(tmp_path: Path) -> None:
    """They would differ from the table."""
    write_timeline(tmp_path, formats=("audacity", "rttm", "textgrid"))
    merge(tmp_path)
    (tmp_path / "audacity/readme").touch()
    write_timeline(tmp_path, formats=("rttm",), join=True)

    merge(tmp_path)

    assert sorted(path.name for path in tmp_path.glob("timeline.*")) == [
        "timeline.1-of-1.1",
        "timeline.rttm",
        "timeline.tsv",
    ]
    assert os.listdir(tmp_path / "audacity") == ["readme"]
    assert not (tmp_path / "textgrid").exists()

    write_timeline(tmp_path)
    merge(tmp_path)

    assert sorted(path.name for path in tmp_path.glob("timeline.[a-z]*")) == ["timeline.tsv"]


def test_foreign_timeline_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "textgrid").mkdir()
    (tmp_path / "textgrid/mine.TextGrid").touch()
    write_timeline(tmp_path)

    merge(tmp_path)

    assert os.listdir(tmp_path / "textgrid") == ["mine.TextGrid"]


def test_missing_timeline_rows_are_named(tmp_path: Path) -> None:
    ids, _ = write_timeline(tmp_path)
    path = tmp_path / "timeline.1-of-1.1"
    size = path.stat().st_size
    os.truncate(path, size - 1)

    message = f"{path} is missing, or ends before byte {size}, but the journal lists it: restore it, or use --overwrite"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert not is_published(tmp_path, ids.digest)
    assert final_files(tmp_path).keys() == {"timeline.1-of-1.1"}
