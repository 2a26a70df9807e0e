"""Folders for stand-ins for Slurm's commands."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for commands that stand in for real ones."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def path(commands: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ``commands``, as the only one on PATH."""
    monkeypatch.setenv("PATH", str(commands))
    return commands
