"""A real Slurm on this machine alone: Debian's packages, several nodes, fake GPUs, no cgroups, no systemd.

Every node is a ``slurmd`` with a name and a port of its own, and all of them run jobs here. Munge, which authenticates
messages, has a key and a socket of its own, so that an installed Slurm is not touched.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.processes import ROOT, wait_until

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
"""Programs, and Debian's packages of them."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={control}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a job that was requeued waits until its credentials have expired
AuthInfo=socket={folder}/munge.sock,cred_expire=5
{addresses}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin={binding}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1024
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
SlurmctldTimeout=30
PropagateResourceLimits=NONE
AccountingStorageType=accounting_storage/none
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=60 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL DefaultTime=10 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """A Slurm with all its files in one folder."""

    def __init__(self, folder: Path, nodes: int, cpus: int, gpus: int, bind: bool) -> None:
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        control, *ports = _find_ports(1 + nodes)
        loopback = _resolves_to_loopback()
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        for number in range(gpus):  # any character device will do
            (folder / f"gpu{number}").symlink_to("/dev/null")
        (folder / "gres.conf").write_text(
            f"NodeName=n[1-{nodes}] Name=gpu File={folder}/gpu[0-{gpus - 1}]\n" if gpus else ""
        )
        lines = (
            f"NodeName={name} NodeHostName=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=8000"
            f"{f' Gres=gpu:{gpus}' if gpus else ''} State=UNKNOWN"
            for name, port in zip(self.nodes, ports, strict=True)
        )
        configuration = CONFIGURATION.format(
            folder=folder,
            control=control,
            user=subprocess.check_output(["id", "-un"], text=True).strip(),
            addresses="CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if loopback else "",
            binding="task/affinity" if bind else "task/none",
            nodes="\n".join(lines),
        )
        (folder / "slurm.conf").write_text(configuration)
        self.environment: Mapping[str, str] = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "E2V_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
        }
        # else slurmd needs the machine's cgroups, which many containers lack; before 23.02 there is no such plugin
        if self._version() >= (23, 2):
            (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")

    def start(self) -> None:
        """Start all daemons that aren't running, and wait until jobs can be submitted."""
        if not self._is_alive("munged"):
            (self.folder / "munge.sock").unlink(missing_ok=True)
            self.run(
                "munged",
                *(f"--{name}={self.folder}/{file}" for name, file in MUNGE_FILES.items()),
                "--num-threads=2",
            )
        if not self._is_alive("slurmctld"):
            self.run("slurmctld", "-f", self.folder / "slurm.conf")
        ask(lambda: "is UP" in self.try_run("scontrol", "ping").stdout)
        for node in self.nodes:
            if not self._is_alive(f"slurmd.{node}"):
                self.run("slurmd", "-f", self.folder / "slurm.conf", "-N", node)
        ask(self._is_usable)

    def stop(self) -> None:
        """Stop all jobs and daemons."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            jobs = self.try_run("squeue", "--noheader", "--format=%A").stdout.split()
            if jobs:
                self.try_run("scancel", "--quiet", "--full", "--signal=KILL", *jobs)
                self.try_run("scancel", "--quiet", *jobs)
                ask(lambda: not self.try_run("squeue", "--noheader").stdout.strip())
        for name in (*(f"slurmd.{node}" for node in self.nodes), "slurmctld", "munged"):
            with suppress(AssertionError):
                self.kill(name, signal.SIGTERM)
            self.kill(name)

    def kill(self, name: str, signum: signal.Signals = signal.SIGKILL) -> None:
        """Kill ``slurmctld``, or ``slurmd.n1``, by a signal, and wait until it is dead."""
        if self._is_alive(name):
            os.kill(self._pid(name), signum)
            ask(lambda: not self._is_alive(name))

    def save(self, job: str) -> None:
        """Have the controller save the states of all jobs, which a killed one forgets until then."""
        changed = time.time()
        self.run("scontrol", "update", f"JobId={job}", "Comment=changed, and so it will be saved")
        ask(lambda: (self.folder / "state" / "job_state").stat().st_mtime > changed)

    def run(self, *words: str | Path, environment: Mapping[str, str] | None = None) -> str:
        """Run a command with this Slurm's environment, and return its standard output."""
        done = self.try_run(*words, environment=environment)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def try_run(
        self, *words: str | Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with this Slurm's environment, which may fail."""
        return subprocess.run(
            [str(word) for word in words],
            env={**self.environment, **(environment or {})},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def states(self, *jobs: str) -> dict[str, str]:
        """Return the states of jobs and of elements of arrays: ``{"12_3": "RUNNING"}``."""
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(jobs)}"]
        return dict(line.split() for line in self.run(*command).splitlines())

    def nodes_of(self, job: str) -> list[str]:
        """Return the nodes on which a job, or the elements of an array, are or were."""
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%N", f"--jobs={job}"]
        return self.run(*command).split()

    def find_processes(self, array: str) -> list[int]:
        """Find the main processes of e2v in the tasks of an array."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes()
            except OSError:  # no process, or it has just ended
                continue
            wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_CONF={self.environment['SLURM_CONF']}"}
            if wanted <= set(map(os.fsdecode, environment)) and b"e2v_cli\0predict" in command:
                found.append(int(entry.name))
        return found

    def wait(self, *jobs: str, seconds: float = 120) -> dict[str, str]:
        """Wait until jobs have ended, and return their states."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}
        ask(lambda: set(self.states(*jobs).values()) <= ended, seconds)
        return self.states(*jobs)

    def _version(self) -> tuple[int, ...]:
        """Slurm's version, for example (24, 11, 5)."""
        return tuple(map(int, re.findall(r"\d+", self.run("slurmd", "-V"))))

    def _pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def _is_alive(self, name: str) -> bool:
        """Whether a daemon is running, and its number is not another process's by now."""
        try:
            pid = self._pid(name)
            return (
                str(self.folder).encode()
                in Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            )
        except (OSError, ValueError):
            return False

    def _is_usable(self) -> bool:
        # of one partition: a node has a line in each
        states = self.try_run("sinfo", "--noheader", "--partition=main", "--Node", "--format=%N %T").stdout.splitlines()
        for line in states:
            node, state = line.split()
            if state.startswith(("down", "drain")):
                self.try_run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        return sum(line.endswith(("idle", "mixed", "allocated")) for line in states) == len(self.nodes)


MUNGE_FILES = {
    "key-file": "munge.key",
    "socket": "munge.sock",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munged.seed",
}


@contextmanager
def running_cluster(nodes: int = 2, cpus: int = 2, gpus: int = 0, *, bind: bool = False) -> Iterator[Cluster]:
    """Run a Slurm until the block ends; skip the test where its packages can't be installed."""
    install_packages(PACKAGES)
    folder = Path(tempfile.mkdtemp(prefix="e2v-slurm-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = Cluster(folder, nodes, cpus, gpus, bind)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def install_packages(packages: Mapping[str, str]) -> None:
    """Install missing programs, as root on Debian; elsewhere skip the test."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [package for program, package in packages.items() if not shutil.which(program, path=path)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"not installed: {', '.join(missing)}")
    with _without_daemons():
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(
                ["apt-get", "-q", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
            )
        if done.returncode:
            pytest.skip(f"apt-get can't install {', '.join(missing)}: {done.stderr.strip().splitlines()[-1:]}")


@contextmanager
def _without_daemons() -> Iterator[None]:
    """Prevent packages from starting daemons when they are installed."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _find_ports(count: int) -> Sequence[int]:
    """Find free ports below those that the system gives to clients, and to servers that leave the choice to it."""
    try:
        end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        end = 32768
    ports = random.sample(range(end // 2, end), 20 * count)
    return list(itertools.islice(filter(_is_free, ports), count))


def _is_free(port: int) -> bool:
    with socket.socket() as listener, suppress(OSError):
        listener.bind(("127.0.0.1", port))
        return True
    return False


def _resolves_to_loopback() -> bool:
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return False


def ask(question: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds, checking only twice a second, since each question to Slurm starts a process."""
    wait_until(question, seconds, pause=0.5)
