"""``e2v rows``: what a run has so far, from its journals."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from support.journals import IDS, PREDICTIONS, WHOLE, done, done_records, failed, header, publish_all, write, write_run
from support.processes import E2v

from e2v_cli.journal.ids import save_ids

pytestmark = pytest.mark.e2e


def test_rows_of_a_complete_run_are_predictions_tsv(tmp_path: Path, e2v: E2v) -> None:
    write_run(tmp_path)
    publish_all(tmp_path)

    shown = e2v("rows", tmp_path)

    assert (shown.returncode, shown.stdout) == (0, PREDICTIONS)
    assert shown.stdout == (tmp_path / "predictions.tsv").read_text()
    assert shown.stderr == f"e2v: {tmp_path}: 4 of 6 utterances are done, 2 failed, 0 left\n"


def test_rows_of_a_running_run_are_in_the_order_of_the_list(tmp_path: Path, e2v: E2v) -> None:
    """The last line of the journal is still being written."""
    records = done_records()
    write(tmp_path, [*records[:2], failed("gone", "audio", "missing", "x.wav")], header(), end=False)
    save_ids(tmp_path, IDS)
    with (tmp_path / f"journal.{WHOLE.name}.1").open("ab") as journal:
        journal.write(b"0123abcd\tdone\tz\t49\t1\t1.0000")

    shown = e2v("rows", tmp_path, "--columns", "utt_id,label", "--no-header")

    assert (shown.returncode, shown.stdout) == (0, "ü\tsad\n../x\tangry\n")
    assert shown.stderr == f"e2v: {tmp_path}: 2 of 6 utterances are done, 1 failed, 3 left\n"


def test_run_without_results_has_only_the_header(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, [], header(), end=False)
    save_ids(tmp_path, IDS)
    shown = e2v("rows", tmp_path, "--format", "csv")
    assert (shown.returncode, shown.stdout) == (0, "utt_id,label,score,duration,windows,angry,sad\n")
    assert shown.stderr == f"e2v: {tmp_path}: 0 of 6 utterances are done, 0 failed, 6 left\n"


def test_all_formats_have_the_same_rows(tmp_path: Path, e2v: E2v) -> None:
    write_run(tmp_path)
    expected = list(csv.DictReader(StringIO(PREDICTIONS), delimiter="\t"))

    as_csv = e2v("rows", tmp_path, "--format", "csv").stdout
    as_json = e2v("rows", tmp_path, "--format", "jsonl").stdout

    assert list(csv.DictReader(StringIO(as_csv))) == expected
    numbers = [
        {name: cell if name in ("utt_id", "label") else float(cell) for name, cell in row.items()} for row in expected
    ]
    assert [json.loads(line) for line in as_json.splitlines()] == numbers
    assert e2v("rows", tmp_path, "--format", "table").stdout == (
        "utt_id     label  score            runner-up\n"
        "z          sad    1.00 ██████████  angry 0.00\n"
        "my%20call  angry  0.65 ███████     sad   0.35\n"
        "ü          sad    1.00 ██████████  angry 0.00\n"
        "../x       angry  0.50 █████       sad   0.50\n"
    )


def test_model_without_a_head_has_null_in_json(tmp_path: Path, e2v: E2v) -> None:
    write(tmp_path, [done(utt_id, ()) for utt_id in ("z", "ü")], header(labels=()))
    save_ids(tmp_path, IDS)
    row = '{{"utt_id": "{}", "label": null, "score": null, "duration": 1.0, "windows": 1}}\n'
    assert e2v("rows", tmp_path, "--format", "jsonl").stdout == row.format("z") + row.format("ü")
    assert e2v("rows", tmp_path).stdout == "utt_id\tduration\twindows\nz\t1.0000\t1\nü\t1.0000\t1\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--columns", "emotion"],
            "--columns emotion: no such column; choose from utt_id, label, score, duration, windows, angry, sad",
        ),
        (["--columns", "utt_id,"], "--columns: 'utt_id,' is not a list of names like"),
        (["--format", "xml"], "--format: 'xml' is not one of 'table', 'tsv', 'csv', 'jsonl'"),
    ],
)
def test_wrong_options_exit_2(options: list[str], message: str, tmp_path: Path, e2v: E2v) -> None:
    write_run(tmp_path)
    refused = e2v("rows", tmp_path, *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"e2v: {message}")


def test_folder_without_a_run_exits_1(tmp_path: Path, e2v: E2v) -> None:
    shown = e2v("rows", tmp_path)
    message = f"e2v: {tmp_path} holds no run: choose the -o of e2v predict\n"
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, "", message)
