"""Workers that die, utterances that kill them, and signals: the survival of the run, and its messages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.corpora import write_takes
from support.forkserver import ForkedCommand, fork_e2v
from support.processes import (
    ON_OPENING,
    ROOT,
    E2v,
    Hold,
    find_group,
    find_workers,
    has_ended,
    hook,
    kill,
    on_opening,
    start_e2v,
    wait_until,
)

pytestmark = pytest.mark.e2e

SAMPLE_SCP = ROOT / "sample_data" / "wav.scp"


@pytest.fixture
def scp(tmp_path: Path) -> Path:
    """Fourteen clips; the tenth has a name of its own."""
    lines = SAMPLE_SCP.read_text().splitlines()[:14]
    link = tmp_path / "killer.flac"
    link.symlink_to(ROOT / lines[9].split()[1])
    lines[9] = f"bad {link}"
    scp = tmp_path / "wav.scp"
    scp.write_text("".join(f"{line}\n" for line in lines))
    return scp


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("os.abort()", "killed by SIGABRT"),
        ("os._exit(3)", "exit code 3"),
        ("raise RuntimeError('it broke')", "RuntimeError: it broke"),
        ("os.kill(os.getpid(), 40)", "killed by signal 40"),
    ],
)
def test_only_the_utterance_that_kills_its_worker_fails(
    action: str, cause: str, scp: Path, tmp_path: Path, e2v: E2v
) -> None:
    out = tmp_path / "out"
    environment = on_opening(tmp_path / "hook", "killer", action)
    done = e2v("predict", scp, "-m", "sample", "-o", out, "-j", "2", **environment)
    assert done.returncode == 3
    assert (out / "failures.tsv").read_text().splitlines()[1:] == [
        f"bad\tmodel\tworker died\t{tmp_path}/killer.flac: 2 workers died over it, the last: {cause}"
    ]
    assert f" died ({cause}); it is replaced, and its work is repeated\n" in done.stderr
    assert done.stderr.count(f"e2v: a worker died ({cause}) over the utterance bad\n") == 2
    assert (out / "predictions.tsv").read_text().count("\n") == 14


def test_utterance_that_killed_workers_waits_for_retry_failed(scp: Path, tmp_path: Path, e2v: E2v) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    environment = on_opening(tmp_path / "hook", "killer", "os.kill(os.getpid(), signal.SIGKILL)")
    command = ("predict", scp, "-m", "sample", "--embeddings", "ark", "-o")
    assert e2v(*command, out, "-j", "2", **environment).returncode == 3
    again = e2v(*command, out, **environment)
    assert again.returncode == 3
    assert " died (" not in again.stderr

    assert e2v(*command, alone, "-j", "1", **environment).returncode == 3
    assert (out / "predictions.tsv").read_bytes() == (alone / "predictions.tsv").read_bytes()

    assert e2v(*command, out, "--retry-failed").returncode == 0
    assert (out / "predictions.tsv").read_text().count("\n") == 15


def test_run_that_prints_rows_survives_a_dead_worker(scp: Path, tmp_path: Path, e2v: E2v) -> None:
    environment = on_opening(tmp_path / "hook", "killer", "os.kill(os.getpid(), signal.SIGKILL)")
    done = e2v("predict", scp, "-m", "sample", "-j", "2", **environment)
    assert done.returncode == 3
    ids = [line.split()[0] for line in scp.read_text().splitlines()]
    assert [row.split("\t")[0] for row in done.stdout.splitlines()[1:]] == [*ids[:9], *ids[10:]]
    assert "e2v: bad: model: worker died: " in done.stderr


def test_many_utterances_that_kill_workers_are_all_found(tmp_path: Path, e2v: E2v) -> None:
    """More of them than workers may die without a result."""
    lines = SAMPLE_SCP.read_text().splitlines()
    scp, out = tmp_path / "wav.scp", tmp_path / "out"
    entries = []
    for number, line in enumerate(lines[:24]):
        link = tmp_path / f"killer{number}{Path(line.split()[1]).suffix}"
        link.symlink_to(ROOT / line.split()[1])
        entries.append(f"bad{number} {link}\n" if number % 2 else f"{line}\n")
    scp.write_text("".join(entries))
    environment = on_opening(tmp_path / "hook", "killer", "os._exit(3)")
    assert e2v("predict", scp, "-m", "sample", "-o", out, "-j", "12", **environment).returncode == 3
    assert (out / "failures.tsv").read_text().count("worker died") == 12
    assert (out / "predictions.tsv").read_text().count("\n") == 13


def test_block_that_kills_only_as_a_whole_is_named(tmp_path: Path, e2v: E2v) -> None:
    """The first two of sixteen utterances are one block; each of the others is its own."""
    scp = tmp_path / "wav.scp"
    scp.write_text("".join(SAMPLE_SCP.read_text().splitlines(keepends=True)[:16]))
    command = ("predict", scp, "-m", "sample", "-o", tmp_path / "out", "--batch-seconds", "60")
    code = """
import os
import e2v_cli.workers.pipeline
real = e2v_cli.workers.pipeline.make_batches
def make_batches(*args):
    for batch in real(*args):
        if len(batch.waveforms) > 1:
            os._exit(5)
        yield batch
e2v_cli.workers.pipeline.make_batches = make_batches
"""
    done = e2v(*command, "-j", "1", **hook(tmp_path / "hook", code))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "e2v: 5 workers died over the 2 utterances from f1-0001, the last: exit code 5; "
        "none of them crashes a worker alone. Try a smaller --jobs or --batch-seconds; "
        "what is done is safe, the same command goes on"
    )
    assert e2v(*command).returncode == 0


def test_workers_that_all_die_end_the_run(scp: Path, tmp_path: Path, e2v: E2v, real_e2v: E2v) -> None:
    environment = hook(
        tmp_path / "hook",
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv: os._exit(9)",
    )
    done = real_e2v("predict", scp, "-m", "sample", "-o", tmp_path / "out", "-j", "2", **environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "e2v: 10 workers died in a row before they did anything, the last: exit code 9. "
        "Memory may be short for 2 of them. Try a smaller --jobs or --batch-seconds; "
        "what is done is safe, the same command goes on"
    )
    assert e2v("predict", scp, "-m", "sample", "-o", tmp_path / "out").returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("kills_template", [False, True])
def test_dead_worker_is_replaced(kills_template: bool, hold: Hold, tmp_path: Path) -> None:
    """The end of the template ends no worker, and another one is started when it is needed."""
    scp = write_takes(tmp_path / "long.scp", 3)
    command = ("predict", scp, "-m", "sample", "-o", tmp_path / "out", "-j", "2", "--no-progress")
    process = start_e2v(*command, **hold.environment)
    wait_until(lambda: read_logs(tmp_path / "out").count("sample is loaded on cpu") == 2)
    template, worker, _ = find_workers(process.pid)
    if kills_template:
        kill(template)
        wait_until(lambda: has_ended(template))
    kill(worker)
    hold.release()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.match(
        r"e2v: worker \d died \(killed by SIGKILL\); it is replaced, and its work is repeated\n"
        "e2v: 120 utterances: 120 done, 0 failed\n",
        errors,
    ), errors
    assert (tmp_path / "out" / "predictions.tsv").read_text().count("\n") == 121
    wait_until(lambda: not find_group(process.pid))


NOTE_IMPORTS = """
import os, sys
class Notes:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            with open({path!r}, "a") as file:
                print(os.getpid(), file=file)
sys.meta_path.insert(0, Notes)
"""

NUM_LOADED = """
import glob
def num_loaded():
    return sum("sample is loaded on cpu" in open(path).read() for path in glob.glob({logs!r}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_pytorch_is_imported_once_for_all_workers(scp: Path, tmp_path: Path, real_e2v: E2v) -> None:
    """The model was prepared by an earlier run, which imports PyTorch for it. Audio waits for all workers."""
    assert real_e2v("predict", scp, "-m", "sample", "-o", tmp_path / "first").returncode == 0
    noted = tmp_path / "imports"
    num_loaded = NUM_LOADED.format(logs=f"{tmp_path}/out/log/worker.*.log")
    await_workers = ON_OPENING.format(name="", action="while num_loaded() < 4: time.sleep(0.02)")
    environment = hook(tmp_path / "hook", NOTE_IMPORTS.format(path=str(noted)) + num_loaded + await_workers)

    done = real_e2v("predict", scp, "-m", "sample", "-o", tmp_path / "out", "-j", "4", **environment)

    assert done.returncode == 0
    assert len(noted.read_text().splitlines()) == 1
    assert read_logs(tmp_path / "out").count("sample is loaded on cpu") == 4


def test_template_that_hangs_does_not_delay_a_stop(scp: Path, tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
class Hang:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            Path({str(tmp_path / "hanging")!r}).touch()
            time.sleep(600)
sys.meta_path.insert(0, Hang)
"""
    process = start_e2v("predict", scp, "-m", "sample", "-o", tmp_path / "out", **hook(tmp_path / "hook", code))
    wait_until((tmp_path / "hanging").exists)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert re.match(r"(e2v: 14 utterances: 0 done, 0 failed, 14 left\n)?e2v: stopped; to go on: ", errors)
    wait_until(lambda: not find_group(process.pid))


def test_no_room_for_a_process_ends_the_run(scp: Path, tmp_path: Path, e2v: E2v) -> None:
    code = """
import errno, os, sys
from e2v_cli.workers import template
def no_room():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
real = template.fork_sibling
def fork_sibling():
    os.fork = no_room
    return real()
template.fork_sibling = fork_sibling
"""
    done = e2v("predict", scp, "-m", "sample", "-o", tmp_path / "out", "-j", "2", **hook(tmp_path / "hook", code))
    assert done.returncode == 1
    assert done.stderr == ("e2v: Resource temporarily unavailable; what is done is safe, run the same command again\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_stops_within_seconds_despite_a_hanging_worker(number: signal.Signals, scp: Path, tmp_path: Path) -> None:
    """Ctrl-C and Slurm send signals to workers, too, and more than once. SIGINT stops the real command."""
    out = tmp_path / "out"
    hanging = tmp_path / "hanging"
    environment = on_opening(tmp_path / "hook", "killer", f"open({str(hanging)!r}, 'w').close(); time.sleep(600)")
    start: Callable[..., subprocess.Popen[str] | ForkedCommand]
    start = start_e2v if number == signal.SIGINT else fork_e2v
    process = start("predict", scp, "-m", "sample", "-o", out, "-j", "2", **environment)
    wait_until(hanging.exists)
    asked = time.monotonic()
    for _ in range(3):
        os.killpg(process.pid, number)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked < 40  # four seconds on an idle machine; the worker would hang for ten minutes
    assert process.returncode == 75
    assert re.fullmatch(
        r"e2v: 14 utterances: \d+ done, 0 failed, \d+ left\n"
        r"(e2v: .* s of audio at .*\n)?"
        rf"e2v: stopped; to go on: .*predict {scp} -m sample -o {out} -j 2\n",
        errors,
    )
    wait_until(lambda: not find_group(process.pid))


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.7, 1.0])
def test_signal_while_workers_start_prints_no_traceback(delay: float, scp: Path, tmp_path: Path) -> None:
    process = start_e2v("predict", scp, "-m", "sample", "-o", tmp_path / "out", "-j", "2")
    wait_until(lambda: (tmp_path / "out").exists())
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (75, 0)  # it may have been about to end
    assert "Traceback" not in errors
    wait_until(lambda: not find_group(process.pid))


def read_logs(out: Path) -> str:
    return "".join(log.read_text() for log in out.glob("log/worker.*.log"))
