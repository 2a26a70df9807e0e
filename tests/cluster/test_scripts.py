"""The scripts of jobs: their text, and their behaviour in a shell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import words_of, write_command
from support.processes import wait_until

from e2v_cli.cluster.slurm import MAX_RESTARTS, Resources, SlurmJob, ranges, write_array_script, write_script
from e2v_cli.errors import UsageError

JOB = SlurmJob(
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

PLAIN = SlurmJob("e2v", ("e2v", "merge", "/data/out"), Path("/data"), "/data/out/log/slurm-%j.log", Resources(), {})


def test_script_of_an_array_is_complete() -> None:
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
        'for name in "${!E2V_@}"; do [ "$name" = E2V_CACHE ] || unset "$name"; done # they are options already\n'
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


@pytest.mark.parametrize(
    ("resources", "directives"),
    [
        *((Resources(time=time), [f"--time={time}"]) for time in ("90", "0", "4:30", "4:99:00", "4:00:00", "1-0")),
        *((Resources(time=time), [f"--time={time}"]) for time in ("1-12:30", "1-12:30:00", "UNLIMITED", "infinite")),
        *((Resources(mem=size), [f"--mem={size}"]) for size in ("0", "8000", "8G", "8g", "500M", "900K", "1T", "8GB")),
        (Resources(gpus="1"), ["--gres=gpu:1"]),
        (Resources(gpus="1g.10gb:2"), ["--gres=gpu:1g.10gb:2"]),
        (Resources(gpus="a100:1,v100:2"), ["--gres=gpu:a100:1,gpu:v100:2"]),
    ],
)
def test_resources_are_written_as_sbatch_reads_them(resources: Resources, directives: list[str]) -> None:
    assert list(resources.directives()) == directives


def test_job_that_merges_may_have_another_partition() -> None:
    """An option that is given again replaces the earlier one."""
    resources = replace(JOB.resources, merge_others=("--partition=cpu", "--mem=9G", "--nice=7", "--hold"))

    assert list(resources.directives()) == list(JOB.resources.directives())
    assert list(resources.of_merge().directives()) == [
        *("--partition=cpu", "--account=lab", "--qos=high", "--mem=9G", "--time=4:00:00"),
        *("--constraint=ib", "--nice=7", "--hold"),
    ]


def test_script_of_a_process_is_complete() -> None:
    """Resources without a value are left to the cluster's defaults."""
    assert write_script(PLAIN) == (
        "#!/bin/bash\n"
        "#SBATCH --job-name=e2v\n"
        "#SBATCH --output=/data/out/log/slurm-%j.log\n"
        "#SBATCH --nodes=1\n"
        "#SBATCH --ntasks=1\n"
        "\n"
        "cd /data || exit\n"
        'for name in "${!E2V_@}"; do [ "$name" = E2V_CACHE ] || unset "$name"; done # they are options already\n'
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
def test_numbers_are_written_as_slurm_ranges(numbers: Sequence[int], text: str) -> None:
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
def test_options_that_cannot_be_quoted_are_refused(value: str) -> None:
    """A script has no way to quote these characters."""
    for name, job in (
        ("--job-name", replace(PLAIN, name=value)),
        ("--output", replace(PLAIN, log=value)),
        ("--partition", replace(PLAIN, resources=Resources(partition=value))),
        ("--comment", replace(PLAIN, resources=Resources(others=(f"--comment={value}",)))),
    ):
        option = f"{name}={value}"
        message = f"{option!r}: a script of Slurm can't hold quotes and backslashes; choose another name"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            write_script(job)
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            write_array_script(job, [1], 1, None)


def write_script_file(folder: Path, script: str) -> Path:
    path = folder / "script.sh"
    path.write_bytes(os.fsencode(script))
    return path


def environment(commands: Path, **variables: str) -> dict[str, str]:
    """Return the environment of the third element of an array; stand-ins come first on its PATH."""
    return {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        **variables,
    }


WORDS = ["two words", "it's", 'a "b"', "$HOME `ls` \\", "*", "a\nb", "%A 100%", "", "größer", os.fsdecode(b"caf\xe9")]


@pytest.mark.parametrize("is_array", [False, True])
def test_command_gets_words_folder_and_variables_unchanged(is_array: bool, commands: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's my $folder"
    folder.mkdir()
    write_command(commands, "e2v", 'pwd > "$0.folder"; printf %s "$E2V_LIST" > "$0.variable"; exit 3')
    job = replace(PLAIN, words=("e2v", *WORDS), folder=folder, variables={"E2V_LIST": "\n".join(WORDS)})
    script = write_array_script(job, [3, 4], 8, None) if is_array else write_script(job)

    done = subprocess.run(
        ["bash", write_script_file(tmp_path, script)], cwd="/", env=environment(commands), capture_output=True
    )

    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")
    assert words_of(commands, "e2v") == [*WORDS, *(["--shard", "3/8"] if is_array else [])]
    assert (commands / "e2v.folder").read_text() == f"{folder}\n"
    assert os.fsdecode((commands / "e2v.variable").read_bytes()) == "\n".join(WORDS)


@pytest.mark.parametrize("is_array", [False, True])
def test_variables_that_are_options_are_unset(is_array: bool, commands: Path, tmp_path: Path) -> None:
    """Variables that the script sets stay, and so does E2V_CACHE."""
    write_command(commands, "e2v", 'env | grep "^E2V_\\|^OTHER" | sort > "$0.variables"')
    job = replace(PLAIN, folder=tmp_path, variables={"E2V_OWN": "x"})
    script = write_array_script(job, [3], 8, None) if is_array else write_script(job)
    given = {"E2V_GRANULARITY": "frame", "E2V_MODEL": "a b", "E2V_CACHE": "/my cache", "E2V_OWN": "y", "OTHER": "z"}

    done = subprocess.run(
        ["bash", write_script_file(tmp_path, script)],
        env=environment(commands, **given),
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (commands / "e2v.variables").read_text() == "E2V_CACHE=/my cache\nE2V_OWN=x\nOTHER=z\n"


@pytest.mark.parametrize("is_array", [False, True])
def test_nothing_runs_if_the_folder_is_gone(is_array: bool, commands: Path, tmp_path: Path) -> None:
    write_command(commands, "e2v")
    job = replace(PLAIN, folder=tmp_path / "gone")
    script = write_array_script(job, [3], 8, None) if is_array else write_script(job)

    done = subprocess.run(
        ["bash", write_script_file(tmp_path, script)],
        env=environment(commands, LC_ALL="C"),
        capture_output=True,
        text=True,
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
"""A stand-in for e2v that records its signals, and exits with a code on request."""


class Element:
    """The script of an element of an array, with a stand-in for e2v."""

    def __init__(self, commands: Path, process: subprocess.Popen[bytes]) -> None:
        self._commands = commands
        self._process = process
        self._signals = commands / "e2v.signals"

    def signal(self, signum: signal.Signals) -> None:
        """Send the script a signal, and wait until its e2v has recorded it."""
        before = self._signals.read_text()
        self._process.send_signal(signum)
        wait_until(lambda: self._signals.read_text() == f"{before}{signum.name[3:]}\n")

    def end(self, code: int) -> int:
        """End e2v with an exit code, and return that of the script."""
        draft = self._commands / "draft"
        draft.write_text(str(code))
        draft.rename(self._commands / "e2v.code")
        return self._process.wait(timeout=60)


@contextmanager
def started(commands: Path, tmp_path: Path, requeue: str = "", **variables: str) -> Iterator[Element]:
    """Start the script of an element, and kill it when the block ends."""
    write_command(commands, "e2v", NOTING)
    write_command(commands, "scontrol", requeue)
    script = write_script_file(tmp_path, write_array_script(replace(PLAIN, folder=tmp_path), [3], 8, None))
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
    """Whether a process has a handler for a signal."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    return bool(int(caught.group(1), 16) >> (signum - 1) & 1)


@pytest.mark.parametrize("code", [0, 1, 3, 4, 75])
def test_script_ends_with_the_exit_code_of_e2v(code: int, commands: Path, tmp_path: Path) -> None:
    """A run that was stopped, but not by the time limit, is not requeued."""
    with started(commands, tmp_path) as element:
        assert element.end(code) == code
    assert words_of(commands, "scontrol") == []


def test_shard_at_its_time_limit_is_requeued(commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path) as element:
        element.signal(signal.SIGUSR1)
        assert words_of(commands, "scontrol") == []  # not before all results are committed
        assert element.end(75) == 75
    assert words_of(commands, "scontrol") == ["requeue", "12_3"]


@pytest.mark.parametrize("code", [0, 1, 3, 137])
def test_warned_shard_with_another_exit_code_is_not_requeued(code: int, commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path) as element:
        element.signal(signal.SIGUSR1)
        assert element.end(code) == code
    assert words_of(commands, "scontrol") == []


def test_cancelled_shard_is_not_requeued(commands: Path, tmp_path: Path) -> None:
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
def test_signals_while_e2v_commits_are_passed_on(
    signals: Sequence[signal.Signals], commands: Path, tmp_path: Path
) -> None:
    with started(commands, tmp_path) as element:
        for signum in signals:
            element.signal(signum)
        assert element.end(75) == 75
    assert words_of(commands, "scontrol") == ["requeue", "12_3"]


@pytest.mark.parametrize(("restarts", "is_requeued"), [(0, True), (MAX_RESTARTS - 1, True), (MAX_RESTARTS, False)])
def test_number_of_requeues_is_limited(restarts: int, is_requeued: bool, commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path, SLURM_RESTART_COUNT=str(restarts)) as element:
        element.signal(signal.SIGUSR1)
        assert element.end(75) == 75
    assert words_of(commands, "scontrol") == (["requeue", "12_3"] if is_requeued else [])


def test_failed_requeue_keeps_the_exit_code_of_e2v(commands: Path, tmp_path: Path) -> None:
    with started(commands, tmp_path, requeue="exit 1") as element:
        element.signal(signal.SIGUSR1)
        assert element.end(75) == 75
