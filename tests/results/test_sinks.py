"""Sinks of the launcher: rows on standard output in input order, or lines of the journal."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.journals import IDS, LABELS, WHOLE, done, failed, header, open_folder

from e2v_cli.journal.journal import DONE, FAILED, FAILED_IN_BATCH, LEFT, Journal
from e2v_cli.journal.reasons import Reasons
from e2v_cli.options import RowOptions
from e2v_cli.records import DoneRecord, Failure
from e2v_cli.results.rows import RowPrinter
from e2v_cli.results.sinks import JournalSink, StdoutSink
from e2v_cli.results.tables import prediction_columns


def record_at(index: int, utt_id: str) -> DoneRecord:
    return dataclasses.replace(done(utt_id, duration=1.5), index=index)


def failure_at(index: int, utt_id: str) -> Failure:
    failure = failed(utt_id, "audio", "missing", "no such file")
    return dataclasses.replace(failure, utterance=dataclasses.replace(failure.utterance, index=index))


def make_printer(columns: Sequence[str] = prediction_columns(LABELS)) -> RowPrinter:
    return RowPrinter(RowOptions(), columns, LABELS, IDS.ids())


def test_rows_are_printed_in_input_order(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    sink = StdoutSink(make_printer(), 5, iter([0, 1, 3, 4]), started=0.0)
    header_line = "utt_id\tlabel\tscore\tduration\twindows\tangry\tsad\n"
    assert capsys.readouterr().out == header_line

    sink.commit([record_at(3, "d"), record_at(1, "b\tc")], [])
    assert capsys.readouterr().out == ""
    with caplog.at_level(logging.WARNING):
        sink.commit([], [failure_at(0, "a")])

    rest = "sad\t1.000000\t1.5000\t1\t0.000000\t1.000000\n"
    assert capsys.readouterr().out == f"b c\t{rest}d\t{rest}"
    assert caplog.messages == ["a: audio: missing: no such file"]
    assert sink.status.tolist() == [FAILED, DONE, LEFT, DONE, LEFT]
    assert (sink.elapsed.audio_seconds, sink.elapsed.finished) == (3.0, 3)


def test_rows_over_a_gap_are_printed_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    sink = StdoutSink(make_printer(), 5, iter(range(5)), started=0.0)
    sink.commit([record_at(4, "e"), record_at(1, "b"), record_at(3, "d")], [])
    capsys.readouterr()

    sink.end()

    assert [row.split("\t")[0] for row in capsys.readouterr().out.splitlines()] == ["b", "d", "e"]
    sink.end()
    assert capsys.readouterr().out == ""


def test_rows_of_a_timeline_are_printed_instead(capsys: pytest.CaptureFixture[str]) -> None:
    sink = StdoutSink(make_printer(("utt_id", "start")), 2, iter(range(2)), started=0.0)

    sink.commit(
        [dataclasses.replace(record_at(number, "u"), rows=f"{number}\t0\n{number}\t1\n") for number in (1, 0)], []
    )

    assert capsys.readouterr().out == "utt_id\tstart\n0\t0\n0\t1\n1\t0\n1\t1\n"


def test_journal_has_the_committed_results(tmp_path: Path) -> None:
    status = np.full(len(IDS), LEFT, dtype=np.uint8)
    with closing(Journal(tmp_path, WHOLE, header())) as journal:
        sink = JournalSink(journal, status, Reasons(len(IDS)), started=0.0)
        sink.commit([record_at(0, "z")], [failure_at(2, "gone")])
        sink.commit([], [dataclasses.replace(failure_at(5, "broken"), stage="model")])

    history = open_folder(tmp_path).read_history(IDS)
    assert history.status.tolist() == status.tolist() == [DONE, LEFT, FAILED, LEFT, LEFT, FAILED_IN_BATCH]
    assert [elapsed.finished for elapsed in history.elapsed.values()] == [3]
