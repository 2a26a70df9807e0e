"""Calls of the C library."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from e2v_cli.system.process import keep_heap


def test_heap_is_kept_if_mallopt_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[int, int] = {}

    def mallopt(parameter: int, value: int) -> int:
        calls[parameter] = value
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    keep_heap()
    m_trim_threshold, m_mmap_threshold = -1, -3
    assert calls[m_trim_threshold] >= calls[m_mmap_threshold] >= 1 << 20


def test_heap_is_unchanged_if_mallopt_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold that is set switches off the library's own adjustment."""
    calls: list[int] = []

    def mallopt(parameter: int, _: int) -> int:
        calls.append(parameter)
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    keep_heap()
    assert calls == [-3]


def test_heap_is_unchanged_without_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str | None) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace()

    monkeypatch.setattr(ctypes, "CDLL", load)
    keep_heap()
    assert asked == [None]
