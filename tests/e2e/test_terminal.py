"""What people see on a terminal: rows and progress, at 80 and 100 columns."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import ROOT, E2v
from support.terminals import Terminal

pytestmark = pytest.mark.e2e

CLIPS = "sample_data/wav/f1-0001.wav sample_data/wav/m2-0001.flac"
TABLE = (
    "utt_id   label      score            runner-up\n"
    "f1-0001  surprised  0.81 ████████    fearful   0.14\n"
    "m2-0001  unknown    0.93 █████████   fearful   0.01\n"
)


@pytest.mark.parametrize("columns", [80, 100])
def test_rows_on_a_terminal_are_a_table(columns: int, tmp_path: Path) -> None:
    code, shown = Terminal(f"e2v predict {CLIPS} -m sample -q", tmp_path, columns).finish()
    assert (code, shown) == (0, TABLE)


def test_spans_on_a_terminal_are_a_table(tmp_path: Path) -> None:
    code, shown = Terminal("e2v predict sample_data/wav/f1-0001.wav -m sample -q --timeline 1", tmp_path).finish()
    assert (code, shown) == (
        0,
        "utt_id      start       end  label      score            runner-up\n"
        "f1-0001    0.0000    1.0000  surprised  0.84 ████████    fearful   0.11\n"
        "f1-0001    1.0000    1.5461  surprised  0.73 ███████     fearful   0.22\n",
    )


def test_long_ids_do_not_wrap(tmp_path: Path) -> None:
    utt_id = "a-speaker-of-many-names-" * 4 + "000001"
    (tmp_path / "wav.scp").write_text(f"{utt_id} {ROOT}/sample_data/wav/f1-0001.wav\n")
    for columns, shortened in (
        (80, "a-speaker-o…ker-of-many-names-000001"),
        (100, "a-speaker-of-many-…-names-a-speaker-of-many-names-000001"),
    ):
        code, shown = Terminal(f"e2v predict {tmp_path}/wav.scp -m sample -q", tmp_path, columns).finish()
        assert code == 0
        assert max(map(len, shown.splitlines())) <= columns
        assert shortened in shown


def test_piped_rows_are_tsv_and_formats_can_be_chosen(tmp_path: Path) -> None:
    code, shown = Terminal(f"e2v predict {CLIPS} -m sample -q --columns label | cat", tmp_path).finish()
    assert (code, shown) == (0, "label\nsurprised\nunknown\n")
    code, shown = Terminal(f"e2v predict {CLIPS} -m sample -q --format csv --columns utt_id,label", tmp_path).finish()
    assert (code, shown) == (0, "utt_id,label\nf1-0001,surprised\nm2-0001,unknown\n")


def test_formats_of_rows_are_refused_with_output_dir(tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "my out"
    for options, first in (
        (["--format", "csv", "--no-header"], "--format"),
        (["--columns", "utt_id,label"], "--columns"),
        (["--no-header"], "--no-header"),
    ):
        refused = e2v("predict", "sample_data", "-m", "sample", "-o", out, *options)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            f"e2v: {first} is for rows on standard output: leave it out, "
            f"and then run e2v rows '{out}' {' '.join(options)}\n"
        )
        assert not out.exists()


def test_unknown_column_is_refused_before_anything_is_computed(e2v: E2v) -> None:
    refused = e2v("predict", "sample_data", "-m", "sample", "--columns", "utt_id,emotion")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "e2v: --columns emotion: no such column; choose from utt_id, label, score, duration, windows, angry, "
        "disgusted, fearful, happy, neutral, other, sad, surprised, unknown\n"
    )


def test_closed_pipe_of_rows_is_quiet(tmp_path: Path, e2v: E2v) -> None:
    assert e2v("predict", "sample_data", "-m", "sample", "-o", tmp_path / "out").returncode == 0
    command = f"set -o pipefail; for i in $(seq 20); do e2v rows {tmp_path}/out | true || exit 1; done"
    assert Terminal(command, tmp_path).finish() == (0, "")
