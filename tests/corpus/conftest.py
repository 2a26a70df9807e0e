"""Fixtures of all tests of the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in messages are those that a user would have typed."""
    monkeypatch.chdir(tmp_path)
