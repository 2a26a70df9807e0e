"""``e2v status``: the progress of a run, from its journals and from the states of its jobs in Slurm."""

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
from e2v_cli.journal.folder import RunFolder, plan_blocks
from e2v_cli.journal.history import History
from e2v_cli.journal.ids import IdList, read_costs
from e2v_cli.journal.journal import DONE, LEFT, Elapsed
from e2v_cli.journal.locks import MERGE, Owner, read_owner
from e2v_cli.options import Shard
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.text import clock, columns

logger = logging.getLogger(__name__)

COLUMNS = ("shard", "done", "failed", "left", "speed", "ready in", "who")


class State(Enum):
    """The state of a run."""

    COMPLETE = "complete"
    """The final files are there."""
    UNDER_WAY = "under way"
    """A process is at work, or waits in Slurm's queue."""
    WAITING = "waiting for you"
    """Something is left to be done, and no process will do it by itself."""


@dataclass(frozen=True)
class Report:
    """The state of a run, in words."""

    text: str
    state: State


@dataclass(frozen=True)
class _ShardStatus:
    """A shard: how far it is, and which process computes it."""

    shard: Shard
    done: int
    failed: int
    left: int
    newest: Elapsed
    """Time taken and utterances finished by the newest attempt."""
    who: str
    is_under_way: bool

    @property
    def speed(self) -> float:
        """Seconds of audio encoded in a second; 0 where nothing was."""
        return self.newest.audio_seconds / self.newest.encode_seconds if self.newest.encode_seconds else 0.0

    @property
    def ready_in(self) -> float | None:
        """Seconds until it is complete, at the speed so far; None if that is not known."""
        if not self.left:
            return 0.0
        return self.left * self.newest.encode_seconds / self.newest.finished if self.newest.finished else None

    def row(self) -> tuple[str, ...]:
        """Format it as a row of the table."""
        ready_in = "–" if self.ready_in is None else clock(self.ready_in) if self.left else ""
        counts = map(str, (self.done, self.failed, self.left))
        return (str(self.shard), *counts, f"{self.speed:.1f}×" if self.speed else "–", ready_in, self.who)


@dataclass(frozen=True)
class _Processes:
    """The processes that are, or were, at work in OUT, and the states of their jobs in Slurm."""

    output_dir: Path
    submissions: Sequence[Submission]
    owners: Mapping[str, Owner]
    """Of locks, by their name."""
    states: Mapping[str, JobState] | None
    """Of jobs, by their name; None: Slurm can't be asked."""

    def is_at_work(self, name: str) -> bool:
        """Whether a process holds the lock NAME, as far as can be told."""
        owner = self.owners.get(name)
        if owner is None or owner.is_dead:
            return False
        if owner.task is None or self.states is None:
            return True
        job = self.states.get(_job_of(owner.task))
        return job is not None and job.is_at_work

    def find_merge(self) -> JobState | None:
        """Find the job that merges the shards, if it waits or runs."""
        merge = self.states.get(self.submissions[-1].merge) if self.submissions and self.states else None
        return merge if merge is not None and merge.is_alive else None


def describe_run(output_dir: Path) -> Report:
    """Describe a run: its totals, and a line for each shard.

    Raises:
        OutputError: there is none, or it can't be read.
    """
    folder = open_run_folder(output_dir)
    folder.refresh()
    submissions = read_submissions(output_dir)
    digest, num_shards = _find_list(folder, submissions)
    shards = [Shard(num_shards, index) for index in range(1, num_shards + 1)]
    processes = _find_processes(output_dir, submissions, [*(shard.name for shard in shards), MERGE])
    ids = IdList(output_dir, digest)
    history = folder.read_history(ids)
    plan = plan_blocks(history, ids, read_costs(output_dir, ids))
    status = history.status
    done, left = int((status == DONE).sum()), int((status == LEFT).sum())
    members = status[plan.members]
    counts = [
        plan.count_by_shard(chosen, num_shards).tolist()
        for chosen in (members == DONE, (members != DONE) & (members != LEFT), members == LEFT)
    ]
    parts = []
    for shard, shard_done, shard_failed, shard_left in zip(shards, *counts, strict=True):
        who, is_under_way = _find_who(processes, shard, history) if shard_left else ("", False)
        parts.append(
            _ShardStatus(shard, shard_done, shard_failed, shard_left, _find_newest(history, shard), who, is_under_way)
        )
    state = _judge(folder.is_published(ids.digest), parts, processes)
    plural = "" if len(ids) == 1 else "s"
    head = [
        f"{output_dir}: {_describe_state(state, left, processes)}",
        f"{len(ids)} utterance{plural}: {done} done, {len(ids) - done - left} failed, {left} left{_sum_up(parts)}",
    ]
    return Report("\n".join(head) + "\n" + columns([COLUMNS, *(part.row() for part in parts)]), state)


def _find_processes(output_dir: Path, submissions: Sequence[Submission], names: Iterable[str]) -> _Processes:
    """Read the holders of locks in OUT, and ask Slurm for the states of their jobs."""
    owners = {name: owner for name in names if (owner := read_owner(output_dir, name))}
    jobs = [job for item in submissions for job in (item.array, item.merge) if job]
    jobs += [_job_of(owner.task) for owner in owners.values() if owner.task]
    states = None
    try:
        states = ask_states(jobs)
    except SlurmError as error:
        logger.warning("%s", error)
    return _Processes(output_dir, submissions, owners, states)


def _job_of(task: Task) -> str:
    """Return the job of a task; the tasks of an ``srun`` share one."""
    return task.job.partition(".")[0]


def _find_list(folder: RunFolder, submissions: Sequence[Submission]) -> tuple[str, int]:
    """Find the digest of the list that the run is of, and the number of shards."""
    try:
        run = folder.find_run()
    except OutputError:
        if not submissions:
            raise
    else:
        begun = datetime.fromisoformat(run.header.started)
        if not submissions or datetime.fromisoformat(submissions[-1].submitted) <= begun:
            return run.header.input_sha256, run.num_shards
    return submissions[-1].input_sha256, submissions[-1].count


def _find_newest(history: History, shard: Shard) -> Elapsed:
    """Return time taken and utterances finished by the newest attempt at a shard."""
    attempts = [elapsed for journal, elapsed in history.elapsed.items() if journal.shard == shard]
    return attempts[-1] if attempts else Elapsed()


def _find_who(processes: _Processes, shard: Shard, history: History) -> tuple[str, bool]:
    """Describe the process or job of a shard, and return whether there is one."""
    owner = processes.owners.get(shard.name)
    if owner is not None and processes.is_at_work(shard.name):
        return _describe_owner(owner, history, shard), True
    submission = next((item for item in reversed(processes.submissions) if shard.index in item.shards), None)
    if submission is None or submission.count != shard.count:
        return ("nobody: run it (again)" if owner is None else f"{owner}, which is dead: run it again"), False
    name = submission.name_of(shard)
    if processes.states is None:
        return f"job {name}, of which Slurm can't be asked", True
    job = processes.states.get(name)
    if job is not None and job.is_waiting:
        return f"job {name} waits ({job.reason})", True
    if job is not None and job.is_at_work:
        return f"job {name} begins on {job.node}", True
    end = f"is {job.state}" if job else "is gone"
    return f"nobody: job {name} {end}, see {processes.output_dir / submission.log_of(shard)}; e2v submit again", False


def _describe_owner(owner: Owner, history: History, shard: Shard) -> str:
    paths = [journal.path for journal in history.elapsed if journal.shard == shard]
    if not paths:
        return str(owner)
    return f"{owner}, last result {time.time() - paths[-1].stat().st_mtime:.0f} s ago"


def _judge(published: bool, parts: Sequence[_ShardStatus], processes: _Processes) -> State:
    """Judge the state of a run: under way only if every shard with something left has a process or a job."""
    if published:
        return State.COMPLETE
    left = [part for part in parts if part.left]
    if left:
        return State.UNDER_WAY if all(part.is_under_way for part in left) else State.WAITING
    merging = processes.find_merge() is not None or any(map(processes.is_at_work, processes.owners))
    return State.UNDER_WAY if merging else State.WAITING


def _describe_state(state: State, left: int, processes: _Processes) -> str:
    if state is State.COMPLETE:
        return "complete"
    if left:
        return "not complete"
    if state is State.WAITING:
        return "not merged yet: e2v merge does it"
    merge = processes.find_merge()
    return f"not merged yet: job {merge.name} will do it" if merge else "not merged yet: somebody is at it"


def _sum_up(parts: Sequence[_ShardStatus]) -> str:
    """Describe the speed of all shards at work together, and when the last one will be ready."""
    at_work = [part for part in parts if part.left and part.is_under_way and part.speed]
    times = [part.ready_in for part in parts if part.left]
    if not at_work:
        return ""
    speed = f"; {sum(part.speed for part in at_work):.1f}× real time"
    known = [seconds for seconds in times if seconds is not None]
    all_known = len(known) == len(times) and all(part.is_under_way for part in parts if part.left)
    return f"{speed}, ready in {clock(max(known))}" if all_known else speed
