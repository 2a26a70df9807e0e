"""Calls of the C library."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.processes import ROOT

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


TRIMMED = """
import ctypes
from e2v_cli.system.process import keep_heap, trim_heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

keep_heap()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [library.malloc(1 << 20 if number % 2 else 64) for number in range(200)]
for block in blocks[1::2]:
    ctypes.memset(block, 1, 1 << 20)
    library.free(block)
before = resident()
trim_heap()
print((before - resident()) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's, and the call glibc's")
def test_pages_between_blocks_in_use_are_returned() -> None:
    done = subprocess.run([sys.executable, "-c", TRIMMED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 90
