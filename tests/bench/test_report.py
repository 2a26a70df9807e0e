"""The benchmark's figures, from made-up measurements; and the benchmark itself, once, on two clips."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bench import contenders, speed
from bench.contenders import (
    Clip,
    Contender,
    Corpus,
    Gemm,
    Lineup,
    Run,
    find_peak_memory,
    line_up,
    measure_gemm,
)
from bench.report import Round, Row, count_corpus_flops, count_flops, summarize

from e2v_cli.network.config import ConvLayer, NetworkConfig

UPSTREAM_ALONE = """
import sys
from bench import contenders
from support.upstream import upstream_alone
with upstream_alone():
    if sys.argv[1] == "funasr":
        import funasr
        import funasr.tokenizer.char_tokenizer
        from funasr.auto.auto_model import AutoModel
        funasr.AutoModel = AutoModel
    contenders.main(sys.argv[1:])
"""
"""A process of the benchmark without FunASR's other models, which take four seconds to import."""

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


def test_flops_match_manual_calculation() -> None:
    # 12 samples: 5 rows behind the first convolution, 2 behind the second, and with the extra token 3 tokens
    convolutions = 5 * 4 * 1 * 2 + 2 * 2 * 2 * 3
    projection = 2 * 3 * 4
    positions = (1 + 2 + 1) * 2 * 2 * 2  # frames that the taps see; two groups of two channels
    attention = 3 * 4 * (3 * 4) + 2 * 3 * 3 * 4 + 3 * 4 * 4
    mlp = 3 * 4 * 8 + 3 * 8 * 4
    assert count_flops(CONFIG, 12) == 2 * (convolutions + projection + positions + 2 * (attention + mlp)) == 2064
    corpus = Corpus("two", (Clip("a", "a.wav", 12), Clip("b", "b.wav", 16)))
    assert count_corpus_flops(CONFIG, corpus) == 2064 + count_flops(CONFIG, 16)


def test_figures_are_medians_and_ratios_are_within_a_round() -> None:
    one, two = Gemm("cpu", "fp32", 1), Gemm("cpu", "fp32", 2)
    fair, e2v = Contender("FunASR", "funasr", 2, two), Contender("e2v -j 1", "e2v", 1, one)

    def turn(fair_seconds: float, e2v_seconds: float, peak: float) -> Round:
        runs = {
            fair: Run(100, fair_seconds, fair_seconds + 6, memory=0),
            e2v: Run(100, e2v_seconds, e2v_seconds + 2, memory=0),
        }
        return Round(runs, {one: peak, two: 2 * peak})

    # the machine slows down; the median of the ratios is not the ratio of the medians
    rounds = [turn(10, 8, 100), turn(20, 10, 50), turn(40, 50, 25)]
    assert summarize(Lineup((fair, e2v), fair, e2v), rounds, {fair: 2, e2v: 3}, lambda _: 400) == [
        Row(fair, speed=5, ratio=1, of_peak=0.2, memory=2, whole_seconds=26, start_seconds=6),
        Row(e2v, speed=10, ratio=1.25, of_peak=0.5, memory=3, whole_seconds=12, start_seconds=2),
    ]


def test_fair_peer_has_the_processes_and_clips_of_e2v() -> None:
    for lineup in (line_up("cpu", jobs=2, cores=2), line_up("cuda", jobs=16, cores=16)):
        assert lineup.fair.gemm == lineup.ours.gemm
        assert lineup.fair.every == lineup.ours.every == 1


def test_memory_includes_child_processes() -> None:
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


@pytest.mark.e2e
def test_benchmark_prints_a_table_and_draws_a_chart(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two contenders, and of products for a moment."""
    monkeypatch.setattr(contenders, "SELF", (sys.executable, "-c", UPSTREAM_ALONE))
    monkeypatch.setattr(speed, "measure_gemm", partial(measure_gemm, seconds=0.1))
    whole = line_up("cpu", jobs=1, cores=1)
    monkeypatch.setattr(speed, "line_up", lambda *_: replace(whole, contenders=(whole.fair, whole.ours)))
    monkeypatch.setenv("E2V_CACHE", str(tmp_path / "cache"))
    chart = tmp_path / "new" / "chart.png"
    options = ["--model", tiny, "--clips", 2, "--seconds", 1, 1, "--repeats", 1, "--jobs", 1, "--plot", chart]

    speed.main(list(map(str, options)))

    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| FunASR", "| e2v"))
    ]
    assert len(rows) == 2
    assert all(float(cells[1]) > 0 for cells in rows)
    assert chart.read_bytes().startswith(b"\x89PNG")
