"""``e2v probe eval`` from the user's side: the table, OUT and what other commands do with it, and refusals."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.embedded import EMOTIONS, make_corpus, make_embedded_run, means_of, write_arrays, write_reference
from support.kaldi_rules import find_faults, read_table
from support.labelled import read_tsv, write_map
from support.processes import ROOT, E2v

from e2v_cli.analysis.probe.evaluation import evaluate_folds, score_folds
from e2v_cli.analysis.probe.examples import find_examples
from e2v_cli.analysis.probe.folds import assign_folds
from e2v_cli.analysis.probe.options import FitOptions, LabelOptions, Protocol
from e2v_cli.errors import UsageError
from e2v_cli.results.newest_run import find_newest_run

MADE = make_corpus()
FEW = make_corpus(per_class=2)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a corpus that has audio, and its run with embeddings."""
    monkeypatch.chdir(tmp_path)
    write_reference(tmp_path / "data", MADE)
    (tmp_path / "wav").mkdir()
    for utt_id in MADE.ids:
        soundfile.write(tmp_path / "wav" / f"{utt_id}.wav", np.zeros(8000, dtype=np.float32), 16000)
    write_map(tmp_path / "data" / "wav.scp", [f"wav/{utt_id}.wav" for utt_id in MADE.ids], MADE.ids)
    make_embedded_run(tmp_path / "run", MADE, inputs=["data"])
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("predictions.tsv", "folds.tsv", "probe.json", "utt2emo")}


def test_table_is_that_of_papers(work: Path, e2v: E2v) -> None:
    done = e2v("probe", "eval", "run", "data", "-o", "out", "--c", "0.01", cwd=work)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "run against data: 160 utterances of 10 speakers, 4 classes, protocol linear",
        "folds: data/spk2fold; metrics in %, and their mean and standard deviation (n − 1) over folds; pooled: all "
        "utterances together",
        "",
        "fold       utterances  speakers      WA      UA     WF1     MF1",
    ]
    rows = [line.split() for line in lines[4:]]
    assert [row[0] for row in rows] == ["Ses01", "Ses02", "Ses03", "Ses04", "Ses05", "mean", "deviation", "pooled"]
    assert {tuple(row[1:3]) for row in rows[:5]} == {("32", "2")}
    values = np.array([row[-4:] for row in rows], dtype=float)
    assert values[5] == pytest.approx(values[:5].mean(axis=0), abs=0.011)
    assert values[6] == pytest.approx(values[:5].std(axis=0, ddof=1), abs=0.011)
    assert (values[7] > 80).all()


def test_folds_are_shown_on_demand(work: Path, e2v: E2v) -> None:
    done = e2v("probe", "eval", "run", "data", "-o", "out", "--folds", "2", "--c", "0.01", "-v", cwd=work)

    assert done.stderr == "e2v: fold 1 is predicted: 1 of 2\ne2v: fold 2 is predicted: 2 of 2\n"


def test_score_has_the_numbers_of_the_table(work: Path, e2v: E2v) -> None:
    e2v("probe", "eval", "run", "data", "-o", "out", "--folds", "speakers", "--c", "0.01", cwd=work)
    facts = json.loads((work / "out" / "probe.json").read_bytes())

    done = e2v("score", "out", "data", "--folds", "out/folds.tsv", "--format", "json", "--ci", "none", cwd=work)

    found = json.loads(done.stdout)
    assert {name: round(value["value"], 6) for name, value in found["metrics"].items()}.items() >= facts["scores"][
        "mean"
    ].items()
    assert [row["fold"] for row in facts["scores"]["folds"]] == ["1", "2", "3", "4", "5"]
    assert found["counts"]["scored"] == 160


def test_out_is_a_complete_run(work: Path, e2v: E2v) -> None:
    noted = find_newest_run()
    e2v("probe", "eval", "run", "data", "-o", "out", "--c", "0.01", cwd=work)

    rows = e2v("rows", "out", cwd=work)
    status = e2v("status", "out", cwd=work)
    merged = e2v("merge", "out", cwd=work)

    assert rows.stdout == (work / "out" / "predictions.tsv").read_text()
    assert (status.returncode, status.stdout.splitlines()[:2]) == (
        0,
        ["out: complete", "160 utterances: 160 done, 0 failed, 0 left"],
    )
    assert merged.returncode == 0
    table = read_tsv(work / "out" / "predictions.tsv")
    assert [row["utt_id"] for row in table] == sorted(MADE.ids)
    assert {(row["duration"], row["windows"]) for row in table} == {("1.5000", "1")}
    assert tuple(table[0])[5:] == EMOTIONS
    assert [row["fold"] for row in read_tsv(work / "out" / "folds.tsv")] == [utt_id[:5] for utt_id in sorted(MADE.ids)]
    run = json.loads((work / "out" / "run.json").read_bytes())
    assert run["model"]["name"] == "linear probe of ./modèle"
    assert run["model"]["sha256"] != "abc"
    assert {"probe": "linear", "c": 0.01, "seed": 0, "precision": "fp32", "layer": "last"}.items() <= run[
        "options"
    ].items()
    assert find_newest_run() == noted


def test_report_has_players_and_select_writes_data(work: Path, e2v: E2v) -> None:
    e2v("probe", "eval", "run", "data", "-o", "out", "--c", "0.01", cwd=work)

    report = e2v("report", "out", "--reference", "data", "--clips", "4", cwd=work)
    selected = e2v("select", "out", "-o", "sel", cwd=work)

    assert (report.returncode, report.stderr.splitlines()[-1].partition(", ")[2]) == (0, "4 clips")
    assert selected.returncode == 0, selected.stderr
    assert find_faults(work / "sel", no_text=True) == []
    assert read_table(work / "sel" / "wav.scp")["Ses01F_000"] == str(work / "wav" / "Ses01F_000.wav")


def test_audio_beside_the_labels_serves_where_there_is_no_run(work: Path, e2v: E2v) -> None:
    write_arrays(work / "npy", means_of(MADE))
    write_map(work / "data" / "utt2dur", ["2.5"] * len(MADE.ids), MADE.ids)

    done = e2v("probe", "eval", "npy", "data", "-o", "out", "--c", "0.01", cwd=work)

    assert done.stderr == "e2v: npy: which model computed them is not known: there is no run beside them\n"
    assert {row["duration"] for row in read_tsv(work / "out" / "predictions.tsv")} == {"2.5000"}
    assert e2v("report", "out", "--clips", "2", cwd=work).stderr.endswith(", 2 clips\n")
    assert e2v("select", "out", "-o", "sel", "--top", "1", cwd=work).returncode == 0


def test_audio_of_the_run_is_found_as_the_run_found_it(tmp_path: Path, e2v: E2v) -> None:
    shutil.copytree(ROOT / "sample_data" / "wav", tmp_path / "speech" / ".hidden")
    predict = (
        "predict",
        "speech",
        "-m",
        "sample",
        "-q",
        "--hidden",
        "--id",
        "stem",
        "--embeddings",
        "ark",
        "-o",
        "run",
    )
    assert e2v(*predict, cwd=tmp_path).returncode == 0
    words = ("probe", "eval", "run", str(ROOT / "sample_data"), "-o", "out", "--c", "0.01")
    assert e2v(*words, cwd=tmp_path).returncode == 0

    report = e2v("report", "out", "--clips", "2", cwd=tmp_path)

    assert report.stderr.endswith(" MB, 2 clips\n")
    (command,) = json.loads((tmp_path / "out" / "run.json").read_bytes())["commands"]
    assert command["command"][-len(words) :] == list(words)
    assert (command["variables"], command["inputs"], command["hidden"]) == ({}, ["speech"], True)


def test_report_without_any_audio_has_a_note(work: Path, e2v: E2v) -> None:
    write_arrays(work / "npy", means_of(MADE))
    (work / "data" / "wav.scp").unlink()

    done = e2v("probe", "eval", "npy", "data", "-o", "out", "--c", "0.01", cwd=work)

    assert done.stderr.splitlines()[1:] == [
        "e2v: npy is of no run, and no wav.scp is beside the labels: e2v report of OUT has no players, and e2v select "
        "needs the audio named by --data",
        "e2v: durations are not known (no run, and no utt2dur beside the labels): they are 0 in OUT",
    ]
    report = e2v("report", "out", cwd=work)
    assert (report.returncode, "clips are missing, as " in report.stderr) == (0, True)
    assert "the run has no list of audio" in report.stderr
    refused = e2v("select", "out", "-o", "sel", cwd=work)
    assert (refused.returncode, refused.stderr) == (
        1,
        "e2v: out: its run has no list of audio; name it: --data FILE\n",
    )
    named = write_map(work / "all.scp", [f"wav/{utt_id}.wav" for utt_id in MADE.ids], MADE.ids)
    assert e2v("select", "out", "-o", "sel", "--data", named, cwd=work).returncode == 0


def test_the_same_bytes_twice(work: Path, e2v: E2v) -> None:
    for name in ("one", "two"):
        assert e2v("probe", "eval", "run", "data", "-o", name, "--folds", "3", "--seed", "7", cwd=work).returncode == 0

    assert files_of(work / "one") == files_of(work / "two")


def test_planted_leak_is_refused_or_marked(work: Path, e2v: E2v) -> None:
    folds = [f"{int(utt_id[-3:]) // 4 % 2}" for utt_id in MADE.ids]
    write_map(work / "leak", folds, MADE.ids)
    words = ("probe", "eval", "run", "data", "-o", "out", "--folds", "leak", "--c", "0.01")

    refused = e2v(*words, cwd=work)
    allowed = e2v(*words, "--allow-shared-speakers", cwd=work)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        "e2v: leak: speakers in more than one fold, and so in training and test: Ses01F (0, 1), Ses01M (0, 1), "
    )
    assert allowed.returncode == 0
    assert "SHARED SPEAKERS: 10 of 10 are in training and test, so that voices are known\n" in allowed.stdout
    assert json.loads((work / "out" / "run.json").read_bytes())["model"]["name"] == (
        "linear probe of ./modèle, 10 speakers in training and test"
    )
    assert json.loads((work / "out" / "probe.json").read_bytes())["folds"]["shared_speakers"] == 10


def test_a_run_is_never_replaced_unasked(work: Path, e2v: E2v) -> None:
    words = ("probe", "eval", "run", "data", "--c", "0.01", "-o")
    assert e2v(*words, "out", cwd=work).returncode == 0
    before = files_of(work / "out")

    again = e2v(*words, "out", cwd=work)
    onto_data = e2v(*words, "data", cwd=work)
    onto_run = e2v(*words, "run", cwd=work)
    onto_embeddings = e2v(*words, "data/../run", "--overwrite", cwd=work)
    other = e2v(*words, "out", "--seed", "1", "--folds", "2", "--overwrite", cwd=work)
    resumed = e2v("predict", "data", "-m", "sample", "-o", "out", cwd=work)

    assert (again.returncode, again.stderr) == (
        4,
        "e2v: out holds a run: choose another -o, or delete that run with --overwrite\n",
    )
    assert (onto_data.returncode, "is a Kaldi data directory" in onto_data.stderr) == (4, True)
    assert onto_run.returncode == 4
    assert (onto_embeddings.returncode, onto_embeddings.stderr) == (
        2,
        "e2v: -o data/../run: the embeddings or labels are there; choose another -o\n",
    )
    assert (other.returncode, files_of(work / "out") != before) == (0, True)
    assert (resumed.returncode, "holds a different run" in resumed.stderr) == (4, True)


def test_files_of_a_probe_are_deleted_with_its_results(work: Path, e2v: E2v) -> None:
    assert e2v("probe", "eval", "run", "data", "-o", "out", "--c", "0.01", cwd=work).returncode == 0
    predict = ("predict", "wav/Ses01F_000.wav", "-m", "sample", "-q", "-o", "out", "--overwrite")

    first = e2v(*predict, cwd=work)

    assert first.returncode == 0, first.stderr
    assert [name for name in ("folds.tsv", "probe.json") if (work / "out" / name).exists()] == []
    (work / "out" / "folds.tsv").write_text("mine")
    assert e2v(*predict, cwd=work).returncode == 0
    assert (work / "out" / "folds.tsv").read_text() == "mine"


def test_inputs_are_neither_deleted_nor_mixed_with_results(tmp_path: Path, e2v: E2v) -> None:
    write_reference(tmp_path / "labels", MADE)
    write_arrays(tmp_path / "npy", means_of(MADE))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = ("probe", "eval", "npy", "labels/utt2emo", "--c", "1", "--overwrite")

    for name in ("npy", "labels"):
        done = e2v(*words, "-o", name, cwd=tmp_path)

        assert (done.returncode, done.stderr) == (
            2,
            f"e2v: -o {name}: the embeddings or labels are there; choose another -o\n",
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_unusable_inputs_are_refused(work: Path, e2v: E2v) -> None:
    labels = write_map(work / "labels", ["happy"] * len(MADE.ids), MADE.ids)
    words = ("probe", "eval", "run")

    one_class = e2v(*words, labels, "-o", "out", cwd=work)
    frames = e2v(*words, "data", "-o", "out", "--protocol", "emobox", cwd=work)
    count = e2v(*words, "data", "-o", "out", "--folds", "30", cwd=work)
    weights = e2v(*words, "data", "-o", "out", "--protocol", "superb", "--balanced", cwd=work)
    c = e2v(*words, "data", "-o", "out", "--c", "-1", cwd=work)

    assert (one_class.returncode, "a probe needs 2 classes" in one_class.stderr) == (1, True)
    assert frames.returncode == 2
    assert frames.stderr == (
        "e2v: --protocol emobox: its head is on frames, and run has vectors of utterances; predict with --granularity "
        "frame, or choose --protocol linear or superb\n"
    )
    assert (count.returncode, c.returncode) == (2, 2)
    assert (weights.returncode, weights.stderr) == (
        2,
        "e2v: --protocol superb: --c, --balanced and --prior are of the linear one; leave them out\n",
    )
    assert not os.path.lexists(work / "out")


def test_permuted_labels_give_chance(tmp_path: Path) -> None:
    """UA of permuted labels is within two standard deviations of chance, over permutations.

    Labels are permuted among the utterances of a speaker: a class that a fold has more of, the others have less of, so
    that small corpora are below chance.
    """
    generator = np.random.default_rng(5)
    arrays, values = write_arrays(tmp_path / "npy", means_of(FEW)), []
    for number in range(8):
        labels = np.array(FEW.labels).reshape(len(set(FEW.speakers)), -1)
        permuted = replace(FEW, labels=tuple(generator.permuted(labels, axis=1).ravel().tolist()))
        reference = write_reference(tmp_path / f"data{number}", permuted)
        examples = find_examples(str(arrays), str(reference), LabelOptions())
        folds = assign_folds(examples, None, seed=0)
        found = evaluate_folds(examples, folds, "linear", FitOptions(c=0.01))
        values.append(score_folds(examples, folds, found.posteriors).pooled["UA"])

    assert abs(np.mean(values) - 0.25) < 2 * np.std(values, ddof=1)
    assert max(values) < 0.5


@pytest.mark.parametrize("protocol", ["emotion2vec", "emobox", "superb"])
def test_protocols_of_papers_run_on_frames(protocol: Protocol, tmp_path: Path) -> None:
    run = make_embedded_run(tmp_path / "run", FEW, options={"granularity": "frame"})
    examples = find_examples(str(run), str(write_reference(tmp_path / "data", FEW)), LabelOptions())
    folds = assign_folds(examples, None, seed=0)

    found = evaluate_folds(examples, folds, protocol, FitOptions(), length=15)

    assert found.posteriors.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert {head["validation"] for head in found.heads} == {16}  # two of eight speakers
    again = evaluate_folds(examples, folds, protocol, FitOptions(), length=15)
    assert (again.posteriors == found.posteriors).all()


def test_heads_on_frames_need_frames(tmp_path: Path) -> None:
    arrays = write_arrays(tmp_path / "npy", means_of(FEW))
    examples = find_examples(str(arrays), str(write_reference(tmp_path / "data", FEW)), LabelOptions())
    folds = assign_folds(examples, None, seed=0)

    with pytest.raises(UsageError, match="its head is on frames"):
        evaluate_folds(examples, folds, "emotion2vec", FitOptions())
    means = evaluate_folds(examples, folds, "superb", FitOptions(), length=5)
    assert means.posteriors.shape == (80, 4)


def test_a_layer_is_recorded(tmp_path: Path, e2v: E2v) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    predict = ("predict", "sample_data/wav.scp", "-m", "sample", "--embeddings", "ark", "-q", "-o")
    assert e2v(*predict, one, "--layers", "1").returncode == 0
    assert e2v(*predict, two, "--layers", "1,mean:1-2").returncode == 0
    words = ("--c", "0.01", "-o", tmp_path / "out")

    of_one = e2v("probe", "eval", one, "sample_data", *words)
    of_two = e2v("probe", "eval", two, "sample_data", *words)
    of_mean = e2v("probe", "eval", two / "embeddings.mean1-2.scp", "sample_data", *words, "--overwrite")

    assert (of_one.returncode, of_one.stderr) == (0, "")
    assert (of_two.returncode, of_mean.returncode) == (4, 0)
    refused = e2v("probe", "eval", two, "sample_data", "-o", tmp_path / "other")
    assert (refused.returncode, refused.stderr) == (
        1,
        f"e2v: {two}: embeddings of several layers; name one: {two}/embeddings.layer1.scp, "
        f"{two}/embeddings.mean1-2.scp\n",
    )
    options = json.loads((tmp_path / "out" / "run.json").read_bytes())["options"]
    assert options["layer"] == "mean1-2"
    assert json.loads((tmp_path / "out" / "probe.json").read_bytes())["origin"]["layer"] == "mean1-2"
