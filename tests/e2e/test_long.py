"""Recordings of hours: read once, in little memory, with the results of their parts."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import kaldiio
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from support.audio_files import RATE
from support.checkpoints import make_config, make_model
from support.forkserver import fork_e2v
from support.kaldi_folders import (
    COUNT_FRAMES,
    count_frames,
    make_speech,
    read_rows,
    run_e2v,
    write_audio,
    write_folder,
)
from support.processes import find_group, hook, start_e2v

from e2v_cli.inference.windows import cut_windows, window_frames
from e2v_cli.models.folder import read_model

pytestmark = pytest.mark.e2e

MINUTE = make_speech(60.0)
HOURS = 1
NUM_SEGMENTS = 1000
STEP = HOURS * 3600 / NUM_SEGMENTS
"""Seconds from one segment's start to the next. Some segments overlap, and some leave gaps."""


def write_repeated(path: Path, part: NDArray[np.int16], times: int, rate: int = RATE) -> Path:
    """Write audio repeatedly, shifted each time, so that all minutes differ."""
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for number in range(times):
            file.write(shifted(part, number))
    return path


def shifted(part: NDArray[np.int16], number: int) -> NDArray[np.int16]:
    return np.roll(part, 1237 * number)


class Finished(NamedTuple):
    """The end of a run, and the most memory of each of its processes, in bytes, without that of files."""

    returncode: int
    errors: str
    peaks: dict[int, int]

    @property
    def most(self) -> int:
        return max(self.peaks.values())


def run_and_watch(*args: str | Path, **environment: str) -> Finished:
    """Run e2v, and poll the memory of its processes until it ends."""
    peaks: dict[int, int] = {}
    process = start_e2v(*args, **environment)
    try:
        while process.poll() is None:
            for pid in find_group(process.pid):
                with suppress(OSError, StopIteration):  # it has just ended
                    peaks[pid] = max(peaks.get(pid, 0), read_memory(pid))
            time.sleep(0.05)
        _, errors = process.communicate()
    finally:
        process.kill()
    return Finished(process.returncode, errors, peaks)


def read_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))


class Recording(NamedTuple):
    """A recording of an hour and its segments."""

    path: Path
    segments: list[tuple[str, float, float]]

    def samples(self, start: float, end: float) -> NDArray[np.int16]:
        """Return the samples of a segment."""
        first = int(start // 60)
        minutes = [shifted(MINUTE, number) for number in range(first, min(first + 2, HOURS * 60))]
        begin, stop = (int(edge * RATE) - first * 60 * RATE for edge in (start, end))
        return np.concatenate(minutes)[begin:stop]


def lines_of(segments: Sequence[tuple[str, float, float]]) -> list[str]:
    return [f"{key} rec {start:.2f} {end:.2f}" for key, start, end in segments]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    path = write_repeated(tmp_path_factory.mktemp("hours") / "rec.flac", MINUTE, HOURS * 60)
    generator = random.Random(0)
    segments = []
    for number in range(NUM_SEGMENTS):
        start = round(number * STEP, 2)
        end = round(min(start + generator.uniform(0.5, 4.5), HOURS * 3600), 2)
        segments.append((f"utt{number:04d}", start, end))
    yield Recording(path, segments)
    path.unlink()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is faster than the sample."""
    config = make_config(embed_dim=32, num_heads=2, depth=1, channels=16)
    return make_model(tmp_path_factory.mktemp("model"), config)


@pytest.fixture(scope="module")
def limit(model: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Bytes of memory: those for a minute of audio, and 80 MB. An hour of samples is 115 MB at 8 kHz, 230 at 16.

    The peak for a minute is short, and polling may miss it: the largest of three runs counts.
    """
    folder = tmp_path_factory.mktemp("minute")
    minute = write_audio(folder / "minute.wav", MINUTE)
    runs = [run_and_watch("predict", minute, "-m", model, "-o", folder / str(number)) for number in range(3)]
    assert [run.returncode for run in runs] == [0, 0, 0], runs
    return max(run.most for run in runs) + 8e7


@pytest.fixture(scope="module")
def reference_rows(model: Path, recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Rows of every hundredth segment and of the last, each computed from its own file."""
    folder = tmp_path_factory.mktemp("single")
    entries = []
    for key, start, end in [*recording.segments[::100], recording.segments[-1]]:
        path = write_audio(folder / f"{key}.wav", recording.samples(start, end))
        entries.append(f"{key} {path}\n")
    (folder / "wav.scp").write_text("".join(entries))
    done = run_e2v("predict", folder / "wav.scp", "-m", model, "-j", "1")
    assert done.returncode == 0, done.stderr
    return read_rows(done.stdout)


def assert_same_rows(rows: Mapping[str, list[str]], reference_rows: Mapping[str, list[str]]) -> None:
    """Compare rows. The rest of a batch may change the last decimal of a probability."""
    assert len(reference_rows) == NUM_SEGMENTS // 100 + 1
    for key, row in reference_rows.items():
        assert (rows[key][0], rows[key][2:4]) == (row[0], row[2:4])
        assert list(map(float, rows[key][4:])) == pytest.approx(list(map(float, row[4:])), abs=2e-6)


def test_a_thousand_segments_of_a_file_are_decoded_once(
    model: Path, recording: Recording, reference_rows: dict[str, list[str]], limit: float, tmp_path: Path
) -> None:
    """All workers together decode every sample once."""
    folder = write_folder(tmp_path / "data", {"rec": recording.path}, segments=lines_of(recording.segments))
    out, environment = tmp_path / "out", {"COUNT": str(tmp_path / "count"), **hook(tmp_path / "hook", COUNT_FRAMES)}

    done = run_and_watch("predict", folder, "-m", model, "-j", "2", "-o", out, "-q", **environment)

    assert (done.returncode, done.errors) == (0, "")
    assert len(done.peaks) >= 3
    assert done.most < limit, done.peaks
    assert len(list(tmp_path.glob("count.*"))) == 2
    samples = HOURS * 3600 * RATE
    assert 0.9 * samples < count_frames(tmp_path / "count") <= 1.02 * samples
    rows = read_rows((out / "predictions.tsv").read_text())
    assert list(rows) == [key for key, _, _ in recording.segments]
    assert_same_rows(rows, reference_rows)


def test_segments_of_a_command_run_it_once(
    model: Path, recording: Recording, reference_rows: dict[str, list[str]], limit: float, tmp_path: Path
) -> None:
    """The command runs once, and its output is decoded once, for every fourth segment and the last ones."""
    segments = [*recording.segments[:-4:4], *recording.segments[-4:]]
    command = f"echo run >> {tmp_path}/runs; cat {recording.path} |"
    folder = write_folder(tmp_path / "data", {"rec": command}, segments=lines_of(segments))
    out, environment = tmp_path / "out", {"COUNT": str(tmp_path / "count"), **hook(tmp_path / "hook", COUNT_FRAMES)}

    options = ("--allow-pipes", "-m", model, "-j", "2", "-o", out, "-q")
    done = run_and_watch("predict", folder, *options, **environment)

    assert (done.returncode, done.errors) == (0, "")
    assert (tmp_path / "runs").read_text() == "run\n"
    assert done.most < limit, done.peaks
    assert count_frames(tmp_path / "count") <= 1.02 * HOURS * 3600 * RATE
    rows = read_rows((out / "predictions.tsv").read_text())
    assert list(rows) == [key for key, _, _ in segments]
    assert_same_rows(rows, reference_rows)


def test_an_hour_in_one_file_needs_little_memory(model: Path, limit: float, tmp_path: Path) -> None:
    """The file is mostly silent, at 8 kHz. Its timeline has no gaps."""
    rate, duration = 8000, 3600
    minute = np.zeros(60 * rate, np.int16)
    minute[: 10 * rate] = make_speech(10.0, rate)
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(duration // 60):
            file.write(minute)
    out = tmp_path / "out"

    done = run_and_watch("predict", path, "-m", model, "-o", out, "--timeline", "1", "--window", "20", "-q")

    assert (done.returncode, done.errors) == (0, "")
    assert done.most < limit, done.peaks
    (row,) = read_rows((out / "predictions.tsv").read_text()).values()
    assert float(row[2]) == duration
    network = read_model(str(model), model).config
    num_frames = network.num_frames(duration * RATE)
    assert int(row[3]) == len(list(cut_windows(num_frames, *window_frames(network, 20.0)))) > duration / 20
    assert (out / "utt2num_frames").read_text() == f"long {num_frames}\n"

    lines = [line.split("\t") for line in (out / "timeline.tsv").read_text().splitlines()[1:]]
    spans = [(Decimal(start), Decimal(end)) for _, start, end, *_ in lines]
    assert all(key == "long" for key, *_ in lines)
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert abs(float(spans[-1][1]) - duration) <= 0.02
    assert len(spans) == duration
    labels = json.loads((out / "run.json").read_text())["model"]["labels"]
    probabilities = np.array([line[5:-3] for line in lines], dtype=np.float64)
    assert [line[3] for line in lines] == [labels[best] for best in probabilities.argmax(axis=1)]
    # all minutes are the same: results differ within a minute, not between minutes
    minutes = probabilities.reshape(duration // 60, 60, len(labels))
    early, late = minutes[:30].mean(axis=0), minutes[-30:].mean(axis=0)
    assert np.ptp(early, axis=0).max() > 0.03
    assert np.abs(early - late).max() < 0.003


def read_all(out: Path) -> dict[str, bytes]:
    """Read the only embedding of each list of a run, by the list's name."""
    lists = {path.name: dict(kaldiio.load_scp(str(path))) for path in sorted(out.glob("embeddings*.scp"))}
    return {name: embedding.tobytes() for name, embeddings in lists.items() for embedding in embeddings.values()}


KILL_AFTER_WINDOWS = """
import os, signal
import e2v_cli.inference.kept as kept
kept.KEEP_SECONDS = 0.0
real = kept.KeptWindows.keep
def keep(self, num_windows, state, frames):
    real(self, num_windows, state, frames)
    if num_windows == int(os.environ["KILL_AFTER"]):
        os.killpg(0, signal.SIGKILL)
kept.KeptWindows.keep = keep
"""
"""Run as ``sitecustomize``: keeps the state after each window, and kills all processes of the run after one of them."""


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--granularity", "frame"),
        ("--timeline", "0.7"),
        ("--layers", "1,mean:1-3"),
        ("--layers", "1,mean:1-3", "--granularity", "frame"),
    ],
)
def test_stopped_utterance_continues_after_its_last_window(options: tuple[str, ...], tmp_path: Path) -> None:
    """The results are those of a run that was never stopped, and nothing else is left."""
    folder = write_folder(tmp_path / "data", {"long": write_audio(tmp_path / "long.wav", make_speech(30.0))})

    def predict(out: str, kill_after: int) -> int:
        command: list[str | Path] = [
            "predict",
            folder,
            "-m",
            "sample",
            "--window",
            "2",
            "--embeddings",
            "ark",
            *options,
        ]
        environment = {**hook(tmp_path / "hook", KILL_AFTER_WINDOWS), "KILL_AFTER": str(kill_after)}
        process = fork_e2v(*command, "-o", tmp_path / out, **environment)
        process.communicate()
        return process.returncode

    def find_continued(out: str) -> list[str]:
        log = (tmp_path / out / "log" / "worker.1-of-1.1.log").read_text()
        return re.findall(r"long continues after window (\d+)", log)

    assert predict("whole", 0) == 0
    assert find_continued("whole") == []
    assert [predict("out", kill_after) for kill_after in (3, 4, 11)] == [-signal.SIGKILL] * 3
    assert predict("out", 0) == 0
    assert find_continued("out") == ["3", "4", "11"]
    for name in ("predictions.tsv", "utt2num_frames", *(["timeline.tsv"] if "--timeline" in options else [])):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, parts = (read_all(tmp_path / out) for out in ("whole", "out"))
    assert len(whole) == (2 if "--layers" in options else 1)
    assert parts == whole
    assert not list((tmp_path / "out").glob(".windows.*"))
