"""The task of a process, from the environment that Slurm gives it."""

from __future__ import annotations

import re

import pytest

from e2v_cli.cluster.task import Task, cores_of_task, shard_of_task, share_gpus
from e2v_cli.errors import UsageError
from e2v_cli.options import Shard


def array(number: int, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    """Return the environment of an element of an array."""
    values = {"ID": number, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {"SLURM_ARRAY_JOB_ID": "12", **{f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}}


def step(rank: int, count: int) -> dict[str, str]:
    """Return the environment of a task of an ``srun``."""
    return {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(count)}


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        ({}, None),
        (array(1, 1, 4, 4), Shard(4, 1)),
        (array(4, 1, 4, 4), Shard(4, 4)),
        (array(0, 0, 3, 4), Shard(4, 1)),
        (array(3, 0, 3, 4), Shard(4, 4)),
        (array(7, 7, 7, 1), Shard(1, 1)),
        # --array=1-10:3 is 1,4,7,10, and --array=1-9:3 is 1,4,7
        (array(1, 1, 10, 4, 3), Shard(4, 1)),
        (array(7, 1, 10, 4, 3), Shard(4, 3)),
        (array(10, 1, 10, 4, 3), Shard(4, 4)),
        (array(7, 1, 9, 3, 3), Shard(3, 3)),
        (array(30, 10, 40, 4, 10), Shard(4, 3)),
        # not a number, or none at all
        ({**array(1, 1, 4, 4), "SLURM_ARRAY_TASK_ID": ""}, None),
        ({**array(1, 1, 4, 4), "SLURM_ARRAY_TASK_ID": "one"}, None),
        ({**array(1, 1, 4, 4), "SLURM_ARRAY_TASK_COUNT": "-4"}, None),
        ({"SLURM_ARRAY_TASK_ID": "3"}, None),
    ],
)
def test_an_element_of_an_array_is_a_shard(environ: dict[str, str], shard: Shard | None) -> None:
    assert shard_of_task(environ) == shard


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        # --array=1,3,7
        (array(1, 1, 7, 3), "SLURM_ARRAY_TASK_ID is 1, but the 3 elements of the array from 1 to 7"),
        (array(3, 1, 7, 3), "SLURM_ARRAY_TASK_ID is 3, but the 3 elements of the array from 1 to 7"),
        (array(7, 1, 7, 3), "SLURM_ARRAY_TASK_ID is 7, but the 3 elements of the array from 1 to 7"),
        # of an array of eight, --array=3,5 once more
        (array(3, 3, 5, 2), "SLURM_ARRAY_TASK_ID is 3, but the 2 elements of the array from 3 to 5"),
        (array(5, 3, 5, 2), "SLURM_ARRAY_TASK_ID is 5, but the 2 elements of the array from 3 to 5"),
        # --array=1-7:3,5 would be 1,4,5,7
        (array(5, 1, 7, 3, 3), "SLURM_ARRAY_TASK_ID is 5, but the 3 elements of the array from 1 to 7"),
    ],
)
def test_array_with_gaps_is_refused(environ: dict[str, str], message: str) -> None:
    """The position of an element is unknown then."""
    message += " are not evenly spaced: choose the part with --shard I/N"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$") as caught:
        shard_of_task(environ)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        (step(0, 4), Shard(4, 1)),
        (step(3, 4), Shard(4, 4)),
        # srun with one task is no shard
        (step(0, 1), None),
        # the script of a job has a rank, but is alone, even if the job may start several tasks
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4"}, None),
        ({"SLURM_STEP_NUM_TASKS": "4"}, None),
    ],
)
def test_a_task_of_an_srun_is_a_shard(environ: dict[str, str], shard: Shard | None) -> None:
    assert shard_of_task(environ) == shard


def test_tasks_in_elements_of_an_array_are_shards() -> None:
    """There are three elements with four tasks each."""
    found = [shard_of_task({**array(number, 1, 3, 3), **step(rank, 4)}) for number in (1, 2, 3) for rank in range(4)]

    assert found == [Shard(12, index) for index in range(1, 13)]


@pytest.mark.parametrize("alone", [{}, step(0, 1), {"SLURM_PROCID": "0"}])
def test_script_of_an_element_is_a_shard(alone: dict[str, str]) -> None:
    assert shard_of_task({**array(2, 1, 3, 3), **alone}) == Shard(3, 2)


@pytest.mark.parametrize(
    ("environ", "cores"),
    [
        ({}, None),
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "64"}, 8),
        # the script of a job has all cores of its node
        ({"SLURM_CPUS_ON_NODE": "64", "SLURM_PROCID": "0"}, 64),
        ({"SLURM_CPUS_ON_NODE": "64", **step(0, 1)}, 64),
        # srun gives each task one core by default
        ({"SLURM_CPUS_ON_NODE": "64", **step(3, 4)}, 1),
        ({"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "64", **step(3, 4)}, 2),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "6"}, 6),
        ({"SLURM_CPUS_PER_TASK": "many"}, None),
    ],
)
def test_cores_are_those_of_the_task(environ: dict[str, str], cores: int | None) -> None:
    assert cores_of_task(environ) == cores


@pytest.mark.parametrize(
    ("environ", "task"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "123"}, Task("123", 1)),
        ({"SLURM_JOB_ID": "123", "SLURM_RESTART_COUNT": "0"}, Task("123", 1)),
        ({"SLURM_JOB_ID": "123", "SLURM_RESTART_COUNT": "2"}, Task("123", 3)),
        ({"SLURM_JOB_ID": "15", **array(3, 1, 4, 4), "SLURM_RESTART_COUNT": "1"}, Task("12_3", 2)),
        ({"SLURM_JOB_ID": "123", **step(2, 4)}, Task("123.2", 1)),
        ({"SLURM_JOB_ID": "123", **step(0, 1)}, Task("123", 1)),
        ({"SLURM_JOB_ID": "15", **array(3, 1, 4, 4), **step(0, 2)}, Task("12_3.0", 1)),
        # the name is a field of a lock file, between blanks
        ({"SLURM_JOB_ID": "12 3"}, None),
        ({"SLURM_JOB_ID": "here\n"}, None),
        ({"SLURM_JOB_ID": ""}, None),
    ],
)
def test_task_is_identified_by_its_job_and_start(environ: dict[str, str], task: Task | None) -> None:
    assert Task.of_this_process(environ) == task


def test_a_task_is_described() -> None:
    assert str(Task("12_3", 2)) == "start 2 of job 12_3"


@pytest.mark.parametrize(
    ("task", "follows"),
    [
        (Task("12_3", 3), True),
        (Task("12_3", 9), True),
        (Task("12_3", 2), False),
        (Task("12_3", 1), False),
        (Task("12_4", 3), False),
        (Task("12_3.0", 3), False),
    ],
)
def test_a_start_follows_earlier_ones_of_its_job(task: Task, follows: bool) -> None:
    assert task.follows(Task("12_3", 2)) == follows


def local(number: int, node: int, tasks: str = "4(x2),3", gpus: str = "4") -> dict[str, str]:
    """Return the environment of the ``number``-th task on a node."""
    return {
        "SLURM_LOCALID": str(number),
        "SLURM_NODEID": str(node),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_GPUS_ON_NODE": gpus,
    }


GPUS = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


@pytest.mark.parametrize(
    ("environ", "gpus", "own"),
    [
        ({}, GPUS, GPUS),
        # one GPU for each of four tasks
        (local(0, 0), GPUS, ["cuda:0"]),
        (local(3, 0), GPUS, ["cuda:3"]),
        (local(2, 1), GPUS, ["cuda:2"]),
        # the third node has three tasks, and the first task two GPUs
        (local(0, 2), GPUS, ["cuda:0", "cuda:3"]),
        (local(2, 2), GPUS, ["cuda:2"]),
        (local(1, 0, "2"), GPUS, ["cuda:1", "cuda:3"]),
        # more tasks than GPUs share them in turn
        (local(4, 0, "6"), GPUS, ["cuda:0"]),
        (local(5, 0, "6"), GPUS, ["cuda:1"]),
        # a task that is alone on its node has all
        (local(0, 0, "1"), GPUS, GPUS),
        (local(0, 1, "4,1"), GPUS, GPUS),
        (local(0, 7), GPUS, GPUS),
        # Slurm has dealt them already, or the user has chosen
        (local(1, 0), ["cuda:0"], ["cuda:0"]),
        (local(1, 0), ["cuda:3", "cuda:1"], ["cuda:3", "cuda:1"]),
        # the script of a job
        ({"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_GPUS_ON_NODE": "4"}, GPUS, GPUS),
        ({name: value for name, value in local(1, 0).items() if name != "SLURM_LOCALID"}, GPUS, GPUS),
        ({name: value for name, value in local(1, 0).items() if name != "SLURM_GPUS_ON_NODE"}, GPUS, GPUS),
        # without GPUs
        ({name: value for name, value in local(1, 0).items() if name != "SLURM_GPUS_ON_NODE"}, [], []),
        (local(1, 0, gpus="0"), [], []),
    ],
)
def test_tasks_on_a_node_share_its_gpus(environ: dict[str, str], gpus: list[str], own: list[str]) -> None:
    assert share_gpus(environ, gpus) == own


@pytest.mark.parametrize(("tasks", "gpus"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 8), (8, 2)])
def test_no_gpu_is_left_out(tasks: int, gpus: int) -> None:
    """If there are enough GPUs, no two tasks share one."""
    all_of_them = [f"cuda:{number}" for number in range(gpus)]

    shared = [share_gpus(local(number, 0, str(tasks), str(gpus)), all_of_them) for number in range(tasks)]

    flat = [gpu for own in shared for gpu in own]
    assert set(flat) == set(all_of_them)
    assert len(flat) == max(tasks, gpus)
