"""``e2v merge``: the shards of a run → the final files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2v_cli.cluster.submissions import find_logs
from e2v_cli.errors import OutputError
from e2v_cli.journal.folder import RunFolder, plan_blocks
from e2v_cli.journal.history import History
from e2v_cli.journal.ids import IdList, Ids, read_costs
from e2v_cli.journal.journal import LEFT
from e2v_cli.journal.locks import MERGE, locked
from e2v_cli.options import Shard
from e2v_cli.records import Summary
from e2v_cli.results.publish import open_run_folder, publish, read_summary


@dataclass(frozen=True)
class Merged:
    """The merged run, and whether it was merged now."""

    summary: Summary
    is_new: bool


def merge(output_dir: Path) -> Merged:
    """Run ``e2v merge``; nothing is written if the final files are there.

    Raises:
        OutputError: there is no run, or parts of it are missing, or its ``run.json`` is damaged.
        OutputConflictError: parts are of different runs, or another process is merging.
    """
    folder = open_run_folder(output_dir)
    folder.refresh()
    folder.find_run()  # before a lock is left in any other folder
    with locked(output_dir, MERGE):
        folder.refresh()
        run = folder.find_run()
        if folder.is_published(run.header.input_sha256):
            return Merged(read_summary(output_dir), is_new=False)
        ids = IdList(output_dir, run.header.input_sha256)
        history = folder.read_history(ids)
        if missing := describe_missing(folder, history, run.num_shards, ids):
            raise OutputError(f"{output_dir} is not complete: {missing}")
        return Merged(publish(folder, ids, history, run.header), is_new=True)


def describe_missing(folder: RunFolder, history: History, num_shards: int, ids: Ids) -> str:
    """List the shards that still have utterances without a result, and the next move; empty if complete."""
    left = history.status == LEFT
    if not left.any():
        return ""
    some = f"{left.sum()} of {len(left)} utterances are left"
    if num_shards == 1:
        return f"{some}; run the same e2v predict command again"
    plan = plan_blocks(history, ids, read_costs(folder.path, ids))
    by_shard = plan.count_by_shard(left[plan.members], num_shards)
    shards = {Shard(num_shards, int(index) + 1): int(by_shard[index]) for index in np.flatnonzero(by_shard)}
    logs = {shard: folder.path / log for shard, log in find_logs(folder.path, num_shards).items()}
    if not logs:
        described = [f"{shard} ({count} left)" for shard, count in shards.items()]
        return f"{some}; run e2v predict again with --shard {', '.join(described)}"
    described = [
        f"{shard} ({count} left{f', see {logs[shard]}' if shard in logs else ''})" for shard, count in shards.items()
    ]
    return f"{some}, of shards {', '.join(described)}; run the same e2v submit command again"
