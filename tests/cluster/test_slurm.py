"""Slurm's commands: their arguments, and the parsing of their answers."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from support.commands import words_of, write_command

from e2v_cli.cluster.slurm import JobState, ask_states, cancel_job, check_commands, run_slurm, submit_job
from e2v_cli.errors import SlurmError


@pytest.mark.parametrize(
    ("state", "is_waiting", "is_at_work"),
    [
        *((state, True, False) for state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "SPECIAL_EXIT")),
        *((state, False, True) for state in ("RUNNING", "COMPLETING", "CONFIGURING")),
        *((state, False, False) for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")),
        *((state, False, False) for state in ("NODE_FAIL", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "SOMETHING_NEW")),
    ],
)
def test_job_is_waiting_or_at_work_or_has_ended(state: str, is_waiting: bool, is_at_work: bool) -> None:
    job = JobState("12_3", state, "", "")

    assert (job.is_waiting, job.is_at_work, job.is_alive) == (is_waiting, is_at_work, is_waiting or is_at_work)


SQUEUE = ["--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", "--jobs=12,13"]
SACCT = ["--noheader", "--allocations", "--parsable2", "--format=JobID,State,NodeList,Reason", "--jobs=12,13"]


def echo_lines(*lines: str) -> str:
    """Return lines of sh that print these lines."""
    return "\n".join(f"echo '{line}'" for line in lines)


def test_states_of_jobs_come_from_squeue_and_sacct(path: Path) -> None:
    """States of squeue are newer; sacct knows older jobs."""
    write_command(
        path,
        "sacct",
        echo_lines(
            "12_1|COMPLETED|n1|None",
            "12_2|PENDING|None assigned|Resources",
            "12_3|CANCELLED by 0|n2|None",
            "13|PENDING||",
        ),
    )
    write_command(
        path, "squeue", echo_lines("12_2|RUNNING|n1|None", "12_4|PENDING||Priority", "13|PENDING||Dependency|or so")
    )

    assert ask_states(["12", "13"]) == {
        "12_1": JobState("12_1", "COMPLETED", "n1", "None"),
        "12_2": JobState("12_2", "RUNNING", "n1", "None"),
        "12_3": JobState("12_3", "CANCELLED", "n2", "None"),
        "12_4": JobState("12_4", "PENDING", "", "Priority"),
        "13": JobState("13", "PENDING", "", "Dependency|or so"),
    }
    assert words_of(path, "squeue") == SQUEUE
    assert words_of(path, "sacct") == SACCT


def test_no_command_runs_without_jobs(path: Path) -> None:
    write_command(path, "sacct")
    write_command(path, "squeue")

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
def test_failed_squeue_is_an_error(squeue: str, message: str, path: Path) -> None:
    write_command(path, "sacct", echo_lines("12|COMPLETED|n1|None"))
    if squeue:
        write_command(path, "squeue", squeue)

    with pytest.raises(SlurmError, match=f"^{re.escape(message)}$"):
        ask_states(["12"])


def test_malformed_lines_are_skipped(path: Path) -> None:
    write_command(path, "sacct", echo_lines("a note of the site", "12|||"))
    write_command(path, "squeue", echo_lines("13|RUNNING|n1|None", "", "14|RUNNING"))

    assert ask_states(["12", "13", "14"]) == {"13": JobState("13", "RUNNING", "n1", "None")}


def test_variables_of_a_job_do_not_reach_the_jobs_that_it_submits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_STEP_NUM_TASKS", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "7")
    write_command(path, "sbatch", 'echo "$SLURM_CPUS_PER_TASK.$SLURM_STEP_NUM_TASKS.$SLURM_CONF.$SBATCH_ACCOUNT"')

    assert submit_job(Path("shards.sh")) == "..7.7"


def test_cluster_without_accounts_has_only_the_states_of_squeue(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_command(path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    write_command(path, "squeue", echo_lines("12|RUNNING|n1|None"))

    assert ask_states(["12", "13"]) == {"12": JobState("12", "RUNNING", "n1", "None")}
    assert caplog.messages == [f"{' '.join(['sacct', *SACCT])}: Slurm accounting storage is disabled"]


def test_machine_without_sacct_has_only_the_states_of_squeue(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_command(path, "squeue", echo_lines("12|RUNNING|n1|None"))

    assert ask_states(["12"]) == {"12": JobState("12", "RUNNING", "n1", "None")}
    assert caplog.messages == ["sacct: no such command here"]


def test_job_forgotten_by_squeue_is_found_by_sacct(path: Path) -> None:
    """For such a job squeue reports an invalid id."""
    write_command(path, "sacct", echo_lines("12|TIMEOUT|n1|None"))
    write_command(path, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")

    assert ask_states(["12", "13"]) == {"12": JobState("12", "TIMEOUT", "n1", "None")}


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
    write_command(path, "sbatch", echo_lines(answer))

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
def test_error_of_sbatch_is_passed_on(script: str, words: str, path: Path) -> None:
    write_command(path, "sbatch", script)

    message = f"sbatch --parsable '/my data/shards.sh': {words}"
    with pytest.raises(SlurmError, match=f"^{re.escape(message)}$") as caught:
        submit_job(Path("/my data/shards.sh"))
    assert caught.value.exit_code == 1


def test_machine_without_slurm_cannot_submit(path: Path) -> None:
    assert list(path.iterdir()) == []
    message = "sbatch: no such command here; e2v submit needs a machine of a Slurm cluster"
    with pytest.raises(SlurmError, match=f"^{re.escape(message)}$"):
        check_commands()
    with pytest.raises(SlurmError, match=r"^sbatch: no such command here$"):
        submit_job(Path("shards.sh"))
    write_command(path, "sbatch")
    check_commands()


def test_command_without_an_answer_times_out(path: Path) -> None:
    write_command(path, "sbatch", "exec /bin/sleep 60")

    with pytest.raises(SlurmError, match=r"^sbatch has not answered for 0\.2 s; try again later$"):
        run_slurm(["sbatch", "shards.sh"], timeout=0.2)


def test_job_is_cancelled(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_command(path, "scancel")

    cancel_job("13")

    assert words_of(path, "scancel") == ["--quiet", "13"]
    assert caplog.messages == []


def test_failed_cancellation_is_only_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_command(path, "scancel", "echo 'scancel: error: Access denied' >&2; exit 1")

    cancel_job("13")

    assert caplog.messages == ["scancel --quiet 13: scancel: error: Access denied"]


def test_commands_leave_standard_input_alone(path: Path) -> None:
    """Another command of a user's script may read it."""
    write_command(path, "sbatch", 'if read -r line; then echo "$line"; else echo 123; fi')
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
