"""``e2v status``: how far a run is, from its journals alone."""

from __future__ import annotations

import time
from pathlib import Path

from e2v_cli.history import find_run, is_published, plan_for, read_record
from e2v_cli.journal import DONE, LEFT, Elapsed, Record
from e2v_cli.output import IdList, read_owner
from e2v_cli.settings import Shard
from e2v_cli.tables import clock, columns

COLUMNS = ("shard", "done", "failed", "left", "speed", "ready in", "who")


def describe_run(output_dir: Path) -> str:
    """Describe a run: its totals, and a line for each shard.

    Raises:
        OutputError: there is none, or it can't be read.
    """
    run = find_run(output_dir)
    ids = IdList(output_dir, run.header.input_sha256)
    record = read_record(output_dir, ids)
    plan = plan_for(record, ids)
    status = record.status
    done, left = int((status == DONE).sum()), int((status == LEFT).sum())
    state = "complete" if is_published(output_dir, ids.digest) else "not merged yet" if not left else "not complete"
    head = f"{output_dir}: {state}\n{len(ids)} utterances: {done} done, {len(ids) - done - left} failed, {left} left\n"
    members = status[plan.members]
    counts = [
        plan.count_by_shard(chosen, run.num_shards)
        for chosen in (members == DONE, (members != DONE) & (members != LEFT), members == LEFT)
    ]
    rows: list[tuple[str, ...]] = [COLUMNS]
    for index in range(run.num_shards):
        shard = Shard(run.num_shards, index + 1)
        shard_done, shard_failed, shard_left = (int(count[index]) for count in counts)
        newest = _newest(record, shard)
        rows.append(
            (
                str(shard),
                *map(str, (shard_done, shard_failed, shard_left)),
                _speed(newest),
                _ready_in(newest, shard_left),
                _who(output_dir, shard, record) if shard_left else "",
            )
        )
    return head + columns(rows)


def _newest(record: Record, shard: Shard) -> Elapsed:
    """Find what the newest attempt at a shard has taken and done."""
    attempts = [elapsed for journal, elapsed in record.elapsed.items() if journal.shard == shard]
    return attempts[-1] if attempts else Elapsed()


def _speed(elapsed: Elapsed) -> str:
    return f"{elapsed.audio_seconds / elapsed.encode_seconds:.1f}×" if elapsed.encode_seconds else "–"


def _ready_in(elapsed: Elapsed, left: int) -> str:
    if not left:
        return ""
    if not elapsed.finished:
        return "–"
    return clock(left * elapsed.encode_seconds / elapsed.finished)


def _who(output_dir: Path, shard: Shard, record: Record) -> str:
    """Say who is at work at a shard, or that nobody is."""
    owner = read_owner(output_dir, shard)
    if owner is None:
        return "nobody: run it (again)"
    if owner.is_dead:
        return f"{owner}, which is dead: run it again"
    paths = [journal.path for journal in record.elapsed if journal.shard == shard]
    if not paths:
        return str(owner)
    return f"{owner}, last result {time.time() - paths[-1].stat().st_mtime:.0f} s ago"
