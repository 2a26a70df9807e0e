"""A model folder in FunASR's format → its labels, its config and its network. Strict and safe.

Strict: every tensor of the encoder and the head must be in the checkpoint with its shape, where upstream keeps random
weights in silence. Safe: no code from the folder is ever run; YAML and checkpoint are read as plain data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
import reprlib
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from e2v_cli.errors import ModelError
from e2v_cli.model_config import ConfigValueError, NetworkConfig, parse_config

if TYPE_CHECKING:
    from torch import Tensor

    from e2v_cli.network import Emotion2vec

logger = logging.getLogger(__name__)

UNUSED = "unuse"
"""Tokens that begin so are classes of the head that the model was not trained for."""


@dataclass(frozen=True)
class Model:
    """A model folder, read except for its weights."""

    name: str
    folder: Path
    weights: Path
    config: NetworkConfig
    raw_config: Mapping[str, Any]
    """``config.yaml`` as it stands, for upstream's own code."""
    tokens: tuple[str, ...]
    """One per class of the head, as in ``tokens.txt``; empty where the model has no head."""
    scope_map: tuple[tuple[str, str], ...]
    """Prefixes of names: (in the checkpoint, in upstream's network)."""

    @property
    def declares_head(self) -> bool:
        """Whether the config speaks of labels, as upstream's does where the model has a head."""
        return self.raw_config.get("tokenizer") is not None

    @property
    def classes(self) -> tuple[int, ...]:
        """Those classes of the head that the output shows."""
        return tuple(index for index, token in enumerate(self.tokens) if not token.startswith(UNUSED))

    @property
    def labels(self) -> tuple[str, ...]:
        """Their names: the part of the token after ``/``, and ``unknown`` for ``<unk>``."""
        return tuple(_label(self.tokens[index]) for index in self.classes)


def read_model(name: str, folder: Path) -> Model:
    """Read a model folder: ``configuration.json`` where there is one, ``config.yaml``, ``tokens.txt``.

    Raises:
        ModelError: a file is missing or says what can't be used; the message names the file and the thing.
    """
    files = _read_configuration(folder)
    config_path = _existing(folder / files.get("config", "config.yaml"))
    weights = _existing(folder / files.get("init_param", "model.pt"))
    try:
        raw_config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
        config = parse_config(raw_config)
        scope_map = _parse_scope_map(raw_config.get("scope_map"))
        tokens_path = folder / files.get("token_list", "tokens.txt")
        has_tokens = raw_config.get("tokenizer") is not None and tokens_path.exists()
        tokens = _read_tokens(tokens_path) if has_tokens else ()
    except (ConfigValueError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{config_path}: {error}") from None
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None
    return Model(name, folder, weights, config, raw_config, tokens, scope_map)


def hash_weights(model: Model) -> str:
    """Compute the SHA-256 of a model's weights as they are on disk, in hexadecimal.

    Raises:
        ModelError: the file can't be read.
    """
    digest = hashlib.sha256()
    try:
        with model.weights.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{model.weights}: {error.strerror}") from None
    return digest.hexdigest()


def load_network(model: Model) -> Emotion2vec:
    """Load a model's weights into its network, float32 on CPU; the larger part stays memory-mapped.

    Raises:
        ModelError: the checkpoint is no plain file of tensors, or lacks one, or has it in another shape.
    """
    import torch

    from e2v_cli.network import Emotion2vec

    checkpoint = _read_checkpoint(model.weights)
    has_head = _find("proj.weight", checkpoint, model.scope_map) is not None
    if has_head and not model.tokens and model.declares_head:
        raise ModelError(f"{model.folder / 'tokens.txt'} is missing, but {model.weights} has a head: copy it there too")
    with torch.device("meta"):  # neither memory nor time for weights that are replaced at once
        network = Emotion2vec(model.config, num_classes=len(model.tokens))
    state = {}
    used = set()
    for name, expected in network.state_dict().items():
        upstream = upstream_name(name, model.config)
        found = _find(upstream, checkpoint, model.scope_map)
        if found is None:
            raise ModelError(
                f"{model.weights}: tensor {upstream!r} is missing; the file is incomplete or another model's"
            )
        used.add(found)
        state[name] = _shaped(checkpoint[found], upstream, tuple(expected.shape), model)
    _warn_of_unused(checkpoint.keys() - used, model)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def upstream_state(network: Emotion2vec) -> dict[str, Tensor]:
    """Give a network's weights the names and shapes that upstream has for them."""
    state = {}
    for ours, tensor in network.state_dict().items():
        name, shape = upstream_name(ours, network.config), tuple(tensor.shape)
        kernel_last = tensor.permute(0, 2, 1) if _is_convolution(name, shape) else tensor
        state[name] = kernel_last.reshape(_stored_shape(name, shape, old=False))
    return state


def upstream_name(name: str, config: NetworkConfig) -> str:
    """Say what upstream calls a tensor of our network.

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
            place = f"{audio}context_encoder.blocks.{index}" if index < config.prenet_depth else ""
            place = place or f"blocks.{index - config.prenet_depth}"
            part = {"attention": "attn", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}.get(rest[0], rest[0])
            return ".".join([place, part, *rest[1:]])
    raise AssertionError(name)


def _read_configuration(folder: Path) -> dict[str, str]:
    """Read the names of files that ``configuration.json`` gives, where there is one: config, init_param, token_list."""
    path = folder / "configuration.json"
    if not path.exists():
        return {}
    try:
        metas = json.loads(path.read_text(encoding="utf-8")).get("file_path_metas", {})
        named = {**metas, **metas.get("tokenizer_conf", {})}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not the JSON of a model folder: {error}") from None
    names = {key: named[key] for key in ("config", "init_param", "token_list") if isinstance(named.get(key), str)}
    for name in names.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{path}: {name!r} lies outside the model's folder")
    return names


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(
            f"{path} is missing: a model folder holds config.yaml, model.pt, tokens.txt and configuration.json"
        )
    return path


def _read_tokens(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
        listed = json.loads(text) if path.suffix == ".json" else text.splitlines()
        tokens = tuple(line.rstrip() for line in listed)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a list of labels: {error}") from None
    labels = [_label(token) for token in tokens if not token.startswith(UNUSED)]
    for number, line in enumerate(tokens, 1):
        if not line or "\t" in line:
            raise ModelError(f"{path}:{number}: {line!r} is no label")
    if not labels:
        raise ModelError(f"{path}: holds no label that is in use")
    for label in labels:
        if labels.count(label) > 1:
            raise ModelError(f"{path}: label {label!r} is listed more than once")
    return tokens


def _label(text: str) -> str:
    return "unknown" if text == "<unk>" else text.partition("/")[2] or text


def _parse_scope_map(scope_map: object) -> tuple[tuple[str, str], ...]:
    """Read pairs of prefixes, (in the checkpoint, in the network): a list, or a text with commas."""
    if scope_map is None:
        return ()
    parts = scope_map.split(",") if isinstance(scope_map, str) else scope_map
    if not isinstance(parts, list) or len(parts) % 2:
        raise ConfigValueError(f"scope_map is {reprlib.repr(scope_map)}, not a list of pairs of prefixes")
    prefixes = ["" if part is None or str(part).lower() == "none" else str(part) for part in parts]
    return tuple(zip(prefixes[0::2], prefixes[1::2], strict=True))


def _read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a checkpoint by name, whatever it is wrapped in."""
    import torch

    try:
        with warnings.catch_warnings():  # of pickle protocols, which the error says better
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        thing = found.group(1) if found else "more than tensors"
        raise ModelError(
            f"{path} holds {thing}, which could run code when read, so it was not: "
            "save the checkpoint again as torch.save({'model': state_dict}) where you trust it"
        ) from None
    except Exception as error:  # torch.load raises whatever its zip reader, unpickler and C++ core meet
        cause = (str(error) or "it is empty").splitlines()[0]
        raise ModelError(f"{path} can't be read as a checkpoint: {cause}") from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and wrapper in content:
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}


def _find(name: str, checkpoint: Mapping[str, Tensor], scope_map: tuple[tuple[str, str], ...]) -> str | None:
    """Find upstream's ``name`` in a checkpoint, under the prefixes that a training script may have left."""
    return next((candidate for candidate in _candidates(name, scope_map) if candidate in checkpoint), None)


def _candidates(name: str, scope_map: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for source, target in reversed([*scope_map, ("module.", "")]):  # upstream lets the last match win
        if name.startswith(target):
            yield source + name.removeprefix(target)
    yield name
    yield from (prefix + name for prefix in ("d2v_model.", "module.d2v_model."))


def _shaped(tensor: Tensor, name: str, shape: tuple[int, ...], model: Model) -> Tensor:
    """Bring upstream's tensor ``name`` into our shape, float32.

    Raises:
        ModelError: its shape is not what the config says.
    """
    import torch

    stored = _stored_shape(name, shape, old=tensor.dim() == 4)
    if tuple(tensor.shape) != stored:
        cause = f"{model.folder / 'config.yaml'} says {stored}"
        if name.startswith("proj."):
            cause = f"{model.folder / 'tokens.txt'} has {len(model.tokens)} lines: {stored}"
        raise ModelError(f"{model.weights}: tensor {name!r} is {tuple(tensor.shape)}, but {cause}")
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise ModelError(f"{model.weights}: tensor {name!r} is no plain tensor of floating-point numbers")
    tensor = tensor.to(torch.float32)
    if _is_convolution(name, shape):
        return tensor.permute(0, 2, 1).contiguous()
    return tensor.reshape(shape)


def _stored_shape(name: str, shape: tuple[int, ...], old: bool) -> tuple[int, ...]:
    """Say in which shape upstream stores what has ``shape`` in our network."""
    if name.endswith("extra_tokens"):
        return (1, *shape)
    if name.endswith("alibi_scale"):  # old checkpoints have no dimension for layers
        layers, heads = shape
        return (1, heads, 1, 1) if old and layers == 1 else (layers, 1, heads, 1, 1)
    if _is_convolution(name, shape):
        channels, kernel, channels_in = shape
        return (channels, channels_in, kernel)
    return shape


def _is_convolution(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a kernel of the local encoder: channels last in our network, not upstream."""
    return ".local_encoder." in name and len(shape) == 3


def _warn_of_unused(names: set[str], model: Model) -> None:
    """Warn of tensors that look like the encoder's but have no place in it; those of pretraining go in silence."""
    encoder = re.compile(r"(^|\.)(blocks\.\d+|local_encoder|project_features|proj)\.")
    pretraining = re.compile(r"decoder|_ema|(^|\.)ema\.")
    unused = sorted(name for name in names if encoder.search(name) and not pretraining.search(name))
    if unused:
        logger.warning(
            "%s: %d tensors have no place in the network that config.yaml describes and are left out, %r first",
            model.weights,
            len(unused),
            unused[0],
        )
