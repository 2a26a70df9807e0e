"""``e2v status``: the progress of a run, from its journals, its locks and the states of its jobs in Slurm."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.cluster.slurm import JobState, ask_states, ranges
from e2v_cli.cluster.submissions import Submission, read_submissions
from e2v_cli.errors import OutputError, SlurmError
from e2v_cli.journal.folder import RunFolder, plan_blocks
from e2v_cli.journal.history import History
from e2v_cli.journal.ids import IdList, read_costs
from e2v_cli.journal.journal import DONE, LEFT, Elapsed
from e2v_cli.journal.locks import MERGE, LockState, read_locks
from e2v_cli.options import Shard
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.text import clock, columns, counted

logger = logging.getLogger(__name__)

COLUMNS = ("shard", "done", "failed", "left", "speed", "ready in", "state")

SILENT_SECONDS = 600
"""Seconds without a result after which a process counts as ended, where locks don't work."""


class State(Enum):
    """The state of a run."""

    COMPLETE = "complete"
    """The final files are there."""
    UNDER_WAY = "under way"
    """A process is at work, or a job in the queue."""
    WAITING = "waiting for you"
    """Something is left to be done, and no process or job is there to do it."""


@dataclass(frozen=True)
class Report:
    """The state of a run, in words."""

    text: str
    state: State


@dataclass(frozen=True)
class _ShardStatus:
    """The progress of a shard, and its process or job."""

    shard: Shard
    done: int
    failed: int
    left: int
    newest: Elapsed
    """Time taken and utterances finished by the newest attempt."""
    state: str
    """State of its process or job; empty if it needs none."""
    is_under_way: bool
    """Whether a process is at work, or a job in the queue."""

    @property
    def speed(self) -> float:
        """Seconds of audio encoded in a second; 0 where nothing was."""
        return self.newest.audio_seconds / self.newest.encode_seconds if self.newest.encode_seconds else 0.0

    @property
    def ready_in(self) -> float | None:
        """Seconds until the shard is complete, at the speed so far; None: not known."""
        if not self.left:
            return 0.0
        return self.left * self.newest.encode_seconds / self.newest.finished if self.newest.finished else None

    def row(self) -> tuple[str, ...]:
        """Format the shard as a row of the table."""
        ready_in = "–" if self.ready_in is None else clock(self.ready_in) if self.left else ""
        counts = map(str, (self.done, self.failed, self.left))
        return (str(self.shard), *counts, f"{self.speed:.1f}×" if self.speed else "–", ready_in, self.state)


@dataclass(frozen=True)
class _Processes:
    """The processes that are, or were, at work in OUT, and the jobs that were submitted for it."""

    output_dir: Path
    submissions: Sequence[Submission]
    states: Mapping[str, JobState] | None
    """States of jobs by name; None: Slurm can't be asked."""
    locks: Mapping[str, LockState]
    """Locks by name."""
    last_results: Mapping[str, float]
    """Time of the last result of the newest attempt at a shard, in seconds since the epoch, by the name of its lock."""

    def is_at_work(self, name: str) -> bool:
        """Whether a process holds the lock NAME; where locks don't work, whether its last result is new enough."""
        lock = self.locks.get(name)
        if lock is None:
            return False
        if lock.is_held is None:
            return lock.owner is not None and not lock.owner.is_dead and self._silence(name) < SILENT_SECONDS
        return lock.is_held

    def describe_process(self, name: str) -> str:
        """Describe the process at work that has the lock NAME."""
        lock = self.locks[name]
        text = "an unnamed process"
        if lock.owner is not None and not lock.owner.is_dead:
            text = lock.owner.name if name in self.last_results else str(lock.owner)
        if name in self.last_results:
            text += f", last result {self._age(self.last_results[name]):.0f} s ago"
        return text if lock.is_held else f"{text} (locks don't work here, so judged by age)"

    def describe_dead(self, name: str) -> str:
        """Describe why no process is at work at the lock NAME, and the next move."""
        lock = self.locks.get(name)
        if lock is None or lock.owner is None:
            return "not running: run it again"
        if lock.is_held is None and not lock.owner.is_dead:
            silence = f"no result for {self._silence(name):.0f} s (locks don't work here, so judged by age)"
            return f"not running: {lock.owner}, {silence}; run it again"
        return f"not running: {lock.owner} was killed; run it again"

    def find_submission(self, shard: Shard) -> Submission | None:
        """Find the newest submission of a shard, if that is of the same number of shards."""
        newest = next((item for item in reversed(self.submissions) if shard.index in item.shards), None)
        return newest if newest is not None and newest.count == shard.count else None

    def find_merge(self) -> JobState | None:
        """Find the job that merges the shards, if it waits or runs."""
        merge = self.states.get(self.submissions[-1].merge) if self.submissions and self.states else None
        return merge if merge is not None and merge.is_alive else None

    def _silence(self, name: str) -> float:
        """Return the seconds since the last result or, without any, since the start."""
        return self._age(max(self.locks[name].written, self.last_results.get(name, 0.0)))

    def _age(self, when: float) -> float:
        return max(0.0, time.time() - when)


def describe_run(output_dir: Path) -> Report:
    """Describe a run: its totals, and a line for each shard.

    Raises:
        OutputError: there is no run, or it can't be read.
    """
    submissions = read_submissions(output_dir)
    states, locks = _ask_for_jobs(submissions), read_locks(output_dir)
    folder = open_run_folder(output_dir)
    folder.refresh()  # afterwards: what a process did that is gone by now counts
    digest, num_shards = _find_list(folder, submissions)
    ids = IdList(output_dir, digest)
    history = folder.read_history(ids)
    processes = _Processes(output_dir, submissions, states, locks, _find_last_results(history))
    parts = _find_parts(history, ids, read_costs(output_dir, ids), processes, num_shards)
    is_published = folder.is_published(ids.digest)
    others = set(locks) - {part.shard.name for part in parts}
    others_at_work = [name for name in sorted(others) if processes.is_at_work(name)]
    state = _judge(is_published, parts, bool(others_at_work or processes.find_merge()))
    done, left = int((history.status == DONE).sum()), int((history.status == LEFT).sum())
    lines = [
        f"{output_dir}: {_describe_state(state, left, processes)}",
        f"{counted(len(ids), 'utterance')}: {done} done, {len(ids) - done - left} failed, {left} left{_sum_up(parts)}",
        columns([COLUMNS, *(part.row() for part in parts)]).removesuffix("\n"),
        *(f"also at work ({name}): {processes.describe_process(name)}" for name in others_at_work),
    ]
    if state is State.UNDER_WAY:
        lines += _name_forgotten(parts, processes)
    return Report("\n".join(lines) + "\n", state)


def _ask_for_jobs(submissions: Sequence[Submission]) -> Mapping[str, JobState] | None:
    """Ask Slurm for the states of the jobs of submissions; None if it can't be asked."""
    try:
        return ask_states([job for item in submissions for job in (item.array, item.merge) if job])
    except SlurmError as error:
        logger.warning("%s", error)
        return None


def _find_list(folder: RunFolder, submissions: Sequence[Submission]) -> tuple[str, int]:
    """Find the digest of the list that the run is of, and the number of shards."""
    try:
        run = folder.find_run()
    except OutputError:
        if not submissions:
            raise
    else:
        submitted = datetime.fromisoformat(submissions[-1].submitted).timestamp() if submissions else 0.0
        if submitted <= run.header.start_time:
            return run.header.input_sha256, run.num_shards
    return submissions[-1].input_sha256, submissions[-1].count


def _find_last_results(history: History) -> dict[str, float]:
    """Find when the newest attempt at each shard had its last result."""
    journals = {journal.shard.name: journal.path for journal in history.elapsed}  # the newest is the last
    return {name: path.stat().st_mtime for name, path in journals.items()}


def _find_parts(
    history: History, ids: IdList, costs: NDArray[np.float32] | None, processes: _Processes, num_shards: int
) -> list[_ShardStatus]:
    """Find the progress of each shard."""
    plan = plan_blocks(history, ids, costs)
    members = history.status[plan.members]
    counts = [
        plan.count_by_shard(chosen, num_shards).tolist()
        for chosen in (members == DONE, (members != DONE) & (members != LEFT), members == LEFT)
    ]
    newest = {journal.shard: elapsed for journal, elapsed in history.elapsed.items()}
    parts = []
    for index, (done, failed, left) in enumerate(zip(*counts, strict=True), 1):
        shard = Shard(num_shards, index)
        state = _find_state(processes, shard, left)
        parts.append(_ShardStatus(shard, done, failed, left, newest.get(shard, Elapsed()), *state))
    return parts


def _find_state(processes: _Processes, shard: Shard, left: int) -> tuple[str, bool]:
    """Describe the process or job of a shard, and return whether that is at work or in the queue."""
    if processes.is_at_work(shard.name):
        return processes.describe_process(shard.name), True
    if not left:
        return "", False
    submission = processes.find_submission(shard)
    if submission is None:
        return processes.describe_dead(shard.name), False
    name = submission.name_of(shard)
    if processes.states is None:
        return f"job {name}, whose state is not known", True
    job = processes.states.get(name)
    if job is not None and job.is_waiting:
        return f"job {name} waits ({job.reason})", True
    if job is not None and job.is_at_work:
        return f"job {name} is {job.state} on {job.node}", True
    end = f"is {job.state}" if job else "is gone"
    log = processes.output_dir / submission.log_of(shard)
    return f"not running: job {name} {end}, see {log}; run e2v submit again", False


def _judge(published: bool, parts: Sequence[_ShardStatus], others_under_way: bool) -> State:
    """Judge the state of a run."""
    if published:
        return State.COMPLETE
    return State.UNDER_WAY if others_under_way or any(part.is_under_way for part in parts) else State.WAITING


def _describe_state(state: State, left: int, processes: _Processes) -> str:
    if state is State.COMPLETE:
        return "complete"
    if left:
        return "in progress" if state is State.UNDER_WAY else "not complete"
    if state is State.WAITING:
        return "not merged yet: e2v merge does it"
    if merge := processes.find_merge():
        return f"not merged yet: job {merge.name} will do it"
    is_merging = processes.is_at_work(MERGE)
    return f"not merged yet: another process is {'merging' if is_merging else 'at work'}"


def _name_forgotten(parts: Sequence[_ShardStatus], processes: _Processes) -> list[str]:
    """Name the shards that no process or job will complete, and the next move, in a line, if there are any."""
    forgotten = [part.shard for part in parts if part.left and not part.is_under_way]
    if not forgotten:
        return []
    several = len(forgotten) > 1
    move = f"run {'them' if several else 'it'} again"
    if any(map(processes.find_submission, forgotten)):
        move = "run e2v submit again"
    indexes = ranges([shard.index for shard in forgotten])
    return [f"not running: shard{'s' if several else ''} {indexes} of {forgotten[0].count}; {move}"]


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
