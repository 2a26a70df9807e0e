"""Closed sets and merged classes, from options to files."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.checkpoints import make_config, make_model
from support.processes import ROOT, E2v

pytestmark = pytest.mark.e2e

WAV = ROOT / "sample_data" / "wav"
CLIPS = sorted(WAV.glob("f1-*"))[:4]
LABELS = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")
HAS = f"sample has {', '.join(LABELS)}"


def read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text), delimiter="\t"))


def posteriors_of(text: str, *labels: str) -> NDArray[np.float64]:
    """Read the columns of labels: (rows, labels)."""
    return np.array([[float(row[label]) for label in labels] for row in read_rows(text)])


@pytest.mark.parametrize("options", [(), ("--engine", "funasr"), ("--timeline", "0.5")])
def test_probabilities_of_a_closed_set_are_renormalised_and_those_of_merged_classes_summed(
    options: tuple[str, ...], e2v: E2v
) -> None:
    command = ("predict", *CLIPS, "-m", "sample", "-q", *options)
    chosen = ("--classes", "sad,Joy,angry", "--merge", "surprised=happy", "--merge", "fear=sad")

    whole, closed = (e2v(*command, *more).stdout for more in ((), chosen))

    head = ("utt_id", "start", "end") if "--timeline" in options else ("utt_id",)
    assert tuple(read_rows(closed)[0])[: len(head) + 2] == (*head, "label", "score")
    assert [label for label in read_rows(closed)[0] if label in LABELS] == ["angry", "happy", "sad"]
    before = posteriors_of(whole, *LABELS)
    expected = np.stack([before[:, 0], before[:, [3, 7]].sum(axis=1), before[:, [2, 6]].sum(axis=1)], axis=1)
    total = expected.sum(axis=1, keepdims=True)
    found = posteriors_of(closed, "angry", "happy", "sad")
    assert (np.abs(found * total - expected) < 5e-6).all()  # both have six decimals
    best = [("angry", "happy", "sad")[index] for index in found.argmax(axis=1)]
    assert [row["label"] for row in read_rows(closed)] == best
    assert [float(row["score"]) for row in read_rows(closed)] == found.max(axis=1).tolist()


def test_files_have_the_classes_and_a_resume_needs_the_same(e2v: E2v, tmp_path: Path) -> None:
    """In any order: they are a set."""
    command = ("predict", *CLIPS, "-m", "sample", "-o", tmp_path, "--timeline", "1")
    assert e2v(*command, "--classes", "sad,happy", "--merge", "angry=sad", "--merge", "exc=happy").returncode == 2
    assert e2v(*command, "--classes", "sad,happy", "--merge", "angry=sad", "--merge", "fearful=sad").returncode == 0

    table = (tmp_path / "predictions.tsv").read_text()
    assert table.startswith("utt_id\tlabel\tscore\tduration\twindows\thappy\tsad\n")
    assert e2v("rows", tmp_path).stdout == table
    assert (tmp_path / "timeline.tsv").read_text().startswith("utt_id\tstart\tend\tlabel\tscore\thappy\tsad\trecording")
    emotions = [line.split()[1] for line in (tmp_path / "utt2emo").read_text().splitlines()]
    assert emotions == [row["label"] for row in read_rows(table)]
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["model"]["labels"] == ["happy", "sad"]
    assert run["options"]["classes"] == "happy,sad"
    assert run["options"]["merge"] == "angry=sad,fearful=sad"

    again = e2v(*command, "--classes", "happy,sad", "--merge", "fearful=sad", "--merge", "angry=sad")
    assert again.returncode == 0
    for name in ("predict", "plan"):
        other = e2v(name, *command[1:], "--classes", "happy,sad", "--merge", "angry=sad")
        assert other.returncode == 4
        assert other.stderr == (
            f"e2v: {tmp_path} holds a different run: merge was angry=sad,fearful=sad, is angry=sad. "
            "Choose another -o, or delete that run with --overwrite\n"
        )


def test_all_classes_are_the_same_bytes_as_no_closed_set(e2v: E2v) -> None:
    command = ("predict", *CLIPS, "-m", "sample", "-q")

    assert e2v(*command, "--classes", ",".join(reversed(LABELS))).stdout == e2v(*command).stdout


def test_new_class_stands_where_its_first_label_does(e2v: E2v) -> None:
    done = e2v("predict", CLIPS[0], "-m", "sample", "-q", "--merge", "sad=negative", "--merge", "fear=negative")

    header = done.stdout.split("\n", 1)[0].split("\t")
    assert header[5:] == ["angry", "disgusted", "negative", "happy", "neutral", "other", "surprised", "unknown"]


def test_classes_are_named_in_any_language(e2v: E2v) -> None:
    done = e2v("predict", CLIPS[0], "-m", "sample", "-q", "--labels", "zh", "--classes", "happy,难过")

    assert done.stdout.split("\n", 1)[0].split("\t")[5:] == ["开心", "难过"]


def test_classes_of_a_model_of_other_labels_keep_its_names(e2v: E2v, tmp_path: Path) -> None:
    model = make_model(tmp_path, tokens=("ang", "unuse_0", "hap", "calm", "A"))

    done = e2v("predict", CLIPS[0], "-m", model, "-q", "--classes", "happiness,A,angry", "--merge", "calm=A")

    header, row = (line.split("\t") for line in done.stdout.splitlines())
    assert header[5:] == ["ang", "hap", "A"]
    assert sum(map(float, row[5:])) == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--classes", "happy,exited"), f"--classes exited: no class exited; {HAS}"),
        (("--classes", "hapy,sad"), f"--classes hapy: no class hapy (is happy meant?); {HAS}"),
        (("--classes", "sad"), "sad would be the only class, of probability 1: keep two or more"),
        (("--merge", "excited=happy"), f"--merge excited=happy: no class excited; {HAS}"),
        (("--merge", "sad"), "--merge sad: not of the form a=b, which makes class a a part of b"),
        (("--merge", "sad=happy", "--merge", "hap=sad"), "--merge sad=happy: happy is merged into sad already"),
        (
            ("--classes", "sad,happy", "--merge", "sad=neg"),
            f"--classes sad: no class sad; {HAS}, merged into "
            "angry, disgusted, fearful, happy, neutral, other, neg, surprised, unknown",
        ),
    ],
)
def test_classes_that_the_model_lacks_are_refused(options: tuple[str, ...], message: str, e2v: E2v) -> None:
    done = e2v("predict", CLIPS[0], "-m", "sample", *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{message}" in done.stderr.replace("\n       ", " ")


def test_model_without_a_head_has_no_classes(e2v: E2v, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", make_config(tokenizer=False))

    for option, value in (("--classes", "sad,happy"), ("--merge", "sad=happy")):
        done = e2v("predict", CLIPS[0], "-m", model, "-o", tmp_path / "out", "--embeddings", "npy", option, value)
        assert done.returncode == 2
        assert f"{model} has no head, which {option} needs: leave it out\n" in done.stderr
