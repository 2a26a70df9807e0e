"""The benchmark's figures, from measurements that are made up; and once the benchmark itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile
from bench.contenders import (
    Clip,
    Contender,
    Corpus,
    Gemm,
    Lineup,
    Run,
    find_peak_memory,
    line_up,
    make_noise,
    read_corpus,
    run_processes,
)
from bench.report import Round, Row, count_corpus_flops, count_flops, format_notes, format_table, plot, summarize
from bench.speed import name_processor, parse_arguments

from e2v_cli.network.config import ConvLayer, NetworkConfig

ROOT = Path(__file__).parent.parent.parent

CONFIG = NetworkConfig(
    conv_layers=(ConvLayer(channels=2, kernel=4, stride=2), ConvLayer(channels=3, kernel=2, stride=2)),
    conv_norm="layer",
    embed_dim=4,
    num_heads=2,
    prenet_depth=1,
    depth=1,
    mlp_dim=8,
    norm_eps=1e-5,
    norm_affine=True,
    layer_norm_first=False,
    normalize=True,
    num_extra_tokens=1,
    conv_pos_depth=1,
    conv_pos_kernel=3,
    conv_pos_groups=2,
    conv_pos_pre_ln=False,
    num_alibi_heads=0,
    alibi_scales=(1, 1),
)

ONE, TWO = Gemm("cpu", "fp32", 1), Gemm("cpu", "fp32", 2)
INSTALLED = Contender("FunASR as installed: 1 process", "funasr", 1, TWO, threads=4, every=15)
FAIR = Contender("FunASR, fair: 2 processes", "funasr", 2, TWO)
E2V = Contender("e2v -j 1", "e2v", 1, ONE)
LINEUP = Lineup((INSTALLED, FAIR, E2V), fair=FAIR, ours=E2V)

ROWS = [
    Row(FAIR, speed=10.94, ratio=1.0, of_peak=0.507, memory=1_634_000_000, whole_seconds=27.44, start_seconds=5.05),
    Row(E2V, speed=15.75, ratio=1.444, of_peak=0.7, memory=0, whole_seconds=14.9, start_seconds=3.0),
]


def test_flops_of_a_network_worked_by_hand() -> None:
    # 12 samples: 5 rows behind the first convolution, 2 behind the second, and with the extra token 3 tokens
    convolutions = 5 * 4 * 1 * 2 + 2 * 2 * 2 * 3
    projection = 2 * 3 * 4
    positions = (1 + 2 + 1) * 2 * 2 * 2  # frames that the taps see; two groups of two channels
    attention = 3 * 4 * (3 * 4) + 2 * 3 * 3 * 4 + 3 * 4 * 4
    mlp = 3 * 4 * 8 + 3 * 8 * 4
    assert count_flops(CONFIG, 12) == 2 * (convolutions + projection + positions + 2 * (attention + mlp)) == 2064


def test_flops_of_a_corpus_are_those_of_its_clips() -> None:
    corpus = Corpus("two", (Clip("a", "a.wav", 12), Clip("b", "b.wav", 16)))
    assert count_corpus_flops(CONFIG, corpus) == count_flops(CONFIG, 12) + count_flops(CONFIG, 16)


def test_figures_are_medians_and_ratios_those_within_a_round() -> None:
    def turn(fair: float, e2v: float, peak: float) -> Round:
        runs = {
            INSTALLED: Run(10, 40, 45, memory=0),
            FAIR: Run(100, fair, fair + 6, memory=0),
            E2V: Run(100, e2v, e2v + 2, memory=0),
        }
        return Round(runs, {ONE: peak, TWO: 2 * peak})

    # the machine slows down; the median of the ratios is not the ratio of the medians
    rounds = [turn(10, 8, 100), turn(20, 10, 50), turn(40, 50, 25)]
    memory = {INSTALLED: 1, FAIR: 2, E2V: 3}
    installed, fair, e2v = summarize(LINEUP, rounds, memory, lambda contender: 100 if contender is INSTALLED else 400)
    assert fair == Row(FAIR, speed=5, ratio=1, of_peak=0.2, memory=2, whole_seconds=26, start_seconds=6)
    assert e2v == Row(E2V, speed=10, ratio=1.25, of_peak=0.5, memory=3, whole_seconds=12, start_seconds=2)
    assert (installed.speed, installed.ratio, installed.of_peak) == (0.25, 0.05, 0.025)


def test_table() -> None:
    assert format_table(ROWS) == (
        "| | × real time | ratio | of GEMM peak | peak memory | whole command | of it start-up |\n"
        "|---|---|---|---|---|---|---|\n"
        "| FunASR, fair: 2 processes | 10.9 | **1.00** | 51% | 1.63 GB | 27.4 s | 5.0 s |\n"
        "| e2v -j 1 | 15.8 | **1.44** | 70% | – | 14.9 s | 3.0 s |"
    )


def test_notes() -> None:
    rounds = [Round({}, {ONE: 101e9 + peak, TWO: 1200e9}) for peak in (0, 1e9, 9e9)]
    assert format_notes(LINEUP, rounds) == (
        "GEMM peak (products of 2048 × 2048 matrices, the same rounds): "
        "1,200 GFLOP/s on 2 cores, 102 GFLOP/s on 1 core. "
        "FunASR as installed encodes every 15th clip only: it has more threads than there are cores, and they wait for "
        "each other."
    )


def test_chart_is_a_png(tmp_path: Path) -> None:
    plot(ROWS, "base shape; a machine, 2 cores", tmp_path / "chart")
    assert (tmp_path / "chart").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_lineup_on_cpu() -> None:
    lineup = line_up("cpu", jobs=2, cores=2)
    assert [contender.label for contender in lineup.contenders] == [
        "FunASR as installed: 1 process, 4 threads",
        "FunASR, fair: 2 processes, 1 thread each",
        "e2v -j 1",
        "e2v -j 2",
    ]
    assert [contender.gemm.processes for contender in lineup.contenders] == [2, 2, 1, 2]
    assert [contender.every for contender in lineup.contenders] == [15, 1, 1, 1]
    assert (lineup.fair, lineup.ours) == (lineup.contenders[1], lineup.contenders[3])


def test_lineup_on_one_core_has_one_e2v() -> None:
    lineup = line_up("cpu", jobs=1, cores=1)
    assert [contender.label for contender in lineup.contenders][2:] == ["e2v -j 1"]
    assert lineup.ours == lineup.contenders[2]


def test_on_many_cores_funasr_as_installed_gets_all_clips_and_is_compared_with_four_cores() -> None:
    installed = line_up("cpu", jobs=16, cores=16).contenders[0]
    assert (installed.every, installed.gemm.processes) == (1, 4)


def test_lineup_on_a_gpu() -> None:
    lineup = line_up("cuda", jobs=16, cores=16)
    assert [contender.gemm.precision for contender in lineup.contenders] == ["fp32", "fp32", "tf32", "bf16", "fp16"]
    assert {contender.gemm.processes for contender in lineup.contenders} == {1}
    assert (lineup.fair, lineup.ours) == lineup.contenders[:2]


def test_noise_is_read_as_it_was_made(tmp_path: Path) -> None:
    corpus = make_noise(tmp_path / "noise", 3, 0.1, 0.2)
    assert all(0.1 <= soundfile.info(clip.path).duration <= 0.2 for clip in corpus.clips)
    assert read_corpus(corpus.write(tmp_path / "wav.scp")).clips == corpus.clips
    assert str(corpus) == "noise of 0.1–0.2 s: 3 clips, 0 s"


def test_corpora_are_parted_and_repeated() -> None:
    corpus = Corpus("three", tuple(Clip(name, f"{name}.wav", 16_000) for name in "abc"))
    assert [clip.utt_id for clip in corpus.part(0, 2).clips] == ["a", "c"]
    assert [clip.utt_id for clip in corpus.first.clips] == ["a"]
    longer = corpus.repeat(2)
    assert [clip.utt_id for clip in longer.clips] == ["a-0", "b-0", "c-0", "a-1", "b-1", "c-1"]
    assert longer.seconds == 6


def test_memory_is_that_of_a_process_and_its_children() -> None:
    held = "held = bytearray(b'x' * 50_000_000); print('held', flush=True); input()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {held!r}]); input()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.stdout.readline()
    ended = threading.Event()
    timer = threading.Timer(1.0, ended.set)
    timer.start()
    peak = find_peak_memory([parent.pid], ended)
    parent.communicate("\n\n")
    assert 50_000_000 < peak < 100_000_000


def test_a_process_that_fails_ends_the_benchmark_with_what_it_said() -> None:
    with pytest.raises(SystemExit, match=r"(?s)something broke.*ended with 1"):
        run_processes([[sys.executable, "-c", "raise SystemExit('something broke')"]])


def test_name_of_the_processor() -> None:
    assert name_processor("processor\t: 0\nmodel name\t: A: fast one\nmodel name\t: B\n") == "A: fast one"
    assert name_processor("processor\t: 0\n") == "unknown processor"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--repeats", "0"],
        ["--jobs", "0"],
        ["--start", "--growth"],
        ["--start", "--device", "cuda"],
        ["--model", "sample", "--shape", "large"],
    ],
)
def test_what_can_not_be_measured_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert "error: " in capsys.readouterr().err


@pytest.mark.e2e
def test_benchmark(tiny: Path, tmp_path: Path) -> None:
    chart = tmp_path / "new" / "chart.png"
    options = ["--model", tiny, "--clips", 2, "--seconds", 1, 1, "--repeats", 1, "--jobs", 1, "--plot", chart]
    command = [sys.executable, str(ROOT / "tests" / "bench.py"), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "noise of 1 s: 2 clips, 2 s; medians of 1." in output
    rows = [line for line in output.splitlines() if line.startswith(("| FunASR", "| e2v"))]
    assert len(rows) == 3
    assert all(float(cell) > 0 for row in rows for cell in [row.split(" | ")[1]])
    assert "–" not in "".join(rows)
    assert chart.read_bytes().startswith(b"\x89PNG")
