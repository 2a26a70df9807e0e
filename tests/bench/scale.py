"""Measure e2v on very long lists: start, merge, resume, status, speakers, select, report, each with its peak memory.

    make bench-scale

All lines name the same real file. The journals of such a run are made here, since computing it would take days;
everything else is the real command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.archives import write_archive

from e2v_cli.corpus.blocks import BlockPlan
from e2v_cli.journal.history import read_header
from e2v_cli.journal.journal import Elapsed, Header, Journal
from e2v_cli.options import Shard
from e2v_cli.records import DoneRecord, Place

ROOT = Path(__file__).parent.parent.parent
CLIP = ROOT / "sample_data" / "wav" / "f1-0001.wav"
EMBEDDING_BYTES = 480
DURATION, NUM_FRAMES = 1.5461, 76
POSTERIORS = np.random.default_rng(0).dirichlet(np.full(9, 0.3), 997).round(6)
"""Probabilities of the utterances, by turns."""
LABELS = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")
BEST = POSTERIORS.argmax(axis=1).tolist()
ROWS = list(map(tuple, POSTERIORS.tolist()))

KEEP_ALL = ("--classes", ",".join(LABELS), "--threshold", "100%")

SHARDS = 64
SHARDED_LINES = 1_000_000
"""Lines of the list that is dealt over these shards."""

APPENDED = 5000
"""Lines that are appended to a journal at once."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure e2v on very long lists.")
    parser.add_argument("--lines", type=int, default=10_000_000, help="lines (default: %(default)s)")
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scp, out = write_list(folder, lines), folder / "out"
        command = predict_command(scp, out)
        print(f"{lines:,} lines of {scp.stat().st_size / lines:.0f} bytes\n")
        print("| | seconds | peak memory |\n|---|---|---|")
        measure_start("start, until the first result is safe", command, out)
        finish(out, lines, 1)
        measure("merge", ["merge", str(out)])
        measure("resume of the finished run", command)
        measure("status", ["status", str(out)])
        reference = write_reference(folder / "reference", lines)
        measure("score, with files", ["score", str(out), str(reference), "--by", "spk", "-o", str(folder / "score")])
        measure("speakers, of 1000 utterances each", ["speakers", str(out)])
        measure("select, by the means of classes", ["select", str(out), "-o", str(folder / "data")])
        measure("select, all of the nine classes", ["select", str(out), "-o", str(folder / "all"), *KEEP_ALL])
        (out / "predictions.tsv").unlink()
        measure("resume where the final files are missing, and merge", command)
        measure("report", ["report", str(out)])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = min(lines, SHARDED_LINES)
        scp, out = write_list(folder, lines), folder / "out"
        command = [*predict_command(scp, out), "--shard", f"1/{SHARDS}"]
        name = f"{lines:,} lines in {SHARDS} shards"
        measure_start(f"start of {name}, until the first result is safe", command, out)
        finish(out, lines, SHARDS)
        measure(f"merge of {name}", ["merge", str(out)])
        measure(f"resume of {name}, all finished", command)


def write_list(folder: Path, lines: int) -> Path:
    """Write a ``wav.scp``, and its ``utt2spk``."""
    path = folder / "wav.scp"
    with path.open("w") as file:
        file.writelines(f"{make_id(index)} {CLIP}\n" for index in range(lines))
    with (folder / "utt2spk").open("w") as file:
        file.writelines(f"{make_id(index)} {make_id(index).partition('-')[0]}\n" for index in range(lines))
    return path


def write_reference(folder: Path, lines: int) -> Path:
    """Write a Kaldi directory of labels, a third of them those of the run, and of speakers."""
    folder.mkdir()
    with (folder / "utt2emo").open("w") as labels, (folder / "utt2spk").open("w") as speakers:
        for index in range(lines):
            utt_id = make_id(index)
            labels.write(f"{utt_id} {'happy' if index % 3 else 'surprised'}\n")
            speakers.write(f"{utt_id} {utt_id.partition('-')[0]}\n")
    return folder


def make_id(index: int) -> str:
    """Make an id like those of corpora."""
    return f"speaker{index // 1000:05d}-{index:08d}"


def predict_command(scp: Path, out: Path) -> list[str]:
    """Return the command of the run."""
    return ["predict", str(scp), "-m", "sample", "-o", str(out), "--embeddings", "ark", "-j", "1", "-q"]


def measure_start(name: str, command: Sequence[str], out: Path) -> None:
    """Time a run until its first result is in the journal, and stop it."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "e2v_cli", *command], stderr=subprocess.DEVNULL)
    while not any(b"\tdone\t" in journal.read_bytes() for journal in out.glob("journal.*")):
        if process.poll() is not None:
            raise SystemExit(f"{name}: e2v ended with {process.returncode}")
        time.sleep(0.1)
    seconds = time.monotonic() - started
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    process.terminate()
    process.wait()
    print_row(name, seconds, peak)


def finish(out: Path, lines: int, num_shards: int) -> None:
    """Replace the files of a stopped run by those of a whole run that was killed before the final files."""
    (path,) = out.glob("journal.*")
    header = read_header(path)
    assert header is not None
    for left in (path, *out.glob("embeddings.*.ark")):
        left.unlink()
    plan = BlockPlan(np.arange(lines))
    for index in range(1, num_shards + 1):
        shard = Shard(num_shards, index)
        indexes = np.concatenate([block.indices for block in plan.deal_blocks(shard)])
        write_journal(out, shard, header, indexes)


def write_journal(out: Path, shard: Shard, header: Header, indexes: NDArray[np.int64]) -> None:
    """Write the journal of a finished shard, and an archive that holds only the last embedding."""
    archive = out / f"embeddings.{shard.name}.1.ark"
    write_archive(archive, (len(indexes) - 1) * EMBEDDING_BYTES)
    with closing(Journal(out, shard, header)) as journal:
        for first in range(0, len(indexes), APPENDED):
            chunk = indexes[first : first + APPENDED].tolist()
            done = [
                DoneRecord(
                    index=index,
                    utt_id=make_id(index),
                    duration=DURATION,
                    num_frames=NUM_FRAMES,
                    windows=1,
                    label=LABELS[BEST[index % len(POSTERIORS)]],
                    posteriors=ROWS[index % len(POSTERIORS)],
                    embedding=Place(archive.name, offset * EMBEDDING_BYTES),
                    timelines=(),
                    source_checksum=zlib.crc32(bytes(CLIP)),
                )
                for offset, index in enumerate(chunk, first)
            ]
            journal.append(done, [], make_elapsed(first + len(chunk)))
        journal.end(make_elapsed(len(indexes)))


def make_elapsed(finished: int) -> Elapsed:
    """Make up the time of this many utterances."""
    return Elapsed(finished, finished, finished * DURATION, finished)


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
