"""Mutations of files, and a process that opens what became of them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from support.processes import ROOT

HEADER = 600
"""Bytes at the beginning in which half of the mutations lie."""


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Flip bytes of a file, or remove, repeat, clear or move a range of them."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        begin = rng.randrange(min(len(content), HEADER) if rng.random() < 0.5 else len(content))
        end = min(len(content), begin + rng.choice((1, 2, 4, 8, 30, 100, 500, 2000)))
        part = content[begin:end]
        flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in part[:4])
        noise = rng.randbytes(len(part))
        other = rng.randrange(len(content))
        content = rng.choice(
            (
                content[:begin] + flipped + content[begin + len(flipped) :],
                content[:begin] + noise + content[end:],
                content[:begin] + content[end:],
                content[:end] + part + content[end:],
                content[:begin] + bytes(len(part)) + content[end:],
                content[:begin] + b"\xff" * len(part) + content[end:],
                content[:other] + part + content[other:],
                content[:end],
            )
        )
        if not content:
            return b"\0"
    return content


def read_all(paths: list[Path]) -> list[tuple[Path, int | str, float, float]]:
    """Read files in a process of their own: each with its samples or its reason, the seconds, and the peak in MB.

    Raises:
        AssertionError: the process crashed; the message names the file.
    """
    code = "from support.fuzzing import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(map(str, paths)),
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(paths), f"{paths[len(results)]}: exit code {done.returncode}, {done.stderr[-2000:]}"
    return [(path, *result) for path, result in zip(paths, results, strict=True)]


def main() -> None:
    """Read the files that standard input names."""
    from e2v_cli.audio.errors import AudioError
    from e2v_cli.audio.formats import open_audio

    for line in sys.stdin:
        begin = time.monotonic()
        try:
            with open_audio(line.rstrip("\n")) as decoder:
                position = 0
                while len(block := decoder.read(100_000)):
                    position += len(block)
                decoder.check_end(position)
            outcome: int | str = position
        except AudioError as error:
            outcome = error.reason
        # not by getrusage, which counts the parent, too, before the program was started
        peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000
        sys.stdout.write(json.dumps((outcome, time.monotonic() - begin, peak)) + "\n")
        sys.stdout.flush()
