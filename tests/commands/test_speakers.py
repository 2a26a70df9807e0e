"""``e2v speakers``: the emotions of speakers and recordings, from the journals of a run."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from support.journals import IDS, LABELS, done, header, write, write_run
from support.processes import ROOT, E2v

from e2v_cli.journal.ids import save_ids

pytestmark = pytest.mark.e2e

UTT2SPK = "z anna\nmy%20call bert\nü anna\n../x bert\ngone cleo\nbroken bert\n"

TABLE = (
    "speaker\tutterances\tduration\tlabel\tscore\tangry\tsad\tshare_angry\tshare_sad\n"
    "anna\t2\t2.0250\tsad\t0.999999\t0.000001\t0.999999\t0.000000\t1.000000\n"
    "bert\t2\t3612.3457\tangry\t0.653794\t0.653794\t0.346206\t1.000000\t0.000000\n"
)
"""Of bert (3600 · 0.654321 + 12.3457 · 0.5) / 3612.3457."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run of six utterances, of which two failed, with their speakers beside it."""
    (tmp_path / "out").mkdir()
    write_run(tmp_path / "out")
    (tmp_path / "utt2spk").write_text(UTT2SPK)
    return tmp_path / "out"


def read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text), delimiter="\t"))


def test_means_are_weighted_by_duration(out: Path, e2v: E2v) -> None:
    shown = e2v("speakers", out, "--utt2spk", out.parent / "utt2spk")

    assert (shown.returncode, shown.stdout) == (0, TABLE)
    assert e2v("speakers", out, E2V_SPEAKERS_UTT2SPK=str(out.parent / "utt2spk")).stdout == TABLE
    assert shown.stderr == f"e2v: {out}: 4 of 6 utterances are done, 2 failed, 0 left\n"


def test_running_run_has_the_speakers_so_far(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, [done("z", (0.25, 0.75))], header(), end=False)
    save_ids(tmp_path, IDS)
    (tmp_path / "utt2spk").write_text(UTT2SPK)

    shown = e2v("speakers", tmp_path, "--columns", "speaker,sad")

    assert (shown.returncode, shown.stdout) == (0, "speaker\tsad\nanna\t0.750000\n")
    assert shown.stderr == f"e2v: {tmp_path}: 1 of 6 utterances are done, 0 failed, 5 left\n"


def test_formats_are_those_of_rows(out: Path, e2v: E2v) -> None:
    command = ("speakers", out, "--utt2spk", out.parent / "utt2spk")

    rows = [json.loads(line) for line in e2v(*command, "--format", "jsonl").stdout.splitlines()]
    table = e2v(*command, "--format", "table", COLUMNS="80").stdout

    assert [[str(value) for value in row.values()][:4] for row in rows] == [
        ["anna", "2", "2.025", "sad"],
        ["bert", "2", "3612.3457", "angry"],
    ]
    assert [line.split() for line in table.splitlines()] == [
        ["speaker", "utterances", "label", "score", "runner-up"],
        ["anna", "2", "sad", "1.00", "██████████", "angry", "0.00"],
        ["bert", "2", "angry", "0.65", "███████", "sad", "0.35"],
    ]


def test_utterances_without_a_speaker_are_counted(out: Path, e2v: E2v) -> None:
    (out.parent / "utt2spk").write_text("z anna\ngone anna\nother anna\n")

    shown = e2v("speakers", out, "--utt2spk", out.parent / "utt2spk", "--columns", "speaker,utterances")

    assert shown.stdout == "speaker\tutterances\nanna\t1\n"
    assert shown.stderr.splitlines()[1] == "e2v: utterances left out, without a speaker: 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z anna\n\nü\n", "utt2spk:3: a line is: utt-id speaker"),
        ("z anna\nü anna\nz bert\n", 'utt2spk:3: utt-id "z" again'),
        ("1 anna\n", "utt2spk: its utterances, such as 1, are not those of {out}, such as z"),
        ("", "utt2spk: its utterances are not those of {out}, such as z"),
    ],
)
def test_bad_lists_of_speakers_are_named(text: str, message: str, out: Path, e2v: E2v) -> None:
    (out.parent / "utt2spk").write_text(text)

    done = e2v("speakers", out, "--utt2spk", out.parent / "utt2spk")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"e2v: {out.parent}/{message.format(out=out)}\n"


def test_missing_lists_are_named(out: Path, e2v: E2v) -> None:
    shown = [e2v("speakers", out, *options) for options in ((), ("--by", "reco"), ("--columns", "age"))]

    assert [each.returncode for each in shown] == [1, 1, 1]
    assert shown[0].stderr == (f"e2v: {out}: no utt2spk, neither in it nor beside its input: add --utt2spk FILE\n")
    assert e2v("speakers", out, "--by", "reco").stderr == (
        f"e2v: {out}: no segments, neither in it nor beside its input: leave out --by reco\n"
    )
    unknown = e2v("speakers", out, "--utt2spk", out.parent / "utt2spk", "--columns", "age")
    assert unknown.returncode == 2
    assert "--columns age: no such column; choose from speaker, utterances, duration, label, " in unknown.stderr


def test_model_without_a_head_has_no_emotions(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, [done("z", ())], header(labels=()))
    save_ids(tmp_path, IDS)

    shown = e2v("speakers", tmp_path)

    assert shown.returncode == 1
    assert shown.stderr == f"e2v: {tmp_path}: ./modèle has no head, so there are no emotions, only embeddings\n"


def test_lists_of_the_data_directory_are_found(tmp_path: Path, e2v: E2v) -> None:
    """The means of each speaker are those of predictions.tsv."""
    done = e2v("predict", ROOT / "sample_data", "-m", "sample", "-o", tmp_path)
    assert done.returncode == 0
    speaker_of = dict(line.split() for line in (ROOT / "sample_data" / "utt2spk").read_text().splitlines())
    predictions = read_rows((tmp_path / "predictions.tsv").read_text())
    labels = list(predictions[0])[5:]

    shown = e2v("speakers", tmp_path)

    assert (shown.returncode, shown.stderr) == (0, "")
    rows = read_rows(shown.stdout)
    assert [row["speaker"] for row in rows] == ["f1", "f2", "m1", "m2"]
    for row in rows:
        own = [prediction for prediction in predictions if speaker_of[prediction["utt_id"]] == row["speaker"]]
        seconds = np.array([float(prediction["duration"]) for prediction in own])
        posteriors = np.array([[float(prediction[label]) for label in labels] for prediction in own])
        means = (posteriors * seconds[:, None]).sum(axis=0) / seconds.sum()
        has_label = np.array([[prediction["label"] == label for label in labels] for prediction in own])
        shares = (has_label * seconds[:, None]).sum(axis=0) / seconds.sum()
        assert row["label"] == labels[means.argmax()]
        np.testing.assert_allclose([float(row[label]) for label in labels], means, rtol=0, atol=1e-6)
        np.testing.assert_allclose([float(row[f"share_{label}"]) for label in labels], shares, rtol=0, atol=1e-6)


def test_speakers_of_recordings_are_those_of_segments(tmp_path: Path, e2v: E2v) -> None:
    long = ROOT / "sample_data" / "long"
    assert e2v("predict", long, long / "wav" / "dialogue.ogg", "-m", "sample", "-o", tmp_path).returncode == 0

    pairs = e2v("speakers", tmp_path, "--by", "spk+reco", "--columns", "speaker,recording,utterances")
    recordings = e2v("speakers", tmp_path, "--by", "reco", "--columns", "recording,utterances,duration")

    assert pairs.stdout == "speaker\trecording\tutterances\nf1\tdialogue\t4\nm1\tdialogue\t4\nm2\tdialogue\t2\n"
    assert pairs.stderr == "e2v: utterances left out, without a speaker or recording: 1\n"
    assert recordings.stdout == "recording\tutterances\tduration\ndialogue\t10\t38.2000\n"
    variables = {"E2V_SPEAKERS_BY": "reco", "E2V_COLUMNS": "recording,utterances,duration"}
    assert e2v("speakers", tmp_path, **variables).stdout == recordings.stdout


def test_speakers_of_a_diarisation_are_in_out(tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "d.rttm").write_text(
        "SPEAKER dialogue 1 0.5 2.25 <NA> <NA> A <NA> <NA>\nSPEAKER dialogue 1 3 1 <NA> <NA> B <NA> <NA>\n"
    )
    audio = ROOT / "sample_data" / "long" / "wav" / "dialogue.ogg"
    done = e2v("predict", audio, "-m", "sample", "-o", tmp_path / "out", "--segments-rttm", tmp_path / "d.rttm")
    assert done.returncode == 0

    shown = e2v("speakers", tmp_path / "out", "--by", "spk+reco", "--columns", "speaker,recording,duration")

    assert shown.stdout == (
        "speaker\trecording\tduration\ndialogue-A\tdialogue\t2.2500\ndialogue-B\tdialogue\t1.0000\n"
    )


def test_equal_means_have_the_first_label(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, [done("z", (0.25, 0.75)), done("ü", (0.75, 0.25))], header())
    save_ids(tmp_path, IDS)
    (tmp_path / "utt2spk").write_text(UTT2SPK)

    (row,) = read_rows(e2v("speakers", tmp_path).stdout)

    assert (row["label"], row["share_angry"], row["share_sad"]) == (LABELS[0], "0.500000", "0.500000")
