"""The drivers of GPUs: whether a device may be a GPU, known without PyTorch, which takes a second to be imported."""

from __future__ import annotations

import os

GPU_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""At least one of these exists where PyTorch can see a GPU (NVIDIA's driver, WSL, ROCm)."""


def is_certainly_cpu(device: str) -> bool:
    """Whether an option ``--device`` means the CPU for certain."""
    return device == "cpu" or (device == "auto" and not any(map(os.path.exists, GPU_NODES)))
