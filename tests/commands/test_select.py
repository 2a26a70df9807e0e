"""``e2v select`` on runs that are made by hand: messages, exit codes and files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.journal_lines import edit_header, read_json_header
from support.kaldi_rules import find_faults, read_table
from support.made_runs import LABELS, make_run
from support.processes import E2v, hook

LISTS = ("wav.scp", "utt2spk", "spk2utt", "text", "spk2gender", "utt2emo", "utt2score", "utt2dur")

IDS = [f"{speaker}-{number:02}" for speaker in ("anna", "ben", "cem") for number in range(8)]


def posteriors_of(utt_id: str) -> tuple[float, ...]:
    """Make probabilities that depend on the id alone."""
    random = Random(utt_id)
    best, score = random.randrange(len(LABELS)), random.randrange(400_000, 999_000) / 1e6
    rest = (1 - score) / (len(LABELS) - 1)
    return tuple(score if index == best else rest for index in range(len(LABELS)))


ALL = {utt_id: posteriors_of(utt_id) for utt_id in IDS}
LABEL_OF = {utt_id: LABELS[row.index(max(row))] for utt_id, row in ALL.items()}
SCORE_OF = {utt_id: max(row) for utt_id, row in ALL.items()}


def write_corpus(folder: Path, ids: Sequence[str] = tuple(IDS), **files: str) -> Path:
    """Write a data directory without any audio."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = {
        "wav.scp": "".join(f"{utt_id} /corpus/{utt_id}.wav\n" for utt_id in ids),
        "utt2spk": "".join(f"{utt_id} {utt_id.split('-')[0]}\n" for utt_id in ids),
        "text": "".join(f"{utt_id} said {utt_id}\n" for utt_id in ids),
        "spk2gender": "anna f\nben m\ncem m\n",
        **files,
    }
    for name, content in lists.items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a data directory and its run."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data")
    make_run(tmp_path / "out", ["data"], ALL)
    return tmp_path


def kept(folder: Path) -> set[str]:
    return set(read_table(folder / "utt2emo"))


def read_json(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "select.json").read_bytes())
    return facts


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mean_of(label: str) -> float:
    scores = [SCORE_OF[utt_id] for utt_id in IDS if LABEL_OF[utt_id] == label]
    return sum(scores) / len(scores)


def test_default_keeps_scores_above_the_mean_of_their_class(work: Path, e2v: E2v) -> None:
    done = e2v("select", "out", "-o", "sel", cwd=work)

    assert (done.returncode, done.stderr) == (0, "")
    expected = {u for u in IDS if LABEL_OF[u] != "other" and SCORE_OF[u] >= mean_of(LABEL_OF[u]) - 1e-9}
    assert kept(work / "sel") == expected
    assert find_faults(work / "sel") == []
    assert set(os.listdir(work / "sel")) == {*LISTS, "select.json", "rejected.tsv"}
    facts = read_json(work / "sel")
    assert facts["thresholds"] == pytest.approx({label: mean_of(label) for label in LABELS if label != "other"})
    assert facts["rules"] == {"threshold": "mean"}
    first, *steps = facts["funnel"]
    assert [step["step"] for step in steps] == ["failed", "left", "classes", "threshold", "kept"]
    assert first["utterances"] == sum(step["utterances"] for step in steps) == len(IDS)
    assert steps[-1]["classes"]["angry"]["hours"] == pytest.approx(
        sum(LABEL_OF[u] == "angry" for u in expected) / 3600, abs=1e-8
    )
    assert "threshold         " in done.stdout
    rejected = [line.split("\t") for line in (work / "sel" / "rejected.tsv").read_text().splitlines()]
    assert rejected[0] == ["utt_id", "rule", "value", "limit"]
    assert {row[0] for row in rejected[1:]} == set(IDS) - expected
    for utt_id, rule, value, limit in rejected[1:]:
        if rule == "classes":
            assert (value, limit) == ("other", "angry,happy,neutral")
        else:
            assert (rule, value) == ("threshold", f"{SCORE_OF[utt_id]:.6f}")
            assert float(value) < float(limit) == pytest.approx(mean_of(LABEL_OF[utt_id]), abs=1e-9)


def test_lists_are_subsets_of_those_of_the_source(work: Path, e2v: E2v) -> None:
    assert e2v("select", "out", "-o", "sel", "--threshold", "50%", cwd=work).returncode == 0

    for name in ("wav.scp", "text", "utt2spk", "spk2gender"):
        lines = (work / "sel" / name).read_text().splitlines()
        assert set(lines) <= set((work / "data" / name).read_text().splitlines())
        assert lines == sorted(lines)
    assert read_table(work / "sel" / "utt2emo") == {u: LABEL_OF[u] for u in kept(work / "sel")}
    assert read_table(work / "sel" / "utt2score") == {u: f"{SCORE_OF[u]:.6f}" for u in kept(work / "sel")}
    assert set(read_table(work / "sel" / "utt2dur").values()) == {"1.0000"}


@pytest.mark.parametrize(
    "rules",
    [
        (),
        ("--threshold", "30%", "--drop", "happy"),
        ("--min-score", "0.6", "--min-score", "hap=0.5", "--min-margin", "0.3", "--balance"),
        ("--max-per-speaker", "1", "--top", "2", "--hours", "0.001", "--where", "utt2num_frames > 1"),
    ],
)
def test_order_of_rows_and_rules_and_another_run_change_no_byte(rules: Sequence[str], work: Path, e2v: E2v) -> None:
    write_corpus(work / "data2", Random(1).sample(IDS, len(IDS)))
    (work / "data2" / "utt2spk").write_text((work / "data" / "utt2spk").read_text())
    make_run(work / "out2", ["data2"], ALL)
    shuffled = list(zip(rules[::2], rules[1::2], strict=False)) if len(rules) % 2 == 0 else []
    others = [word for pair in reversed(shuffled) for word in pair] or list(rules)

    codes = [e2v("select", "out", "-o", "a", *rules, cwd=work).returncode]
    codes.append(e2v("select", "out", "-o", "b", *others, cwd=work).returncode)
    codes.append(e2v("select", "out2", "-o", "c", *others, cwd=work).returncode)

    assert len(set(codes)) == 1
    assert files_of(work / "a") == files_of(work / "b")
    there, here = files_of(work / "a"), files_of(work / "c")
    there["select.json"] = there["select.json"].replace(b"/out", b"/out2")
    assert there == here


def test_selecting_again_keeps_all(work: Path, e2v: E2v) -> None:
    """From the selection itself, and from a run of it with the same model, whose scores differ in the last digits."""
    for number, rules in enumerate([(), ("--threshold", "40%"), ("--top", "2", "--min-score", "0.5"), ("--balance",)]):
        first, again, third = (f"{name}{number}" for name in ("first", "again", "third"))
        assert e2v("select", "out", "-o", first, *rules, cwd=work).returncode == 0
        done = e2v("select", first, "-o", again, *rules, cwd=work)
        assert (done.returncode, kept(work / again)) == (0, kept(work / first))

        moved = {u: tuple(p + (2e-6 if p < max(row) else -6e-6) for p in row) for u, row in ALL.items()}
        make_run(work / f"run{number}", [first], moved)
        done = e2v("select", f"run{number}", "-o", third, *rules, cwd=work)
        assert (done.returncode, kept(work / third)) == (0, kept(work / first))
        if not rules:
            assert f"e2v: --threshold mean: as in {work}/first0/select.json, whose list this is\n" in done.stderr


def test_selection_whose_run_is_gone_is_refused(work: Path, e2v: E2v) -> None:
    e2v("select", "out", "-o", "sel", cwd=work)
    shutil.rmtree(work / "out")

    done = e2v("select", "sel", "-o", "again", cwd=work)

    assert (done.returncode, done.stderr) == (
        1,
        f"e2v: sel is a selection from {work}/out, which is not there; compute it again: e2v predict sel -o OUT\n",
    )


def test_existing_data_is_never_touched(work: Path, e2v: E2v) -> None:
    (work / "sel").mkdir()
    (work / "link").symlink_to("nowhere")

    for name in ("sel", "link", "out"):
        done = e2v("select", "out", "-o", name, cwd=work)
        assert (done.returncode, done.stderr) == (4, f"e2v: {name} exists: choose another -o, or remove it\n")
    assert os.listdir(work / "sel") == []


def test_dry_run_writes_nothing(work: Path, e2v: E2v) -> None:
    """And needs no list: only rules that use what lies beside it read that."""
    shutil.rmtree(work / "data")
    before = sorted(os.listdir(work))

    done = e2v("select", "out", "--dry-run", "--top", "1", cwd=work)

    assert (done.returncode, sorted(os.listdir(work))) == (0, before)
    assert "hours at     0.5     0.6     0.7     0.8     0.9    0.95    0.99\n" in done.stdout
    hours = sum(LABEL_OF[u] == "happy" and SCORE_OF[u] >= 0.6 for u in IDS) / 3600
    row = next(line for line in done.stdout.splitlines()[::-1] if line.startswith("happy "))
    assert row.split()[2] == f"{hours:.4f}"
    assert e2v("select", "out", cwd=work).stderr.startswith("e2v: No -o DATA; --dry-run shows")


def test_less_than_asked_for(work: Path, e2v: E2v) -> None:
    """What there is is written; if it is nothing, DATA is not."""
    counts = {label: sum(each == label for each in LABEL_OF.values()) for label in LABELS}

    done = e2v("select", "out", "-o", "sel", "--threshold", "100%", "--top", "100", cwd=work)
    assert done.returncode == 3
    listed = ", ".join(f"{label} {counts[label]} of 100" for label in LABELS if label != "other")
    assert f"e2v: less than asked for: --top: {listed}\n" in done.stderr
    assert len(kept(work / "sel")) == len(IDS) - counts["other"]

    done = e2v("select", "out", "-o", "none", "--min-duration", "2", cwd=work)
    assert (done.returncode, done.stderr) == (
        3,
        "e2v: nothing is kept, and none is not written\n",
    )
    assert not (work / "none").exists()


def test_rule_without_effect_is_noted(work: Path, e2v: E2v) -> None:
    done = e2v("select", "out", "-o", "sel", "--min-duration", "0.5", "--where", "utt2dur < 9", cwd=work)

    assert done.stderr.splitlines() == [
        "e2v: --min-duration has no effect: it rejects nothing of what the rules before it leave",
        "e2v: --where has no effect: it rejects nothing of what the rules before it leave",
    ]


def test_incomplete_run_is_refused(work: Path, e2v: E2v) -> None:
    make_run(work / "half", ["data"], ALL, failed=IDS[:2], left=IDS[2:10])

    done = e2v("select", "half", "-o", "sel", cwd=work)
    assert (done.returncode, done.stderr) == (
        1,
        "e2v: half is not complete: 8 utterances are left; run the same e2v predict command again, or select from what "
        "is done with --partial\n",
    )

    done = e2v("select", "half", "-o", "sel", "--partial", "--threshold", "100%", cwd=work)
    assert done.returncode == 0, done.stderr
    assert kept(work / "sel") == {u for u in IDS[10:] if LABEL_OF[u] != "other"}
    first, *steps = read_json(work / "sel")["funnel"]
    assert [step["utterances"] for step in (first, *steps[:2])] == [24, 2, 8]
    assert sum(step["utterances"] for step in steps) == 24


def test_changed_source_is_refused_by_line(work: Path, e2v: E2v) -> None:
    lines = (work / "data" / "wav.scp").read_text().splitlines()
    lines[2] = lines[2].replace("/corpus", "/other")
    lines[4:9] = [line.replace("/corpus", "/other") for line in lines[4:9]]
    (work / "data" / "wav.scp").write_text("\n".join([*lines, "new-01 /corpus/new.wav", ""]))

    done = e2v("select", "out", "-o", "sel", cwd=work)

    assert (done.returncode, done.stderr) == (
        1,
        "e2v: data/wav.scp:3 (anna-02), data/wav.scp:5 (anna-04), data/wav.scp:6 (anna-05) and 3 others: not the audio "
        "that out was computed from; restore the list, or bring OUT up to date: e2v predict with --recompute-changed, "
        "or with --keep-changed if files have only moved\n",
    )
    assert sorted(os.listdir(work)) == ["data", "out"]


def test_missing_line_is_refused_by_id(work: Path, e2v: E2v) -> None:
    write_corpus(work / "data", IDS[3:])

    done = e2v("select", "out", "-o", "sel", cwd=work)

    assert (done.returncode, done.stderr) == (
        1,
        'e2v: data: 3 of the 24 utterances of out are not there any more, the first is "anna-00"; restore the list, or '
        "name the list again with --data\n",
    )


def test_named_list_may_be_elsewhere_and_have_a_part(work: Path, e2v: E2v) -> None:
    """Thresholds are those of the whole run."""
    (work / "elsewhere").mkdir()
    (work / "data").rename(work / "elsewhere" / "data")
    write_corpus(work / "part", IDS[8:])

    done = e2v("select", "out", "-o", "sel", cwd=work)
    assert done.returncode == 1
    assert done.stderr.endswith("the list of out must be there: name the list again with --data\n")
    done = e2v("select", "out", "-o", "sel", "--data", "elsewhere/data", cwd=work)
    assert (done.returncode, done.stderr) == (0, "")
    done = e2v("select", "out", "-o", "some", "--data", "part", cwd=work)
    assert (done.returncode, done.stderr) == (0, "")

    assert kept(work / "some") == kept(work / "sel") - set(IDS[:8])
    assert find_faults(work / "some") == []


def test_list_from_a_pipe_has_to_be_named(work: Path, e2v: E2v) -> None:
    make_run(work / "piped", ["data/wav.scp"], ALL)
    journal = next((work / "piped").glob("journal.*"))
    assert journal.read_bytes().count(b'"inputs": ["data/wav.scp"]') == 1
    edit_header(journal, invocation={**read_json_header(journal)["invocation"], "inputs": ["-"]})

    done = e2v("select", "piped", "-o", "sel", "--partial", cwd=work)

    assert (done.returncode, done.stderr) == (
        1,
        "e2v: piped: its list was '-', which can't be read again; store it in a file, and name the list again with "
        "--data: --data FILE\n",
    )
    assert e2v("select", "piped", "-o", "sel", "--partial", "--data", "data/wav.scp", cwd=work).returncode == 0


def test_speakers_are_in_one_part(work: Path, e2v: E2v) -> None:
    assert e2v("select", "out", "-o", "sel", "--split", "train=0.5,dev=0.5", cwd=work).returncode == 0
    assert e2v("select", "out", "-o", "sel2", "--split", "dev=0.5,train=0.5", cwd=work).returncode == 0

    parts = {name: read_table(work / "sel" / name / "utt2spk") for name in ("train", "dev")}
    assert set(parts["train"].values()) & set(parts["dev"].values()) == set()
    assert set(parts["train"]) | set(parts["dev"]) == kept(work / "sel")
    for folder in ("sel", "sel/train", "sel/dev"):
        assert find_faults(work / folder) == []
    assert files_of(work / "sel") == files_of(work / "sel2")


def test_part_without_speakers_is_left_out(work: Path, e2v: E2v) -> None:
    done = e2v("select", "out", "-o", "sel", "--split", "train=0.999999,dev=0.000001", cwd=work)

    assert "e2v: --split: no speaker is in dev, so it is left out\n" in done.stderr
    assert (work / "sel" / "train" / "wav.scp").exists()
    assert not (work / "sel" / "dev").exists()


def test_merge_of_an_unknown_class_is_refused(work: Path, e2v: E2v) -> None:
    done = e2v("select", "out", "--dry-run", "--merge", "exited=happy", cwd=work)

    assert (done.returncode, done.stderr) == (
        2,
        "e2v: --merge exited=happy: neither the run nor --map has it (is excited meant?)\n",
    )


def test_second_opinions(work: Path, e2v: E2v) -> None:
    """A map in any words, another run, and a Kaldi directory; all must agree."""
    words = {"angry": "Wut", "happy": "joy", "neutral": "NEU", "other": "oth"}
    (work / "map").write_text("Wut angry\nmüde -\n")
    wrong = set(IDS[::5])
    lines = [f"{u} {'müde' if u in wrong else words[LABEL_OF[u]]}\n" for u in IDS[1:]]
    (work / "opinion").write_text("".join(lines))
    run = {u: posteriors_of("x" + u) if u in IDS[1:4] else row for u, row in ALL.items()}
    make_run(work / "other", ["data"], run)
    same = {u for u in IDS if run[u].index(max(run[u])) == ALL[u].index(max(ALL[u]))}

    rules = ("--agree", "opinion", "--agree", "other", "--map", "map", "--threshold", "100%")
    done = e2v("select", "out", "-o", "sel", *rules, cwd=work)

    assert done.returncode == 0, done.stderr
    assert kept(work / "sel") == {u for u in same - wrong - {IDS[0]} if LABEL_OF[u] != "other"}
    assert set(read_json(work / "sel")["digests"]) == {"predictions", "opinion", "other"}
    done = e2v("select", "out", "--dry-run", "--agree", "opinion", cwd=work)
    assert done.returncode == 1
    assert 'unknown labels "' in done.stderr


def test_precision_on_a_sample(work: Path, e2v: E2v) -> None:
    ids = [f"s-{number:03}" for number in range(200)]
    rows = {u: (p := 0.5 + number / 500, 1 - p - 2e-6, 1e-6, 1e-6) for number, u in enumerate(ids)}
    write_corpus(work / "many", ids)
    make_run(work / "run", ["many"], {**rows, "s-000": (0.1, 0.7, 0.1, 0.1)})
    (work / "sample").write_text("".join(f"{u} {'angry' if n > 60 else 'sad'}\n" for n, u in enumerate(ids) if n % 2))

    done = e2v("select", "run", "-o", "sel", "--reference", "sample", "--precision", "0.9", cwd=work)

    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == (
        "e2v: --precision 0.9: happy: the sample is too small: 0 utterances; 35 are needed if all are right"
    )
    facts = read_json(work / "sel")
    sample = facts["sample"]["angry"]
    assert facts["thresholds"] == {"angry": sample["threshold"], "happy": None, "neutral": None}
    assert sample["sample"] == 100
    assert sample["bound"] >= 0.9
    above = [u for u in ids[1:] if rows[u][0] >= sample["threshold"] - 1e-9]
    assert kept(work / "sel") == set(above)
    done = e2v("select", "run", "--dry-run", "--precision", "0.9", cwd=work)
    assert (done.returncode, done.stderr) == (
        2,
        "e2v: --reference and --precision need each other: a labelled sample, and what to reach on it\n",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--threshold", "median"),
            "--threshold median: neither mean nor a percentage like 25%, above 0% and up to 100%",
        ),
        (("--threshold", "0%"), "--threshold 0%: neither mean nor a percentage like 25%, above 0% and up to 100%"),
        (("--min-score", "1.5"), "--min-score 1.5: neither a probability from 0 to 1, nor of the form CLASS=P"),
        (("--min-score", "=0.5"), "--min-score =0.5: neither a probability from 0 to 1, nor of the form CLASS=P"),
        (("--min-score", "0.5", "--min-score", "0.6"), "--min-score 0.5: given twice, with 0.5 and 0.6"),
        (("--min-score", "joy=0.5", "--min-score", "happy=0.6"), "--min-score: happy and joy are the same class"),
        (("--min-score", "glad=0.5"), "--min-score glad: no class glad; out has angry, happy, neutral, other"),
        (
            ("--where", "__import__('os')"),
            "--where \"__import__('os')\": not of the form 'utt2dnsmos >= 3', with one of < <= > >= ==",
        ),
        (("--where", "../x > 1"), "--where '../x > 1': not of the form 'utt2dnsmos >= 3', with one of < <= > >= =="),
        (("--where", "utt2x = 1"), "--where 'utt2x = 1': not of the form 'utt2dnsmos >= 3', with one of < <= > >= =="),
        (("--split", "train=0.9"), "--split train=0.9: shares sum to 0.9, not to 1"),
        (
            ("--split", "../x=0.5,y=0.5"),
            "--split ../x=0.5: not of the form NAME=SHARE, with a name of its own and a share up to 1",
        ),
        (
            ("--split", "text=0.5,y=0.5"),
            "--split text=0.5: not of the form NAME=SHARE, with a name of its own and a share up to 1",
        ),
        (("--classes", "happy", "--drop", "joy"), "--classes and --drop both have happy: leave it out of one"),
        (
            ("--drop", "angry,happy,neutral"),
            "no class is left of angry, happy, neutral, other: name those to keep with --classes",
        ),
        (("--classes", "sad"), "--classes sad: no class sad; out has angry, happy, neutral, other"),
        (("--top", "0"), "--top 0: must be at least 1"),
        (("--hours", "-1"), "--hours -1: must be a positive number"),
        (("--steady", "2"), "--steady 2: must be from 0 to 1"),
        (("--steady", "0.5"), "--steady needs a timeline, which out has not: predict with --timeline"),
        (
            ("--min-duration", "3", "--max-duration", "2"),
            "--min-duration 3 is more than --max-duration 2: no utterance has both",
        ),
    ],
)
def test_usage_errors(options: Sequence[str], message: str, work: Path, e2v: E2v) -> None:
    done = e2v("select", "out", "--dry-run", *options, cwd=work)

    assert (done.returncode, done.stderr) == (2, f"e2v: {message}\n")


def test_conditions_on_maps_beside_the_data(work: Path, e2v: E2v) -> None:
    (work / "data" / "utt2mos").write_text("".join(f"{u} {n / 2}\n" for n, u in enumerate(IDS[:20])))

    done = e2v("select", "out", "-o", "sel", "--where", "utt2mos >= 3", "--threshold", "100%", cwd=work)
    assert done.returncode == 0
    assert kept(work / "sel") == {u for u in IDS[6:20] if LABEL_OF[u] != "other"}
    assert read_table(work / "sel" / "utt2mos") == {u: str(IDS.index(u) / 2) for u in kept(work / "sel")}
    make_run(work / "again", ["sel"], ALL)
    done = e2v("select", "again", "-o", "sel2", "--where", "utt2mos >= 3", "--threshold", "100%", cwd=work)
    assert kept(work / "sel2") == kept(work / "sel")

    done = e2v("select", "out", "--dry-run", "--where", "utt2age > 3", cwd=work)
    assert (done.returncode, done.stderr) == (
        1,
        "e2v: --where utt2age > 3: no map utt2age, neither in out nor beside its input\n",
    )
    (work / "data" / "utt2mos").write_text(f"{IDS[0]} 1\n{IDS[1]} good\n")
    done = e2v("select", "out", "--dry-run", "--where", "utt2mos > 3", cwd=work)
    assert (done.returncode, done.stderr) == (1, f"e2v: {work}/data/utt2mos:2: 'good' is no number\n")


def test_incomplete_lists_are_left_out_with_a_note(work: Path, e2v: E2v) -> None:
    """A list that lacks utterances or speakers would make the directory invalid."""
    write_corpus(work / "data", text=f"{IDS[0]} hello\n", spk2gender="anna f\n", utt2spk=f"{IDS[5]} anna\n")

    done = e2v("select", "out", "-o", "sel", "--threshold", "100%", cwd=work)

    assert done.returncode == 0
    number = len(kept(work / "sel"))
    assert (
        f"e2v: {number - (IDS[5] in kept(work / 'sel'))} utterances are in no utt2spk: each is a speaker of its own\n"
        in done.stderr
    )
    assert (
        f"e2v: text is left out: the source's has no line of {number - (IDS[0] in kept(work / 'sel'))} utterances\n"
        in done.stderr
    )
    assert "e2v: spk2gender is left out" in done.stderr
    assert find_faults(work / "sel", no_text=True, no_spk_sort=True) == []


def test_hostile_ids_labels_and_transcripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, e2v: E2v) -> None:
    monkeypatch.chdir(tmp_path)
    ids = ["../../x", "<script>", "a%20b", "$(id)", "-o", "笑", '"', "\u2027z", "a\\b", "~"]
    texts = ["", "<b>&amp;</b>", "a\tb  c", "$(rm)", "'", "笑\u2028い", '"', "x", "\\", "~"]
    lists = {
        "wav.scp": "".join(f"{u}\t /corpus/{n} a|b.wav\n" for n, u in enumerate(ids)),
        "utt2spk": "".join(f"{u} {u}\n" for u in ids),
        "text": "".join(f"{u} {text}\n" for u, text in zip(ids, texts, strict=True)),
        "spk2gender": "".join(f"{u} f\n" for u in ids),
    }
    write_corpus(tmp_path / "data", **lists)
    make_run(tmp_path / "out", ["data"], {})

    done = e2v("select", "out", "-o", "sel", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert find_faults(tmp_path / "sel") == []
    assert kept(tmp_path / "sel") == set(ids)
    found = read_table(tmp_path / "sel" / "wav.scp")
    assert found == {u: f"/corpus/{n} a|b.wav" for n, u in enumerate(ids)}
    lines = (tmp_path / "sel" / "text").read_bytes().decode().split("\n")
    assert sorted(lines) == sorted(["", *(f"{u} {text}".rstrip() for u, text in zip(ids, texts, strict=True))])
    assert os.listdir(tmp_path.parent / tmp_path.name) == os.listdir(tmp_path)


def test_paths_that_no_list_can_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, e2v: E2v) -> None:
    """A line break would begin another line, and a blank at the end is none of the path in a list."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a\nb.wav", "wav.wav ")):
        folder = tmp_path / f"audio{number}"
        folder.mkdir()
        (folder / name).touch()
        if name.endswith(" "):
            (folder / "list.json").write_text(json.dumps({"key": "a", "source": f"{folder}/{name}"}) + "\n")
        make_run(tmp_path / f"out{number}", [folder / "list.json" if name.endswith(" ") else folder], {})

        done = e2v("select", f"out{number}", "-o", "sel", cwd=tmp_path)

        path = f"{folder}/{name}"
        message = f"e2v: {path!r}: no list can have this path; rename the file, and predict it again\n"
        assert (done.returncode, done.stderr) == (1, message)
        assert not (tmp_path / "sel").exists()


def test_recordings_of_the_same_id_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, e2v: E2v) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "wav.scp").write_text(f"rec /corpus/{name}.wav\n")
        (tmp_path / name / "segments").write_text(f"{name}-1 rec 0 1\n")
    make_run(tmp_path / "out", ["a", "b"], {})

    done = e2v("select", "out", "-o", "sel", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (
        1,
        'e2v: two recordings have the id "rec": /corpus/a.wav and /corpus/b.wav; predict each list into an OUT of its '
        "own\n",
    )


def test_folder_without_run_is_refused(work: Path, e2v: E2v) -> None:
    done = e2v("select", "data", "-o", "sel", cwd=work)
    assert (done.returncode, done.stderr) == (1, "e2v: data holds no run: choose the -o of e2v predict\n")


def test_damaged_predictions_are_refused_by_line(work: Path, e2v: E2v) -> None:
    table = work / "out" / "predictions.tsv"
    lines = table.read_text().splitlines()
    lines[4] = lines[4].replace("1.0000", "one")
    table.write_text("\n".join([*lines, ""]))

    done = e2v("select", "out", "--dry-run", cwd=work)

    assert (done.returncode, done.stderr) == (
        1,
        "e2v: out/predictions.tsv:5: duration 'one' is no number of seconds\n",
    )


def test_data_that_can_not_be_made_is_named(work: Path, e2v: E2v) -> None:
    (work / "file").touch()

    done = e2v("select", "out", "-o", "file/sel", cwd=work)

    assert (done.returncode, done.stderr) == (1, f"e2v: {work}/file: File exists\n")


def test_killed_writer_leaves_no_data(work: Path, e2v: E2v, real_e2v: E2v) -> None:
    """What it leaves is removed by the next one."""
    code = """
import os
from e2v_cli.analysis.select import funnel
funnel.write_rejected = lambda *_: os.kill(os.getpid(), 9)
"""

    done = real_e2v("select", "out", "-o", "sel", cwd=work, **hook(work / "hook", code))

    assert done.returncode == -9
    left = set(os.listdir(work)) - {"data", "out", "hook"}
    assert [name.endswith(".part") for name in left] == [True]
    assert e2v("select", "out", "-o", "sel", cwd=work).returncode == 0
    assert set(os.listdir(work)) == {"data", "out", "hook", "sel"}
