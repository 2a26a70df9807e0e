"""Audio that differs from second to second, Kaldi data directories of it, and the reading of e2v's output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import kaldiio
import numpy as np
import soundfile
from numpy.typing import NDArray

from support.audio_files import RATE
from support.forkserver import shared_server

ROOT = Path(__file__).parent.parent.parent

TABLES = ("predictions.tsv", "failures.tsv", "utt2dur", "utt2num_frames", "utt2emo")

COUNT_FRAMES = """
import os
import soundfile
real = soundfile.SoundFile.read
def read(self, *args, **kwargs):
    samples = real(self, *args, **kwargs)
    with open(f"{os.environ['COUNT']}.{os.getpid()}", "a") as file:
        file.write(f"{len(samples)}\\n")
    return samples
soundfile.SoundFile.read = read
"""
"""Run as ``sitecustomize``: records the number of frames that each process decodes, beside the path in COUNT."""


def count_frames(path: Path) -> int:
    """Add up the numbers that COUNT_FRAMES recorded."""
    return sum(int(line) for part in path.parent.glob(f"{path.name}.*") for line in part.read_text().split())


def make_speech(seconds: float, rate: int = RATE, num_channels: int = 1, seed: int = 0) -> NDArray[np.int16]:
    """Make tones and noise that change ten times a second, other ones in each channel: (samples,) or (.., channels)."""
    generator = np.random.default_rng(seed)
    num_samples = int(seconds * rate + 0.5)
    tenths = np.arange(num_samples) * 10 // rate
    channels = []
    for _ in range(num_channels):
        pitches, tones, noises = generator.uniform((80, 0.05, 0.0), (900, 0.4, 0.1), (tenths[-1] + 1, 3)).T[:, tenths]
        wave = tones * np.sin(2 * np.pi * np.cumsum(pitches) / rate) + noises * generator.standard_normal(num_samples)
        channels.append(np.round(wave.clip(-1, 1) * 32767).astype(np.int16))
    return channels[0] if num_channels == 1 else np.stack(channels, axis=1)


def write_audio(path: Path, samples: NDArray[np.int16] | NDArray[np.float32], rate: int = RATE) -> Path:
    """Write a file in the format of its suffix: 16 bits, or the floats as they are."""
    soundfile.write(path, samples, rate, subtype="PCM_16" if samples.dtype == np.int16 else "FLOAT")
    return path


def kaldi_bounds(start: str, end: str, rate: int, num_samples: int) -> tuple[int, int] | None:
    """Return the first sample of a segment, and the one behind its last; None if Kaldi leaves the segment out.

    This is the arithmetic of Kaldi's ``featbin/extract-segments.cc``, but for ``--min-segment-length``: a time is a
    C++ double, the sample rate a float, and what becomes an int32 is truncated.
    """
    samp_freq, max_overshoot = np.float32(rate), np.float32(0.5)
    start_samp = int(np.float64(start) * samp_freq)
    end_samp = int(np.float64(end) * samp_freq) if float(end) != -1 else num_samples
    if start_samp < 0 or start_samp >= num_samples:
        return None
    if end_samp > num_samples:
        if end_samp >= num_samples + int(max_overshoot * samp_freq):
            return None
        end_samp = num_samples
    return start_samp, end_samp


def write_folder(folder: Path, recordings: Mapping[str, str | Path], **files: str | Iterable[str]) -> Path:
    """Make a data directory with a ``wav.scp``, and with other files by name: their text, or their lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wav.scp").write_text("".join(f"{key} {value}\n" for key, value in recordings.items()))
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else "".join(f"{line}\n" for line in content))
    return folder


def run_e2v(
    *args: str | Path, cwd: Path = ROOT, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a fork of a warm process; its standard input may be audio."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return shared_server().run(list(map(str, args)), cwd, stdin, variables)


def read_rows(text: str) -> dict[str, list[str]]:
    """Read a table with a header: the cells of each row, behind its id."""
    return {row[0]: row[1:] for row in (line.split("\t") for line in text.splitlines()[1:])}


def read_pairs(path: Path) -> dict[str, str]:
    """Read a file of keys and values, like ``utt2dur``."""
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def read_tables(out: Path, *names: str) -> dict[str, bytes]:
    """Read the final files that all runs have, and others by name."""
    return {name: (out / name).read_bytes() for name in (*TABLES, *names)}


def read_embeddings(out: Path) -> dict[str, bytes]:
    """Read the bits of all embeddings."""
    return {key: array.tobytes() for key, array in kaldiio.load_scp(str(out / "embeddings.scp")).items()}


def read_encoded(out: Path) -> list[str]:
    """Read the ids of encoded utterances from the logs of the workers, of all attempts."""
    logs = "".join(log.read_text() for log in sorted(out.glob("log/worker.*.log")))
    return [
        key for line in logs.splitlines() if " INFO encoding " in line for key in line.split(" encoding ")[1].split()
    ]
