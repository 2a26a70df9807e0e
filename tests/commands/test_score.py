"""``e2v score`` from the user's side: inputs of every kind, texts, files and exit codes."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from support.kaldi_folders import run_e2v
from support.labelled import (
    CLASSES,
    PREDICTED,
    REFERENCE,
    SPEAKERS,
    make_ids,
    read_tsv,
    sure_of,
    write_corpus,
    write_map,
    write_predictions,
)
from support.processes import E2v

import e2v_cli
from e2v_cli.analysis.score.score import Score
from e2v_cli.commands.score import score

FOUR = ("angry", "happy", "neutral", "sad")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Fifteen utterances of two speakers."""
    return write_corpus(tmp_path / "data", utt2emo=REFERENCE, utt2spk=SPEAKERS)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """A map of fifteen answers."""
    return write_map(tmp_path / "hyp", PREDICTED)


def values_of(found: Score, view: str | None = None) -> list[float]:
    return [estimate.value for estimate in found.views[view or found.headline].metrics.values()]


def test_fifteen_utterances_have_their_golden_values(answers: Path, corpus: Path) -> None:
    found = score(answers, corpus, by="spk")

    assert values_of(found) == pytest.approx([0.6, 0.583333, 0.643290, 0.616342, 0.470588, 0.476731], abs=1e-6)
    assert (found.headline, found.classes, found.view.answers) == ("open", FOUR, (*FOUR, "other", "unknown"))
    (by_speaker,) = found.groups
    assert [(row.name, row.utterances) for row in by_speaker.rows] == [("s1", 7), ("s2", 8)]
    assert [row.metrics["UA"] for row in by_speaker.rows] == pytest.approx([1.0, 0.208333], abs=1e-6)
    assert (by_speaker.mean["UA"], by_speaker.min["UA"], by_speaker.max["UA"]) == pytest.approx(
        (0.604167, 0.208333, 1.0), abs=1e-6
    )
    assert found.interval is not None
    assert (found.interval.unit, found.interval.units, found.interval.is_of_few) == ("speaker", 2, True)


def test_text_names_everything(e2v: E2v, answers: Path, corpus: Path) -> None:
    done = e2v("score", answers, corpus)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{answers} against {corpus}: 15 of 15 utterances, 4 classes, open\n"
        "open: the answer is the label as predicted, of all classes of the model; an answer that is none of the "
        "classes that count is wrong\n"
        "intervals: over 2 speakers, 10000 resamples, seed 0; fewer than 20, so that the intervals are too narrow\n"
        "\n"
        "Metrics\n"
        "         open  95 % interval  always neutral  chance\n"
        "WA     0.6000  0.2500–1.0000          0.4000  0.2500\n"
        "UA     0.5833  0.2083–1.0000          0.2500  0.2500\n"
        "WF1    0.6433  0.2750–1.0000          0.2286       –\n"
        "MF1    0.6163  0.2250–1.0000          0.1429       –\n"
        "kappa  0.4706  0.0588–1.0000          0.0000       –\n"
        "MCC    0.4767  0.0613–1.0000          0.0000       –\n"
        "\n"
        "Classes\n"
        "class    precision  recall      F1  support\n"
        "angry       0.6667  0.5000  0.5714        4\n"
        "happy       0.6667  0.6667  0.6667        3\n"
        "neutral     0.8000  0.6667  0.7273        6\n"
        "sad         0.5000  0.5000  0.5000        2\n"
        "\n"
        "Confusion: reference by row, answer by column\n"
        "         angry  happy  neutral  sad  other  unknown\n"
        "angry        2      1        0    0      1        0\n"
        "happy        0      2        0    0      0        1\n"
        "neutral      1      0        4    1      0        0\n"
        "sad          0      0        1    1      0        0\n"
        "\n"
        "On 15 utterances of 4 classes (angry, happy, neutral, sad), unweighted average recall was 58.3 % (20.8–100.0) "
        "and accuracy 60.0 % (25.0–100.0); answers outside these classes count as errors; 95 % intervals are "
        f"percentiles of a bootstrap over 2 speakers, 10000 resamples, seed 0 (e2v {e2v_cli.__version__}).\n"
    )


def test_python_has_the_numbers_of_the_command(e2v: E2v, answers: Path, corpus: Path) -> None:
    done = e2v("score", answers, corpus, "--format", "json", "--ci", "utterance", "--seed", "3", "--resamples", "500")
    content = json.loads(done.stdout)

    found = e2v_cli.score(answers, corpus, ci="utterance", seed=3, resamples=500)

    assert {name: (v.value, v.low, v.high) for name, v in found.metrics.items()} == {
        name: (v["value"], v["low"], v["high"]) for name, v in content["metrics"].items()
    }
    assert content["interval"] == {
        "unit": "utterance", "units": 15, "confidence": 0.95, "resamples": 500, "seed": 3, "few": False
    }  # fmt: skip
    assert content["predictions"]["sha256"] == found.predictions.sha256
    with pytest.raises(TypeError, match="seeed"):
        e2v_cli.score(answers, corpus, seeed=1)


# -- predictions -------------------------------------------------------------------------------------------------------


def test_predictions_may_be_a_run_its_table_a_map_or_standard_input(e2v: E2v, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert e2v("predict", "sample_data", "-m", "sample", "-o", out, "-q").returncode == 0
    rows = (out / "predictions.tsv").read_text()
    (tmp_path / "copy.tsv").write_text(rows)
    crlf = tmp_path / "crlf.tsv"
    crlf.write_bytes(rows.replace("\n", "\r\n").encode())
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "predictions.tsv").write_text(rows)
    words = ["sample_data", "--format", "tsv"]

    expected = e2v("score", out, *words).stdout

    assert expected.splitlines()[1].startswith("open\tWA\t0.850000\t")
    for source in (tmp_path / "copy.tsv", crlf, tmp_path / "only"):
        assert e2v("score", source, *words).stdout == expected
    assert e2v("score", "-", *words, stdin=rows).stdout == expected
    by_map = e2v("score", "-", *words, stdin=(out / "utt2emo").read_text()).stdout
    assert by_map.splitlines() == [line for line in expected.splitlines() if not line.startswith("closed")]


def test_predictions_on_standard_input_may_be_gzip(answers: Path, corpus: Path) -> None:
    content = gzip.compress(b"\xef\xbb\xbf" + answers.read_bytes())

    done = run_e2v("score", "-", corpus, "--format", "tsv", "--ci", "none", stdin=content)

    assert done.stdout.startswith("view\tmetric\tvalue\tlow\thigh\nopen\tWA\t0.600000\t\t\n")


def test_an_unfinished_run_is_scored_as_far_as_it_is(e2v: E2v, tmp_path: Path) -> None:
    out = tmp_path / "out"
    e2v("predict", "sample_data", "-m", "sample", "-o", out, "-q", "--shard", "1/2")
    assert not (out / "predictions.tsv").exists()

    refused = e2v("score", out, "sample_data")
    skipped = e2v("score", out, "sample_data", "--missing", "skip", "--format", "json")
    wrong = e2v("score", out, "sample_data", "--missing", "wrong")

    done = len(e2v("rows", out, "--no-header").stdout.splitlines())
    assert refused.returncode == 1
    assert refused.stderr == (
        f"e2v: {out}: no prediction of {40 - done} of the 40 utterances of sample_data (0 failed, {40 - done} left), "
        f'the first is "{first_missing(e2v, out)}"; --missing wrong counts them as errors, --missing skip leaves them '
        "out\n"
    )
    content = json.loads(skipped.stdout)
    assert (content["counts"]["scored"], content["counts"]["left"]) == (done, 40 - done)
    (out / "table.tsv").write_text(e2v("rows", out).stdout)
    table = e2v("score", out / "table.tsv", "sample_data", "--missing", "skip", "--format", "json")
    assert json.loads(table.stdout)["metrics"] == content["metrics"]
    assert json.loads(table.stdout)["predictions"]["sha256"] == content["predictions"]["sha256"]
    assert f"note: {40 - done} without a prediction count as wrong (of the run, 0 failed and {40 - done} are left)" in (
        wrong.stdout
    )
    assert "(none)" in wrong.stdout


def first_missing(e2v: E2v, out: Path) -> str:
    done = set(e2v("rows", out, "--columns", "utt_id", "--no-header").stdout.split())
    lines = Path("sample_data/utt2emo").read_text().splitlines()
    return next(line.split()[0] for line in lines if line.split()[0] not in done)


def test_failures_of_a_run_are_missing(e2v: E2v, tmp_path: Path) -> None:
    scp = tmp_path / "wav.scp"
    lines = Path("sample_data/wav.scp").read_text().splitlines()
    scp.write_text("".join(f"{line}\n" for line in [*lines[:5], "bad /nowhere.wav"]))
    ids = [line.split()[0] for line in [*lines[:5], "bad"]]
    reference = write_map(tmp_path / "ref", ["sad"] * 6, ids)
    out = tmp_path / "out"
    e2v("predict", scp, "-m", "sample", "-o", out, "-q")

    done = e2v("score", out, reference)

    assert done.returncode == 1
    assert f'{out}: no prediction of 1 of the 6 utterances of {reference} (1 failed, 0 left), the first is "bad"' in (
        done.stderr
    )


def test_columns_of_rows_without_probabilities_are_enough(tmp_path: Path) -> None:
    table = tmp_path / "hyp.tsv"
    table.write_text("utt_id\tlabel\nu00\tangry\n\nu01\tsad\n")
    reference = write_map(tmp_path / "ref", "angry sad")

    found = score(table, reference)

    assert (found.metrics["WA"].value, list(found.views), found.model_classes) == (1.0, ["open"], ())


# -- references --------------------------------------------------------------------------------------------------------


def test_references_of_all_forms_are_the_same(tmp_path: Path, answers: Path, corpus: Path) -> None:
    ids, words = make_ids(15), REFERENCE.split()
    pairs = list(zip(ids, words, strict=True))
    jsonl = tmp_path / "emobox.jsonl"
    jsonl.write_text(
        "".join(
            json.dumps({
                "key": key, "dataset": "made-up", "wav": f"{key}.wav", "type": "raw", "sample_rate": 16000,
                "num_frame": 24000, "task": "category", "length": 1.5, "emo": word, "channel": 1,
            }) + "\n"
            for key, word in pairs
        )
    )  # fmt: skip
    csv = tmp_path / "a.csv"
    csv.write_text("Emotion,utt_id,note\n" + "".join(f'{word},{key},"a, b"\n' for key, word in pairs))
    tsv = tmp_path / "a.tsv"
    tsv.write_text("who\twhat\n" + "".join(f"{key}\t{word}\n" for key, word in pairs))
    tabs = tmp_path / "tabs"
    tabs.write_text("".join(f"{key}\t {word}  \n\n" for key, word in pairs).rstrip("\n"))

    expected = values_of(score(answers, corpus, ci="none"))

    for reference in (corpus / "utt2emo", jsonl, csv, tabs):
        assert values_of(score(answers, reference, ci="none")) == expected
    assert values_of(score(answers, tsv, ci="none", id_column="who", label_column="what")) == expected


def test_msp_podcast_is_read_by_its_columns(e2v: E2v, tmp_path: Path) -> None:
    """Its file names have a suffix, its labels are letters, and speakers and genders are columns."""
    labels = tmp_path / "labels_consensus.csv"
    names = [f"MSP-PODCAST_0001_{number:04d}" for number in range(6)]
    letters = ["A", "H", "N", "S", "N", "X"]
    labels.write_text(
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
        + "".join(
            f"{name}.wav,{letter},4.0,4.0,4.0,{127 + number % 2},{'Male' if number % 2 else 'Female'},Test1\n"
            for number, (name, letter) in enumerate(zip(names, letters, strict=True))
        )
    )
    answers = write_map(tmp_path / "hyp", "angry happy neutral neutral neutral other", names)

    unknown = e2v("score", answers, labels)
    map_file = tmp_path / "msp.map"
    map_file.write_text("A angry\nH happy\nN neutral\nS sad\nX -\n")
    found = score(answers, labels, map=map_file, by=["gender", "spk"])

    assert unknown.returncode == 1
    assert unknown.stderr == (
        f'e2v: {labels}:2: unknown labels "A" (once, line 2), "H" (once, line 3), "N" (2 times, from line 4), '
        '"S" (once, line 5), "X" (once, line 7); --map FILE has their classes, a line each: word '
        "class, or word - to leave it out\n"
    )
    assert (found.counts.scored, found.counts.dropped, found.counts.not_in_reference) == (5, {"X": 1}, 0)
    assert found.metrics["WA"].value == 0.8
    assert [[(row.name, row.utterances) for row in table.rows] for table in found.groups] == [
        [("Female", 3), ("Male", 2)],
        [("127", 3), ("128", 2)],
    ]
    assert found.interval is not None
    assert found.interval.unit == "speaker"


@pytest.mark.parametrize(("here", "there"), [(".wav", ""), ("", ".wav"), (".flac", ".wav"), (".WAV", "")])
def test_ids_match_with_or_without_the_suffix_of_a_file(tmp_path: Path, here: str, there: str) -> None:
    answers = write_map(tmp_path / "hyp", "angry sad", [f"a.1{here}", f"b{here}"])
    reference = write_map(tmp_path / "ref", "angry sad", [f"a.1{there}", f"b{there}"])

    assert score(answers, reference).metrics["WA"].value == 1.0


def test_ids_that_differ_by_the_suffix_alone_stay_apart(tmp_path: Path) -> None:
    ids = ["a.wav", "a.flac"]
    answers = write_map(tmp_path / "hyp", "angry sad", ids)

    assert score(answers, write_map(tmp_path / "ref", "angry sad", ids)).metrics["WA"].value == 1.0


def test_voiceprivacy_has_recall_by_speaker_and_means_of_folds(tmp_path: Path) -> None:
    """A directory of its form: ``spk2fold``, ``spk2gender`` and ``text`` beside ``utt2emo``."""
    words = "angry happy neutral sad " * 3
    data = write_corpus(tmp_path / "IEMOCAP_test", utt2emo=words, utt2spk="Ses01F " * 4 + "Ses01M " * 4 + "Ses02F " * 4)
    (data / "spk2fold").write_text("Ses01F 1\nSes01M 1\nSes02F 2\nSes02M 2\n")
    (data / "spk2gender").write_text("Ses01F f\nSes01M m\nSes02F f\n")
    (data / "spk2utt").write_text("Ses01F u00 u01 u02 u03\n")
    hyp = "angry happy neutral sad " + "angry happy neutral neutral " + "angry angry sad sad"
    answers = write_map(tmp_path / "hyp", hyp)

    found = score(answers, data, by=["spk", "gender"])

    by_speaker, by_gender = found.groups
    assert [row.metrics["UA"] for row in by_speaker.rows] == [1.0, 0.75, 0.5]
    assert [by_speaker.mean["UA"], by_speaker.min["UA"], by_speaker.max["UA"]] == [0.75, 0.5, 1.0]
    assert [(row.name, row.metrics["UA"]) for row in by_gender.rows] == [("f", 0.75), ("m", 0.75)]
    assert found.folds is not None
    assert [(row.name, row.utterances, row.metrics["UA"]) for row in found.folds.rows] == [
        ("1", 8, 0.875),
        ("2", 4, 0.5),
    ]
    assert found.metrics["UA"].value == (0.875 + 0.5) / 2
    assert found.view.pooled["UA"].value == pytest.approx(0.75)
    assert score(answers, data, folds="none").metrics["UA"].value == pytest.approx(0.75)


def test_groups_folds_and_intervals_may_be_files(e2v: E2v, tmp_path: Path, answers: Path, corpus: Path) -> None:
    of_utterances = write_map(tmp_path / "rooms", "x " * 10 + "y " * 5)
    (tmp_path / "homes").write_text("s1 north\ns2 south\n")

    found = score(answers, corpus, by=[str(of_utterances), str(tmp_path / "homes")], folds=str(of_utterances))

    assert [[(row.name, row.utterances) for row in table.rows] for table in found.groups] == [
        [("x", 10), ("y", 5)],
        [("north", 7), ("south", 8)],
    ]
    assert found.folds is not None
    assert [row.name for row in found.folds.rows] == ["x", "y"]
    interval = score(answers, corpus, ci=str(of_utterances)).interval
    assert interval is not None
    assert (interval.unit, interval.units) == (str(of_utterances), 2)
    assert f"over 2 groups of {of_utterances}, 10000" in e2v("score", answers, corpus, "--ci", of_utterances).stdout


# -- classes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nine(tmp_path: Path) -> Path:
    """Posteriors of nine classes for four utterances."""
    rows: list[list[float]] = [
        [0.30, 0, 0, 0.25, 0, 0.45, 0, 0, 0],  # other, else angry
        [0, 0, 0, 0.5, 0.1, 0, 0.4, 0, 0],  # happy
        [0.2, 0, 0, 0.2, 0.0, 0.6, 0, 0, 0],  # other, else a tie of angry and happy
        [0, 0, 0, 0, 0, 1, 0, 0, 0],  # other, else none of the classes
    ]
    return write_predictions(tmp_path / "nine.tsv", rows)


def test_closed_answers_are_of_the_classes_that_count(e2v: E2v, tmp_path: Path, nine: Path) -> None:
    reference = write_map(tmp_path / "ref", "angry happy happy neutral")

    found = score(nine, reference)

    assert found.headline == "open"
    assert values_of(found)[:2] == pytest.approx([0.25, 1 / 6])
    assert values_of(found, "closed")[:2] == pytest.approx([0.5, 0.5])
    closed = found.views["closed"]
    assert (closed.ties, found.view.ties) == (2, 0)
    assert closed.confusion == ((1, 0, 0), (1, 1, 0), (1, 0, 0))
    assert closed.calibration is not None
    truths = [0.3 / 0.55, 0.5 / 0.6, 0.5, 1 / 3]
    assert closed.calibration.nll == pytest.approx(-sum(map(math.log, truths)) / 4)
    done = e2v("score", nine, reference, "--closed", "--ci", "none")
    assert "3 classes, closed\n" in done.stdout
    assert "note: 2 ties of several most probable classes, closed: the first of them is the answer\n" in done.stdout
    assert done.stdout.split("\n\n")[1].splitlines()[:3] == [
        "Metrics",
        "       closed    open  always happy  chance",
        "WA     0.5000  0.2500        0.5000  0.3333",
    ]


def test_calibration_and_ties_are_shown_where_answers_are_the_same(e2v: E2v, tmp_path: Path) -> None:
    table = write_predictions(tmp_path / "hyp.tsv", [[0.2, 0, 0, 0.2, 0.2, 0, 0.2, 0.2, 0]] * 4)
    reference = write_map(tmp_path / "ref", "angry happy neutral sad")

    done = e2v("score", table, reference, "--ci", "none")

    assert "\nopen and closed answers are the same here\n" in done.stdout
    assert "note: 4 ties of several most probable classes, closed: the first of them is the answer\n" in done.stdout
    assert done.stdout.split("Calibration\n")[1].splitlines()[1:3] == [
        "open             4  1.6094  0.8000  0.0500     0.2500     0.2500      0.2500",
        "closed           4  1.3863  0.7500  0.0000     0.2500     0.2500      0.2500",
    ]


def test_undefined_metrics_have_no_interval(e2v: E2v, tmp_path: Path) -> None:
    done = e2v("score", write_map(tmp_path / "hyp", "sad sad"), write_map(tmp_path / "ref", "sad sad"))

    assert next(line.split() for line in done.stdout.splitlines() if line.startswith("kappa")) == ["kappa", *"–––"]


def test_utterances_that_the_other_system_lacks_are_skipped_in_all_numbers(
    e2v: E2v, tmp_path: Path, nine: Path
) -> None:
    reference = write_map(tmp_path / "ref", "angry happy happy neutral")
    other = write_map(tmp_path / "other", "happy angry")
    half = write_map(tmp_path / "half", "angry happy")

    found = score(nine, reference, against=other, missing="skip")
    expected = score(nine, half, classes=("angry", "happy", "neutral"))

    assert (found.counts.scored, found.counts.missing) == (2, 2)
    for view in ("open", "closed"):
        calibration = expected.views[view].calibration
        assert calibration is not None
        assert found.views[view].calibration == calibration
    assert (found.views["closed"].ties, values_of(found)) == (0, values_of(expected))
    done = e2v("score", nine, reference, "--against", other, "--missing", "skip")
    assert "left out: 2 without a prediction\n" in done.stdout


def test_merges_sum_probabilities(tmp_path: Path) -> None:
    rows = [[0.3, 0, 0.25, 0, 0.45, 0, 0, 0, 0], [0.3, 0, 0.1, 0, 0.6, 0, 0, 0, 0]]
    answers = write_predictions(tmp_path / "hyp.tsv", rows)
    reference = write_map(tmp_path / "ref", "anger neutral")

    found = score(answers, reference, merge={"fearful": "angry"}, closed=True)

    assert found.metrics["WA"].value == 1.0
    assert values_of(found, "open")[0] == 0.5  # the label as predicted is neutral
    assert found.model_classes[:3] == ("angry", "disgusted", "happy")
    assert found.view.calibration is not None
    assert found.view.calibration.nll == pytest.approx(-(math.log(0.55) + math.log(0.6)) / 2)


def test_iemocaps_excited_is_happy_only_when_merged(tmp_path: Path) -> None:
    answers = write_predictions(tmp_path / "hyp.tsv", [sure_of(name) for name in ("happy", "happy", "sad")])
    reference = write_map(tmp_path / "ref", "exc hap sad")

    apart, merged = score(answers, reference), score(answers, reference, merge={"excited": "happy"})

    assert (apart.classes, apart.lacking) == (("happy", "sad", "excited"), ("excited",))
    assert apart.metrics["UA"].value == pytest.approx(2 / 3)
    assert apart.view.without_lacking is not None
    assert apart.view.without_lacking["UA"] == 1.0
    assert (merged.classes, merged.lacking, merged.metrics["UA"].value) == (("happy", "sad"), (), 1.0)
    assert apart.view.calibration is not None
    assert apart.view.calibration.utterances == 2


def test_a_class_that_the_model_lacks_is_named(e2v: E2v, tmp_path: Path) -> None:
    answers = write_predictions(tmp_path / "hyp.tsv", [sure_of("happy"), sure_of("sad")])
    reference = write_map(tmp_path / "ref", "excited sad")

    done = e2v("score", answers, reference, "--ci", "none")

    assert "note: the model lacks excited: recall 0; the metrics without are beside\n" in done.stdout
    assert done.stdout.split("\n\n")[1].splitlines()[1:3] == [
        "         open  closed  without excited  always sad  chance",
        "WA     0.5000  0.5000           1.0000      0.5000  0.5000",
    ]


def test_classes_choose_the_utterances_that_count(e2v: E2v, answers: Path, corpus: Path) -> None:
    found = score(answers, corpus, classes=["Anger", "neu"], ci="none")
    done = e2v("score", answers, corpus, "--classes", "anger,neu", "--ci", "none")

    assert found.classes == ("angry", "neutral")
    assert (found.counts.scored, dict(found.counts.uncounted)) == (10, {"happy": 3, "sad": 2})
    assert found.metrics["WA"].value == 0.6
    assert "left out: 5 of classes that do not count (happy 3, sad 2)\n" in done.stdout


def test_labels_in_other_languages_and_spellings_are_the_same(tmp_path: Path) -> None:
    chinese = ("生气", "厌恶", "恐惧", "开心", "中立", "其他", "难过", "吃惊", "<unk>")
    answers = write_predictions(tmp_path / "hyp.tsv", [sure_of("开心", chinese), sure_of("<unk>", chinese)], chinese)
    reference = write_map(tmp_path / "ref", "Happiness unk")

    found = score(answers, reference)

    assert (found.classes, found.metrics["WA"].value) == (("happy", "unknown"), 1.0)
    assert found.model_classes == CLASSES


def test_maps_of_letters_hold_for_both_sides(tmp_path: Path) -> None:
    map_file = tmp_path / "map"
    map_file.write_text("A angry\nN neutral\nO -\n")
    answers = write_map(tmp_path / "hyp", "A N O angry")
    reference = write_map(tmp_path / "ref", "A A N O")

    found = score(answers, reference, map=map_file)

    assert (found.counts.scored, found.metrics["WA"].value, found.view.answers) == (3, 1 / 3, ("angry", "neutral", "O"))


def test_one_class_only_is_noted(e2v: E2v, tmp_path: Path) -> None:
    reference, answers = write_map(tmp_path / "ref", "sad sad"), write_map(tmp_path / "hyp", "sad angry")

    done = e2v("score", answers, reference)

    assert done.returncode == 0
    assert "note: only one class, sad: UA is its recall, and says nothing of other classes\n" in done.stdout
    assert "UA     0.5000" in done.stdout


def test_closed_without_probabilities_needs_answers_of_the_classes(e2v: E2v, tmp_path: Path) -> None:
    reference = write_map(tmp_path / "ref", "sad angry")
    inside, outside = write_map(tmp_path / "inside", "sad sad"), write_map(tmp_path / "outside", "sad other")

    assert score(inside, reference, closed=True).metrics["WA"].value == 0.5
    done = e2v("score", outside, reference, "--closed")
    assert done.returncode == 2
    assert done.stderr == (
        f"e2v: --closed: {outside} has no probabilities, and answers that are none of the classes (1 utterances); "
        "leave out --closed\n"
    )


# -- comparisons, limits and files -------------------------------------------------------------------------------------


def test_other_predictions_are_compared_on_the_same_utterances(e2v: E2v, tmp_path: Path, corpus: Path) -> None:
    first = write_map(tmp_path / "first", REFERENCE)
    second = write_map(tmp_path / "second", PREDICTED)

    found = score(first, corpus, against=second)
    same = score(second, corpus, against=second)
    done = e2v("score", first, corpus, "--against", second)

    comparison = found.comparison
    assert comparison is not None
    assert comparison.differences["UA"].value == pytest.approx(1 - 0.583333, abs=1e-6)
    assert (comparison.mcnemar.only_first, comparison.mcnemar.only_second) == (6, 0)
    assert comparison.mcnemar.p == pytest.approx(2 / 2**6)
    assert same.comparison is not None
    assert (same.comparison.differences["UA"].value, same.comparison.differences["UA"].p) == (0, 1)
    assert "WA     1.0000  0.6000      0.4000" in done.stdout
    assert "McNemar's exact test of WA: 6 utterances only here right, 0 only there, p = 0.03125\n" in done.stdout


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--require", "UA=0.58"], 0, ""),
        (["--require", "ua=0.6"], 3, "e2v: UA is 0.5833, lower than --require UA=0.6\n"),
        (["--require", "WA=0.6", "--require", "MCC=0.5"], 3, "e2v: MCC is 0.4767, lower than --require MCC=0.5\n"),
        (
            ["--require", "UAR=0.6"],
            2,
            "e2v: --require: 'UAR=0.6' is not like UA=0.6: one of WA, UA, WF1, MF1, kappa, MCC, and at most 1 "
            "(see: e2v score --help)\n",
        ),
    ],
)
def test_a_metric_may_be_required(
    e2v: E2v, answers: Path, corpus: Path, given: list[str], code: int, message: str
) -> None:
    done = e2v("score", answers, corpus, *given)

    assert (done.returncode, done.stderr) == (code, message)
    assert bool(done.stdout) == (code != 2)


def test_files_have_all_numbers(e2v: E2v, tmp_path: Path, corpus: Path) -> None:
    rows = [sure_of(word, share=0.9 - 0.01 * index) for index, word in enumerate(PREDICTED.split())]
    answers = write_predictions(tmp_path / "hyp.tsv", rows)
    folder = tmp_path / "a" / "b"

    done = e2v("score", answers, corpus, "--by", "spk", "-o", folder)

    assert done.stdout.startswith(f"{answers} against {corpus}: 15 of 15 utterances, 4 classes, open\n")
    assert sorted(path.name for path in folder.iterdir()) == [
        "classes.tsv", "confusion.tsv", "errors.tsv", "groups.tsv", "score.json"
    ]  # fmt: skip
    assert (folder / "confusion.tsv").read_text().splitlines()[:2] == [
        "reference\tangry\thappy\tneutral\tsad\tother\tunknown",
        "angry\t2\t1\t0\t0\t1\t0",
    ]
    assert (folder / "classes.tsv").read_text().splitlines()[:2] == [
        "class\tprecision\trecall\tf1\tsupport",
        "angry\t0.666667\t0.500000\t0.571429\t4",
    ]
    groups = read_tsv(folder / "groups.tsv")
    assert [(row["by"], row["group"], row["utterances"], row["UA"]) for row in groups] == [
        ("spk", "s1", "7", "1.000000"),
        ("spk", "s2", "8", "0.208333"),
        ("spk", "mean", "", "0.604167"),
        ("spk", "min", "", "0.208333"),
        ("spk", "max", "", "1.000000"),
    ]
    assert (folder / "errors.tsv").read_text().splitlines()[:3] == [
        "utt_id\treference\tlabel\tp_reference\tscore",
        "u02\tangry\tother\t0.015000\t0.880000",
        "u03\tangry\thappy\t0.016250\t0.870000",
    ]
    assert [row["utt_id"] for row in read_tsv(folder / "errors.tsv")] == ["u02", "u03", "u05", "u10", "u12", "u14"]
    content = json.loads((folder / "score.json").read_text())
    assert content["metrics"]["UA"]["value"] == pytest.approx(0.583333, abs=1e-6)
    assert content["views"]["closed"]["confusion"]["answers"] == list(FOUR)


def test_a_second_score_replaces_the_files_of_the_first(e2v: E2v, tmp_path: Path, answers: Path, corpus: Path) -> None:
    folder = tmp_path / "score"

    for words in ([], ["--by", "spk"]):
        assert e2v("score", answers, corpus, "-o", folder, *words).returncode == 0

    assert len(read_tsv(folder / "groups.tsv")) == 5
    assert len(list(folder.iterdir())) == 5


def test_a_folder_that_can_not_be_made_is_named(e2v: E2v, answers: Path, corpus: Path) -> None:
    done = e2v("score", answers, corpus, "-o", answers / "x")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"e2v: {answers / 'x'}: Not a directory; choose another -o\n"
