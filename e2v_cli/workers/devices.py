"""What there is to compute on: a device for each worker."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from e2v_cli.cluster.task import cores_of_task, share_gpus
from e2v_cli.errors import DeviceError
from e2v_cli.options import Precision

logger = logging.getLogger(__name__)

_GPU_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""One of these is there where PyTorch can see a GPU (NVIDIA's driver, WSL, ROCm)."""

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_CPU_INFO = Path("/proc/cpuinfo")


def choose_devices(device: str, jobs: int | None) -> Sequence[str]:
    """Choose a device for each worker: a CPU core for each, or a GPU.

    Raises:
        DeviceError: there is no such device.
    """
    # PyTorch takes a second to be imported, and is not needed to see that there is no GPU.
    if device == "cpu" or (device == "auto" and not any(map(os.path.exists, _GPU_NODES))):
        return ["cpu"] * (jobs or count_cores())
    gpus = share_gpus(os.environ, _list_gpus(device))
    if not gpus:
        return ["cpu"] * (jobs or count_cores())
    if jobs and jobs > len(gpus):
        logger.warning("--jobs %d: %d workers, one for each GPU, are the most that help", jobs, len(gpus))
    return gpus[:jobs]


def check_precision(precision: Precision, device: str) -> None:
    """Check that a CPU is fast in a precision; what a GPU can is seen when it is used.

    Raises:
        DeviceError: it is not.
    """
    if device != "cpu" or precision == "fp32":
        return
    if precision != "bf16":
        raise DeviceError(f"--precision {precision} is for GPUs, and there is none in this run; leave it out")
    try:
        has_bf16 = re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", _CPU_INFO.read_text())
    except OSError:  # not Linux
        has_bf16 = None
    if not has_bf16:
        raise DeviceError("--precision bf16: this CPU has no instructions for it, and would be slower; leave it out")


def count_cores() -> int:
    """Count the cores that this process may use: of its affinity, of Slurm's word, and of its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(cores, cores_of_task(os.environ) or cores)
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or one without a quota ("max")
        return cores


def _list_gpus(device: str) -> list[str]:
    """List the GPUs that are meant; none where ``auto`` finds none."""
    import torch

    match = re.fullmatch(r"auto|cuda(?::(\d+(?:,\d+)*))?", device)
    if not match:
        raise DeviceError(f"--device {device}: unknown; choose auto, cpu, cuda or cuda:0,2")
    count = torch.cuda.device_count()
    wanted = list(dict.fromkeys(map(int, match.group(1).split(",")))) if match.group(1) else list(range(count))
    if device != "auto" and (not wanted or max(wanted) >= count):
        seen = f"{count} GPUs" if count else "no GPU"
        raise DeviceError(
            f"--device {device}: PyTorch {torch.__version__} sees {seen} here; use --device cpu, or a CUDA build"
        )
    return [f"cuda:{number}" for number in wanted]
