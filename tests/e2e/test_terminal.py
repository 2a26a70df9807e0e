"""What people see on a terminal: rows and progress, at 80 and 100 columns."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.corpora import CLIPS, write_takes
from support.processes import ROOT, E2v, Hold
from support.terminals import Terminal, screen

pytestmark = pytest.mark.e2e

TWO = "sample_data/wav/f1-0001.wav sample_data/wav/m2-0001.flac"
TABLE = (
    "utt_id   label      score            runner-up\n"
    "f1-0001  surprised  0.81 ████████    fearful   0.14\n"
    "m2-0001  unknown    0.93 █████████   fearful   0.01\n"
)


@pytest.mark.parametrize("columns", [80, 100])
def test_rows_on_a_terminal_are_a_table(columns: int, tmp_path: Path) -> None:
    code, shown = Terminal(f"e2v predict {TWO} -m sample -q", tmp_path, columns).finish()
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
    code, shown = Terminal(f"e2v predict {TWO} -m sample -q --columns label | cat", tmp_path).finish()
    assert (code, shown) == (0, "label\nsurprised\nunknown\n")
    code, shown = Terminal(f"e2v predict {TWO} -m sample -q --format csv --columns utt_id,label", tmp_path).finish()
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


# -- progress and endings ----------------------------------------------------------------------------------------------

BAR = re.compile(r" *\d+% \|.*\| \d+/\d+ utterances, [\d.]+× real time, \d\d:\d\d gone, (\d\d:\d\d|\?) left")
TIMES = re.compile(r"e2v: ([\d.]+ s|\d+:\d\d:\d\d) of audio at [\d.]+× real time; [\d.]+ s in all with the start")


def without_times(shown: str) -> list[str]:
    """Return the lines that a terminal is left with, and leave out the last, empty one and that of speed and time."""
    lines = screen(shown)
    assert lines.pop() == ""
    assert all(len(line) <= 80 for line in lines if TIMES.fullmatch(line))
    return [line for line in lines if not TIMES.fullmatch(line)]


@pytest.fixture
def long_list(tmp_path: Path) -> Path:
    """The sample corpus twice."""
    return write_takes(tmp_path / "long.scp", 2)


def held(hold: Hold) -> str:
    """Return the variables of a hold, to be put before a command."""
    return " ".join(f"{name}={value}" for name, value in hold.environment.items())


@pytest.mark.parametrize("columns", [80, 100])
def test_rows_never_share_a_line_with_progress(columns: int, tmp_path: Path) -> None:
    command = f"e2v predict {' '.join(map(str, CLIPS))} -m sample --batch-seconds 1 -j 1"
    expected = Terminal(f"{command} -q | cut -f 1,2", tmp_path, columns).finish()[1].splitlines()
    assert len(expected) == 11
    summary = "e2v: 10 utterances: 10 done, 0 failed"

    code, shown = Terminal(f"{command} | cut -f 1,2", tmp_path, columns).finish()
    assert (code, "\r" in shown) == (0, False)
    assert sorted(without_times(shown)) == sorted([*expected, summary])

    code, shown = Terminal(f"{command} --progress", tmp_path, columns).finish()
    assert BAR.search(shown) is not None
    *rows, last = without_times(shown)
    assert last == summary
    assert [row.split()[:2] for row in rows] == [row.split("\t") for row in expected]


def test_messages_never_share_a_line_with_the_bar(tmp_path: Path) -> None:
    """Rows go to a file, so the terminal has a bar, and names what fails."""
    (tmp_path / "wav.scp").write_text(
        "".join(
            f"{number} {ROOT}/sample_data/wav/f1-0001.wav\ngone{number} {tmp_path}/{number}.wav\n"
            for number in range(20)
        )
    )
    command = f"e2v predict {tmp_path}/wav.scp -m sample --batch-seconds 1 -j 1 --max-failures 50% > {tmp_path}/rows"
    code, shown = Terminal(command, tmp_path).finish()
    assert code == 0
    assert BAR.search(shown) is not None
    lines = without_times(shown)
    assert sorted(lines[:20]) == sorted(
        f"e2v: gone{number}: audio: missing: {tmp_path}/{number}.wav: no such file" for number in range(20)
    )
    assert lines[20:] == ["e2v: 40 utterances: 20 done, 20 failed", "e2v: failed: 20 missing"]


@pytest.mark.parametrize("columns", [80, 100])
def test_stop_leaves_one_bar_and_the_next_move_and_resume_counts_all(
    columns: int, long_list: Path, hold: Hold, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = f"{held(hold)} e2v predict {long_list} -m sample -o {out} -j 1"
    terminal = Terminal(command, tmp_path, columns, real=True)
    terminal.wait_for("× real time")
    terminal.interrupt()
    hold.release()
    code, shown = terminal.finish()
    assert code == 75
    bar, counts, again = without_times(shown)
    assert re.fullmatch(rf"{BAR.pattern} ?\^C", bar)
    counted = re.fullmatch(r"e2v: 80 utterances: (\d+) done, 0 failed, (\d+) left", counts)
    assert counted is not None
    done = int(counted[1])
    assert 0 < done == 80 - int(counted[2])
    assert f"| {done}/80 utterances" in bar
    command = again.removeprefix("e2v: stopped; to go on: ")
    assert command.endswith(f" predict {long_list} -m sample -o {out} -j 1")

    code, shown = Terminal(f"e2v{command.partition(' -m e2v_cli')[2]}", tmp_path, columns).finish()
    assert (code, without_times(shown)) == (
        0,
        [f"e2v: continuing {out}: {done} of 80 are done", "e2v: 80 utterances: 80 done, 0 failed"],
    )
    first = re.search(r"\| (\d+)/80 utterances", shown)
    assert first is not None
    assert int(first[1]) >= done


def test_stop_without_out_reports_that_nothing_is_kept(long_list: Path, hold: Hold, tmp_path: Path) -> None:
    command = f"{held(hold)} e2v predict {long_list} -m sample -j 1 > {tmp_path}/rows"
    terminal = Terminal(command, tmp_path, real=True)
    terminal.wait_for("× real time")
    terminal.interrupt()
    hold.release()
    code, shown = terminal.finish()
    assert code == 75
    assert without_times(shown)[-1] == "e2v: stopped; nothing is kept without -o OUT"


def test_failures_are_counted_by_reason_and_a_retry_reports_its_changes(tmp_path: Path) -> None:
    clip = ROOT / "sample_data" / "wav" / "f1-0001.wav"
    (tmp_path / "text.wav").write_text("not audio at all")
    names = [f"gone{number}" for number in range(8)]
    paths = {"a": clip, "text": "text.wav"} | {name: f"wavs/{name}.wav" for name in names}
    (tmp_path / "wav.scp").write_text("".join(f"{utt_id} {path}\n" for utt_id, path in paths.items()))
    out, command = tmp_path / "out", f"e2v predict {tmp_path}/wav.scp -m sample -o {tmp_path}/out"
    ends = [
        f"e2v: most are 'missing', like wavs/gone0.wav: looked in {ROOT} and {tmp_path}; "
        "run e2v in the folder where the paths begin",
    ]
    last = f"failed, more than --max-failures 0 allows: see {out}/failures.tsv; --retry-failed tries again"

    code, shown = Terminal(command, tmp_path).finish()
    assert (code, without_times(shown)) == (
        3,
        [
            "e2v: 10 utterances: 1 done, 9 failed",
            "e2v: failed: 8 missing, 1 not audio",
            *ends,
            f"e2v: 9 {last}",
        ],
    )

    (tmp_path / "wavs").mkdir()
    shutil.copy(clip, tmp_path / "wavs" / "gone0.wav")
    (tmp_path / "wavs" / "gone1.wav").write_text("not audio either")
    code, shown = Terminal(f"{command} --retry-failed", tmp_path).finish()
    assert (code, without_times(shown)) == (
        3,
        [
            f"e2v: continuing {out}: 1 of 10 are done; trying again the 9 that failed",
            "e2v: 9 tried again: 1 done, 7 failed as before, 1 failed for another reason",
            "e2v: 10 utterances: 2 done, 8 failed",
            "e2v: failed: 6 missing, 2 not audio",
            ends[0].replace("gone0", "gone2"),
            f"e2v: 8 {last}",
        ],
    )


@pytest.mark.parametrize("options", ["", "-q"])
def test_failed_utterances_are_named_where_nothing_else_keeps_them(options: str, e2v: E2v) -> None:
    done = e2v(
        "predict", "-", "-m", "sample", *options.split(), stdin="gone gone.wav\nf1 sample_data/wav/f1-0001.wav\n"
    )
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[0]) == (3, "e2v: gone: audio: missing: gone.wav: no such file")
    assert lines[-1] == "e2v: 1 failed, more than --max-failures 0 allows: see above"
    assert len(lines) == (2 if options else 5)
