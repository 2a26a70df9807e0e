"""Model → engine on a device; PyTorch is imported when the first of these functions is called, not before."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from e2v_cli.errors import DeviceError
from e2v_cli.inference.products import choose_products
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import Weights, check_unchanged, load_network
from e2v_cli.options import ComputeOptions, ResultOptions
from e2v_cli.system.process import keep_heap

if TYPE_CHECKING:
    from e2v_cli.inference.engine import E2vEngine, Engine
    from e2v_cli.inference.upstream import FunasrEngine
    from e2v_cli.network.emotion2vec import Emotion2vec

ONEDNN_PRIMITIVES = "64"
"""Capacity of oneDNN's primitive cache: more primitives than a layer uses, some 0.6 MB each. oneDNN's default is
1024; creating a primitive again takes 0.1 to 0.5 ms."""


def prepare_process(device: str) -> None:
    """Import PyTorch, and prepare a process that does nothing but compute on this device.

    On a CPU it has one thread: there are as many processes as cores, and more threads would wait for each other. A GPU
    becomes the current one, so that no memory of another is taken.

    Raises:
        DeviceError: PyTorch can't be imported.
    """
    if device == "cpu":
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", ONEDNN_PRIMITIVE_CACHE_CAPACITY=ONEDNN_PRIMITIVES)
    gc.disable()  # what PyTorch's modules hold is never garbage, and takes a tenth of a second to look through
    try:
        import torch
    except (ImportError, OSError) as error:
        raise DeviceError(f"PyTorch can't be loaded: {error}; install it again") from None
    finally:
        gc.freeze()
        gc.enable()
    if device == "cpu":
        torch.set_num_threads(1)
        keep_heap()
    else:
        torch.cuda.set_device(device)


def count_gpus() -> tuple[int, str]:
    """Return the number of GPUs that PyTorch sees, and PyTorch's version."""
    import torch

    return torch.cuda.device_count(), str(torch.__version__)


def name_gpus(devices: Sequence[str]) -> list[str]:
    """Return the name of each GPU, like ``NVIDIA H200``."""
    import torch

    try:
        return [torch.cuda.get_device_name(device) for device in devices]
    except RuntimeError:  # a worker meets the same error, and reports it
        return ["unknown"]


def load_engine(model: Model, weights: Weights, device: str, compute: ComputeOptions, results: ResultOptions) -> Engine:
    """Load a model onto a device: ``cpu``, or a GPU as ``cuda:0``.

    Raises:
        ModelError: its checkpoint can't be used, or its weights have changed.
        DeviceError: the device can't compute in this precision.
    """
    if compute.engine == "funasr":
        return load_upstream(model, weights, device, results)
    return load_own(model, weights, device, compute, results)


def load_own(model: Model, weights: Weights, device: str, compute: ComputeOptions, results: ResultOptions) -> E2vEngine:
    """Load our engine; the arguments and the errors are those of ``load_engine``."""
    from e2v_cli.inference.engine import E2vEngine

    return E2vEngine(model, place_network(model, weights, device, compute), compute, results)


def load_upstream(model: Model, weights: Weights, device: str, results: ResultOptions) -> FunasrEngine:
    """Load upstream's own network of a model onto a device.

    Raises:
        ModelError: its checkpoint can't be used, or its weights have changed.
    """
    import torch

    from e2v_cli.inference.upstream import FunasrEngine

    check_unchanged(model, weights)
    return FunasrEngine(model, torch.device(device), results)


def place_network(model: Model, weights: Weights, device: str, compute: ComputeOptions) -> Emotion2vec:
    """Load our network of a model onto a device, to compute in the precision of the options.

    Raises:
        ModelError: its weights have changed.
        DeviceError: the device can't compute in this precision, or PyTorch has no such products.
    """
    import torch

    from e2v_cli.inference.engine import LOWER, on_device

    precision, target = compute.precision, torch.device(device)
    if target.type == "cuda" and precision in ("tf32", "bf16") and torch.cuda.get_device_capability(target) < (8, 0):
        name = torch.cuda.get_device_name(target)
        raise DeviceError(
            f"--precision {precision}: {target}, a {name}, has none; choose fp32, or an Ampere or newer GPU"
        )
    network = load_network(model, weights)
    if precision in LOWER:
        network.lower(LOWER[precision])
    elif target.type == "cpu":
        network.pack(choose_products(compute, device))
    with on_device(target):
        return network.to(target)
