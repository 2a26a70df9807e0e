"""The journals → the files that users read, in input order, each published by rename when it is whole."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from e2v_cli import __version__
from e2v_cli.errors import OutputError
from e2v_cli.journal.folder import describe_sources, read_headers
from e2v_cli.journal.history import Record
from e2v_cli.journal.ids import Ids, remove_other_ids
from e2v_cli.journal.journal import Elapsed, Header, JournalFile
from e2v_cli.journal.results import EMBEDDING_LISTS, RESULTS, check_archives, check_timelines, remove_other_results
from e2v_cli.options import Shard
from e2v_cli.records import Summary
from e2v_cli.results.tables import FAILURES_HEADER, kaldi_key, predictions_header
from e2v_cli.system.text import tsv_row
from e2v_cli.results.timeline import Timeline, timeline_header
from e2v_cli.system.files import published, remove_drafts


def publish(output_dir: Path, ids: Ids, record: Record, header: Header) -> Summary:
    """Write the final files of a run of which every utterance is done or has failed.

    Raises:
        OutputError: an archive is gone that the journals speak of.
    """
    check_archives(output_dir, record.archives)
    check_timelines(output_dir, record.timelines)
    labels = header.labels
    embeddings = str(header.fingerprint["embeddings"])
    gap = b"\t" if embeddings == "npy" else b" "
    home = bytes(output_dir.resolve()) + b"/"
    duration_column = 2 if labels else 0
    kaldi_labels = {tsv_row([label]).encode(): kaldi_key(tsv_row([label])).encode() for label in labels}
    done, audio_seconds = 0, 0.0
    for name in RESULTS:
        remove_drafts(output_dir / name)
    files: list[str] = []
    with ExitStack() as stack:

        def create(name: str, *columns: str) -> BinaryIO:
            files.append(name)
            file = stack.enter_context(published(output_dir / name))
            file.write((tsv_row(columns) + "\n").encode() if columns else b"")
            return file

        predictions = create("predictions.tsv", *predictions_header(labels))  # published last, since it was first
        failures = create("failures.tsv", *FAILURES_HEADER)
        durations, frames = create("utt2dur"), create("utt2num_frames")
        places = [create(name) for name in EMBEDDING_LISTS[embeddings]]
        emotions = create("utt2emo") if labels else None
        create("frame_shift").write(f"{header.frame_shift:g}\n".encode())
        timeline = None
        if header.fingerprint["timeline"] != "off":
            table = create("timeline.tsv", *timeline_header(labels))
            timeline = Timeline(output_dir, table, header.timeline_formats, header.join, create)
            stack.enter_context(closing(timeline))
        for keys, lines in _read_in_order(ids, record):
            for key, line in zip(keys, lines, strict=True):
                kind, num_frames, place, spans, row = line.split(b"\t", 4)
                utt_id, rest = row.split(b"\t", 1)
                if utt_id != key:
                    raise OutputError(f"{output_dir}: {key!r} was taken for {utt_id!r}; run the same command again")
                if kind != b"done":
                    failures.write(row)
                    continue
                predictions.write(row)
                cells = rest.split(b"\t", duration_column + 1)
                duration = cells[duration_column]
                done += 1
                audio_seconds += float(duration)
                kaldi = key if key.isascii() and b" " not in key else kaldi_key(key.decode()).encode()
                durations.write(b"%b %b\n" % (kaldi, duration))
                frames.write(b"%b %b\n" % (kaldi, num_frames))
                if emotions:
                    emotions.write(b"%b %b\n" % (kaldi, kaldi_labels[cells[0]]))
                if timeline:
                    timeline.add(key.decode(), float(duration), spans.decode())
                for file in places:
                    file.write(b"%b%b%b%b\n" % (kaldi if gap == b" " else key, gap, home, place))
    elapsed = sum_elapsed(record.elapsed)
    summary = Summary(
        input=len(ids),
        done=done,
        failed=len(ids) - done,
        audio_seconds=audio_seconds,
        wall_seconds=elapsed.wall_seconds,
        encode_seconds=elapsed.encode_seconds,
    )
    with published(output_dir / "run.json") as file:
        content = {
            **_run_facts(header),
            **describe_sources(output_dir, ids.digest, record.sizes),
            **_count_facts(summary),
            "files": sorted(files),
        }
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
    remove_other_ids(output_dir, ids.digest)
    formats = {name for _, earlier in read_headers(output_dir) for name in earlier.timeline_formats}
    remove_other_results(output_dir, [*files, "run.json"], formats - set(header.timeline_formats))
    return summary


def sum_elapsed(elapsed: Mapping[JournalFile, Elapsed]) -> Elapsed:
    """Sum up attempts at the same shard; shards of the same run count as one after the other only in what they did."""
    shards: dict[int, dict[Shard, Elapsed]] = defaultdict(lambda: defaultdict(Elapsed))
    for journal, attempt in elapsed.items():
        shards[journal.shard.count][journal.shard] += attempt
    total = Elapsed()
    for run in shards.values():
        total += Elapsed(
            wall_seconds=max(shard.wall_seconds for shard in run.values()),
            encode_seconds=max(shard.encode_seconds for shard in run.values()),
            audio_seconds=sum(shard.audio_seconds for shard in run.values()),
            finished=sum(shard.finished for shard in run.values()),
        )
    return total


def _read_in_order(ids: Ids, record: Record) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Read ids and what the journals say of each, some thousand at a time."""
    first = 0
    for keys in ids.ids():
        yield keys, record.read_lines(first, first + len(keys))
        first += len(keys)


def _run_facts(header: Header) -> dict[str, Any]:
    """Say what was run."""
    options = {key: value for key, value in header.fingerprint.items() if key not in ("model", "labels")}
    packages = ("torch", "numpy", "soundfile", "soxr", "kaldiio")
    return {
        "model": {
            "name": header.model,
            "sha256": header.fingerprint["model"],
            "labels": list(header.labels),
        },
        "options": options,
        "versions": {
            "e2v": __version__,
            "python": platform.python_version(),
            **{package: _find_version(package) for package in packages},
        },
    }


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it was installed in some way of its own
        return "unknown"


def _count_facts(summary: Summary) -> dict[str, Any]:
    """Say how it went."""
    return {
        "counts": {"input": summary.input, "done": summary.done, "failed": summary.failed},
        "audio_seconds": round(summary.audio_seconds, 3),
        "wall_seconds": round(summary.wall_seconds, 3),
        "encode_seconds": round(summary.encode_seconds, 3),
        "speed": round(summary.speed, 3),
    }
