"""Measure e2v against FunASR's own loop on this machine: same clips, same weights, same number of threads.

    make bench

Both run as whole processes, in turn, several times; a row gives the medians, and the median of the ratios of
neighbouring runs, so that a machine whose speed drifts does not matter. The weights are random and of the true base
shape: speed does not depend on them. Clips are noise of 1 to 15 s, 16 kHz WAV.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parent.parent
SECONDS = (1, 15)


@dataclass(frozen=True)
class Timing:
    """What one run took, in seconds."""

    encode: float
    """From the model loaded to the last result."""
    whole: float
    """The whole process."""


Runner = Callable[[Path, Path, int], Timing]


def run_e2v(model: Path, scp: Path, threads: int) -> Timing:
    """Run ``e2v predict`` with utterance embeddings."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "e2v_cli", "predict", str(scp), "-q", "--device", "cpu"]
        command += ["-m", str(model), "-o", out, "--embeddings", "npy"]
        whole = time_command(command, threads)
        run = json.loads((Path(out) / "run.json").read_text())
    return Timing(run["encode_seconds"], whole)


def run_funasr(model: Path, scp: Path, threads: int) -> Timing:
    """Run FunASR's ``AutoModel.generate`` on one clip after the other, with utterance embeddings."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--funasr", str(model), str(scp), out, "--threads", str(threads)]
        whole = time_command(command, threads)
        return Timing(float((Path(out) / "seconds").read_text()), whole)


def time_command(command: Sequence[str], threads: int) -> float:
    """Run a process with so many threads for PyTorch, and time it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.monotonic() - started


def funasr_loop(model: str, scp: str, out: str, threads: int) -> None:
    """Be the process of ``run_funasr``."""
    from funasr import AutoModel

    loaded = AutoModel(model=model, device="cpu", ncpu=threads, disable_update=True, disable_pbar=True)
    started = time.monotonic()
    for line in Path(scp).read_text().splitlines():
        path = line.split(maxsplit=1)[1]
        loaded.generate(path, output_dir=out, granularity="utterance", extract_embedding=True)
    (Path(out) / "seconds").write_text(str(time.monotonic() - started))


def make_clips(folder: Path, count: int) -> Path:
    """Make clips of noise, and a wav.scp of them."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(count):
        path = folder / f"clip{index}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(int(rng.uniform(*SECONDS) * 16_000)), 16_000)
        lines.append(f"clip{index} {path}\n")
    (folder / "wav.scp").write_text("".join(lines))
    return folder / "wav.scp"


def compare(name: str, model: Path, scp: Path, threads: int, peer_threads: int, repeats: int) -> None:
    """Run both in turn, and print a row of the table."""
    seconds = sum(soundfile.info(line.split()[1]).duration for line in scp.read_text().splitlines())
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(run_e2v(model, scp, threads))
        theirs.append(run_funasr(model, scp, peer_threads))
    median = statistics.median
    encode = median(peer.encode / run.encode for run, peer in zip(ours, theirs, strict=True))
    whole = median(peer.whole / run.whole for run, peer in zip(ours, theirs, strict=True))
    print(
        f"| {name} | {seconds / median(run.encode for run in ours):.1f} "
        f"| {seconds / median(run.encode for run in theirs):.1f} | **{encode:.2f}** "
        f"| {median(run.whole for run in ours):.1f} s | {median(run.whole for run in theirs):.1f} s "
        f"| **{whole:.2f}** |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure e2v against FunASR on this machine.")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=12, help="clips (default: %(default)s)")
    parser.add_argument("--funasr", nargs=3, metavar=("MODEL", "SCP", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.funasr:
        model, scp, out = args.funasr
        funasr_loop(model, scp, out, args.threads)
        return
    from checkpoints import make_config, make_model

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = make_config(embed_dim=768, num_heads=12, prenet_depth=4, depth=8, channels=512)
        base, clips = make_model(folder / "base", config), make_clips(folder, args.clips)
        one = folder / "one.scp"
        one.write_text(clips.read_text().splitlines(keepends=True)[0])
        print(
            "| | e2v, × real time | FunASR, × real time | ratio | e2v, whole command | FunASR, whole script | ratio |"
        )
        print("|---|---|---|---|---|---|---|")
        compare(f"{args.clips} clips, 1 thread each", base, clips, 1, 1, args.repeats)
        if cores > 1:
            compare(f"{args.clips} clips, {cores} threads each", base, clips, cores, cores, args.repeats)
        compare(f"{args.clips} clips, {cores} threads, FunASR as installed (4)", base, clips, cores, 4, args.repeats)
        compare(f"a single clip, {cores} threads each", base, one, cores, cores, args.repeats)


if __name__ == "__main__":
    main()
