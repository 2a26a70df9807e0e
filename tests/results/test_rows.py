"""Rows on standard output: a table, TSV, CSV and JSON Lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO

import pytest

from e2v_cli.errors import UsageError
from e2v_cli.options import RowFormat, RowOptions
from e2v_cli.results.rows import RowPrinter
from e2v_cli.results.tables import prediction_columns
from e2v_cli.system.text import display_width

LABELS = ("angry", "sad")
ROWS = [
    ("NA", "sad", "0.750000", "1.0000", "1", "0.250000", "0.750000"),
    ("0012", "angry", "1.000000", "61.5000", "2", "1.000000", "0.000000"),
    ('"quoted', "sad", "0.500000", "0.0250", "1", "0.500000", "0.500000"),
    ("a,b", "sad", "0.500001", "0.0250", "1", "0.499999", "0.500001"),
]
IDS = [row[0] for row in ROWS]


def show(
    capsys: pytest.CaptureFixture[str],
    options: RowOptions,
    rows: Sequence[Sequence[str]] = ROWS,
    labels: Sequence[str] = LABELS,
    ids: Sequence[str] = IDS,
) -> str:
    printer = RowPrinter(options, prediction_columns(labels), labels, iter([[utt_id.encode() for utt_id in ids]]))
    printer.print(rows)
    return capsys.readouterr().out


def test_rows_are_tsv_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    expected = "utt_id\tlabel\tscore\tduration\twindows\tangry\tsad\n" + "".join("\t".join(row) + "\n" for row in ROWS)
    assert show(capsys, RowOptions()) == show(capsys, RowOptions("tsv")) == expected


def test_csv_gives_back_every_id(capsys: pytest.CaptureFixture[str]) -> None:
    printed = show(capsys, RowOptions("csv"))
    assert list(csv.DictReader(StringIO(printed))) == [
        dict(zip(prediction_columns(LABELS), row, strict=True)) for row in ROWS
    ]
    assert printed.splitlines()[3:] == [
        '"""quoted",sad,0.500000,0.0250,1,0.500000,0.500000',
        '"a,b",sad,0.500001,0.0250,1,0.499999,0.500001',
    ]


def test_json_lines_have_ids_as_texts_and_numbers_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    objects = [json.loads(line) for line in show(capsys, RowOptions("jsonl")).splitlines()]
    assert [each["utt_id"] for each in objects] == IDS
    assert objects[1] == {
        "utt_id": "0012",
        "label": "angry",
        "score": 1.0,
        "duration": 61.5,
        "windows": 2,
        "angry": 1.0,
        "sad": 0.0,
    }


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("tsv", "utt_id\tduration\twindows\nz\t1.0000\t1\n"),
        ("csv", "utt_id,duration,windows\nz,1.0000,1\n"),
        ("jsonl", '{"utt_id": "z", "label": null, "score": null, "duration": 1.0, "windows": 1}\n'),
        ("table", "utt_id  duration   windows\nz         1.0000         1\n"),
    ],
)
def test_model_without_a_head_has_no_label(form: RowFormat, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(capsys, RowOptions(form), [("z", "", "", "1.0000", "1")], (), ["z"]) == expected


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("tsv", "score\tutt_id\n0.750000\tNA\n"),
        ("csv", "score,utt_id\n0.750000,NA\n"),
        ("jsonl", '{"score": 0.75, "utt_id": "NA"}\n'),
        ("table", "   score  utt_id\n0.750000  NA\n"),
    ],
)
def test_columns_are_chosen_and_ordered(form: RowFormat, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ("score", "utt_id")
    assert show(capsys, RowOptions(form, columns), ROWS[:1]) == expected
    without = expected if form == "jsonl" else expected.partition("\n")[2]
    assert show(capsys, RowOptions(form, columns, header=False), ROWS[:1]) == without


def test_unknown_column_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as refused:
        RowPrinter(RowOptions(columns=("utt_id", "emotion")), prediction_columns(LABELS), LABELS, iter([]))
    assert str(refused.value) == (
        "--columns emotion: no such column; choose from utt_id, label, score, duration, windows, angry, sad"
    )


LONG = "interview-2019-03-17/anna-and-berta/channel-2/0001234-0005678"
TABLES = {
    80: (
        "utt_id                              label       score            runner-up\n"
        "interview-2…nnel-2/0001234-0005678  <unk>       0.60 ██████      生气/angry 0.30\n"
        "笑笑笑笑笑…笑笑笑笑笑笑笑笑笑笑笑   <unk>       0.60 ██████      生气/angry 0.30\n"
        "short                               <unk>       0.60 ██████      生气/angry 0.30\n"
    ),
    100: (
        "utt_id                                                  label       score            runner-up\n"
        "interview-2019-03…-and-berta/channel-2/0001234-0005678  <unk>       0.60 ██████      生气/angry 0.30\n"
        "笑笑笑笑笑笑笑笑…笑笑笑笑笑笑笑笑笑笑笑笑笑笑笑笑笑笑   <unk>       0.60 ██████      生气/angry 0.30\n"
        "short                                                   <unk>       0.60 ██████      生气/angry 0.30\n"
    ),
}


@pytest.mark.parametrize("columns", [80, 100])
def test_table_fits_the_terminal_and_keeps_the_ends_of_ids(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ids = [LONG, "笑" * 60, "short"]
    labels = ("生气/angry", "<unk>", "开心/happy")
    rows = [(utt_id, "<unk>", "0.600000", "1.0000", "1", "0.300000", "0.600000", "0.100000") for utt_id in ids]
    shown = show(capsys, RowOptions("table"), rows, labels, ids)
    assert shown == TABLES[columns]
    assert max(map(display_width, shown.splitlines())) == columns


def test_table_of_other_rows_than_the_list_begins_with(capsys: pytest.CaptureFixture[str]) -> None:
    """An id that was not known to be so long moves the rest of its row."""
    rows = [("a", *ROWS[0][1:]), ("abcdefghij", *ROWS[0][1:])]
    assert show(capsys, RowOptions("table"), rows, LABELS, ["a"]) == (
        "utt_id  label  score            runner-up\n"
        "a       sad    0.75 ████████    angry 0.25\n"
        "abcdefghij  sad    0.75 ████████    angry 0.25\n"
    )


def test_model_with_one_label_has_no_runner_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(capsys, RowOptions("table"), [("a", "x", "1.000000", "1.0000", "1", "1.000000")], ("x",), ["a"]) == (
        "utt_id  label  score            runner-up\na       x      1.00 ██████████\n"
    )


def test_control_characters_of_labels_are_not_sent_to_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    row = ("a", "\x1b[2J", "1.000000", "1.0000", "1", "1.000000", "0.000000")
    assert "\x1b" not in show(capsys, RowOptions("table"), [row], ("\x1b[2J", "\x1b]0;x\x07"), ["a"])
