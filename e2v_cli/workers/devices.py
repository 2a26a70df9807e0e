"""The devices of this machine: one for each worker."""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import soundfile

from e2v_cli._version import __version__
from e2v_cli.cluster.task import cores_of_task, share_gpus
from e2v_cli.errors import DeviceError
from e2v_cli.inference.load import count_gpus, name_gpus
from e2v_cli.inference.products import CPU_INFO, choose_products
from e2v_cli.journal.journal import Machine
from e2v_cli.options import ComputeOptions
from e2v_cli.system.drivers import is_certainly_cpu

logger = logging.getLogger(__name__)

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time that a container has, and of the period in which it has them."""

_PACKAGES = ("torch", "numpy", "soundfile", "av", "soxr", "kaldiio")
"""Libraries that change numbers, or read and write them."""


def choose_devices(compute: ComputeOptions) -> Sequence[str]:
    """Choose a device for each worker: a CPU core, as "cpu", or a GPU, as "cuda:0".

    Raises:
        DeviceError: there is no such device.
    """
    if is_certainly_cpu(compute.device):
        return ["cpu"] * (compute.jobs or count_cores())
    gpus = share_gpus(os.environ, _list_gpus(compute.device))
    if not gpus:
        return ["cpu"] * (compute.jobs or count_cores())
    if compute.jobs and compute.jobs > len(gpus):
        logger.warning("--jobs %d: %d workers, one for each GPU, are the most that help", compute.jobs, len(gpus))
    return gpus[: compute.jobs]


def check_precision(compute: ComputeOptions, device: str) -> None:
    """Check that a CPU is fast in the precision; a GPU is checked when the network is placed on it.

    Raises:
        DeviceError: it is slow.
    """
    precision = compute.precision
    if device != "cpu" or precision == "fp32":
        return
    if precision != "bf16":
        raise DeviceError(f"--precision {precision} needs a GPU, and this run has none; leave it out")
    try:
        has_bf16 = re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", CPU_INFO.read_text())
    except OSError:  # not Linux
        has_bf16 = None
    if not has_bf16:
        raise DeviceError("--precision bf16: this CPU has no instructions for it, and would be slower; leave it out")


def kind_of(device: str) -> str:
    """Return the kind of a device: cpu or cuda."""
    return device.partition(":")[0]


def describe_machine(devices: Sequence[str], compute: ComputeOptions, *, with_funasr: bool) -> Machine:
    """Describe this machine, and the software that computes on these devices; on CPU, PyTorch isn't imported.

    Raises:
        DeviceError: PyTorch has no products of the library that the options name.
    """
    packages = (*_PACKAGES, "funasr") if with_funasr else _PACKAGES
    versions = {"e2v": __version__, "python": platform.python_version()}
    versions.update({package: _find_version(package) for package in packages})
    versions["libsndfile"] = soundfile.__libsndfile_version__
    kind = kind_of(devices[0])
    gpus = () if kind == "cpu" else tuple(dict.fromkeys(name_gpus(devices)))
    return Machine(kind, gpus, _find_cpu_model(), versions, choose_products(compute, devices[0]))


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # installed without metadata
        return "unknown"


def _find_cpu_model() -> str:
    """Return the model of the CPU, or its architecture where the system names no model."""
    with suppress(OSError):  # not Linux
        if match := re.search(r"^model name\s*:\s*(.*\S)", CPU_INFO.read_text(), re.MULTILINE):
            return match.group(1)
    return platform.processor() or platform.machine()


def count_cores() -> int:
    """Count the cores that this process may use, by its affinity, by Slurm and by its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(cores, cores_of_task(os.environ) or cores)
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or one without a quota ("max")
        return cores


def _list_gpus(device: str) -> list[str]:
    """List the GPUs that ``--device`` names; none if it is ``auto`` and PyTorch sees none."""
    numbers = device.partition(":")[2]
    count, version = count_gpus()
    wanted = list(dict.fromkeys(map(int, numbers.split(",")))) if numbers else list(range(count))
    if device != "auto" and (not wanted or max(wanted) >= count):
        seen = f"{count} GPUs" if count else "no GPU"
        raise DeviceError(f"--device {device}: PyTorch {version} sees {seen} here; use --device cpu, or a CUDA build")
    return [f"cuda:{number}" for number in wanted]
