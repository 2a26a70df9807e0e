"""Slurm's commands: how they are called, and how their answers are understood."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from support.commands import put, words_of

from e2v_cli.cluster import slurm
from e2v_cli.cluster.slurm import JobState, ask_states, cancel_job, check_commands, submit_job
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
