"""The predictions of a run as columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.journals import IDS, done, header, open_folder, write, write_run

from e2v_cli.journal.ids import save_ids
from e2v_cli.report.columns import Columns, read_columns


def columns_of(folder: Path) -> Columns:
    run = open_folder(folder)
    return read_columns(run.read_history(IDS), run.find_run().header.labels)


def test_columns_are_in_the_order_of_the_list_and_without_failures(tmp_path: Path) -> None:
    write_run(tmp_path)
    columns = columns_of(tmp_path)
    assert columns.list_indices.tolist() == [0, 1, 3, 4]
    assert columns.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(columns.scores, [0.999999, 0.654321, 1.0, 0.5])
    np.testing.assert_allclose(columns.margins, [0.999998, 0.308642, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(columns.durations, [2.0, 3600.0, 0.025, 12.3457])


def test_run_without_results_has_empty_columns(tmp_path: Path) -> None:
    write(tmp_path, [], header(), end=False)
    save_ids(tmp_path, IDS)
    assert len(columns_of(tmp_path)) == 0


def test_model_without_a_head_has_durations_alone(tmp_path: Path) -> None:
    write(tmp_path, [done(utt_id, (), duration=2.5) for utt_id in ("ü", "z")], header(labels=()))
    save_ids(tmp_path, IDS)
    columns = columns_of(tmp_path)
    assert (columns.list_indices.tolist(), columns.durations.tolist()) == ([0, 3], [2.5, 2.5])
    assert (columns.labels.tolist(), columns.scores.tolist(), columns.margins.tolist()) == ([0, 0], [0, 0], [0, 0])


def test_single_label_has_its_own_score_as_margin(tmp_path: Path) -> None:
    write(tmp_path, [done("z", (1.0,))], header(labels=("angry",)))
    save_ids(tmp_path, IDS)
    assert columns_of(tmp_path).margins.tolist() == [1.0]
