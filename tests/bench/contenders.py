"""The contenders of ``make bench``: FunASR's own loop, e2v and bare matrix products, each as processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from e2v_cli.options import EngineName, Precision
from e2v_cli.records import SAMPLE_RATE

ROOT = Path(__file__).parent.parent.parent

SELF = (sys.executable, "-m", "bench.contenders")
"""The command of a process that runs this module."""

Device = Literal["cpu", "cuda"]

FUNASR_THREADS = 4
"""AutoModel's default on any machine."""

CRAWL = 15
"""With fewer cores than that its threads wait for each other, so it gets only every 15th clip."""

GEMM_SIZE: dict[Device, int] = {"cpu": 2048, "cuda": 8192}
GEMM_SECONDS = 2.0

SAMPLING_SECONDS = 0.2
"""Between two samples of the memory of processes."""


@dataclass(frozen=True)
class Clip:
    """An utterance to be encoded."""

    utt_id: str
    path: str
    num_samples: int
    """At 16 kHz."""


@dataclass(frozen=True)
class Corpus:
    """The clips that all contenders encode."""

    name: str
    clips: tuple[Clip, ...]

    def __str__(self) -> str:
        return f"{self.name}: {len(self.clips)} clips, {self.seconds:.0f} s"

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return sum(clip.num_samples for clip in self.clips) / SAMPLE_RATE

    def part(self, first: int, of: int) -> Corpus:
        """Take each ``of``-th clip, from the ``first`` on."""
        return replace(self, clips=self.clips[first::of])

    @property
    def first(self) -> Corpus:
        """The first clip alone."""
        return replace(self, clips=self.clips[:1])

    def repeat(self, times: int) -> Corpus:
        """Repeat all clips, with other ids."""
        clips = (replace(clip, utt_id=f"{clip.utt_id}-{again}") for again in range(times) for clip in self.clips)
        return replace(self, clips=tuple(clips))

    def write(self, path: Path) -> Path:
        """Write its wav.scp."""
        path.write_text("".join(f"{clip.utt_id} {clip.path}\n" for clip in self.clips), encoding="utf-8")
        return path


def make_noise(folder: Path, count: int, low: float, high: float) -> Corpus:
    """Make clips of noise, 16 kHz WAV, of uniformly distributed lengths in seconds."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    clips = []
    for index in range(count):
        num_samples = int(rng.uniform(low, high) * SAMPLE_RATE)
        path = folder / f"clip{index}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(num_samples), SAMPLE_RATE)
        clips.append(Clip(path.stem, str(path), num_samples))
    lengths = f"{low:g} s" if low == high else f"{low:g}–{high:g} s"
    return Corpus(f"noise of {lengths}", tuple(clips))


def read_corpus(scp: Path) -> Corpus:
    """Read a wav.scp of plain paths, relative to the current folder."""
    clips = []
    for line in scp.read_text(encoding="utf-8").splitlines():
        utt_id, path = line.split(maxsplit=1)
        clips.append(Clip(utt_id, os.path.abspath(path), round(soundfile.info(path).duration * SAMPLE_RATE)))
    return Corpus(scp.name, tuple(clips))


@dataclass(frozen=True)
class Gemm:
    """Products of large matrices, in a process for each core that is used: the upper limit of a machine."""

    device: Device
    precision: Precision
    processes: int

    def __str__(self) -> str:
        if self.device == "cuda":
            return f"in {self.precision}"
        return f"on {self.processes} core{'s' if self.processes > 1 else ''}"


@dataclass(frozen=True)
class Run:
    """The time and memory of one run."""

    audio_seconds: float
    encode_seconds: float
    """From the model loaded to the last result, of the slowest process."""
    whole_seconds: float
    """From the start of the first process to the end of the last."""
    memory: int
    """Peak of all processes together in bytes, shared pages counted once; 0: not measured."""

    @property
    def speed(self) -> float:
        """Seconds of audio encoded per second: × real time."""
        return self.audio_seconds / self.encode_seconds

    @property
    def start_seconds(self) -> float:
        """Seconds outside of encoding: imports, the model, the end."""
        return self.whole_seconds - self.encode_seconds


@dataclass(frozen=True)
class Contender:
    """A way to encode a corpus."""

    label: str
    engine: EngineName
    processes: int
    gemm: Gemm
    threads: int = 1
    """Of each process."""
    every: int = 1
    """It encodes only every ``every``-th clip; 1: all."""

    def part(self, corpus: Corpus) -> Corpus:
        """Take the clips of a corpus that it encodes."""
        return corpus.part(0, self.every)

    def run(self, model: Path, corpus: Corpus, *, weigh: bool = False) -> Run:
        """Encode a corpus, with utterance embeddings; ``weigh``: sample its memory, which slows it down."""
        part = self.part(corpus)
        with tempfile.TemporaryDirectory() as out:
            run = self._run_e2v if self.engine == "e2v" else self._run_funasr
            return run(model, part, Path(out), weigh)

    def _run_e2v(self, model: Path, corpus: Corpus, out: Path, weigh: bool) -> Run:
        scp = corpus.write(out / "wav.scp")
        command = [sys.executable, "-m", "e2v_cli", "predict", str(scp), "-q", "--embeddings", "npy"]
        command += ["-m", str(model), "-o", str(out / "out"), "-j", str(self.processes)]
        command += ["--device", self._device, "--precision", self.gemm.precision]
        cost = run_processes([command], weigh=weigh)
        run = json.loads((out / "out" / "run.json").read_text(encoding="utf-8"))
        return Run(corpus.seconds, run["encode_seconds"], cost.seconds, cost.memory)

    def _run_funasr(self, model: Path, corpus: Corpus, out: Path, weigh: bool) -> Run:
        folders = [out / str(number) for number in range(self.processes)]
        for number, folder in enumerate(folders):
            folder.mkdir()
            corpus.part(number, self.processes).write(folder / "wav.scp")
        command = [*SELF, "funasr", str(model), self._device, str(self.threads)]
        cost = run_processes(
            [[*command, str(folder)] for folder in folders], weigh=weigh, OMP_NUM_THREADS=str(self.threads)
        )
        encode = max(float((folder / "seconds").read_text()) for folder in folders)
        return Run(corpus.seconds, encode, cost.seconds, cost.memory)

    @property
    def _device(self) -> str:
        return "cpu" if self.gemm.device == "cpu" else "cuda:0"


@dataclass(frozen=True)
class Lineup:
    """The contenders of a benchmark."""

    contenders: tuple[Contender, ...]
    fair: Contender
    """The one that the others are compared with."""
    ours: Contender
    """e2v with its default options, as exact as FunASR."""

    @property
    def gemms(self) -> tuple[Gemm, ...]:
        """The upper limits of all contenders, each once."""
        return tuple(dict.fromkeys(contender.gemm for contender in self.contenders))


def line_up(device: Device, jobs: int, cores: int) -> Lineup:
    """Choose the contenders for a device."""
    if device == "cuda":
        precisions: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
        gpu = [Contender(f"e2v --precision {name}", "e2v", 1, Gemm(device, name, 1)) for name in precisions]
        loop = Contender("FunASR, one process", "funasr", 1, gpu[0].gemm, threads=FUNASR_THREADS)
        return Lineup((loop, *gpu), fair=loop, ours=gpu[0])
    used = min(FUNASR_THREADS, cores)
    installed = Contender(
        f"FunASR as installed: 1 process, {FUNASR_THREADS} threads",
        "funasr",
        1,
        Gemm(device, "fp32", used),
        threads=FUNASR_THREADS,
        every=1 if used == FUNASR_THREADS else CRAWL,
    )
    several = f"{jobs} processes, 1 thread each" if jobs > 1 else "1 process, 1 thread"
    fair = Contender(f"FunASR, fair: {several}", "funasr", jobs, Gemm(device, "fp32", jobs))
    alone, ours = (Contender(f"e2v -j {count}", "e2v", count, Gemm(device, "fp32", count)) for count in (1, jobs))
    return Lineup(tuple(dict.fromkeys((installed, fair, alone, ours))), fair, ours)


@dataclass(frozen=True)
class Cost:
    """The time and memory of processes that ran at the same time."""

    seconds: float
    memory: int
    """Peak in bytes; 0: not measured."""


def make_environment() -> dict[str, str]:
    """Return an environment in which Python finds e2v and this module."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def run_processes(commands: Sequence[Sequence[str]], *, weigh: bool = False, **environment: str) -> Cost:
    """Run processes at the same time, and measure them.

    Raises:
        SystemExit: one fails; the message ends with its standard error and its exit code.
    """
    environment = make_environment() | environment
    ended = threading.Event()
    with tempfile.TemporaryFile("w+") as errors, ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        processes = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors) for command in commands
        ]
        weighing = pool.submit(find_peak_memory, [process.pid for process in processes], ended) if weigh else None
        try:
            for process in processes:
                if process.wait():
                    errors.seek(0)
                    raise SystemExit(f"{errors.read()[-2000:]}\n{process.args!r} ended with {process.returncode}")
            seconds = time.monotonic() - started
        finally:
            ended.set()
            for process in processes:
                process.terminate()
        return Cost(seconds, weighing.result() if weighing else 0)


def find_peak_memory(pids: Sequence[int], ended: threading.Event) -> int:
    """Sample the memory of processes and their descendants until ``ended`` is set: the peak of their sum, in bytes."""
    peak = 0
    while not ended.wait(SAMPLING_SECONDS):
        peak = max(peak, sum(read_memory(member) for pid in pids for member in find_family(pid)))
    return peak


def find_family(pid: int) -> Iterator[int]:
    """Find a process and its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            for child in children.read_text().split():
                yield from find_family(int(child))


def read_memory(pid: int) -> int:
    """Read the proportional set size of a process, in bytes: a shared page counts in equal parts."""
    with suppress(OSError):  # it has just ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def measure_gemm(gemm: Gemm, seconds: float = GEMM_SECONDS) -> float:
    """Measure the floating point operations per second of all processes at the same time."""
    command = [*SELF, "gemm", gemm.device, gemm.precision, str(seconds)]
    processes = [
        subprocess.Popen(command, env=make_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(gemm.processes)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it is warm
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in processes)


def gemm_loop(device: Device, precision: Precision, seconds: float) -> None:
    """Multiply matrices once a line is read, and print the operations per second: a process of ``measure_gemm``."""
    import torch

    from e2v_cli.inference.products import find_fastest
    from e2v_cli.network.packed import pack_weights

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = GEMM_SIZE[device]
    a, b, product = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(3))

    multiply: Callable[[], object] = partial(torch.mm, a, b, out=product)
    if device == "cpu" and precision == "fp32":  # the fastest library's is the upper limit
        (packed,) = pack_weights([b], find_fastest())
        multiply = partial(packed, a)

    def measure() -> float:
        started = time.perf_counter()
        multiply()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for _ in range(2):
        measure()
    print("warm", flush=True)
    sys.stdin.readline()
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(measure())
    print(2 * size**3 / statistics.median(times))


def funasr_loop(model: str, device: str, threads: int, folder: Path) -> None:
    """Run ``AutoModel.generate`` on one clip after the other: a process of FunASR."""
    from funasr import AutoModel

    loaded = AutoModel(model=model, device=device, ncpu=threads, disable_update=True, disable_pbar=True)
    started = time.monotonic()
    for line in (folder / "wav.scp").read_text(encoding="utf-8").splitlines():
        path = line.split(maxsplit=1)[1]
        loaded.generate(path, output_dir=str(folder), granularity="utterance", extract_embedding=True)
    (folder / "seconds").write_text(str(time.monotonic() - started))


def main(arguments: Sequence[str]) -> None:
    """Be a process of the benchmark."""
    match arguments:
        case ["gemm", "cpu" | "cuda" as device, "fp32" | "tf32" | "bf16" | "fp16" as precision, seconds]:
            gemm_loop(device, precision, float(seconds))
        case ["funasr", model, device, threads, folder]:
            funasr_loop(model, device, int(threads), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
