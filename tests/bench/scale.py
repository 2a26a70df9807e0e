"""Measure e2v on a list of ten million lines: start, merge, resume, status, each with its peak memory.

    make bench-scale

All lines name the same real file. What such a run would have journalled is made here, since computing it would take
days; everything else is the real command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from support.archives import write_archive

from e2v_cli.journal.history import read_header
from e2v_cli.journal.journal import Elapsed, Journal, find_journals
from e2v_cli.options import Shard
from e2v_cli.records import DoneRecord

ROOT = Path(__file__).parent.parent.parent
CLIP = ROOT / "sample_data" / "wav" / "f1-0001.wav"
EMBEDDING_BYTES = 480
ROW = "\t".join(["surprised", "0.808240", "1.5461", "1", *["0.101010"] * 9])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure e2v on a very long list.")
    parser.add_argument("--lines", type=int, default=10_000_000, help="lines (default: %(default)s)")
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as temporary:
        scp, out = Path(temporary) / "wav.scp", Path(temporary) / "out"
        with scp.open("w") as file:
            file.writelines(f"{utt_id} {CLIP}\n" for utt_id in make_ids(lines))
        command = ["predict", str(scp), "-m", "sample", "-o", str(out), "--embeddings", "ark", "-j", "1", "-q"]
        print(f"{lines:,} lines of {scp.stat().st_size / lines:.0f} bytes\n")
        print("| | seconds | peak memory |\n|---|---|---|")
        measure_start(command, out)
        finish(out, lines)
        measure("merge", ["merge", str(out)])
        measure("resume of the finished run", command)
        measure("status", ["status", str(out)])
        (out / "predictions.tsv").unlink()
        measure("resume where the final files are missing, and merge", command)


def make_ids(lines: int) -> Iterator[str]:
    """Make ids such as corpora have."""
    return (f"speaker{index // 1000:05d}-{index:08d}" for index in range(lines))


def measure_start(command: Sequence[str], out: Path) -> None:
    """Time a run until its first result is journalled."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "e2v_cli", *command], stderr=subprocess.DEVNULL)
    while not any(b"\tdone\t" in journal.path.read_bytes() for journal in find_journals(out)):
        if process.poll() is not None:
            raise SystemExit(f"e2v ended with {process.returncode}")
        time.sleep(0.1)
    seconds = time.monotonic() - started
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    process.terminate()
    process.wait()
    print_row("start, until the first result is safe", seconds, peak)


def finish(out: Path, lines: int) -> None:
    """Leave OUT as a run of the whole list would, had it been killed before it wrote the final files."""
    (journal,) = find_journals(out)
    header = read_header(journal.path)
    assert header is not None
    journal.path.unlink()
    (archive,) = out.glob("embeddings.*.ark")
    write_archive(archive, (lines - 1) * EMBEDDING_BYTES)
    ids = make_ids(lines)
    with closing(Journal(out, Shard(1, 1), header)) as written:
        for first in range(0, lines, 5000):
            count = min(5000, lines - first)
            entries = [
                DoneRecord(index, 1.5461, 76, f"{archive.name}:{index * EMBEDDING_BYTES}", "", f"{next(ids)}\t{ROW}")
                for index in range(first, first + count)
            ]
            written.append(entries, [], Elapsed(first, first, first * 1.5, first + count))
        written.end(Elapsed(lines, lines, lines * 1.5, lines))


def measure(name: str, command: Sequence[str]) -> None:
    """Time a command that ends by itself."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "e2v_cli", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: e2v ended with {process.returncode}")
    print_row(name, time.monotonic() - started, usage.ru_maxrss)


def print_row(name: str, seconds: float, peak_kilobytes: int) -> None:
    """Print a row of the table."""
    print(f"| {name} | {seconds:.1f} | {peak_kilobytes / 1000:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
