"""Runs on a real Slurm of two nodes: whatever the cluster does in between, the tables end with the same bytes."""

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
    """Two nodes, of which all runs, whatever the test before did."""
    two_nodes.start()
    return two_nodes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list that names the sample corpus three times."""
    lines = (ROOT / "sample_data" / "wav.scp").read_text().splitlines()
    path = tmp_path_factory.mktemp("corpus") / "wav.scp"
    path.write_text("".join(f"{number}-{line}\n" for number in range(3) for line in lines))
    assert len(path.read_text().splitlines()) == NUM_UTTERANCES
    return path


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a single run on one machine makes of it."""
    out = tmp_path_factory.mktemp("reference") / "out"
    command = [sys.executable, "-m", "e2v_cli", "predict", str(corpus), "-m", "sample", "-o", str(out), "-q"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return digest(out)


def digest(out: Path) -> str:
    return hashlib.sha256((out / "predictions.tsv").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Jobs:
    """What a submission said."""

    array: str
    merge: str
    text: str

    def element(self, shard: int) -> str:
        return f"{self.array}_{shard}"


def submit(cluster: Cluster, corpus: Path, out: Path, *options: str, brake: Brake | None = None) -> Jobs:
    """Submit a run, and read the numbers of its jobs."""
    command: list[str | Path] = [*E2V, "submit", corpus, "-m", "sample", "-o", out, "--cpus", "1", *options]
    text = cluster.run(*command, environment=brake.environment if brake else None)
    array, merge = re.search(r"^job (\d+): shards", text, re.M), re.search(r"^job (\d+): merge", text, re.M)
    assert merge, text
    return Jobs(array.group(1) if array else "", merge.group(1), text)


E2V = (sys.executable, "-m", "e2v_cli")


class Brake:
    """Lets every utterance take a while, until it is released."""

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
    """Say whether a result of a shard is safe."""
    return any(b"\tdone\t" in path.read_bytes() for path in out.glob(f"journal.{shard}-of-{count}.*"))


def test_from_submit_to_the_merged_result(cluster: Cluster, corpus: Path, reference: str, tmp_path: Path) -> None:
    """Four shards on two nodes, and the same bytes as a single run; then there is nothing left to submit."""
    out = tmp_path / "out put%1"

    jobs = submit(cluster, corpus, out, "--jobs", "4", brake=Brake(tmp_path, 0.05))

    assert jobs.text == (
        f"job {jobs.array}: shards 1-4 of 4\n"
        f"job {jobs.merge}: merge, when they have ended\n"
        f"e2v status '{out}' --watch\n"
    )
    ask(lambda: any(has_begun(out, shard) for shard in range(1, 5)))
    code, text = status(cluster, out)
    assert code == 4, text
    assert text.startswith(f"{out}: not complete\n{NUM_UTTERANCES} utterances: ")
    ended = cluster.wait(jobs.array, jobs.merge)
    assert ended == {**{jobs.element(shard): "COMPLETED" for shard in range(1, 5)}, jobs.merge: "COMPLETED"}
    assert set(cluster.nodes_of(jobs.array)) == {"n1", "n2"}
    assert digest(out) == reference
    assert status(cluster, out)[0] == 0
    again = cluster.run(*E2V, "submit", corpus, "-m", "sample", "-o", out, "--jobs", "4")
    assert again == f"{out} is complete: nothing to submit\n"


def test_what_was_cancelled_or_requeued_and_a_controller_that_restarts(
    cluster: Cluster, corpus: Path, reference: str, tmp_path: Path
) -> None:
    """The one that was cancelled is named by the merge and by status, and alone is submitted again."""
    out = tmp_path / "out"
    brake = Brake(tmp_path, 0.4)
    jobs = submit(cluster, corpus, out, "--jobs", "4", brake=brake)
    ask(lambda: all(has_begun(out, shard) for shard in range(1, 5)))

    cluster.kill("slurmctld")
    cluster.start()
    cluster.run("scancel", jobs.element(2))
    cluster.run("scontrol", "requeue", jobs.element(3))
    ask(lambda: cluster.states(jobs.array)[jobs.element(3)] == "PENDING")
    brake.release()

    ended = cluster.wait(jobs.array, jobs.merge)
    assert ended[jobs.element(2)] == "CANCELLED"
    assert {ended[jobs.element(shard)] for shard in (1, 3, 4)} == {"COMPLETED"}
    assert len(list(out.glob("journal.3-of-4.*"))) == 2, "it went on"
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
    assert f"nobody: job {jobs.element(2)} is CANCELLED, see {log}; e2v submit again" in text
    assert not (out / "predictions.tsv").exists()

    second = submit(cluster, corpus, out, "--jobs", "4")

    assert second.text.startswith(f"job {second.array}: shards 2 of 4\n")
    assert cluster.wait(second.array, second.merge) == {second.element(2): "COMPLETED", second.merge: "COMPLETED"}
    assert digest(out) == reference


def test_a_task_that_comes_to_its_time_limit_goes_on_by_itself(
    cluster: Cluster, corpus: Path, reference: str, tmp_path: Path
) -> None:
    """It is warned before two minutes are over, commits, and is put back into the queue."""
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


def test_a_task_that_has_to_make_room_goes_on_when_there_is_some(
    cluster: Cluster, corpus: Path, reference: str, tmp_path: Path
) -> None:
    """A job of another partition takes both nodes, and the task is back in the queue until it has ended."""
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


def test_a_lost_node_whose_task_is_still_alive(cluster: Cluster, corpus: Path, reference: str, tmp_path: Path) -> None:
    """The shard is started again on the other node, beside what still writes: two writers, and the same bytes."""
    out = tmp_path / "out"
    brake = Brake(tmp_path, 0.6)
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
        assert f"start 1 of job {jobs.element(1)} is still at work" in log
        ask(lambda: lost not in cluster.find_processes(jobs.array))
        assert digest(out) == reference, "nor did the lost one change anything when it ended"
        assert status(cluster, out)[0] == 0
    finally:
        cluster.start()


def test_a_shard_without_memory_is_submitted_again_with_more(
    cluster: Cluster, corpus: Path, reference: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    jobs = submit(cluster, corpus, out, "--jobs", "2", "--mem", "50M", brake=Brake(tmp_path, 0.2))
    ended = cluster.wait(jobs.array, jobs.merge)
    assert "COMPLETED" not in ended.values()
    code, text = status(cluster, out)
    assert (code, f"{NUM_UTTERANCES} utterances: " in text) == (75, True)
    assert f"nobody: job {jobs.element(1)} is {ended[jobs.element(1)]}, see " in text

    jobs = submit(cluster, corpus, out, "--jobs", "2", "--mem", "2G")

    assert set(cluster.wait(jobs.array, jobs.merge).values()) == {"COMPLETED"}
    assert digest(out) == reference


def test_each_task_has_cores_and_a_gpu_of_its_own(corpus: Path, reference: str, tmp_path: Path) -> None:
    """Two tasks on a node of two cores and two GPUs, which are none: e2v computes on its cores."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two tasks that share no core need two cores")
    out = tmp_path / "out"
    with running_cluster(nodes=1, cpus=2, gpus=2, bind=True) as cluster:
        jobs = submit(cluster, corpus, out, "--jobs", "2", "--gpus", "1", brake=Brake(tmp_path, 0.1))
        ask(lambda: has_begun(out, 1, 2) and has_begun(out, 2, 2))
        cores = [os.sched_getaffinity(pid) for pid in cluster.find_processes(jobs.array)]
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
#SBATCH --array=0-3 --cpus-per-task=1 --output={folder}/%a.log
{e2v} predict {corpus} -m sample -o {out}
"""

STEP = """\
#!/bin/bash
#SBATCH --ntasks=4 --nodes=1 --gres=gpu:4 --output={folder}/step.log
srun --gpus-per-task=1 {e2v} predict {corpus} -m sample -o {out}
"""


def test_an_array_by_hand(cluster: Cluster, corpus: Path, reference: str, tmp_path: Path) -> None:
    """Its elements find out by themselves which part they are, and the last one merges."""
    out = tmp_path / "out"
    script = tmp_path / "array.sh"
    script.write_text(ARRAY.format(folder=tmp_path, e2v=" ".join(E2V), corpus=corpus, out=out))

    job = cluster.run("sbatch", "--parsable", script).strip()

    assert set(cluster.wait(job).values()) == {"COMPLETED"}
    assert digest(out) == reference
    assert (tmp_path / "2.log").read_text().startswith("e2v: shard 3/4, by its place among the tasks of Slurm\n")


def test_srun_on_a_node_with_four_gpus(corpus: Path, reference: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = tmp_path / "step.sh"
    script.write_text(STEP.format(folder=tmp_path, e2v=" ".join(E2V), corpus=corpus, out=out))
    with running_cluster(nodes=1, cpus=4, gpus=4) as cluster:
        job = cluster.run("sbatch", "--parsable", script).strip()
        assert cluster.wait(job) == {job: "COMPLETED"}, (tmp_path / "step.log").read_text()
    assert digest(out) == reference
    gpus = [re.findall(r"GPUs: (\d+)\n", path.read_text()) for path in out.glob("log/launcher.*-of-4.log")]
    assert sorted(gpus) == [["0"], ["1"], ["2"], ["3"]]


def run_shell(command: str, tmp_path: Path, **environment: str) -> str:
    """Run a line of the README's in a shell that knows e2v."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "e2v").write_text(f'#!/bin/sh\nexec {" ".join(E2V)} "$@"\n')
    (tools / "e2v").chmod(0o755)
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


RUN_PL = """\
#!/bin/bash
# What Kaldi's run.pl does with JOB=1:N log command...: N commands at once, in each of which JOB is its number.
range=${1#JOB=}; log=$2; shift 2
first=${range%:*}; last=${range#*:}
for ((job = first; job <= last; job++)); do
  mkdir -p "$(dirname "${log//JOB/$job}")"
  bash -c "${*//JOB/$job}" > "${log//JOB/$job}" 2>&1 &
  jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job" || exit 1; done
"""


def test_the_form_of_kaldi_recipes(corpus: Path, reference: str, tmp_path: Path) -> None:
    (tmp_path / "run.pl").write_text(RUN_PL)
    (tmp_path / "run.pl").chmod(0o755)
    out = tmp_path / "out"

    run_shell(
        f"{tmp_path}/run.pl JOB=1:4 {out}/log/e2v.JOB.log "
        f"e2v predict {corpus} -m sample -o {out} -j 1 --shard JOB/4; e2v merge {out}",
        tmp_path,
    )

    assert digest(out) == reference
