"""Measure e2v against FunASR's own loop on this machine: same clips, same weights, side by side.

    make bench
    make bench ARGS="--shape large"

In every round, each contender runs once as whole processes, in another order each time, so that a drift of the
machine's speed does not matter; figures are medians over the rounds, and ratios are taken within a round. FunASR has no
jobs of its own: the fair peer of N workers is N processes of one thread, each with every N-th clip. Products of large
matrices in the same rounds show the upper limit of the machine. A first round, which is not timed, warms caches and
samples memory, which costs some per cent of the time.

Unless options name others, the weights are random and of the true base shape, since speed does not depend on them, and
the clips are noise of 1 to 20 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import (
    Corpus,
    Device,
    Lineup,
    line_up,
    make_environment,
    make_noise,
    measure_gemm,
    read_corpus,
    run_processes,
)
from bench.report import (
    Round,
    count_corpus_flops,
    format_memory,
    format_notes,
    format_table,
    median_ratio,
    plot,
    summarize,
)
from support.checkpoints import make_config, make_model

from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.options import ModelRequest

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "base": {"embed_dim": 768, "num_heads": 12, "prenet_depth": 4, "depth": 8, "channels": 512},
    "large": {"embed_dim": 1024, "num_heads": 16, "prenet_depth": 8, "depth": 16, "channels": 512},
}

GROWTH = (1, 4, 16)
"""How often the clips of a corpus are repeated."""

LENGTHS = (1, 20)
"""Seconds of clips that are all of one length."""

START = """
import time
started = time.monotonic()
import torch
imported = time.monotonic() - started
torch.set_num_threads(1)
from pathlib import Path
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import read_model
network = make_network(read_model("base", Path({folder!r})))
waveform = torch.randn({num_samples})
with torch.inference_mode():
    started = time.monotonic()
    network([waveform])
print(imported + time.monotonic() - started)
"""


def measure_table(model: Path, corpus: Corpus, lineup: Lineup, repeats: int, title: str, chart: Path | None) -> None:
    """Print the table of all contenders, and draw it into ``chart``."""
    memory = {}
    for contender in lineup.contenders:
        log(f"warming up, and sampling memory: {contender.label}")
        memory[contender] = contender.run(model, corpus, weigh=contender.gemm.device == "cpu").memory
    rounds = measure_rounds(model, corpus, lineup, repeats)
    config = read_model(model.name, model).config
    rows = summarize(lineup, rounds, memory, lambda contender: count_corpus_flops(config, contender.part(corpus)))
    print(f"{format_table(rows)}\n\n{format_notes(lineup, rounds)}")
    if chart is not None:
        chart.parent.mkdir(parents=True, exist_ok=True)
        plot(rows, title, chart)
        log(f"drew {chart}")


def measure_rounds(model: Path, corpus: Corpus, lineup: Lineup, repeats: int) -> list[Round]:
    """Run all contenders once a round, beginning with another one each time."""
    rounds = []
    for number in range(repeats):
        peaks = {gemm: measure_gemm(gemm) for gemm in lineup.gemms}
        first = number % len(lineup.contenders)
        runs = {}
        for contender in lineup.contenders[first:] + lineup.contenders[:first]:
            runs[contender] = contender.run(model, corpus)
            log(f"round {number + 1} of {repeats}: {contender.label}: {runs[contender].speed:.1f} × real time")
        rounds.append(Round(runs, peaks))
    return rounds


def measure_growth(model: Path, corpus: Corpus, lineup: Lineup, repeats: int) -> None:
    """Print the time and memory of e2v for corpora of increasing length."""
    ours, corpora = lineup.ours, [corpus.repeat(times) for times in GROWTH]
    ours.run(model, corpus.first)  # this prepares the weights
    weigh = ours.gemm.device == "cpu"
    rounds = [[ours.run(model, longer, weigh=weigh) for longer in corpora] for _ in range(repeats)]
    print(f"| {ours.label} | audio | seconds per hour of audio | peak memory |\n|---|---|---|---|")
    for times, runs in zip(GROWTH, zip(*rounds, strict=True), strict=True):
        hours, cost = runs[0].audio_seconds / 3600, median(3600 / run.speed for run in runs)
        memory = format_memory(max(run.memory for run in runs))
        print(f"| {times} × the corpus | {hours:.2f} h | {cost:.1f} | {memory} |")


def measure_lengths(model: Path, folder: Path, lineup: Lineup, repeats: int, seconds: float) -> None:
    """Print the speed of e2v and of its fair peer, and their ratio, on clips that are all of one length."""
    pair = Lineup((lineup.fair, lineup.ours), lineup.fair, lineup.ours)
    print(f"| all clips of | {lineup.fair.label}, × real time | {lineup.ours.label}, × real time | ratio |")
    print("|---|---|---|---|")
    for length in LENGTHS:
        corpus = make_noise(folder / f"noise{length}", max(1, round(seconds / length)), length, length)
        lineup.ours.run(model, corpus.first)  # this prepares the weights
        rounds = measure_rounds(model, corpus, pair, repeats)
        speeds = (median(turn.runs[contender].speed for turn in rounds) for contender in pair.contenders)
        cells = " | ".join(f"{speed:.1f}" for speed in speeds)
        print(f"| {length} s | {cells} | **{median_ratio(rounds, pair.ours, pair.fair):.2f}** |", flush=True)


def measure_start(model: Path, corpus: Corpus, repeats: int) -> None:
    """Time a command for the first clip from a warm cache, beside the minimum for it, and beside FunASR."""
    first, funasr = corpus.first, line_up("cpu", jobs=1, cores=1).fair
    (clip,) = first.clips
    code = START.format(folder=str(model), num_samples=clip.num_samples)
    command = [sys.executable, "-m", "e2v_cli", "predict", clip.path, "-m", str(model), "-q", "--device", "cpu"]
    run_processes([command])  # this prepares the weights
    least, ours, theirs = [], [], []
    for _ in range(repeats):
        output = subprocess.run(
            [sys.executable, "-c", code], env=make_environment(), stdout=subprocess.PIPE, check=True
        ).stdout
        least.append(float(output))
        ours.append(run_processes([command]).seconds)
        theirs.append(funasr.run(model, first).whole_seconds)
    to_least = median(own / other for own, other in zip(ours, least, strict=True))
    of_funasr = median(other / own for own, other in zip(ours, theirs, strict=True))
    print(f"| a clip of {first.seconds:.1f} s, from a warm cache | seconds | |\n|---|---|---|")
    print(f"| `import torch` and one forward pass | {median(least):.2f} | |")
    print(f"| `e2v predict` | {median(ours):.2f} | **{to_least:.2f}** times as long |")
    print(f"| FunASR | {median(theirs):.2f} | **{of_funasr:.2f}** times e2v |")


def log(message: str) -> None:
    """Print a message on standard error."""
    print(message, file=sys.stderr, flush=True)


def name_machine(device: Device, cores: int) -> str:
    """Return the name of the processor or GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    return f"{name_processor(Path('/proc/cpuinfo').read_text())}, {cores} core{'s' if cores > 1 else ''}"


def name_processor(cpuinfo: str) -> str:
    """Find the name of the processor in Linux's ``/proc/cpuinfo``."""
    fields = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for key, _, value in fields if key.strip() == "model name"), "unknown processor")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Measure e2v against FunASR on this machine.")
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--model", metavar="DIR|NAME", help="a model (default: random weights)")
    models.add_argument("--shape", choices=SHAPES, default="base", help="of random weights (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, metavar="SCP", help="a wav.scp of plain paths (default: noise)")
    parser.add_argument("--clips", type=int, default=60, help="clips of noise (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=(1, 20), metavar=("LOW", "HIGH"), help="their lengths (default: 1 20)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="workers, and FunASR's processes (default: all cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the table, too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--growth", action="store_true", help="measure e2v on the corpus 1, 4 and 16 times as long")
    what.add_argument("--lengths", action="store_true", help="measure noise of 1 s alone, and of 20 s alone")
    what.add_argument("--start", action="store_true", help="measure how fast a command starts")
    args = parser.parse_args(arguments)
    if args.start and args.device != "cpu":
        parser.error("--start is measured on CPU")
    if min(args.clips, args.repeats, 1 if args.jobs is None else args.jobs) < 1:
        parser.error("--clips, --repeats and --jobs are at least 1")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    args = parse_arguments(arguments)
    cores = len(os.sched_getaffinity(0))
    lineup = line_up(args.device, args.jobs or cores, cores)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.model is None:
            model, name = (
                make_model(folder / args.shape, make_config(**SHAPES[args.shape])),
                f"{args.shape} shape, random weights",
            )
        else:
            model, name = find_model(ModelRequest(args.model)).absolute(), Path(args.model).name
        os.environ["E2V_CACHE"] = str(folder / "cache")  # the user's own cache stays untouched
        corpus = read_corpus(args.corpus) if args.corpus else make_noise(folder / "noise", args.clips, *args.seconds)
        machine = name_machine(args.device, cores)
        versions = f"PyTorch {version('torch')}, FunASR {version('funasr')}"
        print(f"{machine}, {versions}; {name}; {corpus}; medians of {args.repeats}.\n", flush=True)
        if args.start:
            measure_start(model, corpus, args.repeats)
        elif args.growth:
            measure_growth(model, corpus, lineup, args.repeats)
        elif args.lengths:
            measure_lengths(model, folder, lineup, args.repeats, corpus.seconds)
        else:
            measure_table(model, corpus, lineup, args.repeats, f"{name}; {machine}", args.plot)


if __name__ == "__main__":
    main()
