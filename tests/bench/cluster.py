"""Work out how long a corpus of 42,526 hours takes on a cluster, from rates that were measured.

    make bench-cluster

That is the training data of emotion2vec+ large (arXiv 2312.15185). Lengths of utterances are drawn; the list is cut
and dealt by e2v's own code, so the excess of the slowest shard is exact for such a list. The speed of a shard, and the
times of start and merge, are measured rates (``make bench``, ``make bench-scale``); the time of a journal's sync is
measured here. All nodes are assumed to be alike, and none to wait in a queue.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from support.journals import INVOCATION, MACHINE

from e2v_cli.corpus.blocks import BlockPlan, estimate_costs
from e2v_cli.journal.journal import JOURNAL_FORMAT, Elapsed, Header, Journal
from e2v_cli.options import BATCH_SECONDS, Shard
from e2v_cli.records import DoneRecord, Place

HOURS = 42_526.0
MEAN_SECONDS, DEVIATION, LONGEST_SECONDS = 5.0, 0.7, 30.0
"""Lengths of utterances: log-normal, with this mean and this deviation of the logarithm, cut at the longest."""

SPEAKERS = 20_000
"""The utterances of a speaker are neighbours in the list, and longer or shorter than those of others."""

SHARDS = (1, 8, 64, 256)
START_SECONDS = 25.3 / 10e6
MERGE_SECONDS = 54.1 / 10e6
"""For each line of the list, by ``make bench-scale``: the start until the first result is safe, and the merge."""

SYNCS = 2
"""Syncs of a batch: its embeddings, and its lines in the journal."""


@dataclass(frozen=True)
class Rate:
    """The measured speed of a shard."""

    name: str
    speed: float
    """× real time."""


RATES = (Rate("base, 2 cores", 17.5), Rate("large, 2 cores", 7.0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Work out how long a corpus takes on a cluster.")
    parser.add_argument("--hours", type=float, default=HOURS, help="of speech (default: %(default)s)")
    parser.add_argument("--shards", type=int, nargs="+", default=SHARDS, help="(default: %(default)s)")
    parser.add_argument("--speed", type=float, help="of one shard, × real time, instead of those measured on two cores")
    args = parser.parse_args()
    rates = RATES if args.speed is None else (Rate("a shard", args.speed),)
    durations = draw_durations(args.hours * 3600)
    by_duration = BlockPlan(np.arange(len(durations)), costs=estimate_costs(durations))
    by_number = BlockPlan(np.arange(len(durations)))
    sync_seconds, dealing_seconds = measure_sync(), measure_dealing(by_duration, max(args.shards))
    start, merge = START_SECONDS * len(durations), MERGE_SECONDS * len(durations)
    print(
        f"{len(durations):,} utterances, {durations.sum() / 3600:,.0f} h; to read the list takes {start:.0f} s, to "
        f"deal it {dealing_seconds:.1f} s, to merge {merge:.0f} s; a journal's line is on the disk after "
        f"{1000 * sync_seconds:.1f} ms\n"
    )
    names = [f"{rate.name}: whole run" for rate in rates]
    head = ["shards", *names, "slowest shard, by duration", "by number", "files opened", "lines synced"]
    print("| " + " | ".join([*head, "start and merge"]) + " |\n|" + "---|" * (len(head) + 1))
    for count in args.shards:
        seconds, others = (sum_durations(plan, durations, count) for plan in (by_duration, by_number))
        times = [start + dealing_seconds + seconds.max() / rate.speed + merge for rate in rates]
        per_second = count * rates[0].speed
        cells = [
            *map(format_time, times),
            f"+{100 * (seconds.max() / seconds.mean() - 1):.3f}%",
            f"+{100 * (others.max() / others.mean() - 1):.2f}%",
            f"{per_second / MEAN_SECONDS:,.0f}/s",
            f"{SYNCS * per_second / BATCH_SECONDS['cpu']:,.0f}/s",
            f"{100 * (start + merge) / times[0]:.2f}%",
        ]
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)
    hidden = SYNCS * sync_seconds * max(rate.speed for rate in rates) / BATCH_SECONDS["cpu"]
    print(f"\nSyncs take {100 * hidden:.1f}% of a shard's time, beside the encoder. Files and syncs are those at base.")


def draw_durations(seconds: float) -> NDArray[np.float64]:
    """Draw lengths of utterances that sum up to ``seconds``: (utterances,), speaker after speaker."""
    random = np.random.default_rng(0)
    count = round(seconds / MEAN_SECONDS)
    of_speaker = random.normal(0, DEVIATION / 2, SPEAKERS)[np.arange(count) * SPEAKERS // count]
    rest = DEVIATION * np.sqrt(3) / 2
    lengths = np.minimum(np.exp(of_speaker + random.normal(0, rest, count)), LONGEST_SECONDS)
    durations: NDArray[np.float64] = lengths * (seconds / lengths.sum())
    return durations


def sum_durations(plan: BlockPlan, durations: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sum the durations of each shard's utterances: (count,) seconds."""
    sums = np.zeros(count)
    for index in range(count):
        for block in plan.deal_blocks(Shard(count, index + 1)):
            sums[index] += durations[block.indices].sum()
    return sums


def measure_dealing(plan: BlockPlan, count: int) -> float:
    """Measure how long a shard takes to find its blocks: seconds."""
    started = time.perf_counter()
    for _ in plan.deal_blocks(Shard(count, 1)):
        pass
    return time.perf_counter() - started


def measure_sync() -> float:
    """Measure how long it takes to append a line to a journal and sync it: seconds."""
    header = Header(
        format=JOURNAL_FORMAT,
        fingerprint={"model": "x"},
        model="x",
        labels=("neutral",),
        input_sha256="0" * 64,
        input_size=1,
        frame_shift=0.02,
        timeline_formats=(),
        join=False,
        mix_devices=False,
        invocation=INVOCATION,
        machine=MACHINE,
        host="x",
        pid=1,
        started="2026-01-01T00:00:00+00:00",
    )
    done = DoneRecord(0, "utt1", 5.0, 249, 1, "neutral", (0.9,), Place("embeddings.1-of-1.1.ark", 5))
    times = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        with closing(Journal(Path(folder), Shard(1, 1), header)) as journal:
            for _ in range(100):
                started = time.perf_counter()
                journal.append([done], [], Elapsed())
                times.append(time.perf_counter() - started)
    return median(times)


def format_time(seconds: float) -> str:
    """Format a length of time in days or hours."""
    hours = seconds / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"


if __name__ == "__main__":
    main()
