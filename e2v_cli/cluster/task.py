"""The task of this process in a job of Slurm's, from its environment: shard, cores, GPUs, number and start.

Slurm is not asked; outside of a job there is no task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2v_cli.errors import UsageError
from e2v_cli.options import Shard


def shard_of_task(environ: Mapping[str, str]) -> Shard | None:
    """Return the shard of a task, by its position in a job array, among the tasks of an ``srun``, or in both.

    Outside of both, return None.

    Raises:
        UsageError: the elements of the array are not evenly spaced.
    """
    array, step = _shard_of_array(environ), _shard_of_step(environ)
    if array is None:
        return step
    if step is None:
        return array
    return Shard(array.count * step.count, (array.index - 1) * step.count + step.index)


def _shard_of_array(environ: Mapping[str, str]) -> Shard | None:
    """Return the position in a job array, whose elements need not begin at 1; None outside of an array."""
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    values = [_read_variable(environ, f"SLURM_ARRAY_TASK_{name}") for name in names]
    number, count, first, last, step = (0 if value is None else value for value in values)
    if values[0] is None or not count:
        return None
    step = step or 1
    index = (number - first) // step + 1
    if (last - first) // step + 1 != count or first + (index - 1) * step != number:
        raise UsageError(
            f"SLURM_ARRAY_TASK_ID is {number}, but the {count} elements of the array from {first} to {last} are not "
            "evenly spaced: choose the part with --shard I/N"
        )
    return Shard(count, index)


def _shard_of_step(environ: Mapping[str, str]) -> Shard | None:
    """Return the position among the tasks of an ``srun``; None for a job's script, which has a rank but is alone.

    Only ``srun`` sets the size of a step.
    """
    rank, count = _read_variable(environ, "SLURM_PROCID"), _read_variable(environ, "SLURM_STEP_NUM_TASKS")
    if rank is None or not count or count == 1:
        return None
    return Shard(count, rank + 1)


def cores_of_task(environ: Mapping[str, str]) -> int | None:
    """Return how many cores Slurm allotted to a task, which not all clusters bind to them; None outside of a job."""
    if given := _read_variable(environ, "SLURM_CPUS_PER_TASK"):
        return given
    if (_read_variable(environ, "SLURM_STEP_NUM_TASKS") or 1) > 1:
        return 1  # the default of srun
    return _read_variable(environ, "SLURM_CPUS_ON_NODE")


@dataclass(frozen=True)
class Task:
    """The identity of a task of Slurm's: its job, and how often that was started."""

    job: str
    """Name of the job as in ``squeue``, ``123_4``; one of several tasks of an ``srun`` appends its rank, ``123.2``."""
    start: int
    """Number of the start, counted from 1: a requeued job keeps its name, and is started again."""

    @classmethod
    def of_this_process(cls, environ: Mapping[str, str]) -> Task | None:
        """Return the task of this process; None outside of a job."""
        job, array, element = (environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
        name = f"{array}_{element}" if array and element else job
        step = _shard_of_step(environ)
        name = f"{name}.{step.index - 1}" if step else name
        if not re.fullmatch(r"[0-9][0-9_.]*", name):
            return None
        return cls(name, 1 + (_read_variable(environ, "SLURM_RESTART_COUNT") or 0))

    def __str__(self) -> str:
        return f"start {self.start} of job {self.job}"

    def follows(self, other: Task) -> bool:
        """Whether this is a later start of the same job: processes of the earlier one are cut off."""
        return self.job == other.job and self.start > other.start


def share_gpus(environ: Mapping[str, str], gpus: Sequence[str]) -> Sequence[str]:
    """Choose a task's own GPUs, where ``srun`` shows all of a node to each of its tasks there."""
    tasks = _tasks_on_node(environ)
    local = _read_variable(environ, "SLURM_LOCALID")
    if tasks < 2 or local is None or not gpus or len(gpus) != _read_variable(environ, "SLURM_GPUS_ON_NODE"):
        return gpus
    return gpus[local::tasks] or [gpus[local % len(gpus)]]


def _tasks_on_node(environ: Mapping[str, str]) -> int:
    """Count the tasks of a step on this node, the ``NODEID``-th number of ``4(x2),3``; 1 outside of a step."""
    counts: list[int] = []
    for tasks, times in re.findall(r"([0-9]+)(?:\(x([0-9]+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(tasks)] * int(times or 1)
    node = _read_variable(environ, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else 1


def _read_variable(environ: Mapping[str, str], name: str) -> int | None:
    """Read a variable of up to nine digits; None if it is missing or anything else."""
    value = environ.get(name, "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None
