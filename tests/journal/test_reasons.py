"""The reasons of failures, as journals record them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.journals import IDS, done, failed, header, open_folder, write

from e2v_cli.journal.journal import DONE, LEFT
from e2v_cli.records import DoneRecord, Failure, FailureReason


def test_reasons_are_those_that_count(tmp_path: Path) -> None:
    """A later failure replaces an earlier one; a result is no failure, whatever came before."""
    write(tmp_path, [failed(utt_id, "audio", "missing", "x") for utt_id in ("z", "gone", "ü", "broken")], header())
    retry: list[DoneRecord | Failure] = [
        failed("gone", "audio", "not audio", "x"),
        failed("ü", "audio", "missing", "y"),
        done("z"),
    ]
    write(tmp_path, retry, header(started=1))

    history = open_folder(tmp_path).read_history(IDS)

    indices = np.flatnonzero((history.status != LEFT) & (history.status != DONE))
    assert history.reasons.count(indices) == (FailureReason("missing", 2, 3), FailureReason("not audio", 1, 2))
    assert history.reasons.copy().count(indices) == history.reasons.count(indices)
    assert history.reasons.count(indices[:0]) == ()
