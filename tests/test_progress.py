"""What a run shows of how far it is."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from e2v_cli import progress
from e2v_cli.progress import Progress
from e2v_cli.records import Utterance, Waveform
from e2v_cli.settings import ProgressStyle

WAVEFORM = Waveform(Utterance(0, "utt", "utt.wav"), np.zeros(16_000, np.float32), 1.0)


def show(style: ProgressStyle, capsys: pytest.CaptureFixture[str]) -> str:
    shown = Progress(4, style)
    time.sleep(0.15)  # a bar is drawn ten times a second at most
    shown.advance([WAVEFORM, WAVEFORM])
    shown.advance_failed()
    shown.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines = show("lines", capsys).splitlines()
    assert [re.sub(r"[\d.]+× real time, \d\d:\d\d", "S× real time, T", line) for line in lines] == [
        "e2v: 2/4 utterances (50%), S× real time, T left",
        "e2v: 3/4 utterances (75%), S× real time, T left",
    ]


def test_lines_come_half_a_minute_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.LINE_SECONDS == 30
    assert show("lines", capsys) == ""


def test_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"\| 2/4 utterances, [\d.]+× real time, 00:00 gone, ", show("bar", capsys)) is not None


def test_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("none", capsys) == ""
