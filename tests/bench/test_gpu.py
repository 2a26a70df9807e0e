"""``gpu.sh``: its steps on a toy and a CPU, and the commands that it runs on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import encoder, speed
from support.forkserver import shared_server
from support.processes import ROOT

SCRIPT = ROOT / "tests" / "bench" / "gpu.sh"

STAND_IN = """#!/bin/sh
printf '%s ' "$@" | tr '\\n' ' ' >> {noted}
echo >> {noted}
case "$*" in
{skipped}) ;;
"-m e2v_cli "*) shift 2; exec {forked} "$@" ;;
*) exec {python} "$@" ;;
esac
"""
"""A Python that notes its arguments, does not run some of its commands, and forks those of e2v."""

Run = Callable[..., tuple[str, list[list[str]]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the script, but for commands that match a pattern; return its output, and the words of the commands."""

    def run_script(skipped: str, **environment: str) -> tuple[str, list[list[str]]]:
        commands, noted = tmp_path / "commands", tmp_path / "noted"
        commands.mkdir()
        forked = shared_server().write_command(commands / "e2v")
        for name, text in {
            "python": STAND_IN.format(noted=noted, skipped=skipped, forked=forked, python=sys.executable),
            "nvidia-smi": "#!/bin/sh\necho GPU 0: a stand-in\n",
        }.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        done = subprocess.run(
            [SCRIPT, tmp_path / "folder"],
            env={
                **os.environ,
                "PATH": f"{commands}:{os.environ['PATH']}",
                "PYTHON": str(commands / "python"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, [line.split() for line in noted.read_text().splitlines()]

    return run_script


def words_of(module: str, commands: list[list[str]]) -> list[list[str]]:
    return [words[2:] for words in commands if words[:2] == ["-m", module]]


@pytest.mark.e2e
def test_steps_work_on_a_toy(run: Run) -> None:
    """But for the benchmark of whole runs, which has a test of its own, since FunASR takes long to start."""
    printed, commands = run("*bench.speed*", DEVICE="cpu", SIZE="tiny")

    headings = [line.partition(", after ")[0] for line in printed.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Set-up",
        "## Parity: tiny, fp32",
        "## Encoder: tiny, fp32",
        "## Whole runs: tiny",
        "## End",
    ]
    assert "within the tolerances; the largest difference is that of " in printed
    assert "| tiny, fp32: a batch of | × real time | peak memory |" in printed
    assert "aten::gelu" in printed
    assert [speed.parse_arguments(words).clips for words in words_of("bench.speed", commands)] == [1]


def test_commands_on_a_gpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, commands = run("*")

    assert "GPU 0: a stand-in\n" in printed
    checks = words_of("e2v_cli", commands)
    assert [words[words.index("--precision") + 1] for words in checks] == ["fp32", "tf32", "bf16", "fp16"] * 2
    assert {words[words.index("--device") + 1] for words in checks} == {"cuda"}
    speeds = [speed.parse_arguments(words) for words in words_of("bench.speed", commands)]
    assert [(args.device, Path(args.model).name) for args in speeds] == [("cuda", "base"), ("cuda", "large")]
    made: list[str] = []
    monkeypatch.setattr(encoder, "make_model", lambda folder, _: made.append(folder.name))
    for words in words_of("bench.encoder", commands)[:2]:
        encoder.main(words)
    assert made == ["base", "large"]
    assert len(words_of("bench.encoder", commands)) == 2 + 8
