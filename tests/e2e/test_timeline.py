"""Timelines in the recording's time, on standard output, and of several lengths of spans."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from praatio import textgrid  # type: ignore[import-untyped]
from pyannote.database.util import load_rttm
from support.journal_lines import edit_header, read_json_header
from support.kaldi_folders import make_speech, read_encoded, write_audio, write_folder
from support.processes import E2v

from e2v_cli.options import NUMERICS

pytestmark = pytest.mark.e2e

RUN = ("-m", "sample", "-j", "1")

SEGMENTS = ("b1 call 4.5 6.25", "a1 call 0.125 2.5", "a2 call 2.5 4", "c1 other 0 -1", "late other 90 99")
SPEAKERS = ("a1 anna", "a2 anna", "b1 bob", "c1 anna")


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A data directory of two recordings, whose segments are not in their order; one of them fails."""
    paths = {
        name: write_audio(tmp_path / f"{name}.wav", make_speech(7.0 + seed, seed=seed))
        for seed, name in enumerate(("call", "other"))
    }
    return write_folder(tmp_path / "data", paths, segments=SEGMENTS)


def read_cells(path: Path) -> Iterator[dict[str, str]]:
    """Read the rows of a table, each by its columns."""
    header, *lines = path.read_text().splitlines()
    for line in lines:
        yield dict(zip(header.split("\t"), line.split("\t"), strict=True))


def read_grid(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Read the intervals of a TextGrid that have text, by tier."""
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    return {name: [tuple(entry) for entry in grid.getTier(name).entries] for name in grid.tierNames}


def test_segments_are_in_the_time_of_their_recordings(calls: Path, tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    command = ("predict", calls, *RUN, "-o", out, "--timeline", "1", "--timeline-format", "rttm,audacity,textgrid")

    assert e2v(*command).returncode == 3

    rows = list(read_cells(out / "timeline.tsv"))
    times = [
        (row["utt_id"], row["start"], row["recording"], row["recording_start"], row["recording_end"]) for row in rows
    ]
    assert times[:6] == [
        ("b1", "0.0000", "call", "4.5000", "5.5000"),
        ("b1", "1.0000", "call", "5.5000", "6.2500"),
        ("a1", "0.0000", "call", "0.1250", "1.1250"),
        ("a1", "1.0000", "call", "1.1250", "2.1250"),
        ("a1", "2.0000", "call", "2.1250", "2.5000"),
        ("a2", "0.0000", "call", "2.5000", "3.5000"),
    ]
    spans: dict[str, list[tuple[float, float, str]]] = {"call": [], "other": []}
    for row in rows:
        spans[row["recording"]].append((float(row["recording_start"]), float(row["recording_end"]), row["label"]))
    annotations = load_rttm(out / "timeline.rttm")  # type: ignore[no-untyped-call]
    assert annotations.keys() == {"call", "other"}
    for recording, expected in spans.items():
        found = [
            (round(part.start, 4), round(part.end, 4), label)
            for part, _, label in annotations[recording].itertracks(yield_label=True)
        ]
        labels = [line.split("\t") for line in (out / f"audacity/{recording}.txt").read_text().splitlines()]
        assert found == [(float(start), float(end), label) for start, end, label in labels] == sorted(expected)
        assert read_grid(out / f"textgrid/{recording}.TextGrid") == {"emotion": sorted(expected)}


def test_speakers_that_come_later_are_tiers_without_any_computing(calls: Path, tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    command = (
        "predict",
        calls,
        *RUN,
        "-o",
        out,
        "--timeline",
        "1",
        "--timeline-format",
        "textgrid",
        "--max-failures",
        "1",
    )
    assert e2v(*command).returncode == 0
    assert list(read_grid(out / "textgrid/call.TextGrid")) == ["emotion"]
    encoded, table = read_encoded(out), (out / "timeline.tsv").read_bytes()
    (calls / "utt2spk").write_text("".join(f"{line}\n" for line in SPEAKERS))

    assert e2v(*command).returncode == 0

    call = read_grid(out / "textgrid/call.TextGrid")
    assert {name: intervals[0][0] for name, intervals in call.items()} == {"anna": 0.125, "bob": 4.5}
    assert list(read_grid(out / "textgrid/other.TextGrid")) == ["anna"]
    assert (read_encoded(out), (out / "timeline.tsv").read_bytes()) == (encoded, table)

    (out / "textgrid/call.TextGrid").unlink()
    (out / "run.json").unlink()
    assert e2v("merge", out, "--max-failures", "1").returncode == 0
    assert read_grid(out / "textgrid/call.TextGrid") == call


def test_bad_line_of_speakers_is_named(calls: Path, tmp_path: Path, e2v: E2v) -> None:
    (calls / "utt2spk").write_text("a1 anna\na2\n")

    done = e2v("predict", calls, *RUN, "-o", tmp_path / "out", "--timeline", "1", "--timeline-format", "textgrid")

    assert (done.returncode, done.stderr) == (1, f"e2v: {calls}/utt2spk:2: a line is: utt-id speaker\n")


def test_channels_of_segments_are_tiers(tmp_path: Path, e2v: E2v) -> None:
    path = write_audio(tmp_path / "call.wav", make_speech(4.0, num_channels=2))
    calls = write_folder(tmp_path / "data", {"call": path}, segments=["a call 0.5 2", "b call 2 3"], utt2spk=["a anna"])
    out = tmp_path / "out"
    options = ("--channel", "split", "--timeline", "10", "--timeline-format", "textgrid,rttm")

    assert e2v("predict", calls, *RUN, "-o", out, *options).returncode == 0

    assert [line.split()[1:4] for line in (out / "timeline.rttm").read_text().splitlines()] == [
        *(["call", "1", "0.5000"], ["call", "2", "0.5000"], ["call", "1", "2.0000"], ["call", "2", "2.0000"])
    ]
    grid = read_grid(out / "textgrid/call.TextGrid")
    assert {name: [interval[:2] for interval in intervals] for name, intervals in grid.items()} == {
        **{f"anna channel {channel}": [(0.5, 2)] for channel in (1, 2)},
        **{f"channel {channel}": [(2, 3)] for channel in (1, 2)},
    }


def test_segments_of_a_manifest_are_of_their_file(tmp_path: Path, e2v: E2v) -> None:
    write_audio(tmp_path / "a b.wav", make_speech(4.0))
    lines = [
        {"key": key, "audio_filepath": "a b.wav", **times}
        for key, times in (("x", {"offset": 2, "duration": 1}), ("y", {"offset": 0.5, "duration": 1.5}), ("all", {}))
    ]
    (tmp_path / "list.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = ("--timeline", "10", "--timeline-format", "textgrid,rttm")

    assert e2v("predict", "list.jsonl", *RUN, "-o", "out", *options, cwd=tmp_path).returncode == 0

    assert [line.split()[1:5] for line in (tmp_path / "out/timeline.rttm").read_text().splitlines()] == [
        ["a%20b.wav", "1", "2.0000", "1.0000"],
        ["a%20b.wav", "1", "0.5000", "1.5000"],
        ["all", "1", "0.0000", "4.0000"],
    ]
    grid = read_grid(tmp_path / "out/textgrid/a%2520b.wav.TextGrid")
    assert [interval[:2] for interval in grid["emotion"]] == [(0.5, 2), (2, 3)]
    assert sorted(path.stem for path in (tmp_path / "out/textgrid").iterdir()) == ["a%2520b.wav", "all"]


@pytest.mark.parametrize("join", [(), ("--join",)])
def test_spans_are_printed_without_a_folder(join: tuple[str, ...], calls: Path, tmp_path: Path, e2v: E2v) -> None:
    out, options = tmp_path / "out", ("--timeline", "0.5", *join)
    assert e2v("predict", calls, *RUN, "-o", out, *options).returncode == 3

    done = e2v("predict", calls, *RUN, *options, cwd=tmp_path)

    assert done.returncode == 3
    assert done.stdout == (out / "timeline.tsv").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["call.wav", "data", "other.wav", "out"]


def test_files_of_several_timelines(calls: Path, tmp_path: Path, e2v: E2v) -> None:
    """Each is the one of a run with it alone."""
    formats = ("--timeline-format", "rttm,textgrid", "--max-failures", "1")
    several = tmp_path / "several"
    timelines = ("--timeline", "60", "--timeline", "0.5")
    assert e2v("predict", calls, *RUN, "-o", several, *timelines, *formats).returncode == 0

    for seconds in ("0.5", "60"):
        one = tmp_path / seconds
        assert e2v("predict", calls, *RUN, "-o", one, "--timeline", seconds, *formats).returncode == 0
        for name, suffix in (("timeline", ".tsv"), ("timeline", ".rttm"), ("textgrid", "/call.TextGrid")):
            assert (several / f"{name}-{seconds}{suffix}").read_bytes() == (one / f"{name}{suffix}").read_bytes()
        assert (several / "predictions.tsv").read_bytes() == (one / "predictions.tsv").read_bytes()
    assert not (several / "timeline.tsv").exists()
    assert json.loads((several / "run.json").read_text())["options"]["timeline"] == "0.5 60"

    assert e2v("predict", calls, *RUN, "-o", several, "--overwrite", "--max-failures", "1").returncode == 0
    assert list(several.glob("t*")) == []


# -- other timelines later ---------------------------------------------------------------------------------------------

FRAMES = ("--granularity", "frame", "--window", "2", "--max-failures", "1")
LATER = ("--timeline", "0.5", "--timeline", "60", "--timeline-format", "rttm")


def read_final(out: Path) -> dict[str, bytes]:
    """Read the final files that do not depend on the path of OUT."""
    names = ("predictions.tsv", "failures.tsv", "utt2emo", "utt2num_frames", "timeline*.tsv", "timeline*.rttm")
    return {path.name: path.read_bytes() for name in names for path in out.glob(name)}


@pytest.fixture
def later(calls: Path, tmp_path: Path, e2v: E2v) -> dict[str, bytes]:
    """The final files of a run that had its timelines from the start."""
    out = tmp_path / "from the start"
    assert e2v("predict", calls, *RUN, *FRAMES, "--embeddings", "npy", "-o", out, *LATER).returncode == 0
    return read_final(out)


@pytest.mark.parametrize("kind", ["npy", "ark", "ark,t"])
@pytest.mark.parametrize("before", [(), ("--timeline", "1", "--timeline-format", "audacity,rttm")])
def test_other_timelines_are_made_of_frames(
    before: tuple[str, ...], kind: str, later: dict[str, bytes], calls: Path, tmp_path: Path, e2v: E2v
) -> None:
    """Utterances of one window and of several: nothing is encoded, and no audio is needed."""
    out = tmp_path / "out"
    command = ("predict", calls, *RUN, *FRAMES, "--embeddings", kind, "-o", out)
    assert e2v(*command, *before).returncode == 0
    first, encoded = read_final(out), read_encoded(out)
    for path in tmp_path.glob("*.wav"):
        path.rename(path.with_suffix(".away"))

    done = e2v(*command, *LATER)

    assert (done.returncode, read_final(out)) == (0, later)
    assert done.stderr.splitlines()[0] == (
        "e2v: 4 utterances are done with other timelines: nothing of them is encoded again"
    )
    assert (read_encoded(out), sorted(out.glob("audacity*"))) == (encoded, [])
    removed = "e2v: removed what these timeline options do not make: audacity/*.txt, timeline.rttm, timeline.tsv\n"
    assert (removed in done.stderr) == bool(before)
    assert e2v(*command, *before).returncode == 0
    assert read_final(out) == first
    assert read_encoded(out) == encoded


def test_stopped_change_of_timelines_goes_on(later: dict[str, bytes], calls: Path, tmp_path: Path, e2v: E2v) -> None:
    """The journal is cut as if its writer had been killed after two of four utterances."""
    out = tmp_path / "out"
    command = ("predict", calls, *RUN, *FRAMES, "--embeddings", "ark", "-o", out)
    assert e2v(*command, "--timeline", "1").returncode == 0
    assert e2v(*command, *LATER).returncode == 0
    journal = out / "journal.1-of-1.2"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert [line.split(b"\t")[1] for line in lines[:5]] == [b"run", *[b"done"] * 4]
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:30])
    (out / "predictions.tsv").unlink()
    assert "5 utterances: 2 done, 1 failed, 2 left" in e2v("status", out).stdout

    done = e2v(*command, *LATER)

    assert done.stderr.startswith("e2v: 2 utterances are done with other timelines: ")
    assert read_final(out) == later


def test_timelines_of_shards_change_one_after_the_other(
    later: dict[str, bytes], calls: Path, tmp_path: Path, e2v: E2v
) -> None:
    out = tmp_path / "out"
    command = ("predict", calls, *RUN, *FRAMES, "--embeddings", "ark", "-o", out)
    for index in (1, 2):
        assert e2v(*command, "--timeline", "1", "--shard", f"{index}/2").returncode == 0
    encoded = read_encoded(out)

    first = e2v(*command, *LATER, "--shard", "1/2")
    assert "are left; run e2v predict again with --shard 2/2" in first.stderr
    assert e2v("merge", out).returncode == 1
    assert e2v(*command, *LATER, "--shard", "2/2").returncode == 0

    assert read_final(out) == later
    assert read_encoded(out) == encoded


def test_list_that_has_grown_gets_other_timelines(
    later: dict[str, bytes], calls: Path, tmp_path: Path, e2v: E2v
) -> None:
    """Only what is new is encoded."""
    out = tmp_path / "out"
    command = ("predict", calls, *RUN, *FRAMES, "--embeddings", "ark", "-o", out, "--batch-seconds", "0.01")
    (calls / "segments").write_text("".join(f"{line}\n" for line in SEGMENTS[1:]))
    assert e2v(*command, "--timeline", "1").returncode == 0
    (calls / "segments").write_text("".join(f"{line}\n" for line in SEGMENTS))

    assert e2v(*command, *LATER).returncode == 0

    assert sorted(read_encoded(out)) == sorted(["a1", "a2", "b1", "c1"])
    times = [row["recording_end"] for row in read_cells(out / "timeline-0.5.tsv")]
    assert times == [line.split("\t")[-1] for line in later["timeline-0.5.tsv"].decode().splitlines()[1:]]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--embeddings", "ark"),
        ("--granularity", "frame", "--embeddings", "npy", "--embedding-dtype", "fp16"),
        ("--granularity", "frame", "--embeddings", "ark", "--compress"),
    ],
)
def test_other_timeline_without_exact_frames_is_refused(
    options: tuple[str, ...], calls: Path, tmp_path: Path, e2v: E2v
) -> None:
    out = tmp_path / "out"
    command = ("predict", calls, *RUN, "-o", out, *options)
    assert e2v(*command, "--timeline", "1").returncode == 3
    before = read_final(out)

    done = e2v(*command, "--timeline", "60")

    assert (done.returncode, done.stderr) == (
        4,
        f"e2v: {out} holds a different run: timeline was 1.0, is 60.0. A timeline is made of frames, which this run "
        "did not keep (--granularity frame --embeddings npy, or ark, in fp32 and not compressed, without "
        "--layers): choose another -o, or delete that run with --overwrite\n",
    )
    assert read_final(out) == before


def test_damaged_frames_are_named(calls: Path, tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    command = ("predict", calls, *RUN, *FRAMES, "--embeddings", "npy", "-o", out)
    assert e2v(*command).returncode == 0
    path = out / "embeddings/a2.npy"
    path.write_bytes(path.read_bytes()[:-1])

    done = e2v(*command, "--timeline", "1")

    assert done.returncode == 1
    assert re.search(rf"^e2v: {path}: .*; restore it, or use --overwrite$", done.stderr, re.MULTILINE)


# -- the rest of OUT ---------------------------------------------------------------------------------------------------


def test_no_empty_folders_are_left(tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    out = tmp_path / "out"
    options = ("--embeddings", "npy", "--timeline", "1", "--timeline-format", "rttm,audacity,textgrid")

    assert e2v("predict", tmp_path / "a.wav", *RUN, "-o", out, *options).returncode == 3

    assert [path.name for path in out.iterdir() if path.is_dir()] == ["log"]
    assert (out / "timeline.rttm").read_bytes() == b""


def test_results_of_an_earlier_version_are_refused(calls: Path, tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    assert e2v("predict", calls, *RUN, "-o", out).returncode == 3
    journal = out / "journal.1-of-1.1"
    edit_header(journal, fingerprint={**read_json_header(journal)["fingerprint"], "results-version": 4})

    done = e2v("predict", calls, *RUN, "-o", out)

    assert (done.returncode, done.stderr) == (
        4,
        f"e2v: {out} holds a different run: results-version was 4, is {NUMERICS}. "
        "Choose another -o, or delete that run with --overwrite\n",
    )
