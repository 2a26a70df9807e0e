"""The formats of a score: JSON by its schema, Markdown and LaTeX by their readers, blocks on a terminal."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from support.labelled import PREDICTED, REFERENCE, SPEAKERS, sure_of, write_corpus, write_map, write_predictions
from support.processes import ROOT
from support.schemas import find_violations

from e2v_cli.analysis.score.score import Score
from e2v_cli.analysis.score.score_files import format_json, format_tsv
from e2v_cli.analysis.score.score_tables import DEFINITIONS
from e2v_cli.analysis.score.score_text import format_latex, format_markdown, format_text
from e2v_cli.commands.score import report_score, score
from e2v_cli.options import ScoreOptions

SCHEMA = json.loads((ROOT / "e2v_cli" / "analysis" / "score" / "score.schema.json").read_text())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "data", utt2emo=REFERENCE, utt2spk=SPEAKERS)


@pytest.fixture
def full(tmp_path: Path, corpus: Path) -> Score:
    """A score with everything that one can have."""
    table = write_predictions(tmp_path / "hyp.tsv", [sure_of(word) for word in PREDICTED.split()])
    (corpus / "spk2fold").write_text("s1 1\ns2 2\n")
    return score(table, corpus, against=write_map(tmp_path / "other", PREDICTED), by=["spk"], resamples=50)


@pytest.fixture
def odd(tmp_path: Path) -> Score:
    """A score of names that formats read otherwise, of one class that the reference lacks, and of missing answers."""
    names = ["a|b_c", "100%", r"$x^2~\{y}#&", "<b>", "*b*"]
    map_file = tmp_path / "m_a&p"
    map_file.write_text("".join(f"w{index} {name}\n" for index, name in enumerate(names)))
    reference = write_map(tmp_path / "r_e#f", [f"w{index}" for index in range(5)])
    (tmp_path / "g_%").write_text("u00 s|1\nu01 s_2\nu02 s&3\nu03 s$4\nu04 s\\5\n")
    answers = write_map(tmp_path / "h~yp", "w0 w2", ["u00", "u01"])
    return score(answers, reference, map=map_file, missing="wrong", by=[str(tmp_path / "g_%")], ci="none")


def test_json_is_as_its_schema_has_it(tmp_path: Path, full: Score, odd: Score) -> None:
    one = score(write_map(tmp_path / "h", "sad"), write_map(tmp_path / "r", "sad"), classes=["sad", "angry"])

    for found in (full, odd, one):
        assert find_violations(json.loads(format_json(found)), SCHEMA, SCHEMA) == []
    assert find_violations(json.loads(format_json(full)) | {"more": 1, "headline": "x"}, SCHEMA, SCHEMA) == [
        "$.headline: 'x'",
        "$: more",
    ]


def test_json_has_null_where_a_metric_is_not_defined(tmp_path: Path) -> None:
    one = score(write_map(tmp_path / "h", "sad"), write_map(tmp_path / "r", "sad"), classes=["sad", "angry"])

    content = json.loads(format_json(one))

    assert content["metrics"]["kappa"] == {"value": None, "low": None, "high": None}
    assert content["views"]["open"]["classes"][0]["name"] == "angry"
    assert content["views"]["open"]["classes"][0]["recall"] is None


def test_definitions_are_of_the_numbers_of_a_score(full: Score) -> None:
    assert {*full.metrics, "open", "closed", "NLL", "Brier", "ECE"} <= set(DEFINITIONS)


def test_tsv_has_a_row_for_each_metric(full: Score) -> None:
    rows = [line.split("\t") for line in format_tsv(full).splitlines()]

    assert rows[0] == ["view", "metric", "value", "low", "high"]
    assert [row[0] for row in rows[1::6]] == ["open", "open pooled", "closed", "closed pooled"]
    assert rows[2][:3] == ["open", "UA", "0.604167"]
    assert rows[8][:3] == ["open pooled", "UA", "0.583333"]


def test_markdown_renders_as_tables(odd: Score, full: Score) -> None:
    for found in (odd, full):
        html = MarkdownIt("gfm-like", {"linkify": False}).render(format_markdown(found))
        rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
        assert html.count("<table>") == (4 if found is odd else 7)
        assert "|" not in re.sub(r"a\|b_c|s\|1", "", html)
        assert len(rows) > 20
    html = MarkdownIt("gfm-like", {"linkify": False}).render(format_markdown(odd))
    assert "<td>a|b_c</td>" in html
    assert "<td>&lt;b&gt;</td>" in html
    assert "<td>*b*</td>" in html


def test_latex_escapes_what_it_reads_otherwise(odd: Score) -> None:
    text = "".join(line for line in format_latex(odd).splitlines(keepends=True) if not line.startswith("%"))

    assert r"\$x\textasciicircum{}2\textasciitilde{}\textbackslash{}\{y\}\#\&" in text
    assert r"a\textbar{}b\_c" in text
    assert "100\\%" in text
    plain = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}", "", text)
    assert not re.search(r"[$#_~^<>|]|(?<!\\)%", plain)


def test_comments_of_latex_are_one_line_each(tmp_path: Path, corpus: Path) -> None:
    answers = write_map(tmp_path / "a\nb", PREDICTED)

    text = format_latex(score(answers, corpus, ci="none"))

    assert "\nb" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path, odd: Score, full: Score) -> None:
    for found in (odd, full):
        document = "\\documentclass{article}\n\\begin{document}\n" + format_latex(found) + "\\end{document}\n"
        (tmp_path / "a.tex").write_text(document)
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]


def test_a_terminal_has_blocks_for_shares(tmp_path: Path, corpus: Path) -> None:
    answers = write_map(tmp_path / "hyp", PREDICTED)
    found = score(answers, corpus, ci="none")

    assert format_text(found, blocks=True).partition("by column\n")[2].splitlines()[:3] == [
        "         angry    happy    neutral    sad    other    unknown",
        "angry        2 ▅      1 ▃        0      0        1 ▃        0",
        "happy        0        2 ▆        0      0        0          1 ▃",
    ]
    assert not set("▁▂▃▄▅▆▇█") & set(format_text(found))


def test_many_groups_are_shown_by_the_lowest_and_the_highest(tmp_path: Path) -> None:
    speakers = [f"s{number:02d}" for number in range(50) for _ in range(2)]
    words = ["sad", "angry"] * 50
    data = write_corpus(tmp_path / "data", utt2emo=" ".join(words), utt2spk=" ".join(speakers))
    hyp = ["sad" if number % 4 == 3 else word for number, word in enumerate(words)]

    text = format_text(score(write_map(tmp_path / "hyp", hyp), data, by="spk", ci="none"))

    assert "\n… 20 more" in text
    assert text.partition("By spk\n")[2].count("\ns") == 30


def test_errors_are_sorted(tmp_path: Path) -> None:
    """The most confident first, those of the same score in C order of their ids, those without a prediction last."""
    ids = ["é", "b", "a", "B", "ab", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    shares = [0.9, 0.9, 0.9, 0.9, 0.9, *[0.95, 0.5] * 5]
    reference = write_map(tmp_path / "ref", ["sad"] * 15, ids)
    table = write_predictions(
        tmp_path / "hyp.tsv", [sure_of("happy", share=share) for share in shares][:14], ids=ids[:14]
    )

    report_score((str(table), str(reference), None), ScoreOptions(missing="wrong"), {}, "text", tmp_path / "o")

    rows = (tmp_path / "o" / "errors.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == [*"cegik", "B", "a", "ab", "b", "é", *"dfhjl"]
    assert rows[-1] == "l\tsad\t(none)\t\t"
