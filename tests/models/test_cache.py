"""The folder of e2v's own cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2v_cli.models.cache import cache_folder

# -- folder ------------------------------------------------------------------------------------------------------------


def test_environment_sets_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    monkeypatch.setenv("E2V_CACHE", "/scratch/e2v")
    assert cache_folder() == Path("/scratch/e2v")
    monkeypatch.setenv("E2V_CACHE", "mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("E2V_CACHE", "")
    assert cache_folder() == Path("/var/xdg/e2v")
    monkeypatch.delenv("E2V_CACHE")
    assert cache_folder() == Path("/var/xdg/e2v")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path("/home/me/.cache/e2v")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/me/.cache/e2v")
