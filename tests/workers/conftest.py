"""Utterances for the worker's loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from e2v_cli.records import Utterance


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Twelve utterances of 1 to 3 s, two of them missing."""
    listed = [Utterance(index, f"utt{index}", str(tmp_path / f"{index}.wav")) for index in range(12)]
    for utterance in listed:
        if utterance.index not in (3, 10):
            soundfile.write(utterance.source, np.zeros(16_000 * (1 + utterance.index % 3)), 16_000)
    return listed
