"""Predict, select, and predict again: segments, channels, folders, manifests; and whether what is kept is purer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import soundfile
import soxr
from support.kaldi_folders import make_speech, read_rows, write_audio, write_folder
from support.kaldi_rules import find_faults, read_table
from support.processes import ROOT, E2v

pytestmark = pytest.mark.e2e

RULES = ("--classes", "angry,disgusted,fearful,happy,neutral,other,sad,surprised,unknown", "--threshold", "60%")
"""Of a toy model on noise: whatever it says is as good as another."""


def predict(e2v: E2v, out: Path, *inputs: str | Path, cwd: Path = ROOT) -> dict[str, list[str]]:
    """Predict, and return the rows."""
    done = e2v("predict", *inputs, "-m", "sample", "-o", out, "-q", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return read_rows((out / "predictions.tsv").read_text())


def select(e2v: E2v, out: Path, data: Path, *rules: str | Path, cwd: Path = ROOT) -> None:
    done = e2v("select", out, "-o", data, *(rules or RULES), cwd=cwd)
    assert done.returncode == 0, done.stderr


def assert_same_audio(e2v: E2v, data: Path, rows: Mapping[str, list[str]], again: Path) -> None:
    """Check that a selection, read from another folder, has the audio of the run, by its results."""
    found = predict(e2v, again, data, cwd=data.parent)
    assert 0 < len(found) < len(rows)
    assert {key: cells[2] for key, cells in found.items()} == {key: rows[key][2] for key in found}
    for key, cells in found.items():
        assert list(map(float, cells[4:])) == pytest.approx(list(map(float, rows[key][4:])), abs=2e-5)


def purity(labels: Mapping[str, str], truth: Mapping[str, str]) -> float:
    return sum(truth[utt_id] == label for utt_id, label in labels.items()) / len(labels)


def write_unlabelled(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write the sample corpus at five speeds, and return the list and the known truth."""
    truth = read_table(ROOT / "sample_data" / "utt2emo")
    lists: dict[str, dict[str, str]] = {"wav.scp": {}, "utt2spk": {}}
    known = {}
    for key, path in read_table(ROOT / "sample_data" / "wav.scp").items():
        samples, rate = soundfile.read(ROOT / path, dtype="float32", always_2d=True)
        for percent in (90, 95, 100, 105, 110):
            utt_id = f"{key}-{percent:03}"
            changed = soxr.resample(samples.mean(axis=1), rate * percent / 100, rate)
            lists["wav.scp"][utt_id] = str(write_audio(folder / f"{utt_id}.wav", changed, rate))
            lists["utt2spk"][utt_id], known[utt_id] = key.split("-")[0], truth[key]
    write_folder(folder, lists["wav.scp"], utt2spk=[f"{key} {speaker}" for key, speaker in lists["utt2spk"].items()])
    return folder, known


def test_selection_is_purer_than_the_corpus(e2v: E2v, tmp_path: Path) -> None:
    """The loop that made emotion2vec+: unlabelled speech → predictions → selection, against the known truth."""
    (tmp_path / "data").mkdir()
    data, truth = write_unlabelled(tmp_path / "data")
    out = tmp_path / "out"
    predict(e2v, out, data)
    whole = purity(read_table(out / "utt2emo"), truth)
    for name, rules in (("mean", ()), ("half", ("--threshold", "50%")), ("quarter", ("--threshold", "25%"))):
        select(e2v, out, tmp_path / name, "--split", "train=1", *rules)
        labels = read_table(tmp_path / name / "utt2emo")
        kept = purity(labels, truth)
        sys.stdout.write(f"\n{name}: {len(labels)} of {len(truth)} kept, {kept:.1%} right; all: {whole:.1%} right\n")
        assert kept > whole
        assert find_faults(tmp_path / name, no_text=True) == []
    assert kept > whole + 0.05

    for name in ("half", "half/train"):
        reference = tmp_path / name / "utt2emo"
        scored = e2v("score", out, tmp_path / name, "--format", "tsv", "--missing", "skip")
        assert (scored.returncode, scored.stderr) == (
            0,
            f"e2v: {reference}: e2v select wrote the labels that were predicted in {out}: where nobody corrected them, "
            "this is agreement with that run, not accuracy\n",
        )


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Two recordings of two channels, and a mono one."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for name, channels in (("a", 2), ("b", 2), ("c", 1)):
        write_audio(folder / f"{name}.wav", make_speech(6.0, num_channels=channels, seed=ord(name)))
    return folder


@pytest.mark.usefixtures("speech")
def test_segments_with_channels_and_open_ends(e2v: E2v, tmp_path: Path) -> None:
    """An end of -1 becomes a time, and a fifth column a recording of its own, as Kaldi has them."""
    segments = [
        *("s1 a 0.00 1.50", "s2 a 1.5 3.25", "s3 b 2 -1", "s4 b 0.5 2.000", "s5 c 0.25 -1", "s6 c 0 1", "s7 c 1 2"),
        *("t1 a 3.5 5.5 A", "t2 a 3.5 5.5 1", "t3 b 3 4 B"),
    ]
    paths = {name: f"speech/{name}.wav" for name in "abc"}
    data = write_folder(tmp_path / "data", paths, segments=segments, utt2spk=[f"{s[:2]} {s[:2]}" for s in segments])
    rows = predict(e2v, tmp_path / "out", "data", cwd=tmp_path)

    select(e2v, tmp_path / "out", tmp_path / "sel")

    assert find_faults(tmp_path / "sel", no_text=True) in ([], [CHANNELS])
    found = read_table(tmp_path / "sel" / "segments")
    given = read_table(data / "segments")
    for key, line in found.items():
        if key.startswith("t"):
            channel = {"A": 1, "1": 2, "B": 2}[given[key].split()[3]]
            assert line == f"{given[key][0]}-{channel} {given[key][2:-2]}"
        elif given[key].endswith("-1"):
            assert float(line.split()[2]) == pytest.approx(6.0, abs=1e-3)
        else:
            assert line == given[key]
    assert_same_audio(e2v, tmp_path / "sel", rows, tmp_path / "again")


CHANNELS = "reco2file_and_channel: other recordings than in wav.scp, or no channel A or B"
"""Where some segments name a channel and others don't, and are of the mean of all."""


def test_recordings_that_are_channels(speech: Path, e2v: E2v, tmp_path: Path) -> None:
    paths = {f"{name}-{channel}": str(speech / f"{name}.wav") for name in "ab" for channel in "AB"}
    channels = [f"{key} call{key[0]} {key[2]}" for key in paths]
    write_folder(tmp_path / "data", paths, reco2file_and_channel=channels)
    rows = predict(e2v, tmp_path / "out", tmp_path / "data")

    select(e2v, tmp_path / "out", tmp_path / "sel")

    assert find_faults(tmp_path / "sel", no_text=True) == []
    lines = (tmp_path / "sel" / "reco2file_and_channel").read_text().splitlines()
    assert set(lines) < set(channels)
    assert_same_audio(e2v, tmp_path / "sel", rows, tmp_path / "again")


@pytest.mark.parametrize("channel", ["split", "2"])
def test_channels_that_were_chosen(channel: str, speech: Path, e2v: E2v, tmp_path: Path) -> None:
    """The selection is read without any option, and no shell is needed."""
    (speech / "c.wav").unlink()
    rows = predict(e2v, tmp_path / "out", "speech", "--channel", channel, cwd=tmp_path)
    rules = ("--top", "1") if channel == "2" else RULES

    done = e2v("select", tmp_path / "out", "-o", tmp_path / "sel", *RULES[:2], *rules)

    assert done.returncode in (0, 3)
    assert find_faults(tmp_path / "sel", no_text=True) == []
    found = predict(e2v, tmp_path / "again", tmp_path / "sel")
    for key, cells in found.items():
        assert list(map(float, cells[4:])) == pytest.approx(list(map(float, rows[key][4:])), abs=2e-5)
    assert "|" not in (tmp_path / "sel" / "wav.scp").read_text()


@pytest.mark.usefixtures("speech")
def test_folders_manifests_and_relative_paths(e2v: E2v, tmp_path: Path) -> None:
    """Paths get absolute, so that the selection can be read from any folder."""
    lines = [
        {"audio_filepath": "speech/a.wav", "offset": 0.5, "duration": 1.5},
        {"audio_filepath": "speech/a.wav", "offset": 2.5, "duration": 1.0},
        {"audio_filepath": "speech/c.wav"},
        {"audio_filepath": "b.wav", "offset": 1.25},
    ]
    (tmp_path / "speech" / "list.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "speech" / ".hidden").mkdir()
    write_audio(tmp_path / "speech" / ".hidden" / "d.wav", make_speech(2.0, seed=9))
    rows = predict(e2v, tmp_path / "out", "speech/list.json", "speech", "--id", "path", "--hidden", cwd=tmp_path)

    select(e2v, tmp_path / "out", tmp_path / "sel")

    assert find_faults(tmp_path / "sel", no_text=True) == []
    assert all(path.startswith("/") for path in read_table(tmp_path / "sel" / "wav.scp").values())
    assert_same_audio(e2v, tmp_path / "sel", rows, tmp_path / "again")


def test_turns_of_a_diarisation(speech: Path, e2v: E2v, tmp_path: Path) -> None:
    """Their speakers are in OUT."""
    turns = [(name, start, speaker) for name in "ab" for start, speaker in ((0.25, "S0"), (2.5, "S1"), (4.0, "S0"))]
    lines = [f"SPEAKER {name} 1 {start} 1.5 <NA> <NA> {speaker} <NA> <NA>\n" for name, start, speaker in turns]
    (tmp_path / "turns.rttm").write_text("".join(lines))
    (speech / "c.wav").unlink()
    rows = predict(e2v, tmp_path / "out", "speech", "--segments-rttm", "turns.rttm", cwd=tmp_path)

    select(e2v, tmp_path / "out", tmp_path / "sel")

    assert find_faults(tmp_path / "sel", no_text=True) == []
    speakers = read_table(tmp_path / "sel" / "utt2spk")
    assert set(speakers.values()) <= {"a-S0", "a-S1", "b-S0", "b-S1"}
    assert_same_audio(e2v, tmp_path / "sel", rows, tmp_path / "again")


def test_commands_stay_as_they_are(speech: Path, e2v: E2v, tmp_path: Path) -> None:
    paths = {name: f"cat {speech / name}.wav |" for name in "abc"}
    write_folder(tmp_path / "data", paths)
    predict(e2v, tmp_path / "out", tmp_path / "data", "--allow-pipes")

    select(e2v, tmp_path / "out", tmp_path / "sel")

    found = read_table(tmp_path / "sel" / "wav.scp")
    assert found == {key: paths[key] for key in found}


def test_steady_utterances(e2v: E2v, tmp_path: Path) -> None:
    """Shares count spans of the shortest timeline, also where they are joined."""
    plain, joined = tmp_path / "plain", tmp_path / "joined"
    predict(e2v, plain, "sample_data/wav.scp", "--timeline", "0.5", "--timeline", "2")
    predict(e2v, joined, "sample_data/wav.scp", "--timeline", "0.5", "--join")
    spans: dict[str, list[str]] = {}
    for line in (plain / "timeline-0.5.tsv").read_text().splitlines()[1:]:
        utt_id, _, _, label, *_ = line.split("\t")
        spans.setdefault(utt_id, []).append(label)
    labels = read_table(plain / "utt2emo")
    expected = {key for key, own in spans.items() if own.count(labels[key]) / len(own) >= 0.99}

    for out in (plain, joined):
        select(e2v, out, tmp_path / f"{out.name}.sel", *RULES[:2], "--threshold", "100%", "--steady", "0.99")
        assert set(read_table(tmp_path / f"{out.name}.sel" / "utt2emo")) == expected
    assert 0 < len(expected) < 40


def test_lhotse_reads_a_selection(e2v: E2v, tmp_path: Path) -> None:
    pytest.importorskip("lhotse", reason="lhotse is not installed")
    predict(e2v, tmp_path / "out", "sample_data/wav.scp")
    select(e2v, tmp_path / "out", tmp_path / "sel")
    code = (
        "import sys; from lhotse.kaldi import load_kaldi_data_dir;"
        "recordings, supervisions, _ = load_kaldi_data_dir(sys.argv[1], sampling_rate=16000);"
        "print(*sorted(each.id for each in supervisions))"
    )

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "sel")],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )

    assert done.stdout.split() == list(read_table(tmp_path / "sel" / "utt2emo"))
