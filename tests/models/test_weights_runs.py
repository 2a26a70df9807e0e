"""Whole runs that prepare a copy of weights, find one, or have no room for one."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from support.audio_files import encode, noisy_tone
from support.forkserver import fork_e2v
from support.prepared import EVERY_TIME, drafts, flip_byte, other_weights, overwrite
from support.processes import E2v, hook

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.e2e]


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    path.write_bytes(encode(noisy_tone(24_000)))
    return path


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_simultaneous_runs_prepare_one_copy(e2v: E2v, folder: Path, wav: Path, cache: Path) -> None:
    outs = [wav.with_name(f"out{number}") for number in range(2)]
    runs = [fork_e2v("predict", wav, "-m", folder, "-j", "1", "-o", out) for out in outs]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors

    tables = [(out / "predictions.tsv").read_text() for out in outs]
    assert tables[0] == tables[1] == e2v("predict", wav, "-m", folder, "-j", "1").stdout
    assert list_files(cache / "prepared") == ["lock", "record.json", "weights.pt"]


KILL_WHILE_SAVING = """
import os, signal
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_draft_of_a_killed_run_is_removed_by_the_next_run(
    e2v: E2v, folder: Path, wav: Path, cache: Path, tmp_path: Path
) -> None:
    killed = e2v("predict", wav, "-m", folder, "-j", "1", **hook(tmp_path / "hook", KILL_WHILE_SAVING))
    assert killed.returncode == -signal.SIGKILL
    assert len(drafts(cache)) == 1

    done = e2v("predict", wav, "-m", folder, "-j", "1")

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert list_files(cache / "prepared") == ["lock", "record.json", "weights.pt"]


NOTE_IMPORTS = """
import sys
class Notes:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("torch", "funasr", "modelscope", "huggingface_hub"):
            kind = "worker" if any("spawn_main" in argument for argument in sys.orig_argv) else "launcher"
            with open({path!r}, "a") as file:
                print(kind, name, file=file)
sys.meta_path.insert(0, Notes)
"""


def test_second_start_imports_less_and_prints_the_same(
    e2v: E2v, real_e2v: E2v, folder: Path, wav: Path, tmp_path: Path, cache: Path
) -> None:
    first = e2v("predict", wav, "-m", folder, "-j", "1")
    record = next(cache.rglob("record.json"))
    record.write_text(
        json.dumps({**json.loads(record.read_text()), "checked": time.time_ns() + 10**10})
    )  # as if the files had been written long before
    noted = tmp_path / "imports"
    environment = hook(tmp_path / "hook", NOTE_IMPORTS.format(path=str(noted)))

    second = real_e2v("predict", wav, "-m", folder, "-j", "1", **environment)

    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout == first.stdout
    assert set(noted.read_text().splitlines()) == {"worker torch"}


def test_a_damaged_copy_changes_no_result(e2v: E2v, folder: Path, wav: Path, cache: Path) -> None:
    first = e2v("predict", wav, "-m", folder, "-j", "1", "-q")
    (copy,) = cache.rglob("weights.pt")
    flip_byte(copy)

    second = e2v("predict", wav, "-m", folder, "-j", "1", "--no-progress")

    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout == first.stdout
    assert second.stderr.splitlines()[0] == f"e2v: {copy} was changed since e2v wrote it, and is replaced"


def test_no_room_for_a_copy_changes_no_result(e2v: E2v, folder: Path, wav: Path, cache: Path) -> None:
    first = e2v("predict", wav, "-m", folder, "-j", "1")
    cache.rename(cache.with_name("away"))
    cache.write_text("")

    second = e2v("predict", wav, "-m", folder, "-j", "1", "-v", "--no-progress")

    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout == first.stdout
    assert f"Not a directory: {EVERY_TIME}" in second.stderr.splitlines()[0]


def test_run_with_a_changed_checkpoint_is_refused(e2v: E2v, folder: Path, wav: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert e2v("predict", wav, "-m", folder, "-j", "1", "-o", out).returncode == 0
    overwrite(folder / "model.pt", other_weights(tmp_path / "other"))

    again = e2v("predict", wav, "-m", folder, "-j", "1", "-o", out)

    assert again.returncode == 4
    assert "model" in again.stderr
