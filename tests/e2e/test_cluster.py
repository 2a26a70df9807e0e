"""Runs on a real Slurm of two nodes: requeues, preemption and lost nodes do not change the bytes of the tables."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.corpora import write_takes
from support.forkserver import shared_server
from support.processes import ROOT, on_opening
from support.slurm_cluster import Cluster, ask, install_packages, running_cluster

pytestmark = pytest.mark.slurm

NUM_UTTERANCES = 120
NUM_SHARDS = 4


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with running_cluster(nodes=2, cpus=2) as running:
        yield running


@pytest.fixture
def cluster(two_nodes: Cluster) -> Cluster:
    """A cluster of two nodes with all daemons running."""
    two_nodes.start()
    return two_nodes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list that names the sample corpus three times."""
    path = write_takes(tmp_path_factory.mktemp("corpus") / "wav.scp", 3)
    assert len(path.read_text().splitlines()) == NUM_UTTERANCES
    return path


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a single run on one machine."""
    out = tmp_path_factory.mktemp("reference") / "out"
    command = [sys.executable, "-m", "e2v_cli", "predict", str(corpus), "-m", "sample", "-o", str(out), "-q"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return digest(out)


def digest(out: Path) -> str:
    return hashlib.sha256((out / "predictions.tsv").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Jobs:
    """The job ids and the output of a submission."""

    array: str
    merge: str
    text: str

    def element(self, shard: int) -> str:
        return f"{self.array}_{shard}"


def submit(cluster: Cluster, corpus: Path, out: Path, *options: str, brake: Brake | None = None) -> Jobs:
    """Submit a run, and return its jobs."""
    command: list[str | Path] = [*E2V, "submit", corpus, "-m", "sample", "-o", out, "--cpus", "1", *options]
    text = cluster.run(*command, environment=brake.environment if brake else None)
    array, merge = re.search(r"^job (\d+): shards", text, re.M), re.search(r"^job (\d+): merge", text, re.M)
    assert merge, text
    return Jobs(array.group(1) if array else "", merge.group(1), text)


E2V = (sys.executable, "-m", "e2v_cli")


class Brake:
    """A delay of every utterance until it is released."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._file = folder / "brake"
        self._file.touch()
        action = f"time.sleep({seconds} if os.path.exists({str(self._file)!r}) else 0)"
        self.environment = on_opening(folder / "hook", "sample_data", action)

    def release(self) -> None:
        self._file.unlink()


def status(cluster: Cluster, out: Path) -> tuple[int, str]:
    done = cluster.try_run(*E2V, "status", out)
    return done.returncode, done.stdout


def has_begun(out: Path, shard: int, count: int = NUM_SHARDS) -> bool:
    """Whether a journal of the shard records a result."""
    return any(b"\tdone\t" in path.read_bytes() for path in out.glob(f"journal.{shard}-of-{count}.*"))


def test_submitted_run_is_merged(cluster: Cluster, corpus: Path, reference: str, tmp_path: Path) -> None:
    """Four shards on two nodes give the bytes of a single run. A second submission finds nothing to do."""
    out = tmp_path / "out put%1"
    brake = Brake(tmp_path, 0.8)

    jobs = submit(cluster, corpus, out, "--jobs", "4", brake=brake)

    assert jobs.text == (
        f"job {jobs.array}: shards 1-4 of 4\n"
        f"job {jobs.merge}: merge, when they have ended\n"
        f"e2v status '{out}' --watch\n"
    )
    ask(lambda: any(has_begun(out, shard) for shard in range(1, 5)))
    code, text = status(cluster, out)
    brake.release()
    assert code == 4, text
    assert text.startswith(f"{out}: in progress\n{NUM_UTTERANCES} utterances: ")
    ended = cluster.wait(jobs.array, jobs.merge)
    assert ended == {**{jobs.element(shard): "COMPLETED" for shard in range(1, 5)}, jobs.merge: "COMPLETED"}
    assert set(cluster.nodes_of(jobs.array)) == {"n1", "n2"}
    assert digest(out) == reference
    assert status(cluster, out)[0] == 0
    again = cluster.run(*E2V, "submit", corpus, "-m", "sample", "-o", out, "--jobs", "4")
    assert again == f"{out} is complete: nothing to submit\n"


def test_run_survives_cancel_requeue_and_controller_restart(
    cluster: Cluster, corpus: Path, reference: str, tmp_path: Path
) -> None:
    """Merge and status name the cancelled shard. The second submission is of this shard only."""
    out = tmp_path / "out"
    brake = Brake(tmp_path, 0.8)
    jobs = submit(cluster, corpus, out, "--jobs", "4", brake=brake)
    ask(lambda: all(has_begun(out, shard) for shard in range(1, 5)))

    cluster.save(jobs.array)
    cluster.kill("slurmctld")
    cluster.start()
    cluster.run("scancel", jobs.element(2))
    # After its restart the controller may have put the job into the queue itself, and then refuses until it runs again.
    ask(lambda: cluster.try_run("scontrol", "requeue", jobs.element(3)).returncode == 0)
    ask(lambda: cluster.states(jobs.array)[jobs.element(3)] == "PENDING")
    brake.release()

    ended = cluster.wait(jobs.array, jobs.merge)
    assert ended[jobs.element(2)] == "CANCELLED"
    assert {ended[jobs.element(shard)] for shard in (1, 3, 4)} == {"COMPLETED"}
    assert len(list(out.glob("journal.3-of-4.*"))) >= 2, "it went on"
    assert ended[jobs.merge] == "FAILED"
    log = f"{out}/log/slurm-{jobs.element(2)}.log"
    said = (out / "log" / f"slurm-{jobs.merge}-merge.log").read_text()
    assert re.fullmatch(
        rf"e2v: {re.escape(str(out))} is not complete: (\d+) of {NUM_UTTERANCES} utterances are left, of shards "
        rf"2/4 \(\1 left, see {re.escape(log)}\); run the same e2v submit command again\n",
        said,
    ), said
    assert "e2v: stopped; " in Path(log).read_text()
    code, text = status(cluster, out)
    assert code == 75
    assert f"not running: job {jobs.element(2)} is CANCELLED, see {log}; run e2v submit again" in text
    assert not (out / "predictions.tsv").exists()

    second = submit(cluster, corpus, out, "--jobs", "4")

    assert second.text.startswith(f"job {second.array}: shards 2 of 4; not in the array: 3 complete\n")
    assert cluster.wait(second.array, second.merge) == {second.element(2): "COMPLETED", second.merge: "COMPLETED"}
    assert digest(out) == reference


def test_task_at_its_time_limit_is_requeued(cluster: Cluster, corpus: Path, reference: str, tmp_path: Path) -> None:
    """The task gets a signal before its limit of two minutes, commits, and returns to the queue."""
    out = tmp_path / "out"
    brake = Brake(tmp_path, 1.0)

    jobs = submit(cluster, corpus, out, "--jobs", "1", "--time", "2", brake=brake)

    ask(lambda: cluster.states(jobs.array)[jobs.element(1)] == "PENDING" and has_begun(out, 1, 1), 120)
    brake.release()
    assert cluster.states(jobs.merge) == {jobs.merge: "PENDING"}
    assert status(cluster, out)[0] == 4
    ended = cluster.wait(jobs.array, jobs.merge)
    assert ended == {jobs.element(1): "COMPLETED", jobs.merge: "COMPLETED"}
    assert digest(out) == reference
    assert len(list(out.glob("journal.1-of-1.*"))) == 2


def test_preempted_task_resumes(cluster: Cluster, corpus: Path, reference: str, tmp_path: Path) -> None:
    """A job of another partition takes both nodes, and the task waits in the queue until that job ends."""
    out = tmp_path / "out"
    brake = Brake(tmp_path, 0.5)
    jobs = submit(cluster, corpus, out, "--jobs", "1", brake=brake)
    ask(lambda: has_begun(out, 1, 1))

    urgent = cluster.run(
        *("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive"),
        *("--output=/dev/null", "--wrap=sleep 1"),
    ).strip()

    ask(lambda: cluster.states(jobs.array)[jobs.element(1)] == "PENDING")
    brake.release()
    assert set(cluster.wait(urgent, jobs.array, jobs.merge).values()) == {"COMPLETED"}
    assert "e2v: stopped; " in (out / "log" / f"slurm-{jobs.element(1)}.log").read_text()
    assert len(list(out.glob("journal.1-of-1.*"))) == 2
    assert digest(out) == reference


def test_task_still_alive_on_a_lost_node_changes_no_result(
    cluster: Cluster, corpus: Path, reference: str, tmp_path: Path
) -> None:
    """The shard starts again on the other node while the first task still writes."""
    out = tmp_path / "out"
    brake = Brake(tmp_path, 0.8)
    jobs = submit(cluster, corpus, out, "--jobs", "1", brake=brake)
    ask(lambda: has_begun(out, 1, 1))
    (node,) = cluster.nodes_of(jobs.array)
    journals = len(list(out.glob("journal.1-of-1.*")))
    (lost,) = cluster.find_processes(jobs.array)

    cluster.kill(f"slurmd.{node}")

    try:
        ask(lambda: len(list(out.glob("journal.1-of-1.*"))) > journals, 60)
        assert lost in cluster.find_processes(jobs.array), "it still writes"
        assert set(cluster.nodes_of(jobs.array)) == {"n1", "n2"} - {node}
        brake.release()
        ended = cluster.wait(jobs.array, jobs.merge)
        assert ended == {jobs.element(1): "COMPLETED", jobs.merge: "COMPLETED"}
        assert digest(out) == reference
        log = (out / "log" / f"slurm-{jobs.element(1)}.log").read_text()
        assert f"start 1 of job {jobs.element(1)} is still running" in log
        ask(lambda: lost not in cluster.find_processes(jobs.array))
        assert digest(out) == reference, "nor did the lost one change anything when it ended"
        assert status(cluster, out)[0] == 0
    finally:
        cluster.start()


def test_shard_out_of_memory_is_resubmitted_with_more(
    cluster: Cluster, corpus: Path, reference: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    jobs = submit(cluster, corpus, out, "--jobs", "2", "--mem", "50M", brake=Brake(tmp_path, 1.0))
    ended = cluster.wait(jobs.array, jobs.merge)
    assert "COMPLETED" not in ended.values()
    code, text = status(cluster, out)
    assert (code, f"{NUM_UTTERANCES} utterances: " in text) == (75, True)
    assert f"not running: job {jobs.element(1)} is {ended[jobs.element(1)]}, see " in text

    jobs = submit(cluster, corpus, out, "--jobs", "2", "--mem", "2G")

    assert set(cluster.wait(jobs.array, jobs.merge).values()) == {"COMPLETED"}
    assert digest(out) == reference


def test_each_task_has_its_own_core_and_gpu(corpus: Path, reference: str, tmp_path: Path) -> None:
    """A node has two cores and two fake GPUs. e2v computes on the cores."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two tasks that share no core need two cores")
    out = tmp_path / "out"
    with running_cluster(nodes=1, cpus=2, gpus=2, bind=True) as cluster:
        brake = Brake(tmp_path, 0.8)
        jobs = submit(cluster, corpus, out, "--jobs", "2", "--gpus", "1", brake=brake)
        ask(lambda: has_begun(out, 1, 2) and has_begun(out, 2, 2))
        cores = [os.sched_getaffinity(pid) for pid in cluster.find_processes(jobs.array)]
        brake.release()
        assert set(cluster.wait(jobs.array, jobs.merge).values()) == {"COMPLETED"}
    assert [len(own) for own in cores] == [1, 1]
    assert cores[0] != cores[1]
    logs = [(out / "log" / f"launcher.{shard}-of-2.log").read_text() for shard in (1, 2)]
    found = [re.search(r"shard (\S+) on (.*); GPUs: (.*)\n", log) for log in logs]
    assert sorted(match.groups() for match in found if match) == [("1/2", "cpu", "0"), ("2/2", "cpu", "1")] or sorted(
        match.groups() for match in found if match
    ) == [("1/2", "cpu", "1"), ("2/2", "cpu", "0")]
    assert digest(out) == reference


ARRAY = """\
#!/bin/bash
#SBATCH --array=0-1 --cpus-per-task=1 --output={folder}/%a.log
{e2v} predict {corpus} -m sample -o {out}
"""

STEP = """\
#!/bin/bash
#SBATCH --ntasks=2 --nodes=1 --gres=gpu:2 --output={folder}/step.log
srun --gpus-per-task=1 {e2v} predict {corpus} -m sample -o {out}
"""


def test_handwritten_job_array(cluster: Cluster, corpus: Path, reference: str, tmp_path: Path) -> None:
    """Array tasks detect their shards, and the last one merges."""
    out = tmp_path / "out"
    script = tmp_path / "array.sh"
    script.write_text(ARRAY.format(folder=tmp_path, e2v=" ".join(E2V), corpus=corpus, out=out))

    job = cluster.run("sbatch", "--parsable", script).strip()

    assert set(cluster.wait(job).values()) == {"COMPLETED"}
    assert digest(out) == reference
    assert (tmp_path / "1.log").read_text().startswith("e2v: shard 2/2, by its place among the tasks of Slurm\n")


def test_srun_on_a_node_with_two_gpus(corpus: Path, reference: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = tmp_path / "step.sh"
    script.write_text(STEP.format(folder=tmp_path, e2v=" ".join(E2V), corpus=corpus, out=out))
    with running_cluster(nodes=1, cpus=2, gpus=2) as cluster:
        job = cluster.run("sbatch", "--parsable", script).strip()
        assert cluster.wait(job) == {job: "COMPLETED"}, (tmp_path / "step.log").read_text()
    assert digest(out) == reference
    gpus = [re.findall(r"GPUs: (\d+)\n", path.read_text()) for path in out.glob("log/launcher.*-of-2.log")]
    assert sorted(gpus) == [["0"], ["1"]]


def run_shell(command: str, tmp_path: Path, **environment: str) -> str:
    """Run a command of the README in a shell with e2v, which is forked, on its path."""
    tools = shared_server().write_command(tmp_path / "bin" / "e2v").parent
    path = f"{tools}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gnu_parallel(corpus: Path, reference: str, tmp_path: Path) -> None:
    install_packages({"parallel": "parallel"})
    out = tmp_path / "out"

    run_shell(f"parallel -j 2 e2v predict {corpus} -m sample -o {out} -j 1 -q --shard {{}}/4 ::: 1 2 3 4", tmp_path)

    assert digest(out) == reference


@pytest.mark.parametrize(
    ("shard", "variables"),
    [
        ("$PBS_ARRAY_INDEX/3", {"PBS_ARRAY_INDEX": "{}"}),
        ("$SGE_TASK_ID/$SGE_TASK_LAST", {"SGE_TASK_ID": "{}", "SGE_TASK_LAST": "3"}),
        ("$LSB_JOBINDEX/$LSB_JOBINDEX_END", {"LSB_JOBINDEX": "{}", "LSB_JOBINDEX_END": "3"}),
    ],
)
def test_arrays_of_other_schedulers(
    shard: str, variables: dict[str, str], corpus: Path, reference: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number in range(1, 4):
        environment = {name: value.format(number) for name, value in variables.items()}
        run_shell(f"e2v predict {corpus} -m sample -o {out} -j 1 -q --shard {shard}", tmp_path, **environment)

    assert digest(out) == reference
