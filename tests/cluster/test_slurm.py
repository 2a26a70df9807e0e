"""What a task of Slurm's is told, what a job's script says and does, and what is understood of Slurm's answers."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.processes import wait_until

from e2v_cli.cluster import slurm
from e2v_cli.cluster.slurm import (
    MAX_RESTARTS,
    Job,
    JobState,
    Resources,
    ask_states,
    cancel_job,
    check_commands,
    ranges,
    submit_job,
    write_array_script,
    write_script,
)
from e2v_cli.cluster.submissions import Submission, find_logs, note_submission, read_submissions
from e2v_cli.cluster.task import Task, cores_of_task, shard_of_task, share_gpus
from e2v_cli.errors import OutputError, SlurmError, UsageError
from e2v_cli.options import Shard


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for commands that stand in for real ones."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def path(commands: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as all that there is of commands."""
    monkeypatch.setenv("PATH", str(commands))
    return commands


def put(commands: Path, name: str, script: str = "") -> None:
    """Make a command that notes its words, each ended by a zero byte, and then does what some lines of sh say."""
    path = commands / name
    path.write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> "$0.words"\n{script}\n')
    path.chmod(0o755)


def words_of(commands: Path, name: str) -> list[str]:
    """Say with which words a command was called, by all calls together; none where it never was."""
    try:
        return os.fsdecode((commands / f"{name}.words").read_bytes()).split("\0")[:-1]
    except FileNotFoundError:
        return []


# -- what a task is told -----------------------------------------------------------------------------------------------


def array(number: int, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    """Name what an element of an array finds in its environment."""
    values = {"ID": number, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {"SLURM_ARRAY_JOB_ID": "12", **{f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}}


def step(rank: int, count: int) -> dict[str, str]:
    """Name what a task of an ``srun`` finds in its environment."""
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
def test_an_array_with_gaps_says_nothing(environ: dict[str, str], message: str) -> None:
    """Which part of all it is can't be known then."""
    message += " are not evenly spaced: say which part this is with --shard I/N"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$") as caught:
        shard_of_task(environ)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        (step(0, 4), Shard(4, 1)),
        (step(3, 4), Shard(4, 4)),
        # srun with one task is no part of anything
        (step(0, 1), None),
        # the script of a job has a rank, but is alone, however many tasks the job may start
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4"}, None),
        ({"SLURM_STEP_NUM_TASKS": "4"}, None),
    ],
)
def test_a_task_of_an_srun_is_a_shard(environ: dict[str, str], shard: Shard | None) -> None:
    assert shard_of_task(environ) == shard


def test_tasks_in_elements_of_an_array_are_shards_of_all() -> None:
    """Of three elements with four tasks each."""
    found = [shard_of_task({**array(number, 1, 3, 3), **step(rank, 4)}) for number in (1, 2, 3) for rank in range(4)]

    assert found == [Shard(12, index) for index in range(1, 13)]


@pytest.mark.parametrize("alone", [{}, step(0, 1), {"SLURM_PROCID": "0"}])
def test_the_script_of_an_element_is_its_shard(alone: dict[str, str]) -> None:
    assert shard_of_task({**array(2, 1, 3, 3), **alone}) == Shard(3, 2)


@pytest.mark.parametrize(
    ("environ", "cores"),
    [
        ({}, None),
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "64"}, 8),
        # the script of a job has all of its node
        ({"SLURM_CPUS_ON_NODE": "64", "SLURM_PROCID": "0"}, 64),
        ({"SLURM_CPUS_ON_NODE": "64", **step(0, 1)}, 64),
        # srun gives each task a core where nothing else was said
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
        # it stands in a line of a lock, between blanks
        ({"SLURM_JOB_ID": "12 3"}, None),
        ({"SLURM_JOB_ID": "here\n"}, None),
        ({"SLURM_JOB_ID": ""}, None),
    ],
)
def test_a_task_is_known_by_its_job_and_start(environ: dict[str, str], task: Task | None) -> None:
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
    """Name what the ``number``-th task on a node finds in its environment."""
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
        # one for each of four
        (local(0, 0), GPUS, ["cuda:0"]),
        (local(3, 0), GPUS, ["cuda:3"]),
        (local(2, 1), GPUS, ["cuda:2"]),
        # the third node has three tasks, the first of which has two
        (local(0, 2), GPUS, ["cuda:0", "cuda:3"]),
        (local(2, 2), GPUS, ["cuda:2"]),
        (local(1, 0, "2"), GPUS, ["cuda:1", "cuda:3"]),
        # more tasks than GPUs share them in turn
        (local(4, 0, "6"), GPUS, ["cuda:0"]),
        (local(5, 0, "6"), GPUS, ["cuda:1"]),
        # a task that is alone there has all
        (local(0, 0, "1"), GPUS, GPUS),
        (local(0, 1, "4,1"), GPUS, GPUS),
        (local(0, 7), GPUS, GPUS),
        # Slurm has dealt them already, or a user has said which
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
    """And where there are enough, no two tasks have the same."""
    all_of_them = [f"cuda:{number}" for number in range(gpus)]

    shared = [share_gpus(local(number, 0, str(tasks), str(gpus)), all_of_them) for number in range(tasks)]

    flat = [gpu for own in shared for gpu in own]
    assert set(flat) == set(all_of_them)
    assert len(flat) == max(tasks, gpus)


# -- scripts -----------------------------------------------------------------------------------------------------------

JOB = Job(
    name="e2v-out",
    words=("e2v", "predict", "my list.scp", "-o", "out", "--offline"),
    folder=Path("/my data"),
    log="/my data/out/log/slurm-%A_%a.log",
    resources=Resources(
        partition="main",
        gpus="a100:2",
        cpus=8,
        mem="16G",
        time="4:00:00",
        account="lab",
        qos="high",
        others=("--constraint=ib", "--nice=100"),
    ),
    variables={"E2V_MODEL": "sample", "E2V_CACHE": "/my cache"},
)

PLAIN = Job("e2v", ("e2v", "merge", "/data/out"), Path("/data"), "/data/out/log/slurm-%j.log", Resources(), {})


def test_the_whole_script_of_an_array() -> None:
    assert write_array_script(JOB, [1, 2, 3, 7], 8, 2) == (
        "#!/bin/bash\n"
        "#SBATCH --job-name=e2v-out\n"
        '#SBATCH --output="/my data/out/log/slurm-%A_%a.log"\n'
        "#SBATCH --nodes=1\n"
        "#SBATCH --ntasks=1\n"
        "#SBATCH --array=1-3,7%2\n"
        "#SBATCH --requeue\n"
        "#SBATCH --open-mode=append\n"
        "#SBATCH --signal=B:USR1@60\n"
        "#SBATCH --partition=main\n"
        "#SBATCH --account=lab\n"
        "#SBATCH --qos=high\n"
        "#SBATCH --gres=gpu:a100:2\n"
        "#SBATCH --cpus-per-task=8\n"
        "#SBATCH --mem=16G\n"
        "#SBATCH --time=4:00:00\n"
        "#SBATCH --constraint=ib\n"
        "#SBATCH --nice=100\n"
        "\n"
        "cd '/my data' || exit\n"
        "export E2V_CACHE='/my cache'\n"
        "export E2V_MODEL=sample\n"
        "\n"
        "# A minute before the time limit Slurm warns this script (USR1), and e2v commits what is done and exits with "
        "75. Then\n"
        "# the shard goes back into the queue, and on from there, on any node.\n"
        "warned=\n"
        "e2v predict 'my list.scp' -o out --offline --shard \"$SLURM_ARRAY_TASK_ID/8\" &\n"
        "e2v=$!\n"
        "trap 'warned=yes; kill -USR1 \"$e2v\"' USR1\n"
        "trap 'kill -TERM \"$e2v\"' TERM\n"
        'wait "$e2v"\n'
        'while kill -0 "$e2v" 2>/dev/null; do wait "$e2v"; done # a signal ends a wait\n'
        'wait "$e2v"\n'
        "code=$?\n"
        'if [ -n "$warned" ] && [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 1000 ]; then\n'
        '  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"\n'
        "fi\n"
        'exit "$code"\n'
    )


def test_the_whole_script_of_a_process() -> None:
    """Of resources that nothing was said of, the cluster's own default counts."""
    assert write_script(PLAIN) == (
        "#!/bin/bash\n"
        "#SBATCH --job-name=e2v\n"
        "#SBATCH --output=/data/out/log/slurm-%j.log\n"
        "#SBATCH --nodes=1\n"
        "#SBATCH --ntasks=1\n"
        "\n"
        "cd /data || exit\n"
        "\n"
        "exec e2v merge /data/out\n"
    )


def test_all_elements_may_run_at_once() -> None:
    assert "\n#SBATCH --array=1-64\n" in write_array_script(PLAIN, range(1, 65), 64, None)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([1], "1"),
        ([1, 2], "1-2"),
        ([1, 3], "1,3"),
        ([1, 2, 3, 4, 7], "1-4,7"),
        ([2, 4, 5, 9, 10, 11, 100], "2,4-5,9-11,100"),
    ],
)
def test_numbers_are_written_as_slurm_does(numbers: Sequence[int], text: str) -> None:
    assert ranges(numbers) == text


@pytest.mark.parametrize(
    ("option", "quoted"),
    [
        ("--constraint=a100", "--constraint=a100"),
        ("--nodelist=n[1-4],n~7", "--nodelist=n[1-4],n~7"),
        ("--exclusive", "--exclusive"),
        ("--comment=größer", "--comment=größer"),
        ("--comment=two words", '--comment="two words"'),
        ("--comment=it's", '--comment="it\'s"'),
        ("--comment=a=b c", '--comment="a=b c"'),
        ("--comment=100 %%", '--comment="100 %%"'),
        ("--constraint=[a|b]&c", '--constraint="[a|b]&c"'),
        ("--comment=#1", '--comment="#1"'),
        ("--comment=$HOME", '--comment="$HOME"'),
        ("--comment=a;b", '--comment="a;b"'),
        (os.fsdecode(b"--chdir=/caf\xe9"), os.fsdecode(b'--chdir="/caf\xe9"')),
    ],
)
def test_options_are_quoted_as_sbatch_reads_them(option: str, quoted: str) -> None:
    script = write_script(replace(PLAIN, resources=Resources(others=(option,))))

    assert script.splitlines()[5] == f"#SBATCH {quoted}"


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "a\tb", "a\0b", "a\rb"])
def test_options_that_a_script_cannot_say_are_refused(value: str) -> None:
    """There is no way to quote them there."""
    for name, job in (
        ("--job-name", replace(PLAIN, name=value)),
        ("--output", replace(PLAIN, log=value)),
        ("--partition", replace(PLAIN, resources=Resources(partition=value))),
        ("--comment", replace(PLAIN, resources=Resources(others=(f"--comment={value}",)))),
    ):
        option = f"{name}={value}"
        message = f"{option!r}: a script of Slurm can't say this; choose a name without quotes and backslashes"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            write_script(job)
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            write_array_script(job, [1], 1, None)


def keep(folder: Path, script: str) -> Path:
    path = folder / "script.sh"
    path.write_bytes(os.fsencode(script))
    return path


def environment(commands: Path, **variables: str) -> dict[str, str]:
    """Name what the third element of an array finds in its environment; stand-ins come first on its PATH."""
    return {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        **variables,
    }


WORDS = ["two words", "it's", 'a "b"', "$HOME `ls` \\", "*", "a\nb", "%A 100%", "", "größer", os.fsdecode(b"caf\xe9")]


@pytest.mark.parametrize("is_array", [False, True])
def test_words_folders_and_variables_of_any_letters_are_what_the_command_gets(
    is_array: bool, commands: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "it's my $folder"
    folder.mkdir()
    put(commands, "e2v", 'pwd > "$0.folder"; printf %s "$E2V_LIST" > "$0.variable"; exit 3')
    job = replace(PLAIN, words=("e2v", *WORDS), folder=folder, variables={"E2V_LIST": "\n".join(WORDS)})
    script = write_array_script(job, [3, 4], 8, None) if is_array else write_script(job)

    done = subprocess.run(["bash", keep(tmp_path, script)], cwd="/", env=environment(commands), capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")
    assert words_of(commands, "e2v") == [*WORDS, *(["--shard", "3/8"] if is_array else [])]
    assert (commands / "e2v.folder").read_text() == f"{folder}\n"
    assert os.fsdecode((commands / "e2v.variable").read_bytes()) == "\n".join(WORDS)


@pytest.mark.parametrize("is_array", [False, True])
def test_nothing_runs_where_the_folder_is_gone(is_array: bool, commands: Path, tmp_path: Path) -> None:
    put(commands, "e2v")
    job = replace(PLAIN, folder=tmp_path / "gone")
    script = write_array_script(job, [3], 8, None) if is_array else write_script(job)

    done = subprocess.run(
        ["bash", keep(tmp_path, script)], env=environment(commands, LC_ALL="C"), capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr.endswith(f"cd: {tmp_path}/gone: No such file or directory\n")
    assert words_of(commands, "e2v") == []


NOTING = """
trap 'echo USR1 >> "$0.signals"' USR1
trap 'echo TERM >> "$0.signals"' TERM
: > "$0.signals"
until [ -e "$0.code" ]; do sleep 0.02; done
exit "$(cat "$0.code")"
"""
"""An e2v that notes the signals it gets, and exits with a code when it is told to."""


class Element:
    """The script of an element of an array, with an e2v that does what it is told."""

    def __init__(self, commands: Path, process: subprocess.Popen[bytes]) -> None:
        self._commands = commands
        self._process = process
        self._signals = commands / "e2v.signals"

    def signal(self, signum: signal.Signals) -> None:
        """Send the script a signal, and wait until its e2v has got it."""
        before = self._signals.read_text()
        self._process.send_signal(signum)
        wait_until(lambda: self._signals.read_text() == f"{before}{signum.name[3:]}\n")

    def end(self, code: int) -> int:
        """Let e2v end: the exit code of the script."""
        draft = self._commands / "draft"
        draft.write_text(str(code))
        draft.rename(self._commands / "e2v.code")
        return self._process.wait(timeout=60)


@contextmanager
def started(commands: Path, tmp_path: Path, requeue: str = "", **variables: str) -> Iterator[Element]:
    """Start the script of an element, and have it until it has ended."""
    put(commands, "e2v", NOTING)
    put(commands, "scontrol", requeue)
    script = keep(tmp_path, write_array_script(replace(PLAIN, folder=tmp_path), [3], 8, None))
    process = subprocess.Popen(["bash", script], env=environment(commands, **variables), start_new_session=True)
    try:
        wait_until((commands / "e2v.signals").exists)
        wait_until(lambda: catches(process.pid, signal.SIGUSR1) and catches(process.pid, signal.SIGTERM))
        yield Element(commands, process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def catches(pid: int, signum: signal.Signals) -> bool:
    """Say whether a process does something of its own on a signal."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    return bool(int(caught.group(1), 16) >> (signum - 1) & 1)


@pytest.mark.parametrize("code", [0, 1, 3, 4, 75])
def test_a_script_ends_as_its_e2v_does(code: int, commands: Path, tmp_path: Path) -> None:
    """Who was stopped, but not by the time limit, is not put back."""
    with started(commands, tmp_path) as element:
        assert element.end(code) == code
    assert words_of(commands, "scontrol") == []


def test_a_shard_whose_time_is_over_goes_back_into_the_queue(commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path) as element:
        element.signal(signal.SIGUSR1)
        assert words_of(commands, "scontrol") == []  # not before all is committed
        assert element.end(75) == 75
    assert words_of(commands, "scontrol") == ["requeue", "12_3"]


@pytest.mark.parametrize("code", [0, 1, 3, 137])
def test_a_shard_that_was_warned_and_ended_otherwise_stays_out(code: int, commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path) as element:
        element.signal(signal.SIGUSR1)
        assert element.end(code) == code
    assert words_of(commands, "scontrol") == []


def test_a_shard_that_is_cancelled_stays_out(commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path) as element:
        element.signal(signal.SIGTERM)
        assert element.end(75) == 75
    assert words_of(commands, "scontrol") == []


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGUSR1, signal.SIGUSR1),
        (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGUSR1),
    ],
)
def test_signals_while_e2v_commits_are_handed_on_and_waited_through(
    signals: Sequence[signal.Signals], commands: Path, tmp_path: Path
) -> None:
    with started(commands, tmp_path) as element:
        for signum in signals:
            element.signal(signum)
        assert element.end(75) == 75
    assert words_of(commands, "scontrol") == ["requeue", "12_3"]


@pytest.mark.parametrize(("restarts", "goes_back"), [(0, True), (MAX_RESTARTS - 1, True), (MAX_RESTARTS, False)])
def test_a_shard_goes_back_a_number_of_times(restarts: int, goes_back: bool, commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path, SLURM_RESTART_COUNT=str(restarts)) as element:
        element.signal(signal.SIGUSR1)
        assert element.end(75) == 75
    assert words_of(commands, "scontrol") == (["requeue", "12_3"] if goes_back else [])


def test_a_shard_that_slurm_does_not_take_back_ends_as_its_e2v_does(commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path, requeue="exit 1") as element:
        element.signal(signal.SIGUSR1)
        assert element.end(75) == 75


# -- submissions -------------------------------------------------------------------------------------------------------


def submission(
    array: str, shards: Sequence[int], count: int, merge: str = "", submitted: str = "2026-01-31T10:00:00+01:00"
) -> Submission:
    return Submission(array, tuple(shards), count, merge, "abc", submitted)


def note(folder: Path, *submissions: Submission) -> None:
    (folder / "slurm").mkdir(exist_ok=True)
    for item in submissions:
        note_submission(folder, item)


def test_a_submission_is_read_as_it_was_noted(tmp_path: Path) -> None:
    noted = submission("12", [1, 2, 7], 8, "13")
    note(tmp_path, noted)

    assert read_submissions(tmp_path) == [noted]
    assert os.listdir(tmp_path / "slurm") == ["12.json"]


def test_what_is_noted_again_of_an_array_is_replaced(tmp_path: Path) -> None:
    note(tmp_path, submission("12", [1], 1), submission("12", [1], 1, "13"))

    assert read_submissions(tmp_path) == [submission("12", [1], 1, "13")]


def test_a_merge_alone_is_noted(tmp_path: Path) -> None:
    note(tmp_path, submission("", [], 8, "13"))

    assert read_submissions(tmp_path) == [submission("", [], 8, "13")]
    assert os.listdir(tmp_path / "slurm") == ["13.json"]


def test_submissions_are_in_their_order_across_time_zones(tmp_path: Path) -> None:
    ordered = [
        submission("90", [1], 1, submitted="2026-01-31T10:00:00+01:00"),
        submission("7", [1], 1, submitted="2026-01-31T09:30:00+00:00"),
        submission("100", [1], 1, submitted="2026-02-01T00:00:00+14:00"),
        submission("8", [1], 1, submitted="2026-01-31T05:30:00-05:00"),
    ]
    note(tmp_path, *reversed(ordered))

    assert read_submissions(tmp_path) == ordered


def test_where_nothing_was_submitted_there_is_no_note(tmp_path: Path) -> None:
    assert read_submissions(tmp_path) == []
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/shards.sh").touch()

    assert read_submissions(tmp_path) == []
    assert find_logs(tmp_path, 4) == {}


GOOD = b'"array": "12", "shards": [1], "count": 1, "merge": "", "input_sha256": "abc"'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"{%b}" % GOOD,
        b'{%b, "submitted": "2026-01-31T10:00:00+01:00", "more": 1}' % GOOD,
        b'{%b, "submitted": "2026-01-31T10:00:00+01:00", "shards": null}' % GOOD,
        b'{%b, "submitted": "yesterday"}' % GOOD,
        b'{%b, "submitted": 5}' % GOOD,
    ],
)
def test_a_note_that_is_damaged_is_named(content: bytes, tmp_path: Path) -> None:
    note(tmp_path, submission("12", [1], 1))
    path = tmp_path / "slurm/12.json"
    path.write_bytes(content)

    message = rf"{re.escape(str(path))}: no note of jobs that were submitted \(.+\); remove it"
    with pytest.raises(OutputError, match=f"^{message}$"):
        read_submissions(tmp_path)


def test_a_note_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "slurm/12.json"
    path.mkdir(parents=True)

    message = f"{path}: no note of jobs that were submitted ([Errno 21] Is a directory: '{path}'); remove it"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read_submissions(tmp_path)


def test_logs_are_those_of_the_newest_job_of_each_shard(tmp_path: Path) -> None:
    """Of the third of four nothing was ever submitted; jobs of another number of shards are other shards' jobs."""
    note(
        tmp_path,
        submission("12", [1, 2, 4], 4, submitted="2026-01-31T10:00:00+01:00"),
        submission("9", [2, 4], 4, submitted="2026-01-31T11:00:00+01:00"),
        submission("20", [4], 4, submitted="2026-01-31T12:00:00+01:00"),
        submission("30", range(1, 9), 8, submitted="2026-01-31T13:00:00+01:00"),
        submission("", [], 4, "31", submitted="2026-01-31T14:00:00+01:00"),
    )

    assert find_logs(tmp_path, 4) == {
        Shard(4, 1): "log/slurm-12_1.log",
        Shard(4, 2): "log/slurm-9_2.log",
        Shard(4, 4): "log/slurm-20_4.log",
    }
    assert find_logs(tmp_path, 5) == {}


# -- what Slurm says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "is_waiting", "is_at_work"),
    [
        *((state, True, False) for state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "SPECIAL_EXIT")),
        *((state, False, True) for state in ("RUNNING", "COMPLETING", "CONFIGURING")),
        *((state, False, False) for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")),
        *((state, False, False) for state in ("NODE_FAIL", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "SOMETHING_NEW")),
    ],
)
def test_a_job_waits_is_at_work_or_has_ended(state: str, is_waiting: bool, is_at_work: bool) -> None:
    job = JobState("12_3", state, "", "")

    assert (job.is_waiting, job.is_at_work, job.is_alive) == (is_waiting, is_at_work, is_waiting or is_at_work)


SQUEUE = ["--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", "--jobs=12,13"]
SACCT = ["--noheader", "--allocations", "--parsable2", "--format=JobID,State,NodeList,Reason", "--jobs=12,13"]


def say(*lines: str) -> str:
    """Write lines of sh that print some lines."""
    return "\n".join(f"echo '{line}'" for line in lines)


def test_what_became_of_jobs_is_asked_of_squeue_and_sacct(path: Path) -> None:
    """What squeue says is newer; what it has forgotten sacct may know."""
    put(
        path,
        "sacct",
        say(
            "12_1|COMPLETED|n1|None",
            "12_2|PENDING|None assigned|Resources",
            "12_3|CANCELLED by 0|n2|None",
            "13|PENDING||",
        ),
    )
    put(path, "squeue", say("12_2|RUNNING|n1|None", "12_4|PENDING||Priority", "13|PENDING||Dependency|or so"))

    assert ask_states(["12", "13"]) == {
        "12_1": JobState("12_1", "COMPLETED", "n1", "None"),
        "12_2": JobState("12_2", "RUNNING", "n1", "None"),
        "12_3": JobState("12_3", "CANCELLED", "n2", "None"),
        "12_4": JobState("12_4", "PENDING", "", "Priority"),
        "13": JobState("13", "PENDING", "", "Dependency|or so"),
    }
    assert words_of(path, "squeue") == SQUEUE
    assert words_of(path, "sacct") == SACCT


def test_of_no_jobs_nothing_is_asked(path: Path) -> None:
    put(path, "sacct")
    put(path, "squeue")

    assert ask_states([]) == {}
    assert words_of(path, "sacct") == words_of(path, "squeue") == []


@pytest.mark.parametrize(
    ("squeue", "message"),
    [
        ("", "squeue: no such command here"),
        (
            "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
            "squeue --noheader --array --states=all '--format=%i|%T|%N|%r' --jobs=12: "
            "slurm_load_jobs error: Unable to contact slurm controller",
        ),
    ],
)
def test_where_squeue_can_not_be_asked_that_is_not_taken_for_an_answer(squeue: str, message: str, path: Path) -> None:
    put(path, "sacct", say("12|COMPLETED|n1|None"))
    if squeue:
        put(path, "squeue", squeue)

    with pytest.raises(SlurmError, match=f"^{re.escape(message)}$"):
        ask_states(["12"])


def test_lines_that_are_none_are_passed_over(path: Path) -> None:
    put(path, "sacct", say("a note of the site", "12|||"))
    put(path, "squeue", say("13|RUNNING|n1|None", "", "14|RUNNING"))

    assert ask_states(["12", "13", "14"]) == {"13": JobState("13", "RUNNING", "n1", "None")}


def test_what_a_job_was_given_is_not_handed_on_to_those_that_it_submits(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_STEP_NUM_TASKS", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "7")
    put(path, "sbatch", 'echo "$SLURM_CPUS_PER_TASK.$SLURM_STEP_NUM_TASKS.$SLURM_CONF.$SBATCH_ACCOUNT"')

    assert submit_job(Path("shards.sh")) == "..7.7"


def test_a_cluster_without_accounts_knows_what_squeue_does(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    put(path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    put(path, "squeue", say("12|RUNNING|n1|None"))

    assert ask_states(["12", "13"]) == {"12": JobState("12", "RUNNING", "n1", "None")}
    assert caplog.messages == [f"{' '.join(['sacct', *SACCT])}: Slurm accounting storage is disabled"]


def test_a_machine_without_sacct_knows_what_squeue_does(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    put(path, "squeue", say("12|RUNNING|n1|None"))

    assert ask_states(["12"]) == {"12": JobState("12", "RUNNING", "n1", "None")}
    assert caplog.messages == ["sacct: no such command here"]


def test_a_job_that_squeue_has_forgotten_is_known_to_sacct(path: Path) -> None:
    """Of a job that is gone, squeue says that it has no valid number."""
    put(path, "sacct", say("12|TIMEOUT|n1|None"))
    put(path, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")

    assert ask_states(["12", "13"]) == {"12": JobState("12", "TIMEOUT", "n1", "None")}


def test_a_slurm_that_does_not_answer_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "COMMAND_SECONDS", 0.5)
    put(path, "sacct", say("12|RUNNING|n1|None"))
    put(path, "squeue", "exec /bin/sleep 60")

    with pytest.raises(SlurmError, match=r"^squeue has not answered for 0\.5 s; try again later$"):
        ask_states(["12"])


@pytest.mark.parametrize("answer", ["123", "123;cluster", "123 "])
@pytest.mark.parametrize(
    ("waits_for", "options"),
    [
        ([], []),
        (["12"], ["--dependency=afterany:12"]),
        (["12", "14"], ["--dependency=afterany:12:14"]),
    ],
)
def test_a_script_is_submitted(answer: str, waits_for: list[str], options: list[str], path: Path) -> None:
    put(path, "sbatch", say(answer))

    assert submit_job(Path("/my data/out/slurm/shards.sh"), waits_for) == "123"
    assert words_of(path, "sbatch") == ["--parsable", *options, "/my data/out/slurm/shards.sh"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "echo 'sbatch: error: invalid partition: x' >&2; echo 'sbatch: error: Batch job failed' >&2; exit 1",
            "sbatch: error: invalid partition: x sbatch: error: Batch job failed",
        ),
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
        (r"printf 'caf\351' >&2; exit 1", r"caf\xe9"),
    ],
)
def test_what_sbatch_says_when_it_refuses_is_handed_on(script: str, words: str, path: Path) -> None:
    put(path, "sbatch", script)

    message = f"sbatch --parsable '/my data/shards.sh': {words}"
    with pytest.raises(SlurmError, match=f"^{re.escape(message)}$") as caught:
        submit_job(Path("/my data/shards.sh"))
    assert caught.value.exit_code == 1


def test_a_machine_without_slurm_is_none_to_submit_from(path: Path) -> None:
    assert list(path.iterdir()) == []
    message = "sbatch: no such command here; e2v submit needs a machine of a Slurm cluster"
    with pytest.raises(SlurmError, match=f"^{re.escape(message)}$"):
        check_commands()
    with pytest.raises(SlurmError, match=r"^sbatch: no such command here$"):
        submit_job(Path("shards.sh"))
    put(path, "sbatch")
    check_commands()


def test_a_submission_that_is_not_answered_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "COMMAND_SECONDS", 0.2)
    put(path, "sbatch", "exec /bin/sleep 60")

    message = "sbatch has not answered for 0.2 s; try again later"
    with pytest.raises(SlurmError, match=f"^{re.escape(message)}$"):
        submit_job(Path("shards.sh"))


def test_a_job_is_taken_out_of_the_queue(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(path, "scancel")

    cancel_job("13")

    assert words_of(path, "scancel") == ["--quiet", "13"]
    assert caplog.messages == []


def test_a_job_that_cannot_be_cancelled_is_no_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(path, "scancel", "echo 'scancel: error: Access denied' >&2; exit 1")

    cancel_job("13")

    assert caplog.messages == ["scancel --quiet 13: scancel: error: Access denied"]


def test_commands_leave_standard_input_alone(path: Path) -> None:
    """It may be what another command of a user's script is to read."""
    put(path, "sbatch", 'if read -r line; then echo "$line"; else echo 123; fi')
    before = os.dup(0)
    reading, writing = os.pipe()
    try:
        os.write(writing, b"456\n")
        os.close(writing)
        os.dup2(reading, 0)
        assert submit_job(Path("shards.sh")) == "123"
        assert os.read(0, 10) == b"456\n"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)
