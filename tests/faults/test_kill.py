"""``kill -9`` of workers, launcher or both at random moments: the repeated command gives the same bytes.

Some cases start real processes; the others fork them from a warm one, so that more of the kills meet work.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from support.corpora import write_takes
from support.forkserver import ForkedCommand, fork_e2v
from support.processes import E2v, find_group, find_workers, kill, start_e2v, wait_until

pytestmark = [
    pytest.mark.kill,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

KILLS = 7
"""Kills in each of six cases; with three in each of three shards of two cases, 60 in all."""

Process = subprocess.Popen[str] | ForkedCommand
Start = Callable[..., Process]
"""Start a command with these arguments."""

OPTIONS = {
    "utterance": ("-m", "sample", "--embeddings", "npy"),
    "frame": ("-m", "sample", "--granularity", "frame", "--embeddings", "ark"),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpus twice, and two utterances that fail."""
    scp = write_takes(tmp_path_factory.mktemp("corpus") / "wav.scp", 2)
    entries = scp.read_text().splitlines()
    entries[17:17] = ["gone nowhere/gone.wav"]
    entries[59:59] = ["text Makefile"]
    scp.write_text("".join(f"{entry}\n" for entry in entries))
    return scp


@pytest.fixture(scope="module")
def references(corpus: Path, tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> dict[str, Path]:
    """Uninterrupted runs with one job."""
    outs = {}
    for granularity, options in OPTIONS.items():
        outs[granularity] = tmp_path_factory.mktemp(granularity)
        done = e2v("predict", corpus, "-o", outs[granularity], "-j", "1", *options)
        assert done.returncode == 3, done.stderr
    return outs


class Watch:
    """A check that finished utterances are never computed again."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._seen: list[tuple[set[str], dict[Path, int]]] = []

    def count_finished(self) -> int:
        return len(self._read_finished())

    def note(self) -> None:
        """Note the finished utterances and the sizes of the worker logs."""
        finished = self._read_finished()
        self._seen.append((finished, {log: log.stat().st_size for log in self.out.glob("log/worker.*.log")}))

    def check(self) -> None:
        """Check that no batch of finished utterances was encoded after a note."""
        logs = [log.read_text() for log in self.out.glob("log/worker.*.log")]
        assert any(" INFO encoding " in log for log in logs)
        for finished, sizes in self._seen:
            for log in self.out.glob("log/worker.*.log"):
                for line in log.read_bytes()[sizes.get(log, 0) :].decode().splitlines():
                    _, encoding, utterances = line.partition(" INFO encoding ")
                    if encoding:
                        assert not set(utterances.split()) <= finished, f"{utterances} again"

    def _read_finished(self) -> set[str]:
        lines = [line for path in self.out.glob("journal.*") for line in path.read_bytes().split(b"\n")[:-1]]
        rows = (line.decode().split("\t") for line in lines)
        return {row[2] for row in rows if row[1] in ("done", "failed")}


def kill_and_resume(start: Start, command: list[str | Path], kills: int, total: int, seed: int) -> None:
    """Start a command repeatedly, and kill it or its workers at random moments, until it ends by itself.

    Most kills come after a random number of finished utterances. One of four comes soon after the start.
    """
    generator = random.Random(seed)
    watch = Watch(Path(command[command.index("-o") + 1]))
    before = watch.count_finished()
    process = start(*command)
    for count in sorted(generator.sample(range(total), kills)):
        if generator.random() < 0.25:
            time.sleep(generator.uniform(0, 1.5))
        else:
            wait_for(process, watch, before + count)
            time.sleep(generator.uniform(0, 0.03))
        watch.note()
        if generator.random() < 0.4 and (workers := find_workers(process.pid)):
            kill(generator.choice(workers))
            continue
        if generator.random() < 0.5:
            kill(process.pid)
        else:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGKILL)
        wait_for_end(process)
        watch.note()
        process = start(*command)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 3), errors
    watch.check()


def wait_for(process: Process, watch: Watch, finished: int) -> None:
    """Wait until this number of utterances is finished, or the run has ended."""
    wait_until(lambda: watch.count_finished() >= finished or process.poll() is not None)


def wait_for_end(process: Process) -> None:
    """Wait until a killed launcher and its workers are gone."""
    process.communicate(timeout=60)
    wait_until(lambda: not find_group(process.pid))


def assert_same_results(out: Path, reference: Path) -> None:
    for name in ("predictions.tsv", "failures.tsv", "utt2dur", "utt2num_frames", "utt2emo"):
        assert (out / name).read_bytes() == (reference / name).read_bytes()
    ours, theirs = read_embeddings(out), read_embeddings(reference)
    assert list(ours) == list(theirs)
    assert len(ours) == 80
    for utt_id, embedding in theirs.items():
        assert ours[utt_id].tobytes() == embedding.tobytes(), utt_id


def read_embeddings(out: Path) -> dict[str, np.ndarray]:
    if (out / "embeddings.scp").exists():
        return dict(kaldiio.load_scp(str(out / "embeddings.scp")))
    lines = (out / "embeddings.tsv").read_text().splitlines()
    return {utt_id: np.load(path) for utt_id, path in (line.split("\t") for line in lines)}


@pytest.mark.parametrize("granularity", list(OPTIONS))
@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_killed_runs_end_with_the_same_bytes(
    jobs: int, granularity: str, corpus: Path, references: dict[str, Path], tmp_path: Path
) -> None:
    start: Start = start_e2v if (granularity, jobs) == ("utterance", 2) else fork_e2v
    command: list[str | Path] = ["predict", corpus, "-o", tmp_path, "-j", str(jobs), *OPTIONS[granularity]]
    kill_and_resume(start, command, KILLS, 82, seed=jobs)
    assert_same_results(tmp_path, references[granularity])


@pytest.mark.parametrize("granularity", list(OPTIONS))
def test_killed_shards_are_merged_to_the_same_bytes(
    granularity: str, corpus: Path, references: dict[str, Path], tmp_path: Path, e2v: E2v
) -> None:
    for index in (2, 3, 1):
        start: Start = start_e2v if (granularity, index) == ("utterance", 1) else fork_e2v
        command: list[str | Path] = ["predict", corpus, "-o", tmp_path, "-j", "2", "--shard", f"{index}/3"]
        kill_and_resume(start, [*command, *OPTIONS[granularity]], 3, 25, seed=index)
    assert_same_results(tmp_path, references[granularity])

    for name in ("predictions.tsv", "failures.tsv", "run.json", "utt2dur", "utt2num_frames", "utt2emo"):
        (tmp_path / name).unlink()
    assert e2v("merge", tmp_path, "--max-failures", "2").returncode == 0
    assert_same_results(tmp_path, references[granularity])
