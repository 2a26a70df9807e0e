"""``e2v score`` and inputs that it refuses: exit code, file, line, cause and hint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.labelled import PREDICTED, REFERENCE, SPEAKERS, sure_of, write_corpus, write_map, write_predictions
from support.processes import E2v

FORMS = "--map FILE has their classes, a line each: word class, or word - to leave it out"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Fifteen utterances of two speakers."""
    return write_corpus(tmp_path / "data", utt2emo=REFERENCE, utt2spk=SPEAKERS)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """A map of fifteen answers."""
    return write_map(tmp_path / "hyp", PREDICTED)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A ``predictions.tsv`` of fifteen answers."""
    return write_predictions(tmp_path / "hyp.tsv", [sure_of(word) for word in PREDICTED.split()])


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("".join(f"{line}\n" for line in lines))


def refuse(e2v: E2v, *words: str | Path, code: int = 1) -> str:
    """Run ``e2v score``, and return the message of its refusal."""
    done = e2v("score", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("e2v: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("e2v: ").rstrip("\n")


# -- duplicates and labels ---------------------------------------------------------------------------------------------


def test_duplicate_ids_are_refused_on_either_side(e2v: E2v, answers: Path, table: Path, corpus: Path) -> None:
    append(answers, "\nu02 sad\n")
    append(table, table.read_text().splitlines()[3] + "\n")

    assert refuse(e2v, answers, corpus) == f'{answers}:17: utt-id "u02" again (first on line 3)'
    assert refuse(e2v, table, corpus) == f'{table}:17: utt-id "u02" again (first on line 4)'

    append(corpus / "utt2emo", "u00 angry\n")
    assert refuse(e2v, table, corpus) == f'{corpus}/utt2emo:16: utt-id "u00" again (first on line 1)'


def test_duplicate_predictions_of_other_utterances_are_refused_too(e2v: E2v, answers: Path, corpus: Path) -> None:
    append(answers, "x sad\ny sad\nx sad\n")

    assert refuse(e2v, answers, corpus) == f'{answers}:18: utt-id "x" again (first on line 16)'


def test_predictions_that_differ_by_a_suffix_are_duplicates(e2v: E2v, answers: Path, corpus: Path) -> None:
    append(answers, "u02.wav sad\n")

    assert refuse(e2v, answers, corpus) == f'{answers}:16: utt-id "u02.wav" again (first on line 3, as "u02")'


def test_unknown_labels_are_all_named_with_the_nearest(e2v: E2v, tmp_path: Path, answers: Path) -> None:
    reference = write_map(tmp_path / "ref", "sad hapy S hapy sadd zzz " + "sad " * 9)

    assert refuse(e2v, answers, reference) == (
        f'{reference}:2: unknown labels "hapy" (2 times, from line 2; happy?), "S" (once, line 3), '
        f'"sadd" (once, line 5; sad?), "zzz" (once, line 6); {FORMS}'
    )


def test_unknown_labels_of_predictions_are_named(e2v: E2v, tmp_path: Path, corpus: Path) -> None:
    answers = write_map(tmp_path / "hyp", "angri " + "sad " * 14)

    assert refuse(e2v, answers, corpus) == f'{answers}:1: unknown label "angri" (once, line 1; angry?); {FORMS}'


def test_many_unknown_labels_are_counted(e2v: E2v, tmp_path: Path, answers: Path) -> None:
    reference = write_map(tmp_path / "ref", [f"w{number}" for number in range(30)])

    assert f'"w19" (once, line 20) and 10 others; {FORMS}' in refuse(e2v, answers, reference)


def test_a_column_of_ids_is_none_of_labels(e2v: E2v, tmp_path: Path, answers: Path) -> None:
    reference = write_map(tmp_path / "ref", [f"w{number}" for number in range(10_001)])

    assert refuse(e2v, answers, reference) == (
        f"{reference}:10001: more than 10,000 different labels; is it the right column?"
    )


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "there", "hint"),
    [
        (["b-1", "b-2"], ["test-b-1", "test-b-2"], '"b-1" here, "test-b-1" there; they differ by the prefix "test-"'),
        (["x/b-1"], ["b-1", "b-2"], '"x/b-1" here, "b-1" there; they differ by the prefix "x/"'),
        (["b-1"], ["x/b-1.wav"], '"b-1" here, "x/b-1.wav" there; they differ by the prefix "x/"'),
        (["x_anna1"], ["yy_anna1"], '"x_anna1" here, "yy_anna1" there; they differ by the prefixes "x" and "yy"'),
        (["a"], ["b"], '"a" here, "b" there'),
    ],
)
def test_no_common_ids_are_refused_with_an_example_of_each_side(
    e2v: E2v, tmp_path: Path, here: list[str], there: list[str], hint: str
) -> None:
    answers = write_map(tmp_path / "hyp", ["sad"] * len(here), here)
    reference = write_map(tmp_path / "ref", ["sad"] * len(there), there)

    assert refuse(e2v, answers, reference) == f"{answers}: no utt-id in common with {reference}: {hint}"


def test_missing_predictions_are_refused_or_not(e2v: E2v, tmp_path: Path, corpus: Path) -> None:
    answers = write_map(tmp_path / "hyp", PREDICTED.split()[:13])
    append(answers, "x sad\n")

    assert refuse(e2v, answers, corpus) == (
        f'{answers}: no prediction of 2 of the 15 utterances of {corpus}, the first is "u13"; --missing wrong counts '
        "them as errors, --missing skip leaves them out"
    )
    skipped = e2v("score", answers, corpus, "--missing", "skip").stdout
    wrong = e2v("score", answers, corpus, "--missing", "wrong", "-o", tmp_path / "o").stdout
    assert (
        "13 of 15 utterances, 4 classes, open\nleft out: 2 without a prediction\nleft out: 1 predictions of " in skipped
    )
    assert "UA     0.6111" in skipped  # of angry, happy and neutral
    assert "WA     0.5333" in wrong
    assert (tmp_path / "o" / "errors.tsv").read_text().splitlines()[-2:] == [
        "u13\tsad\t(none)\t\t",
        "u14\tsad\t(none)\t\t",
    ]


# -- probabilities -----------------------------------------------------------------------------------------------------

LAST_EIGHT = "\t0.000000" * 8


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ("0.900000" + LAST_EIGHT, "the probabilities of u01 sum to 0.9000, not to 1 within 0.001"),
        ("0.9" + "\t0" * 8, "the probabilities of u01 sum to 0.9000, not to 1 within 0.001"),
        ("nan" + LAST_EIGHT, "the probabilities of u01 have nan"),
        ("inf" + LAST_EIGHT, "the probabilities of u01 have inf"),
        ("2\t-1" + "\t0" * 7, "the probabilities of u01 have -1"),
    ],
)
def test_invalid_probabilities_are_refused(e2v: E2v, table: Path, corpus: Path, cells: str, problem: str) -> None:
    replace_line(table, 3, f"u01\tangry\t0.900000\t1.0\t1\t{cells}")

    assert refuse(e2v, table, corpus) == (
        f"{table}:3: {problem}; predict it again, or leave out the columns of classes"
    )


@pytest.mark.parametrize("first", ["0.999000", "1.001000"])
def test_probabilities_may_sum_to_a_little_less_or_more(e2v: E2v, table: Path, corpus: Path, first: str) -> None:
    replace_line(table, 3, f"u01\tangry\t{first}\t1.0\t1\t{first}{LAST_EIGHT}")

    assert e2v("score", table, corpus).returncode == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("u01\tangry\t0.9\t1.0\t1\t0.5\t0.5", "7 cells, but the header has 14"),
        ("u01\tangry\t0.9\t1.0\t1\tmuch" + "\t0" * 8, "'much' is no probability"),
    ],
)
def test_rows_of_other_cells_are_refused(e2v: E2v, table: Path, corpus: Path, line: str, problem: str) -> None:
    replace_line(table, 3, line)

    assert refuse(e2v, table, corpus) == f"{table}:3: {problem}"


def test_columns_between_e2vs_own_are_refused(e2v: E2v, table: Path, corpus: Path) -> None:
    table.write_text("utt_id\tangry\tlabel\nu00\t1.0\tangry\n")

    assert refuse(e2v, table, corpus) == f'{table}:1: column "angry" is before label; put classes last'


def test_a_model_without_a_head_is_refused(e2v: E2v, table: Path, corpus: Path) -> None:
    table.write_text("utt_id\tduration\twindows\nu00\t1.0\t1\n")

    assert refuse(e2v, table, corpus) == (
        f"{table}:1: no column of labels: a model without a head predicts no emotion; predict with one of e2v models "
        "that has classes"
    )


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ": empty: no utterance has a label"),
        ("\n\n", ": empty: no utterance has a label"),
        ("u00 sad\nu01\n", ":2: 'u01'; a line is: utt-id label"),
        ("u00 sad\nu01 very sad\n", ":2: 'u01 very sad'; a line is: utt-id label"),
        ("u00 sad\nu01 s\udcff\n", ":2: b's\\xff' is not UTF-8; save the file as UTF-8"),
    ],
)
def test_maps_of_other_forms_are_refused(e2v: E2v, tmp_path: Path, answers: Path, text: str, problem: str) -> None:
    reference = tmp_path / "ref"
    reference.write_bytes(text.encode(errors="surrogateescape"))

    assert refuse(e2v, answers, reference) == f"{reference}{problem}"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "a.csv",
            "FileName,Label2\na,sad\n",
            ":1: no column of labels; name one with --label-column; the header has FileName, Label2",
        ),
        ("a.csv", "name2;emo\na;sad\n", ":1: no column of ids; name one with --id-column; the header has name2, emo"),
        ("a.csv", "FileName,EmoClass\na,sad\nb,sad,1\n", ":3: 3 cells, but the header has 2"),
        (
            "a.csv",
            'key,emo\na,sad\n"b\nc",sad\n',
            ":4: white space or control characters in utt-id 'b\\nc'; rename it",
        ),
        ("a.csv", "key,emo\na,sad\n,sad\n", ":3: no utt-id"),
        (
            "a.jsonl",
            '{"key": "a\\tb", "emo": "sad"}\n',
            ":1: white space or control characters in utt-id 'a\\tb'; rename it",
        ),
        ("a.tsv", "key\temo\n", ": empty: no utterance has a label"),
        (
            "a.jsonl",
            '{"key": "a", "emo": "sad"}\n{"key": "b"}\n',
            ":2: no text under emo, emotion, label or emoclass; name it with --label-column",
        ),
        ("a.jsonl", "{\n", ":1: not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("a.jsonl", "[]\n", ":1: not an object, as {...}"),
    ],
)
def test_tables_of_other_forms_are_refused(
    e2v: E2v, tmp_path: Path, answers: Path, name: str, text: str, problem: str
) -> None:
    reference = tmp_path / name
    reference.write_text(text)

    assert refuse(e2v, answers, reference) == f"{reference}{problem}"


def test_a_column_that_a_table_lacks_is_named(e2v: E2v, tmp_path: Path, answers: Path) -> None:
    reference = tmp_path / "a.csv"
    reference.write_text("key,emo\nu00,sad\n")

    assert refuse(e2v, answers, reference, "--label-column", "mood") == (
        f'{reference}:1: no column "mood"; the header has key, emo'
    )


def test_missing_inputs_are_named(e2v: E2v, tmp_path: Path, answers: Path, corpus: Path) -> None:
    (tmp_path / "empty").mkdir()
    missing = "No such file or directory; a list must be a file that can be read"

    assert refuse(e2v, answers, tmp_path / "x") == f"{tmp_path / 'x'}: {missing}"
    assert refuse(e2v, tmp_path / "x", corpus) == f"{tmp_path / 'x'}: {missing}"
    assert refuse(e2v, answers, tmp_path / "empty") == (
        f"{tmp_path / 'empty'}: no utt2emo in it; a reference is a Kaldi directory with one, or a file of labels"
    )
    assert refuse(e2v, tmp_path / "empty", corpus) == (
        f"{tmp_path / 'empty'} holds no run: choose the -o of e2v predict"
    )


def test_empty_predictions_are_refused(e2v: E2v, tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "hyp").write_text("")

    assert refuse(e2v, tmp_path / "hyp", corpus) == f"{tmp_path / 'hyp'}: empty: no utterance has a prediction"
    assert e2v("score", "-", corpus).stderr == "e2v: standard input: empty: no utterance has a prediction\n"


def test_a_reference_without_utterances_that_count_is_refused(
    e2v: E2v, tmp_path: Path, answers: Path, corpus: Path
) -> None:
    map_file = write_map(tmp_path / "map", "- - - -", ["angry", "happy", "neutral", "sad"])
    none_left = f"{corpus}/utt2emo: no utterance is left: all are of other classes, or left out by --map"

    assert refuse(e2v, answers, corpus, "--map", map_file) == none_left
    assert refuse(e2v, answers, corpus, "--classes", "bored") == none_left


# -- predicted labels are no reference ---------------------------------------------------------------------------------


def test_a_run_is_not_its_own_reference(e2v: E2v, tmp_path: Path, answers: Path) -> None:
    out = tmp_path / "out"
    e2v("predict", "sample_data/wav/f1-0001.wav", "-m", "sample", "-o", out, "-q")
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "file").symlink_to(out / "utt2emo")
    shutil.copytree(out, tmp_path / "copy")
    refused = "the labels in a run folder are predicted, and no reference; name the corpus's own utt2emo"

    relative = Path(os.path.relpath(out))
    for reference in (out, relative, tmp_path / "link", tmp_path / "copy", out / "utt2emo", tmp_path / "file"):
        assert refuse(e2v, out, reference) == f"{reference}: {refused}"
    assert refuse(e2v, answers, out / "predictions.tsv") == f"{out / 'predictions.tsv'}: {refused}"


def test_a_file_is_not_its_own_reference(e2v: E2v, tmp_path: Path, answers: Path, corpus: Path) -> None:
    (tmp_path / "link").symlink_to(answers)

    assert refuse(e2v, tmp_path / "link", answers) == (
        f"{tmp_path / 'link'}: PREDICTIONS and REFERENCE are the same file"
    )
    assert refuse(e2v, corpus / "utt2emo", corpus).endswith("are the same file")


def test_predictions_beside_a_reference_are_no_run(e2v: E2v, corpus: Path) -> None:
    table = write_predictions(corpus / "predictions.tsv", [sure_of(word) for word in PREDICTED.split()])

    assert e2v("score", table, corpus).returncode == 0


# -- groups ------------------------------------------------------------------------------------------------------------


def test_utterances_without_a_group_are_refused(e2v: E2v, tmp_path: Path, answers: Path, corpus: Path) -> None:
    write_map(corpus / "utt2spk", SPEAKERS.split()[:13])
    (corpus / "spk2fold").write_text("s1 1\n")
    (tmp_path / "none").write_text("zz x\n")

    assert refuse(e2v, answers, corpus, "--folds", "none") == (
        f'{corpus}/utt2spk: 2 of the 15 utterances have no line, the first is "u13"; add them, or use --ci utterance'
    )
    assert refuse(e2v, answers, corpus, "--ci", "utterance") == (
        f'{corpus}/spk2fold: 9 of the 15 utterances have no line, the first is "u02"; add them, or use --folds none'
    )
    assert refuse(e2v, answers, corpus, "--ci", tmp_path / "none", "--folds", "none") == (
        f"{tmp_path / 'none'}: none of its ids is of the reference, {corpus}"
    )


def test_groups_that_contradict_each_other_are_refused(e2v: E2v, answers: Path, corpus: Path) -> None:
    append(corpus / "utt2spk", "u03 s2\nu03 s1\n")
    assert refuse(e2v, answers, corpus) == (
        f'{corpus}/utt2spk:17: utt-id "u03" again, with another group (first on line 4)'
    )

    write_map(corpus / "utt2spk", SPEAKERS)
    (corpus / "spk2fold").write_text("s1 1\ns2 2\ns1 2\n")
    assert refuse(e2v, answers, corpus) == f'{corpus}/spk2fold:3: speaker "s1" again, with another group'


# -- usage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--by", "gender"], "--by gender: {ref} has no spk2gender; choose a file of utterances and groups"),
        (
            ["--by", "room"],
            "--by room: no such file; choose spk, gender, lang, or a file of utterances and groups",
        ),
        (["--ci", "speaker"], "--ci speaker: {ref} has no utt2spk; choose --ci utterance, or a file"),
        (
            ["--ci", "home"],
            "--ci home: no such file; choose speaker, utterance, none, or a file of utterances and groups",
        ),
        (["--folds", "5"], "--folds 5: no such file; choose none, or a file of utterances and groups"),
        (["--confidence", "95"], "--confidence 95: must be between 0 and 1, as in 0.95"),
        (["--resamples", "0"], "--resamples 0: must be at least 1; --ci none computes no interval"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--classes", "angri,sad"], "--classes angri: neither the model nor the reference has it (is angry meant?)"),
        (["--merge", "sad"], "--merge sad: not of the form a=b, which makes class a a part of b"),
        (["--id-column", "key"], "--id-column and --label-column are for .csv, .tsv and .jsonl, and {ref} is none"),
        (["--map", "nowhere"], "--map: Path 'nowhere' does not exist (see: e2v score --help)"),
        (
            ["--merge", "exited=happy"],
            "--merge exited=happy: neither the model nor the reference has it (is excited meant?)",
        ),
        (["--missing", "no"], "--missing: 'no' is not one of 'error', 'wrong', 'skip' (see: e2v score --help)"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    e2v: E2v, tmp_path: Path, answers: Path, words: list[str], problem: str
) -> None:
    reference = write_map(tmp_path / "ref", REFERENCE)

    assert refuse(e2v, answers, reference, *words, code=2) == problem.format(ref=reference)


def test_standard_input_is_read_once(e2v: E2v, corpus: Path) -> None:
    assert refuse(e2v, "-", corpus, "--against", "-", code=2) == ("--against -: standard input is PREDICTIONS already")


def test_words_that_are_empty_are_variables_that_are_not_set(e2v: E2v, corpus: Path) -> None:
    assert e2v("score", "", corpus).returncode == 2


def test_variables_of_score_have_its_name(e2v: E2v, answers: Path, corpus: Path) -> None:
    of_others = e2v("score", answers, corpus, E2V_FORMAT="csv", E2V_CLASSES="sad", E2V_OUTPUT_DIR="/nowhere")
    own = e2v("score", answers, corpus, E2V_SCORE_FORMAT="tsv", E2V_SCORE_CI="none")
    wrong = e2v("score", answers, corpus, E2V_SCORE_SEED="-1")

    assert "15 of 15 utterances, 4 classes" in of_others.stdout
    assert own.stdout.startswith("view\tmetric\tvalue\tlow\thigh\nopen\tWA\t0.600000\t\t\n")
    assert wrong.stderr == "e2v: --seed -1: must be at least 0 (--seed is set by E2V_SCORE_SEED)\n"
