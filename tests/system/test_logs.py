"""Notes that C libraries print go to the log of a worker, not to standard error."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from support.audio_files import RATE, encode, encode_mp3, noisy_tone
from support.processes import E2v, on_opening

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")

NOTE = "[src/library.c] a note\\n"

PRINT = f"""import ctypes
        libc = ctypes.CDLL(None)
        libc.fputs(b"{NOTE}", ctypes.c_void_p.in_dll(libc, "stderr"))"""
"""Lines of Python that print a note as a C library does."""


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_bytes(encode(noisy_tone(RATE, num_channels=2)))
    return path


@pytest.fixture
def hooked(tmp_path: Path) -> dict[str, str]:
    """An environment in which opening a.wav prints a note."""
    return on_opening(tmp_path / "hook", "a.wav", PRINT)


def test_note_of_a_library_is_in_the_log_of_the_worker(
    wav: Path, hooked: dict[str, str], tmp_path: Path, e2v: E2v
) -> None:
    done = e2v("predict", wav, "-m", "sample", "-o", tmp_path / "out", "-q", **hooked)

    assert (done.returncode, done.stderr) == (0, "")
    log = (tmp_path / "out" / "log" / "worker.1-of-1.1.log").read_text()
    assert "INFO sample is loaded on cpu\n[src/library.c] a note\n" in log
    assert "INFO encoding a\n" in log.partition("a note")[2]


@pytest.mark.parametrize("command", ["plan", "predict --channel split -q", "predict -q"])
def test_note_of_a_library_is_not_on_standard_error(command: str, wav: Path, hooked: dict[str, str], e2v: E2v) -> None:
    done = e2v(*command.split(), wav, "-m", "sample", **hooked)

    assert (done.returncode, done.stderr) == (0, "")


def test_damaged_mp3_is_quiet(tmp_path: Path, real_e2v: E2v) -> None:
    mp3 = encode_mp3(noisy_tone(3 * RATE), "CONSTANT")
    (tmp_path / "bad.mp3").write_bytes(mp3[:4000] + mp3[5100:])
    done = real_e2v("predict", tmp_path / "bad.mp3", "-m", "sample", "-q")

    named, counted = done.stderr.splitlines()
    assert named.startswith(f"e2v: bad: audio: truncated: {tmp_path}/bad.mp3: ")
    assert counted == "e2v: 1 failed, more than --max-failures 0 allows: see above"
    assert done.returncode == 3
