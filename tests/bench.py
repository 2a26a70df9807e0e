"""Measure e2v against FunASR's own loop on this machine: same clips, same weights, as many threads.

    make bench

Both run as whole processes, in turn, several times; a row gives the medians, and the median of the ratios of
neighbouring runs, so that a machine whose speed drifts does not matter. The weights are random and of the true base
shape: speed does not depend on them. Clips are noise of 1 to 15 s, 16 kHz WAV. FunASR has no jobs of its own: its fair
peer of N workers is N processes of one thread, each with every N-th clip.
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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from processes import find_workers

ROOT = Path(__file__).parent.parent
SECONDS = (1, 15)


@dataclass(frozen=True)
class Timing:
    """What one run took, in seconds."""

    encode: float
    """From the model loaded to the last result."""
    whole: float
    """The whole process, or all of them."""


def run_e2v(model: Path, scp: Path, jobs: int) -> Timing:
    """Run ``e2v predict`` with utterance embeddings."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "e2v_cli", "predict", str(scp), "-q", "--device", "cpu", "-j", str(jobs)]
        command += ["-m", str(model), "-o", out, "--embeddings", "npy"]
        whole = time_commands([command])
        run = json.loads((Path(out) / "run.json").read_text())
    return Timing(run["encode_seconds"], whole)


def run_funasr(model: Path, scp: Path, processes: int, threads: int) -> Timing:
    """Run FunASR's ``AutoModel.generate`` on one clip after the other, with utterance embeddings."""
    with tempfile.TemporaryDirectory() as out:
        lines = scp.read_text().splitlines(keepends=True)
        folders = [Path(out) / str(number) for number in range(processes)]
        for number, folder in enumerate(folders):
            folder.mkdir()
            (folder / "wav.scp").write_text("".join(lines[number::processes]))
        whole = time_commands(
            [[sys.executable, __file__, "--funasr", str(model), str(folder), str(threads)] for folder in folders]
        )
        return Timing(max(float((folder / "seconds").read_text()) for folder in folders), whole)


def time_commands(commands: Sequence[Sequence[str]]) -> float:
    """Run processes at the same time, and time them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    for process in processes:
        if process.wait():
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return time.monotonic() - started


def funasr_loop(model: str, folder: Path, threads: int) -> None:
    """Be a process of ``run_funasr``."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from funasr import AutoModel

    loaded = AutoModel(model=model, device="cpu", ncpu=threads, disable_update=True, disable_pbar=True)
    started = time.monotonic()
    for line in (folder / "wav.scp").read_text().splitlines():
        path = line.split(maxsplit=1)[1]
        loaded.generate(path, output_dir=str(folder), granularity="utterance", extract_embedding=True)
    (folder / "seconds").write_text(str(time.monotonic() - started))


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


def compare(name: str, model: Path, scp: Path, jobs: int, processes: int, threads: int, repeats: int) -> None:
    """Run both in turn, and print a row of the table."""
    seconds = sum(soundfile.info(line.split()[1]).duration for line in scp.read_text().splitlines())
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(run_e2v(model, scp, jobs))
        theirs.append(run_funasr(model, scp, processes, threads))
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


def compare_jobs(model: Path, scp: Path, jobs: int, repeats: int) -> None:
    """Run e2v with one job and with several, in turn, and print how much faster the latter is."""
    ratios = [run_e2v(model, scp, 1).encode / run_e2v(model, scp, jobs).encode for _ in range(repeats)]
    print(f"\n--jobs {jobs} is {statistics.median(ratios):.2f} times as fast as --jobs 1 (median of {repeats})")


def measure_memory(model: Path, scp: Path, jobs: int) -> None:
    """Run e2v, and print how much memory a worker has for itself, besides the weights, which all map."""
    own: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "e2v_cli", "predict", scp, "-m", model, "-o", out, "-j", str(jobs), "-q"]
        process = subprocess.Popen(list(map(str, command)), env={**os.environ, "PYTHONPATH": str(ROOT)})
        while process.poll() is None:
            for worker in find_workers(process.pid):
                with suppress(OSError):  # it has just ended
                    own[worker] = max(own.get(worker, 0), read_own_memory(worker))
            time.sleep(0.1)
    megabytes = sorted(memory // 1000 for memory in own.values())
    print(f"\nmemory of its own of each of {jobs} workers of the large shape: {megabytes[0]} to {megabytes[-1]} MB")


def read_own_memory(pid: int) -> int:
    """Read how many kilobytes a process has that are neither shared nor those of a file."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


START = """
import time
started = time.monotonic()
import torch
imported = time.monotonic() - started
torch.set_num_threads(1)
from pathlib import Path
from e2v_cli.checkpoint import make_network, read_model
network = make_network(read_model("base", Path({folder!r})))
waveform = torch.randn({num_samples})
with torch.inference_mode():
    started = time.monotonic()
    network([waveform])
print(imported + time.monotonic() - started)
"""


def measure_start(model: Path, clip: Path, repeats: int) -> None:
    """Time a command for one clip from a warm cache, beside what it can't do without, and beside FunASR."""
    scp = clip.parent / "start.scp"
    scp.write_text(f"clip {clip}\n")
    code = START.format(folder=str(model), num_samples=soundfile.info(clip).frames)
    command = [sys.executable, "-m", "e2v_cli", "predict", str(clip), "-m", str(model), "-q"]
    time_commands([command])  # which prepares the weights
    least, ours, theirs = [], [], []
    for _ in range(repeats):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        output = subprocess.run(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
        ).stdout
        least.append(float(output))
        ours.append(time_commands([command]))
        theirs.append(run_funasr(model, scp, processes=1, threads=1).whole)
    median = statistics.median
    to_least = median(own / other for own, other in zip(ours, least, strict=True))
    of_funasr = median(other / own for own, other in zip(ours, theirs, strict=True))
    print(f"\na clip of {soundfile.info(clip).duration:.1f} s, from a warm cache (medians of {repeats} runs in turn):")
    print(f"  import torch and one forward pass  {median(least):.2f} s")
    print(f"  e2v predict                        {median(ours):.2f} s ({to_least:.2f} times as long)")
    print(f"  FunASR                             {median(theirs):.2f} s ({of_funasr:.2f} times e2v)\n")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure e2v against FunASR on this machine.")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=24, help="clips (default: %(default)s)")
    parser.add_argument("--start", action="store_true", help="measure nothing but how fast a command starts")
    parser.add_argument("--funasr", nargs=3, metavar=("MODEL", "FOLDER", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.funasr:
        model, folder, threads = args.funasr
        funasr_loop(model, Path(folder), int(threads))
        return
    from checkpoints import make_config, make_model

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["E2V_CACHE"] = str(place / "cache")
        config = make_config(embed_dim=768, num_heads=12, prenet_depth=4, depth=8, channels=512)
        base, clips = make_model(place / "base", config), make_clips(place, args.clips)
        measure_start(base, place / "clip0.wav", args.repeats)
        if args.start:
            return
        one, few = place / "one.scp", place / "few.scp"
        lines = clips.read_text().splitlines(keepends=True)
        one.write_text(lines[0])
        few.write_text("".join(lines[:4]))
        print(
            "| | e2v, × real time | FunASR, × real time | ratio | e2v, whole command | FunASR, whole script | ratio |"
        )
        print("|---|---|---|---|---|---|---|")
        name = f"{args.clips} clips"
        compare(f"{name}, 1 job against 1 process", base, clips, 1, 1, 1, args.repeats)
        compare(f"{name}, {cores} jobs against {cores} processes", base, clips, cores, cores, 1, args.repeats)
        compare("4 clips, both as installed", base, few, cores, 1, 4, args.repeats)
        compare("a single clip, 1 thread each", base, one, 1, 1, 1, args.repeats)
        if cores > 1:
            compare_jobs(base, clips, cores, args.repeats)
            config = make_config(embed_dim=1024, num_heads=16, prenet_depth=8, depth=16, channels=512)
            measure_memory(make_model(place / "large", config), clips, cores)


if __name__ == "__main__":
    main()
