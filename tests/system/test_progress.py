"""The progress that a run shows."""

from __future__ import annotations

import re
import time

import pytest

from e2v_cli.system.progress import LINE_SECONDS, Progress, ProgressStyle


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
