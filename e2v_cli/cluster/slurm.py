"""Slurm, as its users know it: what a task was given, what a job's script says, what became of the jobs.

Jobs are submitted with ``sbatch`` and looked after with ``squeue`` and ``sacct``; whatever they can do (scheduling,
placing, requeueing, accounting) is theirs. The scripts are plain, so that they can be read, kept, changed and
submitted by hand.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2v_cli.errors import EXIT_STOPPED, SlurmError, UsageError

logger = logging.getLogger(__name__)

WARNING_SECONDS = 60
"""So long before its time limit a task is warned; Slurm does so up to a minute earlier."""

MAX_RESTARTS = 1000
"""A task that has used up its time goes back into the queue at most so many times."""

COMMAND_SECONDS = 60
"""The longest that a command of Slurm's may take to answer."""

_OF_CLUSTERS = frozenset(("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"))
"""Variables that say where Slurm is; all others are of a job."""

_WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "STOPPED", "SPECIAL_EXIT"))

_AT_WORK = frozenset(("RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "RESIZING"))


@dataclass(frozen=True)
class Resources:
    """What a job asks Slurm for, in the words of ``sbatch``; empty where the cluster's own default is to count."""

    partition: str = ""
    gpus: str = ""
    """A number, perhaps behind a type: ``a100:2``."""
    cpus: int | None = None
    mem: str = ""
    time: str = ""
    account: str = ""
    qos: str = ""
    others: tuple[str, ...] = ()
    """Any other options, each a word like ``--constraint=ib``."""

    def directives(self) -> Iterator[str]:
        """Say it as options of ``sbatch``."""
        for name, value in (
            ("partition", self.partition),
            ("account", self.account),
            ("qos", self.qos),
            ("gres", f"gpu:{self.gpus}" if self.gpus else ""),
            ("cpus-per-task", "" if self.cpus is None else str(self.cpus)),
            ("mem", self.mem),
            ("time", self.time),
        ):
            if value:
                yield f"--{name}={value}"
        yield from self.others


@dataclass(frozen=True)
class Job:
    """What runs in a job, and where."""

    name: str
    words: tuple[str, ...]
    """Of the command."""
    folder: Path
    """Where it starts."""
    log: str
    """Where all that it says goes, as a pattern of Slurm's: ``%A`` and ``%a`` are numbers of array and element."""
    resources: Resources
    variables: Mapping[str, str]
    """Of the environment, beside what ``sbatch`` hands on."""


def write_array_script(job: Job, shards: Sequence[int], count: int, limit: int | None) -> str:
    """Write the script of a job array whose elements each compute a shard.

    Args:
        job: what runs in each; ``--shard`` is added to it.
        shards: the numbers of the shards that are to be computed.
        count: how many there are in all.
        limit: how many may run at once; None: as many as Slurm likes.
    """
    elements = ranges(shards) + (f"%{limit}" if limit else "")
    head = _head(job, [f"--array={elements}", "--requeue", "--open-mode=append", f"--signal=B:USR1@{WARNING_SECONDS}"])
    return f"""{head}
# A minute before the time limit Slurm warns this script (USR1), and e2v commits what is done and exits with 75. Then
# the shard goes back into the queue, and on from there, on any node.
warned=
{shlex.join(job.words)} --shard "$SLURM_ARRAY_TASK_ID/{count}" &
e2v=$!
trap 'warned=yes; kill -USR1 "$e2v"' USR1
trap 'kill -TERM "$e2v"' TERM
wait "$e2v"
while kill -0 "$e2v" 2>/dev/null; do wait "$e2v"; done # a signal ends a wait
wait "$e2v"
code=$?
if [ -n "$warned" ] && [ "$code" -eq {EXIT_STOPPED} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {MAX_RESTARTS} ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""


def write_script(job: Job) -> str:
    """Write the script of a job that is one process."""
    return f"{_head(job, [])}\nexec {shlex.join(job.words)}\n"


def _head(job: Job, directives: Iterable[str]) -> str:
    """Write what a script begins with: options for ``sbatch``, and where the job starts."""
    options = [
        f"--job-name={job.name}",
        f"--output={job.log}",
        "--nodes=1",
        "--ntasks=1",
        *directives,
        *job.resources.directives(),
    ]
    lines = ["#!/bin/bash", *(f"#SBATCH {_quote(option)}" for option in options), ""]
    lines += [f"cd {shlex.quote(str(job.folder))} || exit"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(job.variables.items())]
    return "\n".join(lines) + "\n"


def _quote(option: str) -> str:
    """Quote an option as ``sbatch`` reads it from a script: there is no way to quote a quote.

    Raises:
        UsageError: it can't be said there.
    """
    if re.fullmatch(r"[\w\-=./:,%@+^*\[\]~]+", option):
        return option
    if re.search(r"[\"\\\x00-\x1f]", option):
        raise UsageError(f"{option!r}: a script of Slurm can't say this; choose a name without quotes and backslashes")
    name, _, value = option.partition("=")
    return f'{name}="{value}"'


def ranges(numbers: Sequence[int]) -> str:
    """Write numbers that go up as Slurm does: ``1-4,7``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def submit_job(script: Path, waits_for: Sequence[str] = ()) -> str:
    """Hand a script to ``sbatch``, to run when other jobs have ended in any way: the number of its job.

    Raises:
        SlurmError: it can't be submitted.
    """
    dependency = [f"--dependency=afterany:{':'.join(waits_for)}"] if waits_for else []
    return (
        _run(["sbatch", "--parsable", *dependency, str(script)]).split(";")[0].strip()
    )  # behind the number may stand the cluster


def cancel_job(job: str) -> None:
    """Take a job out of the queue; one that has ended already is none."""
    try:
        _run(["scancel", "--quiet", job])
    except SlurmError as error:
        logger.warning("%s", error)


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job, or of an element of an array."""

    name: str
    """As Slurm writes it: ``123_4``."""
    state: str
    """``RUNNING``, ``OUT_OF_MEMORY`` …"""
    node: str
    reason: str
    """Why it waits."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.state in _WAITING

    @property
    def is_at_work(self) -> bool:
        """Whether it runs."""
        return self.state in _AT_WORK

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.is_waiting or self.is_at_work


def ask_states(jobs: Sequence[str]) -> dict[str, JobState]:
    """Ask Slurm what became of jobs, by their name; nothing of those that it doesn't know any more.

    ``squeue`` knows what waits, runs, or has just ended, ``sacct`` the rest where the cluster keeps accounts.

    Raises:
        SlurmError: it can't be asked.
    """
    if not jobs:
        return {}
    wanted = f"--jobs={','.join(dict.fromkeys(jobs))}"
    try:
        ended = _run(
            ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,NodeList,Reason", wanted]
        )
    except SlurmError as error:  # not all clusters keep accounts
        logger.info("%s", error)
        ended = ""
    try:
        known = _run(["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", wanted])
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        known = ""  # there is only one, which it has forgotten
    states = {}
    for line in [*ended.splitlines(), *known.splitlines()]:  # what squeue says is newer
        name, *cells = line.split("|", 3)
        if len(cells) == 3 and cells[0]:
            states[name] = JobState(name, cells[0].split()[0], *cells[1:])
    return states


def check_commands() -> None:
    """Check that jobs can be submitted from this machine.

    Raises:
        SlurmError: they can't.
    """
    if not shutil.which("sbatch"):
        raise SlurmError("sbatch: no such command here; e2v submit needs a machine of a Slurm cluster")


def _run(command: Sequence[str]) -> str:
    """Run a command of Slurm's: what it prints.

    Raises:
        SlurmError: it isn't there, doesn't answer, or refuses; the message ends with its own words.
    """
    # Where e2v itself is in a job, what that was given must not reach the jobs that it submits.
    own = {name for name in os.environ if name.startswith("SLURM_") and name not in _OF_CLUSTERS}
    try:
        done = subprocess.run(  # noqa: S603 — no shell, and the words are ours
            command,
            env={name: value for name, value in os.environ.items() if name not in own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=COMMAND_SECONDS,
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]}: no such command here") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered for {COMMAND_SECONDS} s; try again later") from None
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(f"{shlex.join(command)}: {words}")
    return done.stdout
