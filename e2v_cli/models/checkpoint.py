"""A model's ``model.pt`` → its network with these weights: every tensor is there, in its shape, and no code is run."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from e2v_cli.errors import ModelError
from e2v_cli.models.folder import Model
from e2v_cli.network.config import NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor

    from e2v_cli.network.emotion2vec import Emotion2vec

logger = logging.getLogger(__name__)


def make_network(model: Model, state: Mapping[str, Tensor] | None = None) -> Emotion2vec:
    """Make a model's network around its weights, without copying them.

    Args:
        model: the model.
        state: the weights, by the network's names and in its shapes; None: those of the model's checkpoint.

    Raises:
        ModelError: the checkpoint is no plain file of tensors, or lacks one, or has it in another shape.
    """
    network = _make_empty(model)
    if state is None:
        shapes = _shapes_by_name(network, model.config)
        tensors = _read_stored(model, shapes)
        upstream = {name: upstream_name(name, model.config) for name in network.state_dict()}
        state = {name: _to_network_shape(tensors[stored], stored, shapes[stored]) for name, stored in upstream.items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def read_encoder(model: Model, num_layers: int) -> dict[str, Tensor]:
    """Read the weights of a model's encoder, by upstream's names and in its shapes, as ``read_tensors`` does.

    Args:
        model: the model.
        num_layers: number of layers to keep, and of ALiBi scales if each layer has its own; at least 1.

    Raises:
        ModelError: the checkpoint is no plain file of tensors, or lacks one, or has it in another shape.
    """
    network = _make_empty(model)
    tensors = _read_stored(model, _shapes_by_name(network, model.config))
    network.head = None
    del network.blocks[num_layers:]
    kept = {name: tensors[name] for name in _shapes_by_name(network, model.config)}
    # scales that all layers share are stored as those of one
    return {name: tensor[:num_layers] if name.endswith("alibi_scale") else tensor for name, tensor in kept.items()}


def _make_empty(model: Model) -> Emotion2vec:
    """Make a model's network with neither memory nor time for weights, which are replaced."""
    import torch

    from e2v_cli.network.emotion2vec import Emotion2vec

    with torch.device("meta"):
        return Emotion2vec(model.config, num_classes=len(model.tokens))


def _shapes_by_name(network: Emotion2vec, config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes that weights have in our network, by upstream's names."""
    return {upstream_name(name, config): tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _read_stored(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read weights by upstream's names and in its shapes, from those that they have in our network."""
    return read_tensors(model, {name: _stored_shape(name, shape) for name, shape in shapes.items()})


def read_tensors(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read weights from a model's checkpoint, float32 on CPU; those that are stored so stay memory-mapped.

    Args:
        model: the model.
        shapes: upstream's names of the weights, encoder and head in full, and their shapes there.

    Raises:
        ModelError: the checkpoint is no plain file of tensors, or lacks one, or has it in another shape.
    """
    checkpoint = _read_checkpoint(model.weights)
    has_head = _find_name("proj.weight", checkpoint, model.scope_map) is not None
    if has_head and not model.tokens and model.declares_head:
        raise ModelError(f"{model.folder / 'tokens.txt'} is missing, but {model.weights} has a head: copy it there too")
    tensors = {}
    used = set()
    for name, shape in shapes.items():
        found = _find_name(name, checkpoint, model.scope_map)
        if found is None:
            raise ModelError(f"{model.weights}: tensor {name!r} is missing; the file is incomplete or another model's")
        used.add(found)
        tensors[name] = _check_tensor(checkpoint[found], name, shape, model)
    _warn_of_unused(checkpoint.keys() - used, model)
    return tensors


def upstream_name(name: str, config: NetworkConfig) -> str:
    """Return upstream's name of a tensor of our network.

    Upstream nests by modality and lays the prenet beside the blocks; ours is flat, and the prenet is the first blocks.
    """
    audio = "modality_encoders.AUDIO."
    norm = "2.1" if config.conv_norm == "layer" else "2"
    positional = "relative_positional_encoder." + ("1." if config.conv_pos_pre_ln else "")
    match name.split("."):
        case ["local_encoder", layer, "weight"]:
            return f"{audio}local_encoder.conv_layers.{layer}.0.weight"
        case ["local_encoder", layer, "norm", kind]:
            return f"{audio}local_encoder.conv_layers.{layer}.{norm}.{kind}"
        case ["feature_norm", kind]:
            return f"{audio}project_features.1.{kind}"
        case ["feature_proj", kind]:
            return f"{audio}project_features.2.{kind}"
        case ["positional_norm", kind]:
            return f"{audio}relative_positional_encoder.0.{kind}"
        case ["positional_encoder", layer, kind]:
            return f"{audio}{positional}{int(layer) + 1}.0.{kind}"
        case ["extra_tokens"]:
            return f"{audio}extra_tokens"
        case ["alibi", "scale"]:
            return f"{audio}alibi_scale"
        case ["norm", kind]:
            return f"norm.{kind}" if config.layer_norm_first else f"{audio}context_encoder.norm.{kind}"
        case ["head", kind]:
            return f"proj.{kind}"
        case ["blocks", block, *rest]:
            index = int(block)
            prefix = f"{audio}context_encoder.blocks.{index}" if index < config.prenet_depth else ""
            prefix = prefix or f"blocks.{index - config.prenet_depth}"
            part = {"attention": "attn", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}.get(rest[0], rest[0])
            return ".".join([prefix, part, *rest[1:]])
    raise AssertionError(name)


def load_plain(path: Path) -> object:
    """Load a file that PyTorch saved, if it holds plain data; tensors stay memory-mapped.

    Raises:
        ModelError: it can't be read, or holds more than tensors, numbers, texts and their collections.
    """
    import torch

    is_archive = _check_format(path)
    try:
        with warnings.catch_warnings():  # of pickle protocols, which the error names better
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        thing = found.group(1) if found else "more than tensors"
        raise ModelError(
            f"{path} holds {thing}, which could run code when read, so it was not: "
            "save the checkpoint again as torch.save({'model': state_dict}) where you trust it"
        ) from None
    except Exception as error:  # torch.load passes on any error of its zip reader, unpickler and C++ core
        cause = (str(error) or "it ends too early").splitlines()[0]
        raise ModelError(f"{path} can't be read as a checkpoint: {cause}") from None


def save_plain(content: object, file: BinaryIO) -> None:
    """Save tensors, numbers, texts and their collections.

    Raises:
        OSError: they can't be written.
    """
    import torch

    try:
        torch.save(content, file)
    except RuntimeError as error:  # raised by PyTorch's writer while it handles the system's error
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def without_neighbours(tensor: Tensor) -> Tensor:
    """Copy a tensor that is part of a larger storage, which would be saved whole."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _check_format(path: Path) -> bool:
    """Check that PyTorch saved a file; return whether it is a zip archive, as all are since PyTorch 1.6.

    Raises:
        ModelError: it did not, or the end is missing.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(16)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    if begin.startswith(b"\x80"):  # a pickle
        return False
    if not begin.startswith(b"PK\x03\x04"):
        raise ModelError(
            f"{path} is not a PyTorch checkpoint, as it begins with {begin!r}: download or copy the file again"
        )
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is cut off, as its zip archive has no end: download or copy the file again")
    return True


def _read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a checkpoint by name, in any of the known wrappers."""
    import torch

    content = load_plain(path)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and wrapper in content:
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}


def _find_name(name: str, checkpoint: Mapping[str, Tensor], scope_map: tuple[tuple[str, str], ...]) -> str | None:
    """Find the name of upstream's tensor ``name`` in a checkpoint, where a training script may have left a prefix."""
    return next((candidate for candidate in _candidate_names(name, scope_map) if candidate in checkpoint), None)


def _candidate_names(name: str, scope_map: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for source, target in reversed([*scope_map, ("module.", "")]):  # in upstream the last match wins
        if name.startswith(target):
            yield source + name.removeprefix(target)
    yield name
    yield from (prefix + name for prefix in ("d2v_model.", "module.d2v_model."))


def _check_tensor(tensor: Tensor, name: str, shape: tuple[int, ...], model: Model) -> Tensor:
    """Check upstream's tensor ``name``, and return it in this shape, as float32.

    Raises:
        ModelError: its shape is not that of the config.
    """
    import torch

    is_old = name.endswith("alibi_scale") and tensor.dim() == 4 and shape[0] == 1  # without a dimension for layers
    stored = shape[1:] if is_old else shape
    if tuple(tensor.shape) != stored:
        cause = f"{model.folder / 'config.yaml'} needs {stored}"
        if name.startswith("proj."):
            cause = f"{model.folder / 'tokens.txt'} has {len(model.tokens)} lines: {stored}"
        raise ModelError(f"{model.weights}: tensor {name!r} is {tuple(tensor.shape)}, but {cause}")
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise ModelError(f"{model.weights}: tensor {name!r} is not a plain tensor of floating-point numbers")
    return tensor.to(torch.float32).reshape(shape).contiguous()


def _to_network_shape(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """Convert upstream's tensor ``name`` to its shape in our network."""
    if _is_convolution(name, shape):
        return tensor.permute(0, 2, 1).contiguous()
    return tensor.reshape(shape)


def _stored_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which upstream stores a tensor that has ``shape`` in our network."""
    if name.endswith("extra_tokens"):
        return (1, *shape)
    if name.endswith("alibi_scale"):
        layers, heads = shape
        return (layers, 1, heads, 1, 1)
    if _is_convolution(name, shape):
        channels, kernel, channels_in = shape
        return (channels, channels_in, kernel)
    return shape


def _is_convolution(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a kernel of the local encoder, which has its channels last in our network, not upstream."""
    return ".local_encoder." in name and len(shape) == 3


def _warn_of_unused(names: set[str], model: Model) -> None:
    """Warn of tensors that look like the encoder's but have no counterpart in it; those of pretraining are ignored."""
    encoder = re.compile(r"(^|\.)(blocks\.\d+|local_encoder|project_features|proj)\.")
    pretraining = re.compile(r"decoder|_ema|(^|\.)ema\.")
    unused = sorted(name for name in names if encoder.search(name) and not pretraining.search(name))
    if unused:
        logger.warning(
            "%s: tensors without a place in the network that config.yaml describes are left out: %d, %r first",
            model.weights,
            len(unused),
            unused[0],
        )
