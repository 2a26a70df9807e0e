"""TODO."""

from __future__ import annotations

import torch

from e2v_cli.errors import DeviceError
from e2v_cli.inference.engine import LOWER, E2vEngine, Engine
from e2v_cli.inference.upstream import FunasrEngine
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import Weights, check_unchanged, load_network
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.options import EngineName, EngineOptions, Precision


def load_engine(
    name: EngineName, model: Model, weights: Weights, device: torch.device, options: EngineOptions
) -> Engine:
    """Load a model onto a device.

    Raises:
        ModelError: its checkpoint can't be used.
        DeviceError: the device can't compute in this precision.
    """
    if name == "funasr":
        check_unchanged(model, weights)
        return FunasrEngine(model, device, options)
    return E2vEngine(model, place_network(model, weights, device, options.precision), options)


def place_network(model: Model, weights: Weights, device: torch.device, precision: Precision) -> Emotion2vec:
    """Load our network of a model onto a device, to compute in this precision.

    Raises:
        ModelError: its weights have changed.
        DeviceError: the device can't compute in this precision.
    """
    if device.type == "cuda" and precision in ("tf32", "bf16") and torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise DeviceError(f"--precision {precision}: {device} is a {name}, which has none; GPUs since Ampere do")
    network = load_network(model, weights)
    if precision in LOWER:
        network.lower(LOWER[precision])
    elif device.type == "cpu":
        network.pack()
    return network.to(device)
