"""Work out how long a corpus of 42,526 hours takes on a cluster, from rates that were measured.

    make bench-cluster

That is how much speech emotion2vec+ large was trained on (arXiv 2312.15185). Lengths of utterances are drawn; the list
is cut and dealt by e2v's own code, so what the slowest shard has more than the others is exact for such a list. How
fast a shard computes, and what start and merge take, are measured rates (``make bench``, ``make bench-scale``), and the
time to make a journal's line last is measured here. All nodes are taken to be alike, and none to wait in a queue.
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

from e2v_cli.corpus.blocks import BlockPlan, estimate_costs
from e2v_cli.inference.batches import BATCH_SECONDS
from e2v_cli.journal.journal import Elapsed, Header, Journal
from e2v_cli.options import Shard
from e2v_cli.records import DoneRecord

HOURS = 42_526.0
MEAN_SECONDS, DEVIATION, LONGEST_SECONDS = 5.0, 0.7, 30.0
"""Of utterances: a log-normal distribution of this mean and this deviation of the logarithm, cut at the longest."""

SPEAKERS = 20_000
"""Whose utterances are neighbours in the list, and longer or shorter than those of others."""

SHARDS = (1, 8, 64, 256)
START_SECONDS = 25.3 / 10e6
MERGE_SECONDS = 54.1 / 10e6
"""For each line of the list: until the first result is safe, and to merge; by ``make bench-scale``."""


SYNCS = 2
"""Of each batch: its embeddings, and its lines in the journal."""


@dataclass(frozen=True)
class Rate:
    """How fast a shard is, on the cores that it was measured on."""

    name: str
    speed: float
    """Seconds of audio in a second."""


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
    sync_seconds = measure_sync()
    started = time.perf_counter()
    by_duration = BlockPlan(np.arange(len(durations)), costs=estimate_costs(durations))
    by_number = BlockPlan(np.arange(len(durations)))
    deals = [(count, by_duration.cost_by_shard(count), sum_up(by_number, durations, count)) for count in args.shards]
    dealing_seconds = (time.perf_counter() - started) / 2 / len(args.shards)
    start, merge = START_SECONDS * len(durations), MERGE_SECONDS * len(durations)
    print(
        f"{len(durations):,} utterances, {durations.sum() / 3600:,.0f} h; to read the list takes {start:.0f} s, to "
        f"deal it {dealing_seconds:.0f} s, to merge {merge:.0f} s; a journal's line is on the disk after "
        f"{1000 * sync_seconds:.1f} ms\n"
    )
    names = [f"{rate.name}: whole run" for rate in rates]
    head = [
        "shards",
        *names,
        "slowest shard, by duration",
        "by number",
        "files opened",
        "lines synced",
        "start and merge",
    ]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for count, loads, other_loads in deals:
        times = [start + dealing_seconds + loads.max() / rate.speed + merge for rate in rates]
        per_second = count * rates[0].speed
        cells = [
            *(show(seconds) for seconds in times),
            f"+{100 * (loads.max() / loads.mean() - 1):.3f}%",
            f"+{100 * (other_loads.max() / other_loads.mean() - 1):.2f}%",
            f"{per_second / MEAN_SECONDS:,.0f}/s",
            f"{SYNCS * per_second / BATCH_SECONDS['cpu']:,.0f}/s",
            f"{100 * (start + merge) / times[0]:.2f}%",
        ]
        print(f"| {count} | " + " | ".join(cells) + " |")
    worst = max(rate.speed for rate in rates)
    hidden = SYNCS * sync_seconds * worst / BATCH_SECONDS["cpu"]
    print(f"\nSyncs take {100 * hidden:.1f}% of a shard's time, beside the encoder. Files and syncs are those at base.")


def draw_durations(seconds: float) -> NDArray[np.float64]:
    """Draw lengths of utterances until there are so many seconds: (utterances,), speaker after speaker."""
    random = np.random.default_rng(0)
    count = round(seconds / MEAN_SECONDS)
    of_speaker = random.normal(0, DEVIATION / 2, SPEAKERS)[np.arange(count) * SPEAKERS // count]
    rest = DEVIATION * np.sqrt(3) / 2
    lengths = np.minimum(np.exp(of_speaker + random.normal(0, rest, count)), LONGEST_SECONDS)
    durations: NDArray[np.float64] = lengths * (seconds / lengths.sum())
    return durations


def sum_up(plan: BlockPlan, durations: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sum up the durations of what each of so many shards gets: (count,)."""
    return np.array(
        [
            sum(durations[share.places].sum() for share in plan.deal_blocks(Shard(count, index)))
            for index in range(1, count + 1)
        ]
    )


def measure_sync() -> float:
    """Measure how long it takes until a line of a journal is on the disk."""
    header = Header({"model": "x"}, "x", (), "0" * 64, 1, 0.02, (), False, "x", 1, "2026-01-01T00:00:00+00:00")
    entry = DoneRecord(0, 5.0, 249, "embeddings.1-of-1.1.ark:5", "", "utt1\tneutral\t0.9\t5.0000\t1")
    times = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        with closing(Journal(Path(folder), Shard(1, 1), header)) as journal:
            for _ in range(100):
                started = time.perf_counter()
                journal.append([entry], [], Elapsed())
                times.append(time.perf_counter() - started)
    return median(times)


def show(seconds: float) -> str:
    """Show a length of time by its largest units."""
    hours = seconds / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"


if __name__ == "__main__":
    main()
