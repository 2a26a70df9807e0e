"""The devices of workers, and the number of workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from e2v_cli.errors import DeviceError, UsageError
from e2v_cli.options import ComputeOptions, Precision
from e2v_cli.system import drivers
from e2v_cli.workers import devices
from e2v_cli.workers.devices import check_precision, choose_devices, count_cores


@pytest.fixture(autouse=True)
def _three_cores_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three cores, without a GPU or a quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 7}, raising=False)
    monkeypatch.setattr(devices, "CPU_QUOTA", tmp_path / "cpu.max")
    set_gpus(0, monkeypatch, driver=False)


def set_gpus(count: int, monkeypatch: pytest.MonkeyPatch, driver: bool = True) -> None:
    monkeypatch.setattr(drivers, "GPU_NODES", ("/nothing", os.devnull) if driver else ("/nothing",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def choose(device: str, jobs: int | None) -> Sequence[str]:
    return choose_devices(ComputeOptions(device=device, jobs=jobs))


def check(precision: Precision, device: str) -> None:
    check_precision(ComputeOptions(precision=precision), device)


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize(("jobs", "workers"), [(None, 3), (1, 1), (2, 2), (50, 50)])
def test_machine_without_gpu_gets_a_worker_for_each_core(device: str, jobs: int | None, workers: int) -> None:
    assert choose(device, jobs) == ["cpu"] * workers


@pytest.mark.parametrize(
    ("device", "jobs", "chosen"),
    [
        ("auto", None, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", None, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cuda:2", None, ["cuda:2"]),
        ("cuda:3,1", None, ["cuda:3", "cuda:1"]),
        ("cuda:3,1", 1, ["cuda:3"]),
        ("cuda:1,1,0,1", None, ["cuda:1", "cuda:0"]),
        ("cpu", None, ["cpu", "cpu", "cpu"]),
    ],
)
def test_each_chosen_gpu_gets_a_worker(
    device: str, jobs: int | None, chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(4, monkeypatch)

    assert choose(device, jobs) == chosen


def test_more_jobs_than_gpus_are_not_started(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    set_gpus(2, monkeypatch)

    assert choose("auto", 16) == ["cuda:0", "cuda:1"]
    assert caplog.messages == ["--jobs 16: 2 workers, one for each GPU, are the most that help"]


def test_driver_without_a_visible_gpu_leaves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a CPU build of PyTorch on a machine with GPUs."""
    set_gpus(0, monkeypatch)

    assert choose("auto", None) == ["cpu", "cpu", "cpu"]


@pytest.mark.parametrize(
    "device", ["tpu", "meta", "CPU", "", "cuda:", "cuda:x", "cuda:-1", "cuda:0,", "cpu:0", "cpu,cuda"]
)
def test_unknown_devices_are_refused(device: str) -> None:
    message = f"--device {device}: unknown; choose auto, cpu, cuda or cuda:0,2"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        choose(device, None)


@pytest.mark.parametrize(
    ("device", "count", "seen"),
    [("cuda", 0, "no GPU"), ("cuda:0", 0, "no GPU"), ("cuda:2", 2, "2 GPUs"), ("cuda:0,7", 4, "4 GPUs")],
)
def test_missing_gpus_are_refused(device: str, count: int, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(count, monkeypatch, driver=count > 0)

    message = f"--device {device}: PyTorch {torch.__version__} sees {seen} here; use --device cpu, or a CUDA build"
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}$"):
        choose(device, None)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_is_chosen_without_pytorch(device: str) -> None:
    """Its import would delay the first message by a second."""
    script = (
        "import sys; from e2v_cli.options import ComputeOptions; from e2v_cli.system import drivers; "
        "from e2v_cli.workers import devices; "
        f"drivers.GPU_NODES = (); devices.choose_devices(ComputeOptions(device={device!r})); "
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 3),
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 3),
        ("20000 10000\n", 2),
        ("nonsense\n", 3),
        ("", 3),
    ],
)
def test_cores_are_limited_by_affinity_and_quota(quota: str, cores: int, tmp_path: Path) -> None:
    assert count_cores() == 3

    (tmp_path / "cpu.max").write_text(quota)

    assert count_cores() == cores


@pytest.mark.parametrize(("count", "cores"), [(5, 5), (None, 1)])
def test_all_cores_count_without_affinity(count: int | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)

    assert count_cores() == cores


# -- under Slurm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "2"}, 2),
        # the affinity of the process may allow fewer
        ({"SLURM_CPUS_PER_TASK": "8"}, 3),
        ({"SLURM_CPUS_ON_NODE": "2"}, 2),
        ({"SLURM_CPUS_ON_NODE": "64"}, 3),
        ({"SLURM_CPUS_ON_NODE": "64", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, 1),
        ({"SLURM_CPUS_PER_TASK": "0"}, 3),
        ({"SLURM_CPUS_PER_TASK": "two"}, 3),
    ],
)
def test_cores_are_limited_by_slurm(environment: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert count_cores() == cores
    assert choose("auto", None) == ["cpu"] * cores
    assert choose("cpu", 5) == ["cpu"] * 5


def test_cores_of_a_job_are_limited_by_its_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    (tmp_path / "cpu.max").write_text("100000 100000\n")

    assert count_cores() == 1


@pytest.mark.parametrize(
    ("device", "jobs", "rank", "seen", "chosen"),
    [
        ("auto", None, 0, 4, ["cuda:0", "cuda:2"]),
        ("auto", None, 1, 4, ["cuda:1", "cuda:3"]),
        ("cuda", None, 1, 4, ["cuda:1", "cuda:3"]),
        ("auto", 1, 1, 4, ["cuda:1"]),
        # the user has chosen, or Slurm shows a task only its own GPUs
        ("cuda:2", None, 1, 4, ["cuda:2"]),
        ("auto", None, 1, 2, ["cuda:0", "cuda:1"]),
        ("cpu", None, 1, 4, ["cpu", "cpu"]),
        ("auto", None, 1, 0, ["cpu", "cpu"]),
    ],
)
def test_tasks_on_a_node_share_its_gpus(
    device: str, jobs: int | None, rank: int, seen: int, chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks on a node with four GPUs."""
    set_gpus(seen, monkeypatch)
    for name, value in {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "2",
    }.items():
        monkeypatch.setenv(name, value)

    assert choose(device, jobs) == chosen


def test_job_without_gpus_gets_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(0, monkeypatch)
    for name, value in {
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "0",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_GPUS_ON_NODE": "0",
    }.items():
        monkeypatch.setenv(name, value)

    assert choose("auto", None) == ["cpu", "cpu", "cpu"]


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_float32_is_allowed_on_all_devices(device: str) -> None:
    check("fp32", device)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_precision_on_a_gpu_does_not_depend_on_the_cpu(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CPU_INFO", None)
    check(precision, "cuda:1")


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_precisions_for_gpus_are_refused_on_a_cpu(precision: Precision) -> None:
    message = f"--precision {precision} needs a GPU, and this run has none; leave it out"
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}$"):
        check(precision, "cpu")


@pytest.mark.parametrize(
    "flags",
    [
        "flags\t\t: fpu avx512f avx512_bf16 amx_tile",
        "flags\t\t: fpu amx_bf16",
        "flags\t\t: amx_bf16 amx_tile amx_int8",
        "Features\t: fp asimd sve bf16 i8mm",
    ],
)
def test_bfloat16_is_allowed_on_cpus_with_instructions_for_it(
    flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some CPU\n{flags}\n")
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    check("bf16", "cpu")


@pytest.mark.parametrize(
    "info", [None, "", "flags\t\t: fpu avx2 avx512f amx_tile\n", "flags\t\t: fpu nobf16 avx512_bf16x\n"]
)
def test_bfloat16_is_refused_on_other_cpus(info: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without ``/proc``."""
    if info is not None:
        (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    message = "--precision bf16: this CPU has no instructions for it, and would be slower; leave it out"
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}$"):
        check("bf16", "cpu")
