"""The progress that a run shows."""

from __future__ import annotations

import os
import re
import time
from io import StringIO
from pathlib import Path

import pytest

from e2v_cli.system.progress import LINE_SECONDS, Progress, ProgressStyle, choose_style


def show(style: ProgressStyle, capsys: pytest.CaptureFixture[str], line_seconds: float = LINE_SECONDS) -> str:
    shown = Progress(4, style, line_seconds)
    time.sleep(0.15)  # a bar is drawn ten times a second at most
    shown.advance(2, 2.5)
    shown.advance(1, 0.0)  # one that has failed
    shown.close()
    assert (shown.count, shown.seconds) == (3, 2.5)
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_lines_show_count_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines = show("lines", capsys, line_seconds=0.0).splitlines()
    assert [re.sub(r"[\d.]+× real time, \d\d:\d\d", "S× real time, T", line) for line in lines] == [
        "e2v: 2/4 utterances (50%), S× real time, T left",
        "e2v: 3/4 utterances (75%), S× real time, T left",
    ]


def test_time_left_depends_on_speed_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    """A quarter takes twenty seconds, the rest another minute."""
    shown = Progress(1000, "lines", line_seconds=0.0)
    shown.started -= 20.0
    shown.advance(250, 100.0)
    shown.close()
    assert capsys.readouterr().err == "e2v: 250/1000 utterances (25%), 5.0× real time, 01:00 left\n"


def test_lines_are_30_seconds_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert LINE_SECONDS == 30
    assert show("lines", capsys) == ""


def test_bar_shows_count_speed_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"\| 2/4 utterances, [\d.]+× real time, 00:00 gone, ", show("bar", capsys)) is not None


def test_style_none_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("none", capsys) == ""


def test_resumed_run_counts_all_and_expects_by_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred of those left took ten seconds: as many again take ten more."""
    shown = Progress(1000, "lines", line_seconds=0.0, finished=800)
    shown.started -= 10.0
    shown.advance(100, 100.0)
    shown.close()
    assert capsys.readouterr().err == "e2v: 900/1000 utterances (90%), 10.0× real time, 00:10 left\n"


def test_bar_begins_where_the_last_run_ended(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(4, "bar", finished=3).close()
    assert "| 3/4 utterances" in capsys.readouterr().err


def test_bar_is_kept_if_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress(4, "bar")
    shown.keep()
    shown.close()
    assert capsys.readouterr().err.endswith("left\n")


class Stream(StringIO):
    """A stream to a terminal, or to the file of a descriptor."""

    def __init__(self, descriptor: int | None = None) -> None:
        super().__init__()
        self._descriptor = descriptor

    def isatty(self) -> bool:
        return self._descriptor is None

    def fileno(self) -> int:
        assert self._descriptor is not None
        return self._descriptor


def test_no_bar_where_rows_may_reach_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.stderr", Stream())
    reader, writer = os.pipe()
    with (tmp_path / "rows").open("w") as file, Path(os.devnull).open("w") as null:
        to_terminal, to_pipe, to_file, to_null = Stream(), Stream(writer), Stream(file.fileno()), Stream(null.fileno())
        chosen = [choose_style(None, False, rows) for rows in (None, to_terminal, to_pipe, to_file, to_null)]
        assert chosen == ["bar", "none", "lines", "bar", "bar"]
        assert [choose_style(True, False, rows) for rows in (None, to_terminal, to_pipe)] == ["bar"] * 3
        assert [choose_style(False, False, to_file), choose_style(None, True, to_file)] == ["none"] * 2
        monkeypatch.setattr("sys.stderr", to_null)
        assert [choose_style(None, False, rows) for rows in (None, to_pipe, to_file)] == ["lines"] * 3
    os.close(reader)
    os.close(writer)
