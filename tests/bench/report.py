"""The figures of ``make bench``, their table in Markdown, and their chart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.contenders import GEMM_SIZE, Contender, Corpus, Gemm, Lineup, Run
from matplotlib.figure import Figure

from e2v_cli.network.config import NetworkConfig

COLORS = {"funasr": "#9aa5b1", "e2v": "#2f6fb0"}

HEAD = """\
| | × real time | ratio | of GEMM peak | peak memory | whole command | of it start-up |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Round:
    """The runs of all contenders, one after the other, and the upper limits of the machine meanwhile."""

    runs: Mapping[Contender, Run]
    peaks: Mapping[Gemm, float]
    """Floating point operations per second."""


@dataclass(frozen=True)
class Row:
    """The figures of a contender: medians over all rounds."""

    contender: Contender
    speed: float
    """× real time."""
    ratio: float
    """Its speed divided by that of the fair peer in the same round."""
    of_peak: float
    """Its operations per second, as a fraction of those of large matrix products in the same round."""
    memory: int
    """Bytes; 0: not measured."""
    whole_seconds: float
    start_seconds: float


def count_flops(config: NetworkConfig, num_samples: int) -> int:
    """Count additions and multiplications in the matrix products of an utterance that is encoded whole.

    Padding and repeated computation don't count.
    """
    macs, length, channels = 0, num_samples, 1
    for layer in config.conv_layers:
        length = (length - layer.kernel) // layer.stride + 1
        macs += length * layer.kernel * channels * layer.channels
        channels = layer.channels
    frames, dim = config.num_frames(num_samples), config.embed_dim
    macs += frames * channels * dim
    # a tap sees no frame where it reaches beyond an end
    reach = config.conv_pos_kernel // 2
    seen = sum(max(0, frames - abs(tap - reach)) for tap in range(config.conv_pos_kernel))
    macs += config.conv_pos_depth * seen * dim * dim // config.conv_pos_groups
    tokens = frames + config.num_extra_tokens
    # queries, keys, values and the projection; scores and the weighted sum; the MLP
    block = tokens * 4 * dim * dim + 2 * tokens * tokens * dim + 2 * tokens * dim * config.mlp_dim
    return 2 * (macs + (config.prenet_depth + config.depth) * block)


def count_corpus_flops(config: NetworkConfig, corpus: Corpus) -> int:
    """Count additions and multiplications for all clips."""
    return sum(count_flops(config, clip.num_samples) for clip in corpus.clips)


def summarize(
    lineup: Lineup, rounds: Sequence[Round], memory: Mapping[Contender, int], flops: Callable[[Contender], int]
) -> list[Row]:
    """Compute the figures of all contenders; ``flops``: the operations for the clips of one."""
    rows = []
    for contender in lineup.contenders:
        runs = [turn.runs[contender] for turn in rounds]
        reached = [flops(contender) / run.encode_seconds for run in runs]
        rows.append(
            Row(
                contender,
                speed=median(run.speed for run in runs),
                ratio=median_ratio(rounds, contender, lineup.fair),
                of_peak=median(own / turn.peaks[contender.gemm] for own, turn in zip(reached, rounds, strict=True)),
                memory=memory[contender],
                whole_seconds=median(run.whole_seconds for run in runs),
                start_seconds=median(run.start_seconds for run in runs),
            )
        )
    return rows


def median_ratio(rounds: Sequence[Round], contender: Contender, peer: Contender) -> float:
    """Return the speed of one divided by that of another: the median of the ratios within a round."""
    return median(turn.runs[contender].speed / turn.runs[peer].speed for turn in rounds)


def format_table(rows: Sequence[Row]) -> str:
    """Format the table."""
    return "\n".join(
        [
            HEAD,
            *(
                f"| {row.contender.label} | {row.speed:.1f} | **{row.ratio:.2f}** | {row.of_peak:.0%} "
                f"| {format_memory(row.memory)} | {row.whole_seconds:.1f} s | {row.start_seconds:.1f} s |"
                for row in rows
            ),
        ]
    )


def format_memory(memory: int) -> str:
    """Format bytes, or a dash where they were not measured."""
    return f"{memory / 1e9:.2f} GB" if memory else "–"


def format_notes(lineup: Lineup, rounds: Sequence[Round]) -> str:
    """Format the notes below the table: the GEMM peaks, and which contender encodes fewer clips."""
    device = lineup.fair.gemm.device
    size = GEMM_SIZE[device]
    peaks = ", ".join(
        f"{median(turn.peaks[gemm] for turn in rounds) / 1e9:,.0f} GFLOP/s {gemm}" for gemm in lineup.gemms
    )
    notes = [f"GEMM peak (products of {size} × {size} matrices, by the fastest library, the same rounds): {peaks}."]
    notes += [
        f"{contender.label.partition(':')[0]} encodes every {contender.every}th clip only: "
        "it has more threads than there are cores, and they wait for each other."
        for contender in lineup.contenders
        if contender.every > 1
    ]
    return " ".join(notes)


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw × real time as bars, 700 pixels wide at half resolution, as a PNG file."""
    figure = Figure(figsize=(7, 1.1 + 0.45 * len(rows)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    axes = figure.subplots()
    bars = axes.barh(
        [row.contender.label.replace(": ", "\n") for row in rows],
        [row.speed for row in rows],
        color=[COLORS[row.contender.engine] for row in rows],
        height=0.65,
    )
    axes.bar_label(bars, [f"{row.speed:.1f}  ({row.ratio:.2f} ×)" for row in rows], padding=4, fontsize=10)
    axes.set_xlim(0, 1.3 * max(row.speed for row in rows))
    axes.locator_params(axis="x", integer=True)
    axes.invert_yaxis()
    axes.set_xlabel("× real time, and how many times the fair peer", fontsize=9)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=200, format="png")
