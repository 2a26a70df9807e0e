"""Measure the encoder alone on one device: × real time and memory by the length of a batch, and a profile of one batch.

    PYTHONPATH=tests python -m bench.encoder DIR --device cuda --precision bf16
    PYTHONPATH=tests python -m bench.encoder DIR --make large

The utterances are noise of 1 to 20 s. Nothing is read, written or decoded, so that the figures are the most that a
run could reach.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from bench.speed import SHAPES
from support.checkpoints import make_config, make_model
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from e2v_cli.inference.engine import multiplying
from e2v_cli.inference.load import place_network
from e2v_cli.models.folder import read_model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.options import ComputeOptions, Precision
from e2v_cli.records import SAMPLE_RATE

OPERATORS = 15
"""Rows of the profile."""


def make_waveforms(seconds: float) -> list[Tensor]:
    """Make noise of 1 to 20 s each, of ``seconds`` in all."""
    torch.manual_seed(0)
    waveforms: list[Tensor] = []
    left = round(seconds * SAMPLE_RATE)
    while left > 0:
        length = min(left, int(torch.randint(SAMPLE_RATE, 20 * SAMPLE_RATE, ())))
        waveforms.append(torch.randn(max(length, SAMPLE_RATE)))
        left -= length
    return sorted(waveforms, key=len)


@torch.inference_mode()
def encode(network: Emotion2vec, waveforms: Sequence[Tensor]) -> float:
    """Encode a batch, and return the seconds that it took."""
    started = time.perf_counter()
    network(waveforms)
    if network.device.type == "cuda":
        torch.cuda.synchronize(network.device)
    return time.perf_counter() - started


def measure(network: Emotion2vec, seconds: float) -> str:
    """Measure batches of one length, and return a row of the table."""
    waveforms = make_waveforms(seconds)
    audio = sum(map(len, waveforms)) / SAMPLE_RATE
    on_gpu = network.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(network.device)
    try:
        encode(network, waveforms)
        speed = f"{audio / min(encode(network, waveforms) for _ in range(3)):,.0f}"
    except torch.OutOfMemoryError:
        speed = "out of memory"
    memory = f"{torch.cuda.max_memory_allocated(network.device) / 1e9:.2f} GB" if on_gpu else "–"
    return f"| {audio:,.0f} s | {speed} | {memory} |"


def profile_batch(network: Emotion2vec, seconds: float) -> str:
    """Profile a batch, and return the operators that took longest."""
    waveforms = make_waveforms(seconds)
    encode(network, waveforms)
    kind = network.device.type
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kind == "cuda" else [])]
    with profile(activities=activities) as profiled:
        encode(network, waveforms)
    return str(profiled.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=OPERATORS))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table and a profile, or make a model."""
    parser = argparse.ArgumentParser(description="Measure and profile the encoder on one device.")
    parser.add_argument("model", type=Path, metavar="DIR", help="a model's folder")
    parser.add_argument("--make", choices=(*SHAPES, "tiny"), help="make it, with random weights of this shape, and end")
    parser.add_argument("--device", default="cpu", help="where (default: %(default)s)")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        default=(75, 150, 300, 600, 1200),
        help="lengths of batches; the first is profiled (default: 75 150 300 600 1200)",
    )
    args = parser.parse_args(arguments)
    if args.make:
        make_model(args.model, make_config(**SHAPES.get(args.make, {})))
        return
    model, compute = read_model(args.model.name, args.model), ComputeOptions(precision=args.precision)
    network = place_network(model, prepare_weights(model), args.device, compute)
    with multiplying(args.precision, network.device):
        print(f"| {model.name}, {args.precision}: a batch of | × real time | peak memory |\n|---|---|---|")
        for seconds in args.seconds:
            print(measure(network, seconds), flush=True)
        print(profile_batch(network, args.seconds[0]))


if __name__ == "__main__":
    main()
