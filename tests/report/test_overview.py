"""Distributions over all utterances, and the labels of speakers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.journals import IDS, header, open_folder, write_run

from e2v_cli.report.columns import Columns, RunResults, Speakers, read_columns
from e2v_cli.report.overview import make_overview
from e2v_cli.report.palette import mark_labels
from e2v_cli.report.speakers import tabulate_speakers


def make_columns(labels: list[int], scores: list[float], durations: list[float]) -> Columns:
    return Columns(
        list_indices=np.arange(len(labels), dtype=np.int32),
        labels=np.array(labels, dtype=np.uint16),
        scores=np.array(scores, dtype=np.float32),
        margins=np.zeros(len(labels), dtype=np.float32),
        durations=np.array(durations, dtype=np.float32),
    )


def test_labels_are_counted_in_utterances_and_seconds() -> None:
    overview = make_overview(make_columns([0, 0, 2], [0.9, 0.5, 0.8], [1.0, 2.0, 9.0]), mark_labels("abc"))
    assert [(row.mark.label, row.utterances, row.seconds, row.share_of_time) for row in overview.labels] == [
        ("a", 2, 3.0, 0.25),
        ("b", 0, 0.0, 0.0),
        ("c", 1, 9.0, 0.75),
    ]
    assert [row.median_score for row in overview.labels] == pytest.approx([0.7, 0.0, 0.8])
    assert (overview.seconds, overview.shortest, overview.longest, overview.median_seconds) == (12.0, 1.0, 9.0, 2.0)


@pytest.mark.parametrize("durations", [[0.025] * 3, [1.0, 1.0, 1.0], [0.3, 20.0, 86_400.0], [0.0, 1e-4, 1e9]])
def test_every_utterance_is_in_a_cell(durations: list[float]) -> None:
    overview = make_overview(make_columns([0, 0, 0], [0.0, 0.5, 1.0], durations), mark_labels("a"))
    assert sum(int(title[1]) for title in re.finditer(r": (\d+)</title>", overview.scores)) == 3
    assert overview.durations.count("z") == 3


@pytest.fixture
def run(tmp_path: Path) -> RunResults:
    """A run of four utterances."""
    write_run(tmp_path)
    folder = open_folder(tmp_path)
    history = folder.read_history(IDS)
    columns = read_columns(history, header().labels)
    return RunResults(
        tmp_path, header(), history, columns, Speakers(np.array([1, 1, 0, -1], dtype=np.int32), ["anna", "bo"])
    )


def test_speakers_are_sorted_by_utterances(run: RunResults) -> None:
    table = tabulate_speakers(run)
    assert [(row.name, row.counts, row.utterances) for row in table.rows] == [("bo", [1, 1], 2), ("anna", [0, 1], 1)]
    assert (table.count, table.of_one_label, table.unknown) == (2, 0, 1)
    assert table.rows[0].seconds == 3602.0


def test_speakers_of_one_label_are_counted(run: RunResults) -> None:
    columns = make_columns([0] * 5 + [1] * 4 + [0, 1, 1, 1, 1], [1.0] * 14, [1.0] * 14)
    speakers = Speakers(np.array([0] * 5 + [1] * 4 + [2] * 5, dtype=np.int32), ["five", "few", "mixed"])
    table = tabulate_speakers(RunResults(run.output_dir, run.header, run.history, columns, speakers))
    assert [(row.name, row.has_one_label) for row in table.rows] == [("five", True), ("mixed", False), ("few", False)]
    assert table.of_one_label == 1
