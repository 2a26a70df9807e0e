"""``e2v status``: how far a run is, from its journals, and from what Slurm says of its jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from e2v_cli.cluster.slurm import JobState, ask_states
from e2v_cli.cluster.submissions import Submission, read_submissions
from e2v_cli.cluster.task import Task
from e2v_cli.errors import OutputError, SlurmError
from e2v_cli.journal.folder import find_run, is_published, plan_for, read_record
from e2v_cli.journal.history import Record
from e2v_cli.journal.ids import IdList, read_costs
from e2v_cli.journal.journal import DONE, LEFT, Elapsed
from e2v_cli.journal.locks import MERGE, Owner, read_owner
from e2v_cli.options import Shard
from e2v_cli.system.text import clock, columns

logger = logging.getLogger(__name__)

COLUMNS = ("shard", "done", "failed", "left", "speed", "ready in", "who")


class State(Enum):
    """How a run stands."""

    COMPLETE = "complete"
    """The final files are there."""
    UNDER_WAY = "under way"
    """Somebody is at work, or waits in Slurm's queue."""
    WAITING = "waiting for you"
    """Something is left to be done, and nobody will do it by himself."""


@dataclass(frozen=True)
class Report:
    """What there is to be said of a run."""

    text: str
    state: State


@dataclass(frozen=True)
class _Part:
    """A shard: how far it is, and who is at it."""

    shard: Shard
    done: int
    failed: int
    left: int
    newest: Elapsed
    """What the newest attempt has taken and done."""
    who: str
    is_under_way: bool

    @property
    def speed(self) -> float:
        """Seconds of audio encoded in a second; 0 where nothing was."""
        return self.newest.audio_seconds / self.newest.encode_seconds if self.newest.encode_seconds else 0.0

    @property
    def ready_in(self) -> float | None:
        """Seconds until it is at its end, if it goes on as before; None where nothing is known of that."""
        if not self.left:
            return 0.0
        return self.left * self.newest.encode_seconds / self.newest.finished if self.newest.finished else None

    def row(self) -> tuple[str, ...]:
        """Show it as a row of the table."""
        ready_in = "–" if self.ready_in is None else clock(self.ready_in) if self.left else ""
        counts = map(str, (self.done, self.failed, self.left))
        return (str(self.shard), *counts, f"{self.speed:.1f}×" if self.speed else "–", ready_in, self.who)


@dataclass(frozen=True)
class _Crowd:
    """Who is, or was, at work in OUT, and what Slurm says of them."""

    output_dir: Path
    submissions: Sequence[Submission]
    owners: Mapping[str, Owner]
    """Of locks, by their name."""
    states: Mapping[str, JobState] | None
    """Of jobs, by their name; None: Slurm can't be asked."""

    def is_at_work(self, name: str) -> bool:
        """Say whether somebody is at what has this name, as far as anybody can tell."""
        owner = self.owners.get(name)
        if owner is None or owner.is_dead:
            return False
        if owner.task is None or self.states is None:
            return True
        job = self.states.get(_job_of(owner.task))
        return job is not None and job.is_at_work

    def find_merge(self) -> JobState | None:
        """Find the job that merges the shards, where it waits or is at work."""
        merge = self.states.get(self.submissions[-1].merge) if self.submissions and self.states else None
        return merge if merge is not None and merge.is_alive else None


def describe_run(output_dir: Path) -> Report:
    """Describe a run: its totals, and a line for each shard.

    Raises:
        OutputError: there is none, or it can't be read.
    """
    submissions = read_submissions(output_dir)
    digest, num_shards = _find_list(output_dir, submissions)
    shards = [Shard(num_shards, index) for index in range(1, num_shards + 1)]
    crowd = _meet(output_dir, submissions, [*(shard.name for shard in shards), MERGE])
    ids = IdList(output_dir, digest)
    record = read_record(output_dir, ids)
    plan = plan_for(record, ids, read_costs(output_dir, ids))
    status = record.status
    done, left = int((status == DONE).sum()), int((status == LEFT).sum())
    members = status[plan.members]
    counts = [
        plan.count_by_shard(chosen, num_shards).tolist()
        for chosen in (members == DONE, (members != DONE) & (members != LEFT), members == LEFT)
    ]
    parts = []
    for shard, shard_done, shard_failed, shard_left in zip(shards, *counts, strict=True):
        who, is_under_way = _find_who(crowd, shard, record) if shard_left else ("", False)
        parts.append(_Part(shard, shard_done, shard_failed, shard_left, _newest(record, shard), who, is_under_way))
    state = _judge(is_published(output_dir, ids.digest), parts, crowd)
    plural = "" if len(ids) == 1 else "s"
    head = [
        f"{output_dir}: {_say_state(state, left, crowd)}",
        f"{len(ids)} utterance{plural}: {done} done, {len(ids) - done - left} failed, {left} left{_sum_up(parts)}",
    ]
    return Report("\n".join(head) + "\n" + columns([COLUMNS, *(part.row() for part in parts)]), state)


def _meet(output_dir: Path, submissions: Sequence[Submission], names: Iterable[str]) -> _Crowd:
    """Find out who is at what in OUT, and ask Slurm of their jobs."""
    owners = {name: owner for name in names if (owner := read_owner(output_dir, name))}
    jobs = [job for item in submissions for job in (item.array, item.merge) if job]
    jobs += [_job_of(owner.task) for owner in owners.values() if owner.task]
    states = None
    try:
        states = ask_states(jobs)
    except SlurmError as error:
        logger.warning("%s", error)
    return _Crowd(output_dir, submissions, owners, states)


def _job_of(task: Task) -> str:
    """Name the job of a task; those of an ``srun`` are in the same one."""
    return task.job.partition(".")[0]


def _find_list(output_dir: Path, submissions: Sequence[Submission]) -> tuple[str, int]:
    """Find of which list the run is, by its digest, and into how many shards it is dealt."""
    try:
        run = find_run(output_dir)
    except OutputError:
        if not submissions:
            raise
    else:
        begun = datetime.fromisoformat(run.header.started)
        if not submissions or datetime.fromisoformat(submissions[-1].submitted) <= begun:
            return run.header.input_sha256, run.num_shards
    return submissions[-1].input_sha256, submissions[-1].count


def _newest(record: Record, shard: Shard) -> Elapsed:
    """Find what the newest attempt at a shard has taken and done."""
    attempts = [elapsed for journal, elapsed in record.elapsed.items() if journal.shard == shard]
    return attempts[-1] if attempts else Elapsed()


def _find_who(crowd: _Crowd, shard: Shard, record: Record) -> tuple[str, bool]:
    """Say who is at work at a shard, or waits to be, or that nobody is; and whether somebody is."""
    owner = crowd.owners.get(shard.name)
    if owner is not None and crowd.is_at_work(shard.name):
        return _describe_owner(owner, record, shard), True
    submission = next((item for item in reversed(crowd.submissions) if shard.index in item.shards), None)
    if submission is None or submission.count != shard.count:
        return ("nobody: run it (again)" if owner is None else f"{owner}, which is dead: run it again"), False
    name = submission.name_of(shard)
    if crowd.states is None:
        return f"job {name}, of which Slurm can't be asked", True
    job = crowd.states.get(name)
    if job is not None and job.is_waiting:
        return f"job {name} waits ({job.reason})", True
    if job is not None and job.is_at_work:
        return f"job {name} begins on {job.node}", True
    end = f"is {job.state}" if job else "is gone"
    return f"nobody: job {name} {end}, see {crowd.output_dir / submission.log_of(shard)}; e2v submit again", False


def _describe_owner(owner: Owner, record: Record, shard: Shard) -> str:
    paths = [journal.path for journal in record.elapsed if journal.shard == shard]
    if not paths:
        return str(owner)
    return f"{owner}, last result {time.time() - paths[-1].stat().st_mtime:.0f} s ago"


def _judge(published: bool, parts: Sequence[_Part], crowd: _Crowd) -> State:
    """Say how a run stands: under way only if no shard that has something left is forgotten."""
    if published:
        return State.COMPLETE
    left = [part for part in parts if part.left]
    if left:
        return State.UNDER_WAY if all(part.is_under_way for part in left) else State.WAITING
    merging = crowd.find_merge() is not None or any(map(crowd.is_at_work, crowd.owners))
    return State.UNDER_WAY if merging else State.WAITING


def _say_state(state: State, left: int, crowd: _Crowd) -> str:
    if state is State.COMPLETE:
        return "complete"
    if left:
        return "not complete"
    if state is State.WAITING:
        return "not merged yet: e2v merge does it"
    merge = crowd.find_merge()
    return f"not merged yet: job {merge.name} will do it" if merge else "not merged yet: somebody is at it"


def _sum_up(parts: Sequence[_Part]) -> str:
    """Say how fast all shards together are that are at work, and when the last one will be ready."""
    at_work = [part for part in parts if part.left and part.is_under_way and part.speed]
    times = [part.ready_in for part in parts if part.left]
    if not at_work:
        return ""
    speed = f"; {sum(part.speed for part in at_work):.1f}× real time"
    known = [seconds for seconds in times if seconds is not None]
    all_known = len(known) == len(times) and all(part.is_under_way for part in parts if part.left)
    return f"{speed}, ready in {clock(max(known))}" if all_known else speed
