"""Faults: each write, fsync and rename of a run fails in turn; a full disk; two runs in one OUT."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.corpora import write_takes
from support.forkserver import ForkedCommand, fork_e2v
from support.processes import ROOT, E2v, find_group, hook, kill, on_opening, start_e2v, wait_until

pytestmark = pytest.mark.faults

FAULTS = '''
"""Counts what this process writes below FAULT_OUT, and lets the FAULT_AT-th time fail, or all from then on."""
import builtins, errno, io, multiprocessing, os, pathlib, sys

OUT = os.environ["FAULT_OUT"]
ERROR = getattr(errno, os.environ["FAULT_ERROR"])
FOR_GOOD = os.environ["FAULT_FOR_GOOD"] == "1"
count, counter = 0, os.getpid()
real_open, real_fsync, real_replace = io.open, os.fsync, os.replace

def concerns(path):
    path = os.path.abspath(os.fsdecode(path))
    return path.startswith(OUT) and not path.startswith(OUT + "/log/") and not path.startswith(OUT + "/.lock")

def happen(kind, path):
    global count, counter
    if not concerns(path):
        return
    if os.getpid() != counter:  # a worker that was forked
        count, counter = 0, os.getpid()
    count += 1
    is_worker = "--multiprocessing-fork" in sys.orig_argv or multiprocessing.parent_process() is not None
    role = "worker" if is_worker else "launcher"
    with real_open(os.environ["FAULT_NOTES"], "a") as notes:
        notes.write(f"{role} {kind} {os.path.basename(path)}\\n")
    at = int(os.environ["FAULT_AT"]) if os.environ["FAULT_ROLE"] == role else 0
    if at and (count == at or (FOR_GOOD and count > at)):
        raise OSError(ERROR, os.strerror(ERROR))

class File(io.FileIO):
    def write(self, content):
        happen("write", self.name)
        return super().write(content)

def faulty_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if isinstance(file, int) or "r" in mode and "+" not in mode or not concerns(file):
        return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = File(os.fspath(file), mode.replace("b", ""))
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

def faulty_fsync(file):
    happen("fsync", os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"))
    real_fsync(file)

def faulty_replace(source, target, **kwargs):
    happen("rename", target)
    real_replace(source, target, **kwargs)

builtins.open = io.open = faulty_open
os.fsync, os.replace = faulty_fsync, faulty_replace
if accessor := getattr(pathlib, "_NormalAccessor", None):  # that of Python 3.10 has the real ones already
    accessor.open, accessor.replace = staticmethod(faulty_open), staticmethod(faulty_replace)
'''

STUB = """
from types import SimpleNamespace
import numpy as np
import e2v_cli.inference.load as load
import e2v_cli.workers.worker as worker
from e2v_cli.records import Prediction

class Engine:
    device, busy_seconds = SimpleNamespace(type="cpu"), 0.0

    def start(self, batch):
        return lambda: [
            Prediction(one.utterance, one.duration, 10, 1, np.full(9, 1 / 9, np.float32), one.whole[:96])
            for one in batch.waveforms
        ]

load.prepare_process = worker.prepare_process = lambda _: None
worker.load_engine = lambda *_: Engine()
"""
"""An engine without PyTorch, which gives samples for embeddings."""


def digest(out: Path) -> dict[str, str]:
    """Return digests of the final files, and of the content of embeddings."""
    names = ["predictions.tsv", "failures.tsv", "utt2dur", "utt2num_frames"]
    files = [out / name for name in names] + sorted(out.glob("embeddings/*"))
    digests = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if (out / "embeddings.scp").exists():
        for line in (out / "embeddings.scp").read_text().splitlines():
            utt_id, place = line.split()
            path, offset = place.rsplit(":", 1)
            begin = int(offset)
            digests[utt_id] = hashlib.sha256(Path(path).read_bytes()[begin : begin + 10 + 4 * 96]).hexdigest()
    return digests


@pytest.fixture(scope="module")
def scp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips and a missing one, each in its own block."""
    lines = (ROOT / "sample_data" / "wav.scp").read_text().splitlines()[:4]
    scp = tmp_path_factory.mktemp("scp") / "wav.scp"
    scp.write_text("".join(f"{line}\n" for line in [*lines[:3], "gone nowhere.wav", *lines[3:]]))
    return scp


@pytest.mark.skipif(sys.platform != "linux", reason="finds names of open files in /proc")
@pytest.mark.parametrize(("kind", "roles"), [("npy", ["launcher", "worker"]), ("ark", ["worker"])])
def test_failed_write_is_named_and_run_resumes(
    kind: str, roles: list[str], scp: Path, tmp_path: Path, e2v: E2v, real_e2v: E2v
) -> None:
    """Every fifth case runs the real command; the others run a forked one. None computes."""
    hooked = hook(tmp_path / "hook", FAULTS + STUB)

    def run(name: str, role: str, at: int) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run with a fault: odd faults happen once, even faults persist."""
        environment = {
            **hooked,
            "FAULT_OUT": str(tmp_path / name),
            "FAULT_NOTES": str(tmp_path / f"{name}.notes"),
            "FAULT_ROLE": role,
            "FAULT_AT": str(at),
            "FAULT_ERROR": "EIO" if at % 2 else "ENOSPC",
            "FAULT_FOR_GOOD": str((at + 1) % 2),
        }
        (tmp_path / f"{name}.notes").unlink(missing_ok=True)
        command = ("predict", scp, "-m", "sample", "-j", "1", "-q", "--embeddings", kind, "--max-failures", "1")
        done = (real_e2v if at and at % 5 == 0 else e2v)(*command, "-o", tmp_path / name, **environment)
        notes = tmp_path / f"{name}.notes"
        return done, notes.read_text().splitlines() if notes.exists() else []

    def check(role: str, at: int) -> None:
        """Run with a fault, and again without."""
        name = f"{role}{at}"
        failed, notes = run(name, role, at)
        message = "Input/output error" if at % 2 else "No space left on device"
        path = re.escape(str(tmp_path / name))
        hint = "what is done is safe, run the same command again"
        if sum(note.startswith(role) for note in notes) < at:  # results were written together, or in another order
            assert failed.returncode == 0
            return
        assert failed.returncode == 1, (notes[-1], failed.stderr)
        assert re.fullmatch(rf"e2v: {path}(/[^:]+)?: {message}; {hint}\n", failed.stderr), (notes[-1], failed.stderr)
        again, _ = run(name, "nobody", 0)
        assert (again.returncode, again.stderr) == (0, ""), notes[-1]
        assert digest(tmp_path / name) == expected, notes[-1]
        assert not list((tmp_path / name).glob(".*.part")), notes[-1]
        shutil.rmtree(tmp_path / name)

    done, notes = run("whole", "nobody", 0)
    assert done.returncode == 0
    expected = digest(tmp_path / "whole")
    counts = {role: sum(note.startswith(role) for note in notes) for role in ("launcher", "worker")}
    assert counts["launcher"] > 30
    assert counts["worker"] > 6
    assert {note.split()[1] for note in notes} == {"write", "fsync", "rename"}
    cases = [(role, at) for role in roles for at in range(1, counts[role] + 1)]
    with ThreadPoolExecutor(2) as pool:
        for result in [pool.submit(check, role, at) for role, at in cases]:
            result.result()


FULL_DISK = """
set -e
mount -t tmpfs -o size=1m none "$1"
set +e
"$2" -m e2v_cli predict "$3" -m sample -o "$1/out" --granularity frame --embeddings ark -q
echo $?
mount -o remount,size=64m "$1"
"$2" -m e2v_cli predict "$3" -m sample -o "$1/out" --granularity frame --embeddings ark -q
echo $?
cat "$1/out/predictions.tsv"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
def test_full_disk_is_reported_and_run_resumes(tmp_path: Path, e2v: E2v) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    scp = ROOT / "sample_data" / "wav.scp"
    become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *become_root, "--mount", "bash", "-c", FULL_DISK, "bash", str(disk), sys.executable, str(scp)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode and not done.stdout:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    assert re.match(rf"e2v: {disk}/out/\S+: No space left on device; what is done is safe, run the", done.stderr)
    first, second, table = done.stdout.split("\n", 2)
    assert (first, second) == ("1", "0")
    assert table == e2v("predict", scp, "-m", "sample").stdout


@pytest.mark.parametrize("damage", ["the first of two lines", "a line in the middle", "the header"])
def test_damaged_journal_line_is_refused_and_named(damage: str, scp: Path, tmp_path: Path, e2v: E2v) -> None:
    command = ("predict", scp, "-m", "sample", "-o", tmp_path, "--max-failures", "1")
    assert e2v(*command).returncode == 0
    (journal,) = tmp_path.glob("journal.*")
    lines = journal.read_bytes().splitlines(keepends=True)
    number = {"the first of two lines": len(lines) - 1, "a line in the middle": len(lines) // 2, "the header": 1}[
        damage
    ]
    lines[number - 1] = lines[number - 1].replace(b"\t", b"\0", 1)
    journal.write_bytes(b"".join(lines))
    refused = e2v(*command)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"e2v: {journal}:{number}: damaged, and lines follow it; restore it, or cut it before that line "
        f"(head -n {number - 1}) to compute again what is lost, or use --overwrite\n"
    )
    journal.write_bytes(b"".join(lines[: number - 1]))
    (tmp_path / "run.json").unlink()
    assert e2v(*command).returncode == 0


def test_run_with_a_truncated_journal_ends_with_the_same_bytes(scp: Path, tmp_path: Path, e2v: E2v) -> None:
    """The journal is truncated at a few offsets; test_history.py does so at every byte."""
    command = ("predict", scp, "-m", "sample", "--embeddings", "ark", "--max-failures", "1", "-j", "1", "-o", tmp_path)
    assert e2v(*command).returncode == 0
    whole = digest(tmp_path)
    journal = tmp_path / "journal.1-of-1.1"
    content = journal.read_bytes()
    last = content.rindex(b"done")
    for size in (0, 300, last - 10, last + 40, len(content) - 1):
        for path in (*tmp_path.glob("journal.*"), tmp_path / "predictions.tsv"):
            path.unlink()
        journal.write_bytes(content[:size])
        assert e2v(*command).returncode == 0
        assert digest(tmp_path) == whole


def test_one_of_two_concurrent_runs_is_refused(tmp_path: Path, e2v: E2v) -> None:
    """Twenty pairs of runs start in one OUT, every tenth with the real command.

    Each working run is killed, and the next pair resumes.
    """
    scp, out, whole = write_takes(tmp_path / "wav.scp", 4), tmp_path / "out", tmp_path / "whole"
    command = ("predict", scp, "-m", "sample", "--embeddings", "npy", "-o")
    slow = on_opening(tmp_path / "hook", "m2-0010", "time.sleep(600)")  # keeps every run from ending

    def start(number: int) -> subprocess.Popen[str] | ForkedCommand:
        if number % 10 == 0:
            return start_e2v(*command, out, **slow)
        return fork_e2v(*command, out, **slow)

    for number in range(20):
        pair = [start(number), start(number)]
        wait_until(lambda pair=pair: any(process.poll() is not None for process in pair))  # type: ignore[misc]
        refused, owner = sorted(pair, key=lambda process: process.poll() is None)
        _, message = refused.communicate()
        assert refused.returncode == 4, message
        assert re.fullmatch(
            rf"e2v: {out}: another e2v is running there \(process {owner.pid} on \S+ since \S+\); "
            "wait for it, or choose another -o\n",
            message,
        )
        assert owner.poll() is None
        os.killpg(owner.pid, signal.SIGKILL) if owner.pid % 2 else kill(owner.pid)
        owner.communicate()
        wait_until(lambda group=owner.pid: not find_group(group))  # type: ignore[misc]
    assert e2v(*command, out).returncode == 0
    assert e2v(*command, whole, "-j", "1").returncode == 0
    assert digest(out) == digest(whole)
