"""Notes of the jobs that were submitted for a run, one file a submission: ``OUT/slurm/71203.json``.

``e2v status`` and a second ``e2v submit`` read them to find the jobs and their logs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from operator import itemgetter
from pathlib import Path

from e2v_cli.errors import OutputError
from e2v_cli.options import Shard
from e2v_cli.system.files import published

FOLDER = "slurm"
"""The folder in OUT of the scripts and of the notes."""


@dataclass(frozen=True)
class Submission:
    """A job array for some of the shards of a run, and the job that merges them."""

    array: str
    """Number of the array's job; empty if only the merge was left."""
    shards: tuple[int, ...]
    """Indexes of the shards that the array computes; its elements have the same indexes."""
    count: int
    """Number of all shards of the run."""
    merge: str
    """Number of the merge job; empty if it could not be submitted."""
    input_sha256: str
    """Digest of the list."""
    submitted: str
    """Time of the submission, in ISO format with the time zone."""

    def name_of(self, shard: Shard) -> str:
        """Return Slurm's name of a shard's job, ``71203_5``."""
        return f"{self.array}_{shard.index}"

    def log_of(self, shard: Shard) -> str:
        """Return the path of the log of a shard's job, relative to OUT."""
        return f"log/slurm-{self.name_of(shard)}.log"


def note_submission(output_dir: Path, submission: Submission) -> None:
    """Write the note of a submission into OUT; it replaces an earlier note of the same array."""
    path = output_dir / FOLDER / f"{submission.array or submission.merge}.json"
    with published(path) as file:
        file.write(json.dumps(asdict(submission), indent=2).encode() + b"\n")


def read_submissions(output_dir: Path) -> list[Submission]:
    """Read the submissions of a run, the oldest one first.

    Raises:
        OutputError: one can't be read.
    """
    found = []
    for path in (output_dir / FOLDER).glob("*.json"):
        try:
            submission = Submission(**json.loads(path.read_bytes()))
            when = datetime.fromisoformat(submission.submitted).astimezone()
            found.append((when, replace(submission, shards=tuple(submission.shards))))
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(f"{path}: not a record of submitted jobs ({error}); remove it") from None
    return [submission for _, submission in sorted(found, key=itemgetter(0))]


def find_logs(output_dir: Path, num_shards: int) -> dict[Shard, str]:
    """Find the log of each shard's newest job, among submissions of ``num_shards`` shards: paths relative to OUT."""
    logs = {}
    for submission in read_submissions(output_dir):
        if submission.count == num_shards:
            for index in submission.shards:
                shard = Shard(num_shards, index)
                logs[shard] = submission.log_of(shard)
    return logs
