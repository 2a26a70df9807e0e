"""TODO."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2v_cli.errors import UsageError
from e2v_cli.options import Shard


def shard_of_task(environ: Mapping[str, str]) -> Shard | None:
    """Say which shard a task is, by its place in a job array, among the tasks of an ``srun``, or both.

    Raises:
        UsageError: the elements of the array are not evenly spaced.
    """
    array, step = _place_in_array(environ), _place_in_step(environ)
    if array is None:
        return step
    if step is None:
        return array
    return Shard(array.count * step.count, (array.index - 1) * step.count + step.index)


def _place_in_array(environ: Mapping[str, str]) -> Shard | None:
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    values = [_number(environ, f"SLURM_ARRAY_TASK_{name}") for name in names]
    number, count, first, last, step = (0 if value is None else value for value in values)
    if values[0] is None or not count:
        return None
    step = step or 1
    index = (number - first) // step + 1
    if (last - first) // step + 1 != count or first + (index - 1) * step != number:
        raise UsageError(
            f"SLURM_ARRAY_TASK_ID is {number}, but the {count} elements of the array from {first} to {last} are not "
            "evenly spaced: say which part this is with --shard I/N"
        )
    return Shard(count, index)


def _place_in_step(environ: Mapping[str, str]) -> Shard | None:
    """Only ``srun`` sets the size of a step; the script of a job has a rank, but is alone."""
    rank, count = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS")
    if rank is None or not count or count == 1:
        return None
    return Shard(count, rank + 1)


def cores_of_task(environ: Mapping[str, str]) -> int | None:
    """Say how many cores Slurm gave a task: not all clusters bind it to them. None outside of a job."""
    if given := _number(environ, "SLURM_CPUS_PER_TASK"):
        return given
    if (_number(environ, "SLURM_STEP_NUM_TASKS") or 1) > 1:
        return 1  # what srun gives where nothing was said
    return _number(environ, "SLURM_CPUS_ON_NODE")


@dataclass(frozen=True)
class Task:
    """Which task of Slurm's a process is, and for which time it was started."""

    job: str
    """As ``squeue`` shows it, ``123_4``; of one of several tasks of an ``srun`` with its rank, ``123.2``."""
    start: int
    """Counted from 1: one that was requeued has the same job, and another start."""

    @classmethod
    def of_this_process(cls, environ: Mapping[str, str]) -> Task | None:
        """Say which one this process is; None outside of a job."""
        job, array, element = (environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
        name = f"{array}_{element}" if array and element else job
        step = _place_in_step(environ)
        name = f"{name}.{step.index - 1}" if step else name
        if not re.fullmatch(r"[0-9][0-9_.]*", name):
            return None
        return cls(name, 1 + (_number(environ, "SLURM_RESTART_COUNT") or 0))

    def __str__(self) -> str:
        return f"start {self.start} of job {self.job}"

    def follows(self, other: Task) -> bool:
        """Say whether it was started in another one's place: what is still alive of that was cut off."""
        return self.job == other.job and self.start > other.start


def share_gpus(environ: Mapping[str, str], gpus: Sequence[str]) -> Sequence[str]:
    """Choose those that are a task's own, where ``srun`` showed all of a node to each of its tasks there."""
    tasks = _tasks_on_node(environ)
    local = _number(environ, "SLURM_LOCALID")
    if tasks < 2 or local is None or not gpus or len(gpus) != _number(environ, "SLURM_GPUS_ON_NODE"):
        return gpus
    return gpus[local::tasks] or [gpus[local % len(gpus)]]


def _tasks_on_node(environ: Mapping[str, str]) -> int:
    """Count the tasks of a step on this node: the ``NODEID``-th of ``4(x2),3``. 1 outside of a step."""
    counts: list[int] = []
    for tasks, times in re.findall(r"([0-9]+)(?:\(x([0-9]+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(tasks)] * int(times or 1)
    node = _number(environ, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else 1


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None
