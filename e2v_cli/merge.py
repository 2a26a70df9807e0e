"""The journals → the files that users read, in input order, each published by rename when it is whole."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from e2v_cli import __version__
from e2v_cli.batching import Plan
from e2v_cli.durable import published, remove_drafts
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal import LEFT, Elapsed, Header, JournalFile, Record, find_journals, has_ended, read_header
from e2v_cli.output import RESULTS, IdList, Ids, check_archives, locked, remove_other_ids
from e2v_cli.records import Summary
from e2v_cli.settings import Fingerprint, Shard
from e2v_cli.tables import FAILURES_HEADER, kaldi_key, predictions_header, tsv_row


@dataclass(frozen=True)
class Run:
    """The run that an OUT is of: what its newest attempt says."""

    header: Header
    num_shards: int


def merge(output_dir: Path) -> Summary:
    """Run ``e2v merge``: put the shards of a run together.

    Raises:
        OutputError: there is none, or parts of it are missing.
        OutputConflictError: parts are of different runs, or somebody else is merging.
    """
    run = find_run(output_dir)
    with locked(output_dir, "merge"):
        ids = IdList(output_dir, run.header.input_sha256)
        return publish_if_complete(output_dir, ids, read_record(output_dir, ids), run)


def publish_if_complete(output_dir: Path, ids: Ids, record: Record, run: Run) -> Summary:
    """Write the final files, if the journals say something of every utterance.

    Raises:
        OutputError: they don't; the message says which shards are to be run.
    """
    left = record.status == LEFT
    if left.any():
        raise OutputError(f"{output_dir} is not complete: {_describe_left(left, record, run.num_shards)}")
    check_archives(output_dir, record.archives)
    return _publish(output_dir, ids, record, run.header)


def find_run(output_dir: Path) -> Run:
    """Find out of which run OUT is.

    Raises:
        OutputError: it holds none.
        OutputConflictError: it holds several, with different fingerprints.
    """
    headers = [(header, file.shard) for file, header in read_headers(output_dir)]
    if not headers:
        raise OutputError(f"{output_dir} holds no run: name the folder that was e2v predict's -o")
    newest, shard = max(reversed(headers), key=lambda item: datetime.fromisoformat(item[0].started))
    for header, _ in headers:
        compare_fingerprints(output_dir, header.fingerprint, newest.fingerprint)
    return Run(newest, shard.count)


def read_headers(output_dir: Path) -> Iterator[tuple[JournalFile, Header]]:
    """Read the headers of all journals of OUT; one that was killed before its header was whole is none."""
    for file in find_journals(output_dir):
        header = read_header(file.path)
        if header is not None:
            yield file, header


def compare_fingerprints(output_dir: Path, found: Fingerprint, wanted: Fingerprint) -> None:
    """Raise OutputConflictError, which names what differs, unless OUT is of the same run."""
    differences = [
        f"{key} was {found.get(key)}, is {wanted.get(key)}"
        for key in dict.fromkeys([*found, *wanted])
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise OutputConflictError(
            f"{output_dir} holds a different run: {'; '.join(differences)}. "
            "Choose another -o, or throw away what is there with --overwrite"
        )


def read_record(output_dir: Path, ids: Ids) -> Record:
    """Read all that the journals of OUT say of a list."""
    record = Record(ids.index, ids.digest)
    for journal in find_journals(output_dir):
        record.add(journal)
    return record


def plan_for(record: Record) -> Plan:
    """Plan what is to be computed: all but what was done when the list was another."""
    return Plan(np.flatnonzero(~record.done_before))


def find_ended(output_dir: Path, input_sha256: str) -> set[Shard]:
    """Find the shards whose newest attempt has ended, and was at this list."""
    newest = {file.shard: (file, header) for file, header in read_headers(output_dir)}
    return {
        shard
        for shard, (file, header) in newest.items()
        if header.input_sha256 == input_sha256 and has_ended(file.path)
    }


def is_published(output_dir: Path, input_sha256: str) -> bool:
    """Say whether the final files are there, and are those of this list and of all that the journals say."""
    try:
        content = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    expected = _source_facts(input_sha256, read_sizes(output_dir)).items()
    return isinstance(content, dict) and expected <= content.items() and (output_dir / "predictions.tsv").exists()


def read_sizes(output_dir: Path) -> dict[str, int]:
    """Read how many bytes the journals have, by name: none is ever changed without growing."""
    return {journal.path.name: journal.path.stat().st_size for journal in find_journals(output_dir)}


def _publish(output_dir: Path, ids: Ids, record: Record, header: Header) -> Summary:
    """Write the final files of a complete run: every utterance is done or has failed."""
    fingerprint = header.fingerprint
    labels = header.labels
    embeddings = {"none": None, "ark": "embeddings.scp", "npy": "embeddings.tsv"}[str(fingerprint["embeddings"])]
    gap = b"\t" if embeddings == "embeddings.tsv" else b" "
    home = bytes(output_dir.resolve()) + b"/"
    duration_column = 2 if labels else 0
    done, audio_seconds = 0, 0.0
    for name in RESULTS:
        remove_drafts(output_dir / name)
    with ExitStack() as stack:

        def create(name: str, *header: str) -> Any:
            file = stack.enter_context(published(output_dir / name))
            file.write((tsv_row(header) + "\n").encode() if header else b"")
            return file

        predictions = create("predictions.tsv", *predictions_header(labels))  # published last, since it was first
        failures = create("failures.tsv", *FAILURES_HEADER)
        durations, frames = create("utt2dur"), create("utt2num_frames")
        places = create(embeddings) if embeddings else None
        for keys, lines in _read_in_order(ids, record):
            for key, line in zip(keys, lines, strict=True):
                kind, num_frames, place, row = line.split(b"\t", 3)
                utt_id, rest = row.split(b"\t", 1)
                if utt_id != key:
                    raise OutputError(f"{output_dir}: {key!r} was taken for {utt_id!r}; run the same command again")
                if kind != b"done":
                    failures.write(row)
                    continue
                predictions.write(row)
                duration = rest.split(b"\t", duration_column + 1)[duration_column]
                done += 1
                audio_seconds += float(duration)
                kaldi = kaldi_key(key.decode()).encode() if b" " in key else key
                durations.write(b"%b %b\n" % (kaldi, duration))
                frames.write(b"%b %b\n" % (kaldi, num_frames))
                if places:
                    places.write(b"%b%b%b%b\n" % (kaldi if gap == b" " else key, gap, home, place))
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
        content = {**_run_facts(header), **_source_facts(ids.digest, record.sizes), **_count_facts(summary)}
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
    remove_other_ids(output_dir, ids.digest)
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


def _describe_left(left: Any, record: Record, num_shards: int) -> str:
    count = int(left.sum())
    if num_shards == 1:
        return f"{count} of {len(left)} utterances are left; run the same e2v predict command again"
    plan = plan_for(record)
    by_shard = plan.count_by_shard(left[plan.members], num_shards)
    shards = [f"{number}/{num_shards} ({by_shard[number - 1]} left)" for number in np.flatnonzero(by_shard) + 1]
    return f"{count} of {len(left)} utterances are left; run e2v predict again with --shard {', '.join(shards)}"


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
            **{package: version(package) for package in packages},
        },
    }


def _source_facts(input_sha256: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Say what the final files were made of."""
    journals = "".join(f"{name} {size}\n" for name, size in sizes.items())
    return {"input_sha256": input_sha256, "journals_sha256": hashlib.sha256(journals.encode()).hexdigest()}


def _count_facts(summary: Summary) -> dict[str, Any]:
    """Say how it went."""
    return {
        "counts": {"input": summary.input, "done": summary.done, "failed": summary.failed},
        "audio_seconds": round(summary.audio_seconds, 3),
        "wall_seconds": round(summary.wall_seconds, 3),
        "encode_seconds": round(summary.encode_seconds, 3),
        "speed": round(summary.speed, 3),
    }
