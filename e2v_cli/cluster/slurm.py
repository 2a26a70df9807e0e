"""Slurm's jobs: their scripts, their submission by ``sbatch``, and their states from ``squeue`` and ``sacct``.

Scheduling, placing, requeueing and accounting are left to Slurm. The scripts are plain, so that users can read, keep,
change and submit them by hand.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from e2v_cli.errors import EXIT_STOPPED, SlurmError, UsageError

logger = logging.getLogger(__name__)

WARNING_SECONDS = 60
"""Seconds before its time limit at which a task is warned; Slurm may do so up to a minute earlier."""

MERGE_MEMORY = "4G"
"""Memory of the merge job; ten million lines need a tenth of it."""

MAX_RESTARTS = 1000
"""Limit of how often a task that has used up its time is requeued."""

COMMAND_SECONDS = 60
"""Seconds that a command of Slurm's may take to answer."""

_CLUSTER_VARIABLES = frozenset(("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"))
"""Variables by which commands find Slurm; all others describe a job."""

CACHE_VARIABLE = "E2V_CACHE"
"""The only variable of e2v's that is no option, so jobs keep it."""

_UNSET_OPTIONS = (
    f'for name in "${{!E2V_@}}"; do [ "$name" = {CACHE_VARIABLE} ] || unset "$name"; done # they are options already'
)
"""Options are in the command's words: variables that ``sbatch`` passes on, or a node sets, must not count again."""

_WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "STOPPED", "SPECIAL_EXIT"))

_AT_WORK = frozenset(("RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "RESIZING"))


_GRAMMARS = {
    "time": (r"[0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}|infinite|unlimited", "90 (minutes), 4:00:00 or 2-12"),
    "mem": (r"[0-9]+([kmgt]b?)?", "8000 (megabytes), 8G or 1T"),
    "gpus": (r"([^\s:,]+:)?[1-9][0-9]*(,([^\s:,]+:)?[1-9][0-9]*)*", "1, a100:2 or a100:1,v100:1"),
}
"""Pattern of the values that ``sbatch`` accepts, in upper or lower case, and examples, by option."""


@dataclass(frozen=True)
class Resources:
    """The resources of a job, named as in ``sbatch``; empty or None: the cluster's default.

    Raises:
        UsageError: ``sbatch`` would not read one, or it is not for users to set.
    """

    partition: str = ""
    gpus: str = ""
    """GPUs of the job: ``2``, ``a100:2``, or several types, ``a100:1,v100:1``."""
    cpus: int | None = None
    mem: str = ""
    time: str = ""
    account: str = ""
    qos: str = ""
    others: tuple[str, ...] = ()
    """Further options of ``sbatch``, each a word like ``--constraint=ib``."""
    merge_others: tuple[str, ...] = ()
    """Further options of ``sbatch`` for the merge job only, in the same form."""

    def __post_init__(self) -> None:
        for name, (grammar, examples) in _GRAMMARS.items():
            value = str(getattr(self, name))
            if value and not re.fullmatch(grammar, value, re.IGNORECASE):
                raise UsageError(f"--{name} {value}: not as sbatch reads it; write it like {examples}")
        for name, options in (("--sbatch-arg", self.others), ("--merge-sbatch-arg", self.merge_others)):
            for option in options:
                if not re.fullmatch(r"--[a-z-]+(=.*)?", option, re.DOTALL):
                    raise UsageError(f"{name} {option}: write it as one word, like --constraint=ib")
                if option.partition("=")[0] in ("--array", "--output"):
                    raise UsageError(f"{name} {option}: e2v submit sets it; leave it out")

    def of_merge(self) -> Resources:
        """Return the resources of the job that merges: one core, no GPU."""
        others = (*self.others, *self.merge_others)
        return replace(self, gpus="", cpus=None, mem=MERGE_MEMORY, others=others, merge_others=())

    def directives(self) -> Iterator[str]:
        """Render the resources as options of ``sbatch``; a repeated option replaces the earlier one, as there."""
        named = {
            "--partition": self.partition,
            "--account": self.account,
            "--qos": self.qos,
            "--gres": ",".join(f"gpu:{gpus}" for gpus in self.gpus.split(",")) if self.gpus else "",
            "--cpus-per-task": "" if self.cpus is None else str(self.cpus),
            "--mem": self.mem,
            "--time": self.time,
        }
        options = {name: f"{name}={value}" for name, value in named.items() if value}
        yield from (options | {option.partition("=")[0]: option for option in self.others}).values()


@dataclass(frozen=True)
class SlurmJob:
    """A command that is to run as a job, or as each element of a job array."""

    name: str
    words: tuple[str, ...]
    """The command and its arguments."""
    folder: Path
    """Working directory of the command."""
    log: str
    """Path of the job's output, as a pattern of Slurm's: ``%A`` and ``%a`` are the numbers of array and element."""
    resources: Resources
    variables: Mapping[str, str]
    """Environment variables, beside those that ``sbatch`` passes on."""


def write_array_script(job: SlurmJob, shards: Sequence[int], count: int, limit: int | None) -> str:
    """Write the script of a job array whose elements each compute a shard.

    Args:
        job: the command of each element, to which ``--shard`` is added.
        shards: the indexes of the shards that are to be computed.
        count: the number of all shards of the run.
        limit: the number of elements that may run at once; None: no limit.
    """
    elements = ranges(shards) + (f"%{limit}" if limit else "")
    head = _write_script_head(
        job, [f"--array={elements}", "--requeue", "--open-mode=append", f"--signal=B:USR1@{WARNING_SECONDS}"]
    )
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


def write_script(job: SlurmJob) -> str:
    """Write the script of a job that is one process."""
    return f"{_write_script_head(job, [])}\nexec {shlex.join(job.words)}\n"


def _write_script_head(job: SlurmJob, directives: Iterable[str]) -> str:
    """Write the beginning of a script: options of ``sbatch``, working directory, environment variables."""
    options = [
        f"--job-name={job.name}",
        f"--output={job.log}",
        "--nodes=1",
        "--ntasks=1",
        *directives,
        *job.resources.directives(),
    ]
    lines = ["#!/bin/bash", *(f"#SBATCH {_quote_directive(option)}" for option in options), ""]
    lines += [f"cd {shlex.quote(str(job.folder))} || exit", _UNSET_OPTIONS]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(job.variables.items())]
    return "\n".join(lines) + "\n"


def _quote_directive(option: str) -> str:
    """Quote an option as ``sbatch`` reads it from a script, where a quote itself can't be quoted.

    Raises:
        UsageError: it holds a quote, a backslash or a control character.
    """
    if re.fullmatch(r"[\w\-=./:,%@+^*\[\]~]+", option):
        return option
    if re.search(r"[\"\\\x00-\x1f]", option):
        raise UsageError(f"{option!r}: a script of Slurm can't hold quotes and backslashes; choose another name")
    name, _, value = option.partition("=")
    return f'{name}="{value}"'


def ranges(numbers: Sequence[int]) -> str:
    """Format ascending numbers as Slurm does: ``1-4,7``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def submit_job(script: Path, waits_for: Sequence[str] = ()) -> str:
    """Submit a script by ``sbatch``, to run when other jobs have ended in any way, and return the number of its job.

    Raises:
        SlurmError: it can't be submitted.
    """
    dependency = [f"--dependency=afterany:{':'.join(waits_for)}"] if waits_for else []
    answer = run_slurm(["sbatch", "--parsable", *dependency, str(script)])
    return answer.split(";")[0].strip()  # the name of the cluster may follow the number


def cancel_job(job: str) -> None:
    """Cancel a job, unless it has ended already; a failure is only logged."""
    try:
        run_slurm(["scancel", "--quiet", job])
    except SlurmError as error:
        logger.warning("%s", error)


@dataclass(frozen=True)
class JobState:
    """The state of a job, or of an element of an array, as Slurm reports it."""

    name: str
    """Name of the job: ``123``, or ``123_4`` for an element of an array."""
    state: str
    """State of the job: ``RUNNING``, ``OUT_OF_MEMORY`` …"""
    node: str
    reason: str
    """Slurm's reason why the job is waiting."""

    @property
    def is_waiting(self) -> bool:
        """Whether the job is waiting in the queue."""
        return self.state in _WAITING

    @property
    def is_at_work(self) -> bool:
        """Whether the job is starting, running or completing."""
        return self.state in _AT_WORK

    @property
    def is_alive(self) -> bool:
        """Whether the job has not ended."""
        return self.is_waiting or self.is_at_work


def ask_states(jobs: Sequence[str]) -> dict[str, JobState]:
    """Ask Slurm for the states of jobs, by their name; jobs that it has forgotten are missing.

    ``squeue`` knows jobs that wait, run, or have just ended; ``sacct`` knows the others, on clusters with accounts.

    Raises:
        SlurmError: ``squeue`` is missing, fails or doesn't answer.
    """
    if not jobs:
        return {}
    wanted = f"--jobs={','.join(dict.fromkeys(jobs))}"
    try:
        ended = run_slurm(
            ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,NodeList,Reason", wanted]
        )
    except SlurmError as error:  # not all clusters keep accounts
        logger.info("%s", error)
        ended = ""
    try:
        known = run_slurm(["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", wanted])
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        known = ""  # squeue has forgotten the only job in question
    states = {}
    for line in [*ended.splitlines(), *known.splitlines()]:  # squeue is newer
        name, *cells = line.split("|", 3)
        if len(cells) == 3 and cells[0]:
            states[name] = JobState(name, cells[0].split()[0], *cells[1:])
    return states


def check_commands() -> None:
    """Check that jobs can be submitted from this machine.

    Raises:
        SlurmError: it has no ``sbatch``.
    """
    if not shutil.which("sbatch"):
        raise SlurmError("sbatch: no such command here; e2v submit needs a machine of a Slurm cluster")


def run_slurm(command: Sequence[str], timeout: float = COMMAND_SECONDS) -> str:
    """Run a command of Slurm's, and return its standard output.

    Raises:
        SlurmError: it is missing, fails or doesn't answer; the message ends with its own error.
    """
    # If e2v itself runs in a job, the variables of that job must not reach the jobs that it submits.
    own = {name for name in os.environ if name.startswith("SLURM_") and name not in _CLUSTER_VARIABLES}
    try:
        done = subprocess.run(  # noqa: S603 — no shell, and the words are ours
            command,
            env={name: value for name, value in os.environ.items() if name not in own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout,
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]}: no such command here") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered for {timeout:g} s; try again later") from None
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(f"{shlex.join(command)}: {words}")
    return done.stdout
