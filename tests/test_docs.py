"""The READMEs match the commands: transcripts are run, links resolve, and options exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from support.forkserver import make_runner, shared_server
from support.processes import ROOT

from e2v_cli.cli.main import cli

pytestmark = pytest.mark.e2e

READMES = [
    path
    for path in sorted(ROOT.rglob("README.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]
REFERENCE = ROOT / "e2v_cli" / "cli" / "README.md"

ELSEWHERE = (
    "data/train",
    "e2v submit",
    "e2v models",
    "exp/train",
    "make test",
    "sbatch",
    "srun",
    "parallel",
    "cluster",
)
"""Transcripts with one of these need a cluster, a hub, or a corpus that isn't here."""

VOLATILE = ("e2v check", "e2v status", "make demo")
"""Commands whose numbers are times, speeds and last bits."""

NOT_OURS = frozenset(
    [
        "--array",
        "--constraint",
        "--cpus-per-task",
        "--dependency",
        "--exclusive",
        "--extra-index-url",
        "--gpus-per-task",
        "--gres",
        "--no-feats",
        "--no-text",
        "--nodes",
        "--ntasks",
        "--open-mode",
        "--parsable",
        "--signal",
        "--speed",
        "--tb",
    ]
)
"""Options of sbatch, srun, pip, pytest, Kaldi and benchmarks."""


def blocks(path: Path, *languages: str) -> Iterator[str]:
    """Find a README's code blocks in some languages."""
    for language, content in re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
        if language in languages:
            yield content


def transcripts(path: Path) -> list[tuple[str, list[str]]]:
    """Find commands and their output."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks(path, ""):
        if not block.startswith("$ "):
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


def commands(group: click.Group, path: str = "e2v") -> Iterator[tuple[str, click.Command]]:
    """List a group's commands by path, including those of nested groups."""
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def options() -> set[str]:
    """List all long options."""
    return {"--help", "--version"} | {
        name
        for _, command in commands(cli)
        for param in command.params
        for name in (*param.opts, *param.secondary_opts)
        if name.startswith("--")
    }


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with ``sample_data``, and its environment; ``e2v`` is forked, by ``make``, too."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "sample_data").symlink_to(ROOT / "sample_data")
    shared_server().write_command(folder / "bin" / "e2v")
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    predict = "e2v predict sample_data/wav.scp -m sample -o exp/demo --embeddings ark --overwrite"
    show = "sample_data/show.py exp/demo/predictions.tsv sample_data/utt2emo"
    report = "e2v report exp/demo --reference sample_data --overwrite"
    (folder / "bin" / "make").write_text(
        f"#!/bin/sh\necho .venv/bin/{predict}\n{predict} && {sys.executable} {show}\n"
        f"echo .venv/bin/{report}\n{report}\n"
    )
    (folder / "bin" / "make").chmod(0o755)
    return folder, environment


def same(shown: str, printed: str, volatile: bool) -> bool:
    """Whether a printed line matches the README's; column widths and the last digits of numbers may differ."""
    left, right = shown.split(), printed.split()
    if len(left) != len(right):
        return False
    return all(a == b or _near(a, b, volatile) for a, b in zip(left, right, strict=True))


def _near(a: str, b: str, volatile: bool) -> bool:
    if volatile:
        return re.sub(r"[0-9.]+(e-[0-9]+)?", "#", a) == re.sub(r"[0-9.]+(e-[0-9]+)?", "#", b)
    try:
        return abs(float(a) - float(b)) < 1e-4
    except ValueError:
        return False


RUNNABLE = [
    pytest.param(command, output, id=f"{path.relative_to(ROOT)}: {command[:60]}")
    for path in READMES
    for command, output in transcripts(path)
    if not any(word in command for word in ELSEWHERE)
]


@pytest.mark.parametrize(("command", "output"), RUNNABLE)
def test_transcripts_match_output_of_commands(
    command: str, output: list[str], shell: tuple[Path, dict[str, str]]
) -> None:
    folder, environment = shell
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    volatile = any(word in command for word in VOLATILE)
    printed = done.stdout.splitlines()
    parts = "\n".join([*output, ""]).split("\n…\n") if output else []
    begin = 0
    for number, part in enumerate(parts):
        shown = part.splitlines()
        starts = range(begin, len(printed) - len(shown) + 1)
        starts = starts[:1] if number == 0 else starts[-1:] if number == len(parts) - 1 else starts
        fits = (at for at in starts if all(map(same, shown, printed[at:], [volatile] * len(shown))))
        at = next(fits, None)
        assert at is not None, done.stdout
        begin = at + len(shown)
    if len(parts) == 1:
        assert len(printed) == len(output), done.stdout


def test_transcripts_were_found() -> None:
    assert len(RUNNABLE) >= 7


def test_python_blocks_run(shell: tuple[Path, dict[str, str]]) -> None:
    folder, environment = shell
    if not (folder / "exp" / "demo").exists():
        subprocess.run(["make", "demo"], cwd=folder, env=environment, check=True, capture_output=True)
    for block in blocks(ROOT / "README.md", "python"):
        subprocess.run([sys.executable, "-c", block], cwd=folder, env=environment, check=True, timeout=120)


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize(
    "path", [path for path in READMES if path.parent.name != "bench"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_options_exist(path: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", path.read_text()))
    assert named - options() - NOT_OURS == set()


def reference() -> str:
    """Format the reference of all commands: what they print for ``--help``."""
    parts = [
        "# The commands\n\nWhat `--help` prints, kept here by `make docs`. Every option can be set by the environment:"
        " `E2V_MODEL` for `--model`.\n"
    ]
    e2v = make_runner(shared_server())
    for path in ["e2v", *(path for path, _ in commands(cli))]:
        done = e2v(*path.split()[1:], "--help", COLUMNS="100")
        assert done.returncode == 0, done.stderr
        parts.append(f"## {path}\n\n```\n{done.stdout}```\n")
    return "\n".join(parts)


def test_reference_matches_help() -> None:
    assert REFERENCE.read_text() == reference(), "run: make docs"


def test_readme_has_at_most_16_kib() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 16 * 1024


if __name__ == "__main__":
    REFERENCE.write_text(reference())
