"""A model folder in FunASR's format → its labels, its config and its weights. Strict and safe.

Strict: every tensor of the encoder and the head must be in the checkpoint with its shape, where upstream keeps random
weights in silence. Safe: no code from the folder is ever run; YAML and checkpoint are read as plain data, and nothing
outside the folder is.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from e2v_cli.errors import ModelError
from e2v_cli.model_config import ConfigValueError, NetworkConfig, parse_config, shorten
from e2v_cli.settings import LabelLanguage

if TYPE_CHECKING:
    from torch import Tensor

    from e2v_cli.network import Emotion2vec

logger = logging.getLogger(__name__)

UNUSED = "unuse"
"""Tokens that begin so are classes of the head that the model was not trained for."""

DEFAULT_FILES = {"config": "config.yaml", "init_param": "model.pt", "token_list": "tokens.txt"}
"""What the files of a model are called where its ``configuration.json`` says nothing else, by its keys."""

MAX_NODES = 100_000
"""Values of a config.yaml; published ones have some hundred."""

_CODE_KEYS = ("trust_remote_code", "remote_code")
"""What makes upstream import a file of the folder, and install its requirements."""


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
    language: LabelLanguage

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
        """Their names: a side of the token's ``/``, or all of it, and ``unknown`` for ``<unk>`` in English."""
        return tuple(_label(self.tokens[index], self.language) for index in self.classes)


def read_model(name: str, folder: Path, language: LabelLanguage = "en") -> Model:
    """Read a model folder: ``configuration.json`` where there is one, ``config.yaml``, ``tokens.txt``.

    Raises:
        ModelError: a file is missing, says what can't be used, or would have code run; the message names the file and
            the thing.
    """
    _refuse_requirements(folder)
    files = DEFAULT_FILES | read_configuration(folder)
    config_path = model_file(folder, files["config"])
    weights = model_file(folder, files["init_param"])
    raw_config = _read_yaml(config_path)
    try:
        config = parse_config(raw_config)
        _refuse_code(raw_config, config_path)
        scope_map = _parse_scope_map(raw_config.get("scope_map"))
        has_tokens = raw_config.get("tokenizer") is not None and (folder / files["token_list"]).exists()
        tokens = _read_tokens(model_file(folder, files["token_list"]), language) if has_tokens else ()
    except ConfigValueError as error:
        raise ModelError(f"{config_path}: {error}") from None
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None
    return Model(name, folder, weights, config, raw_config, tokens, scope_map, language)


def read_configuration(folder: Path) -> dict[str, str]:
    """Read the names of files that ``configuration.json`` gives, where there is one, by the keys of DEFAULT_FILES.

    Raises:
        ModelError: it is no such file, or names one outside the folder.
    """
    if not (folder / "configuration.json").exists():
        return {}
    path = model_file(folder, "configuration.json")
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
        metas = configuration.get("file_path_metas", {})
        named = {**metas, **metas.get("tokenizer_conf", {})}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not the JSON of a model folder: {error}") from None
    for keys in (configuration, named):
        _refuse_code(keys, path)
    names = {key: named[key] for key in DEFAULT_FILES if isinstance(named.get(key), str)}
    for name in names.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{path}: {name!r} lies outside the model's folder")
        if not name.isprintable() or not Path(name).name:
            raise ModelError(f"{path}: {name!r} is no file name")
    return names


def missing_files(folder: Path) -> list[str]:
    """List the files that a model's folder ought to have and hasn't.

    Raises:
        ModelError: its ``configuration.json`` can't be used.
    """
    required = {key: DEFAULT_FILES[key] for key in ("config", "init_param")} | read_configuration(folder)
    return [name for name in required.values() if not (folder / name).is_file()]


def make_network(model: Model, state: Mapping[str, Tensor] | None = None) -> Emotion2vec:
    """Make a model's network around its weights, by our names, without copying them; None: those of its checkpoint.

    Raises:
        ModelError: the checkpoint is no plain file of tensors, or lacks one, or has it in another shape.
    """
    import torch

    from e2v_cli.network import Emotion2vec

    with torch.device("meta"):  # neither memory nor time for weights that are replaced at once
        network = Emotion2vec(model.config, num_classes=len(model.tokens))
    if state is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        upstream = {name: upstream_name(name, model.config) for name in shapes}
        stored = {upstream[name]: _stored_shape(upstream[name], shape) for name, shape in shapes.items()}
        tensors = read_tensors(model, stored)
        state = {name: _shaped(tensors[upstream[name]], upstream[name], shape) for name, shape in shapes.items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def read_tensors(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read weights from a model's checkpoint, float32 on CPU; those that are so there stay memory-mapped.

    Args:
        model: whose.
        shapes: which, by upstream's names, and the shapes that upstream has for them: encoder and head in full.

    Raises:
        ModelError: the checkpoint is no plain file of tensors, or lacks one, or has it in another shape.
    """
    checkpoint = _read_checkpoint(model.weights)
    has_head = _find("proj.weight", checkpoint, model.scope_map) is not None
    if has_head and not model.tokens and model.declares_head:
        raise ModelError(f"{model.folder / 'tokens.txt'} is missing, but {model.weights} has a head: copy it there too")
    tensors = {}
    used = set()
    for name, shape in shapes.items():
        found = _find(name, checkpoint, model.scope_map)
        if found is None:
            raise ModelError(f"{model.weights}: tensor {name!r} is missing; the file is incomplete or another model's")
        used.add(found)
        tensors[name] = _checked(checkpoint[found], name, shape, model)
    _warn_of_unused(checkpoint.keys() - used, model)
    return tensors


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


def _read_yaml(path: Path) -> Any:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506 — it is a SafeLoader
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except Exception as error:  # PyYAML raises whatever its constructors meet
        raise ModelError(f"{path}: not plain YAML: {' '.join(str(error).split())}") from None
    if sum(1 for _ in islice(_nodes(content), MAX_NODES)) == MAX_NODES:
        raise ModelError(f"{path}: its aliases make more than {MAX_NODES} values of it")
    return content


class _PlainLoader(yaml.SafeLoader):
    """Reads plain YAML, without merge keys: they would multiply while they are read."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Do what is to be done with merge keys."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("it has merge keys (<<)")


def _nodes(content: object) -> Iterator[object]:
    """List the values of a parsed YAML, those behind aliases as often as they are named: as upstream copies them."""
    waiting = [content]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Mapping):
            waiting.extend(node.values())
        elif isinstance(node, (list, tuple, set)):
            waiting.extend(node)


def _refuse_requirements(folder: Path) -> None:
    path = folder / "requirements.txt"
    if path.exists() or path.is_symlink():
        raise ModelError(
            f"{path}: a model has no use for packages of its own, and e2v installs none: "
            "remove the file if you trust the rest of the folder"
        )


def _refuse_code(keys: Mapping[str, object], path: Path) -> None:
    """Refuse a file that would have upstream run code of the folder."""
    for key in _CODE_KEYS:
        if keys.get(key):
            raise ModelError(
                f"{path}: {key} is {shorten(keys[key])}, but e2v runs no code from a model's folder, and none is "
                "needed for emotion2vec: remove the key if you trust the rest of the folder"
            )


def model_file(folder: Path, name: str) -> Path:
    """Find a file of a model's folder; a link is followed if it does not lead out of it.

    In Hugging Face's cache the files of a snapshot are links to the blobs beside it.
    """
    path = folder / name
    if not path.is_file():
        what = "is no regular file" if os.path.lexists(path) else "is missing"
        raise ModelError(
            f"{path} {what}: a model folder holds config.yaml, model.pt, tokens.txt and configuration.json"
        )
    real_folder, real_path = folder.resolve(), path.resolve()
    inside = [real_folder]
    if real_folder.parent.name == "snapshots":
        inside.append(real_folder.parent.parent / "blobs")
    if not any(real_path.is_relative_to(place) for place in inside):
        raise ModelError(f"{path} is a link to {real_path}, outside the model's folder: copy the file there")
    return path


def _read_tokens(path: Path, language: LabelLanguage) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        listed = json.loads(text) if path.suffix == ".json" else text.splitlines()
        if not isinstance(listed, list):
            raise TypeError(f"a {type(listed).__name__}")
        tokens = tuple(line.rstrip() for line in listed)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a list of labels: {error}") from None
    labels = [_label(token, language) for token in tokens if not token.startswith(UNUSED)]
    for number, line in enumerate(tokens, 1):
        if not line or not line.isprintable():
            raise ModelError(f"{path}:{number}: {line!r} is no label")
    if not labels:
        raise ModelError(f"{path}: holds no label that is in use")
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        raise ModelError(f"{path}: label {label!r} is listed more than once")
    return tokens


def _label(token: str, language: LabelLanguage) -> str:
    chinese, _, english = token.partition("/")
    match language:
        case "en":
            return english or ("unknown" if token == "<unk>" else token)  # noqa: S105 — no password
        case "zh":
            return chinese or token
        case "both":
            return token


def _parse_scope_map(scope_map: object) -> tuple[tuple[str, str], ...]:
    """Read pairs of prefixes, (in the checkpoint, in the network): a list, or a text with commas."""
    if scope_map is None:
        return ()
    parts = scope_map.split(",") if isinstance(scope_map, str) else scope_map
    if not isinstance(parts, list) or len(parts) % 2:
        raise ConfigValueError(f"scope_map is {shorten(scope_map)}, not a list of pairs of prefixes")
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


def _checked(tensor: Tensor, name: str, shape: tuple[int, ...], model: Model) -> Tensor:
    """Check upstream's tensor ``name``, and give it this shape, float32.

    Raises:
        ModelError: its shape is not what the config says.
    """
    import torch

    is_old = name.endswith("alibi_scale") and tensor.dim() == 4 and shape[0] == 1  # without a dimension for layers
    stored = shape[1:] if is_old else shape
    if tuple(tensor.shape) != stored:
        cause = f"{model.folder / 'config.yaml'} says {stored}"
        if name.startswith("proj."):
            cause = f"{model.folder / 'tokens.txt'} has {len(model.tokens)} lines: {stored}"
        raise ModelError(f"{model.weights}: tensor {name!r} is {tuple(tensor.shape)}, but {cause}")
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise ModelError(f"{model.weights}: tensor {name!r} is no plain tensor of floating-point numbers")
    return tensor.to(torch.float32).reshape(shape)


def _shaped(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """Bring upstream's tensor ``name`` into the shape that it has in our network."""
    if _is_convolution(name, shape):
        return tensor.permute(0, 2, 1).contiguous()
    return tensor.reshape(shape)


def _stored_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Say in which shape upstream stores what has ``shape`` in our network."""
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
    """Whether it is a kernel of the local encoder: channels last in our network, not upstream."""
    return ".local_encoder." in name and len(shape) == 3


def _warn_of_unused(names: set[str], model: Model) -> None:
    """Warn of tensors that look like the encoder's but have no place in it; those of pretraining go in silence."""
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
