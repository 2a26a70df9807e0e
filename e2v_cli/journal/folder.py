"""What the journals of an OUT say together: of which run it is, what is done, which shards are at their end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.blocks import BlockPlan
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal.history import Record, has_ended, read_header
from e2v_cli.journal.ids import Ids
from e2v_cli.journal.journal import Header, JournalFile, find_journals
from e2v_cli.options import Fingerprint, Shard


@dataclass(frozen=True)
class Run:
    """The run that an OUT is of: what its newest attempt says."""

    header: Header
    num_shards: int


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
        _compare(output_dir, header.fingerprint, newest.fingerprint)
    return Run(newest, shard.count)


def read_headers(output_dir: Path) -> Iterator[tuple[JournalFile, Header]]:
    """Read the headers of all journals of OUT; one that was killed before its header was whole is none."""
    for file in find_journals(output_dir):
        header = read_header(file.path)
        if header is not None:
            yield file, header


def refuse_other_fingerprints(output_dir: Path, wanted: Fingerprint) -> None:
    """Check that all that OUT holds is of the same run.

    Raises:
        OutputConflictError: it isn't; the message names what differs.
    """
    for _, header in read_headers(output_dir):
        _compare(output_dir, header.fingerprint, wanted)


def _compare(output_dir: Path, found: Fingerprint, wanted: Fingerprint) -> None:
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


def plan_for(record: Record, ids: Ids, costs: NDArray[np.float32] | None) -> BlockPlan:
    """Plan what is to be computed of a list: all but what was done when the list was another.

    Args:
        record: what is done.
        ids: the list.
        costs: (utterances,) by which blocks are dealt to shards.
    """
    return BlockPlan(np.flatnonzero(~record.done_before), ids.recording_groups, costs)


def find_ended(output_dir: Path, input_sha256: str) -> set[Shard]:
    """Find the shards whose newest attempt has ended, and was at this list."""
    newest = _read_newest(output_dir).items()
    return {shard for shard, (file, header) in newest if header.input_sha256 == input_sha256 and has_ended(file.path)}


def find_at_other_lists(output_dir: Path, input_sha256: str) -> set[Shard]:
    """Find the shards whose newest attempt was at another list."""
    newest = _read_newest(output_dir).items()
    return {shard for shard, (_, header) in newest if header.input_sha256 != input_sha256}


def _read_newest(output_dir: Path) -> dict[Shard, tuple[JournalFile, Header]]:
    return {file.shard: (file, header) for file, header in read_headers(output_dir)}


def is_published(output_dir: Path, input_sha256: str) -> bool:
    """Say whether all final files are there, in place, and those of this list and of all that the journals say."""
    try:
        content = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(content, dict):
        return False
    sources = describe_sources(output_dir, input_sha256, read_sizes(output_dir))
    if any(content.get(name) != value for name, value in sources.items()):
        return False
    return all((output_dir / name).exists() for name in content["files"])


def is_shown_alike(output_dir: Path, shard: Shard, header: Header) -> bool:
    """Say whether the newest attempt at a shard wanted the timeline to be shown as a header says."""
    newest = _read_newest(output_dir).get(shard)
    wanted = (header.timeline_formats, header.join)
    return newest is not None and (newest[1].timeline_formats, newest[1].join) == wanted


def read_sizes(output_dir: Path) -> dict[str, int]:
    """Read how many bytes the journals have, by name: none is ever changed without growing."""
    return {journal.path.name: journal.path.stat().st_size for journal in find_journals(output_dir)}


def describe_sources(output_dir: Path, input_sha256: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """Say of what, and for which place, the final files were made."""
    sources = hashlib.sha256(bytes(output_dir.resolve()) + b"\n")
    for name, size in sizes.items():
        sources.update(f"{name} {size}\n".encode())
    return {"input_sha256": input_sha256, "sources_sha256": sources.hexdigest()}
