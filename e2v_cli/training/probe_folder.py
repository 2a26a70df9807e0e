"""An encoder and a linear head → a model folder that e2v and FunASR load: the head is the last layer of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml
from numpy.typing import NDArray

from e2v_cli.errors import CorpusError, ModelError
from e2v_cli.models.cache import hash_file
from e2v_cli.models.catalog import SAMPLE
from e2v_cli.models.checkpoint import read_encoder, save_plain, without_neighbours
from e2v_cli.models.folder import DEFAULT_FILES, UNUSED, Model, read_model
from e2v_cli.models.hub import CHECKSUMS, find_model
from e2v_cli.models.weights import hash_weights
from e2v_cli.options import HubName, ModelRequest
from e2v_cli.system.files import is_directory, sync_file
from e2v_cli.system.text import json_content

PROBE_FILE = "probe.json"
"""The file of a model folder that tells how its head was fitted."""

UNKNOWN_TOKEN = "<unk>"  # noqa: S105 — no password

_CONFIGURATION = {
    "framework": "pytorch",
    "task": "emotion-recognition",
    "model": {"type": "funasr"},
    "pipeline": {"type": "funasr-pipeline"},
    "file_path_metas": {
        "init_param": DEFAULT_FILES["init_param"],
        "tokenizer_conf": {"token_list": DEFAULT_FILES["token_list"]},
        "config": DEFAULT_FILES["config"],
    },
}


def find_encoder(name: str, sha256: str | None, embeddings: str) -> tuple[Model, str]:
    """Find the model of embeddings on this machine, and the SHA-256 of its weights.

    Args:
        name: name in the family, id on a hub, or folder.
        sha256: of the weights that the embeddings were computed with; None: it is not known.
        embeddings: name of the embeddings, for messages.

    Raises:
        ModelError: it is not here, can't be used, or has other weights.
    """
    model = _find_here(name, embeddings)
    found = hash_weights(model)
    if sha256 not in (None, found):
        raise ModelError(
            f"{model.weights} has SHA-256 {found[:12]}…, but {embeddings} was computed with {sha256[:12]}…: a head "
            "works on the encoder that it was fitted to alone; name that one with -m"
        )
    return model, found


def _find_here(name: str, embeddings: str) -> Model:
    if is_directory(Path(name)) or name == SAMPLE:
        return read_model(name, find_model(ModelRequest(name)))
    for hub in get_args(HubName):
        try:
            return read_model(name, find_model(ModelRequest(name, hub, offline=True)))
        except ModelError:
            continue
    raise ModelError(
        f"{name}, the encoder of {embeddings}, is not on this machine: name its folder with -m, or download it: "
        f"e2v models pull {name}"
    )


def make_tokens(classes: Sequence[str]) -> list[str]:
    """Make the tokens of classes: those of the family, like ``生气/angry``, and the names of all others.

    Raises:
        CorpusError: a class can't be a token.
    """
    sample = read_model(SAMPLE, find_model(ModelRequest(SAMPLE)))
    known = dict(zip(sample.labels, sample.tokens, strict=True))
    for name in classes:
        if "/" in name or name.startswith(UNUSED) or not name.isprintable() or name != name.strip():
            raise CorpusError(
                f"class {name!r} can't be a label of a model: it has a /, begins with {UNUSED}, or has characters that "
                "can't be seen; choose another name with --map"
            )
    return [known.get(name, name) for name in classes]


def write_probe(
    folder: Path,
    encoder: Model,
    layer: int,
    head: tuple[NDArray[np.floating], NDArray[np.floating]],
    classes: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Write a model folder.

    Args:
        folder: it is there, and empty.
        encoder: the model whose own head, if any, is left out.
        layer: the layer that the head is on, from 1; later ones are left out. Only the last one of a model with
            ``layer_norm_first`` has the norm that comes before a head.
        head: a weight, (classes, dim), and a bias, (classes,), on the mean of an utterance's frames.
        classes: their names.
        facts: the contents of ``probe.json``.

    Raises:
        CorpusError: a class can't be a label.
        ModelError: the weights of the encoder can't be read.
        OSError: a file can't be written.
    """
    import torch

    tokens = make_tokens(classes)
    tensors = {name: without_neighbours(tensor) for name, tensor in read_encoder(encoder, layer).items()}
    for name, values in zip(("proj.weight", "proj.bias"), head, strict=True):
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    with (folder / DEFAULT_FILES["init_param"]).open("wb") as file:
        save_plain({"model": tensors}, file)
        sync_file(file)
    config = yaml.safe_dump(_make_config(encoder, layer, tokens), sort_keys=False, allow_unicode=True)
    contents = {
        DEFAULT_FILES["config"]: config.encode(errors="backslashreplace"),
        DEFAULT_FILES["token_list"]: "".join(f"{token}\n" for token in tokens).encode(errors="backslashreplace"),
        "configuration.json": json_content(_CONFIGURATION),
        PROBE_FILE: json_content(facts),
    }
    for name, content in contents.items():
        _write_content(folder / name, content)
    names = sorted([*contents, DEFAULT_FILES["init_param"]])
    _write_content(folder / CHECKSUMS, "".join(f"{hash_file(folder / name)}  {name}\n" for name in names).encode())


def _write_content(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        sync_file(file)


def _make_config(encoder: Model, layer: int, tokens: Sequence[str]) -> dict[str, Any]:
    """Make the config of the encoder up to a layer, with a head.

    Tensors have upstream's own names, and no decoder is there.
    """
    config = {key: _plain_numbers(value) for key, value in encoder.raw_config.items() if key != "scope_map"}
    model_conf = config["model_conf"]
    audio = model_conf["modalities"]["audio"]
    audio["decoder"] = None
    if layer < encoder.config.num_layers:
        audio["prenet_depth"] = min(layer, encoder.config.prenet_depth)
        # FunASR reads model_depth where each layer has scales of ALiBi
        model_conf["depth"] = audio["model_depth"] = layer - audio["prenet_depth"]
    config["tokenizer"] = "CharTokenizer"
    # FunASR's tokenizer refuses a list without its symbol for unknown words, of which no use is made here
    unknown = UNKNOWN_TOKEN if UNKNOWN_TOKEN in tokens else tokens[0]
    config["tokenizer_conf"] = {"unk_symbol": unknown, "split_with_space": True}
    return config


def _plain_numbers(value: Any) -> Any:
    """Copy a value of a config; ``1e-05`` gets a number, which it is for FunASR, and a text for PyYAML."""
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+[eE][-+]?[0-9]+", value)
    return float(value) if is_number else value
