"""TODO."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from e2v_cli.cluster.submissions import find_logs
from e2v_cli.errors import OutputError
from e2v_cli.journal.folder import find_run, is_published, plan_for, read_record
from e2v_cli.journal.history import Record
from e2v_cli.journal.ids import IdList, Ids, read_costs
from e2v_cli.journal.journal import LEFT
from e2v_cli.journal.locks import MERGE, locked
from e2v_cli.options import Shard
from e2v_cli.records import Summary
from e2v_cli.results.publish import publish


def merge(output_dir: Path) -> Summary | None:
    """Run ``e2v merge``: put the shards of a run together, unless they are.

    Raises:
        OutputError: there is none, or parts of it are missing.
        OutputConflictError: parts are of different runs, or somebody else is merging.
    """
    run = find_run(output_dir)
    with locked(output_dir, MERGE):
        if is_published(output_dir, run.header.input_sha256):
            return None
        ids = IdList(output_dir, run.header.input_sha256)
        record = read_record(output_dir, ids)
        if missing := describe_missing(output_dir, record, run.num_shards, ids):
            raise OutputError(f"{output_dir} is not complete: {missing}")
        return publish(output_dir, ids, record, run.header)


def describe_missing(output_dir: Path, record: Record, num_shards: int, ids: Ids) -> str:
    """Say what the journals say nothing of, and which shards are to be run; nothing where that is all."""
    left = record.status == LEFT
    if not left.any():
        return ""
    some = f"{left.sum()} of {len(left)} utterances are left"
    if num_shards == 1:
        return f"{some}; run the same e2v predict command again"
    plan = plan_for(record, ids, read_costs(output_dir, ids))
    by_shard = plan.count_by_shard(left[plan.members], num_shards)
    shards = {Shard(num_shards, int(place) + 1): int(by_shard[place]) for place in np.flatnonzero(by_shard)}
    logs = {shard: output_dir / log for shard, log in find_logs(output_dir, num_shards).items()}
    if not logs:
        described = [f"{shard} ({count} left)" for shard, count in shards.items()]
        return f"{some}; run e2v predict again with --shard {', '.join(described)}"
    described = [
        f"{shard} ({count} left{f', see {logs[shard]}' if shard in logs else ''})" for shard, count in shards.items()
    ]
    return f"{some}, of shards {', '.join(described)}; run the same e2v submit command again"
