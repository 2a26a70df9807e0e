"""Measure the libraries that multiply matrices on one core of this machine: products alone, and whole encoders.

    make bench-products
    make bench-products ARGS="--repeats 15"

The first table has products of the encoder's shapes as it computes them: with packed weights, a bias, and GELU where it
follows. The first of them is a large one, and the best of its figures is the peak. The second table has encoders of
random weights on batches whose lengths never come again, and their share of that peak.

The libraries take turns. A figure is a median; its time is the CPU time of the thread, which other processes on the
machine disturb little. The table of CPUs in ``e2v_cli/inference/products.py`` was made so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import get_args

import torch
from bench.report import count_flops
from bench.speed import SHAPES, name_processor
from support.checkpoints import make_config
from torch import Tensor

from e2v_cli.inference.load import prepare_process
from e2v_cli.inference.products import CPU_INFO, find_fastest, is_built_in
from e2v_cli.models.config import parse_config
from e2v_cli.network.config import NetworkConfig
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.network.packed import pack_weights
from e2v_cli.network.products import ProductsName
from e2v_cli.records import SAMPLE_RATE

PRODUCTS = (
    (2048, 2048, 2048, False),
    *((rows, channels, 512, False) for rows in (64, 256) for channels in (512, 1024)),
    *(
        (rows, dim * deeper, dim * wider, wider == 4)
        for dim in (768, 1024)
        for rows in (64, 256, 512)
        for deeper, wider in ((1, 1), (1, 3), (1, 4), (4, 1))
    ),
)
"""Rows, channels in, channels out, and whether GELU follows: a large one, the local encoder, both transformers."""

MIN_FLOPS = 2e9
"""Of what is measured at once: a clock of CPU time may be coarse."""

Task = Callable[[], object]


def measure_in_turn(tasks: Sequence[Task], repeats: int) -> list[float]:
    """Return the median CPU seconds of each task; a first turn of all doesn't count."""
    turns = [[_measure(task) for task in tasks] for _ in range(repeats + 1)]
    return [median(times) for times in zip(*turns[1:], strict=True)]


def _measure(task: Task) -> float:
    started = time.thread_time()
    task()
    return time.thread_time() - started


def measure_product(
    libraries: Sequence[ProductsName], rows: int, depth: int, columns: int, gelu: bool, repeats: int
) -> list[float]:
    """Return the GFLOP/s of a product by each library."""
    x, bias, weight = torch.randn(rows, depth), torch.randn(columns), torch.randn(columns, depth)
    flops = 2 * rows * depth * columns
    times = int(-(-MIN_FLOPS // flops))

    def make_task(library: ProductsName) -> Task:
        (product,) = pack_weights([weight], library)
        return lambda: [product(x, bias, gelu=gelu) for _ in range(times)]

    return [times * flops / seconds / 1e9 for seconds in measure_in_turn([*map(make_task, libraries)], repeats)]


def measure_encoder(
    libraries: Sequence[ProductsName], config: NetworkConfig, repeats: int
) -> list[tuple[float, float]]:
    """Return × real time and GFLOP/s of an encoder with the products of each library."""

    def make_task(library: ProductsName) -> Task:
        network, turns = make_network(config).pack(library), make_turns()
        return lambda: [network(batch) for batch in next(turns)]

    samples = [len(waveform) for batch in next(make_turns()) for waveform in batch]
    seconds, flops = sum(samples) / SAMPLE_RATE, sum(count_flops(config, count) for count in samples)
    times = measure_in_turn([*map(make_task, libraries)], repeats)
    return [(seconds / taken, flops / taken / 1e9) for taken in times]


def make_network(config: NetworkConfig) -> Emotion2vec:
    """Make an encoder of random weights."""
    torch.manual_seed(0)
    network = Emotion2vec(config, 0).eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.fill_(name.endswith("weight"))
    return network


def make_turns() -> Iterator[list[list[Tensor]]]:
    """Make batches of noise for turn after turn: 15 s alone, 8 and 2 s, 6 and 4 s, each a little longer every turn."""
    samples = 0
    while True:
        lengths = ((15,), (8, 2), (6, 4))
        yield [[torch.randn(seconds * SAMPLE_RATE + samples) for seconds in batch] for batch in lengths]
        samples += 400  # more than a frame


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown, row by row."""
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Measure the libraries that multiply matrices on this machine.")
    parser.add_argument("--repeats", type=int, default=9, help="turns (default: %(default)s)")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="of encoders (default: all)")
    args = parser.parse_args(arguments)
    prepare_process("cpu")
    libraries: list[ProductsName] = [name for name in get_args(ProductsName) if is_built_in(name)]
    machine = name_processor(Path(CPU_INFO).read_text())
    print(f"{machine}, one core, PyTorch {torch.__version__}; e2v chooses {find_fastest()}.\n")
    print("Products, GFLOP/s:\n")
    peak = 0.0
    print_table(("rows × in × out", *libraries), [])
    with torch.inference_mode():
        for rows, depth, columns, gelu in PRODUCTS:
            rates = measure_product(libraries, rows, depth, columns, gelu, args.repeats)
            peak = peak or max(rates)
            name = f"{rows} × {depth} × {columns}{', GELU' if gelu else ''}"
            print(f"| {name} | {' | '.join(f'{rate:.0f}' for rate in rates)} |", flush=True)
        print("\nEncoders, × real time, and their share of the peak:\n")
        print_table(("shape", *libraries), [])
        for shape in args.shape or SHAPES:
            config = make_config(**SHAPES[shape])
            config["model_conf"]["norm_eps"] = 1e-5
            figures = measure_encoder(libraries, parse_config(config), args.repeats)
            cells = (f"{speed:.1f}, {rate / peak:.0%}" for speed, rate in figures)
            print(f"| {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
