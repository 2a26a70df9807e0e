"""Checkpoints: supported layouts, and the messages for refused ones."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import State, equal, load_state, make_config, make_model, refusal

AUDIO = "modality_encoders.AUDIO."


class Boom:
    """An object that runs code when an unsafe loader unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "state_dict around model": lambda state: {"state_dict": {"model": state}},
    "module.": prefixed("module."),
    "d2v_model.": lambda state: {"model": prefixed("d2v_model.")(state)},
    "module.d2v_model.": prefixed("module.d2v_model."),
    "half precision": lambda state: {"model": {name: tensor.half().float() for name, tensor in state.items()}},
    "with a pretraining decoder and EMA": lambda state: {
        "model": {
            **state,
            AUDIO + "decoder.blocks.0.0.weight": torch.zeros(1),
            "_ema.blocks.0.norm1.weight": torch.zeros(1),
        }
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_and_prefixed_checkpoints_are_loaded(
    wrapper: str, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_model(tmp_path, wrap=WRAPPERS[wrapper])
    loaded, expected = load_state(folder), load_state(tiny)
    if wrapper == "half precision":
        expected = {name: tensor.half().float() for name, tensor in expected.items()}
    assert equal(loaded, expected)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "scope_map", [["student.", "none"], "student.,none", ["student.blocks.", "blocks.", "x.", "y."]]
)
def test_scope_map_renames_tensors(scope_map: object, tiny: Path, tmp_path: Path) -> None:
    config = {**make_config(), "scope_map": scope_map}

    def rename(state: State) -> State:
        return {
            name
            if isinstance(scope_map, list) and len(scope_map) == 4 and not name.startswith("blocks.")
            else f"student.{name}": tensor
            for name, tensor in state.items()
        }

    assert equal(load_state(make_model(tmp_path, config, wrap=rename)), load_state(tiny))


def test_four_dimensional_alibi_scales_are_loaded(tiny: Path, tmp_path: Path) -> None:
    name = AUDIO + "alibi_scale"
    folder = make_model(tmp_path, wrap=lambda state: {**state, name: state[name].squeeze(0)})
    assert equal(load_state(folder), load_state(tiny))


def test_checkpoint_of_torch_before_1_6_is_loaded(tiny: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    content = torch.load(folder / "model.pt", weights_only=True)
    torch.save(content, folder / "model.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(folder / "model.pt")
    assert equal(load_state(folder), load_state(tiny))


def test_tensors_of_extra_layers_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_model(
        tmp_path, wrap=lambda state: {**state, "blocks.2.norm1.weight": torch.ones(96), "optimizer.lr": torch.ones(1)}
    )
    load_state(folder)
    assert caplog.messages == [
        f"{folder / 'model.pt'}: tensors without a place in the network that config.yaml describes are left out: 1, "
        "'blocks.2.norm1.weight' first"
    ]


def without(name: str) -> Callable[[State], Any]:
    return lambda state: {"model": {key: tensor for key, tensor in state.items() if key != name}}


@pytest.mark.parametrize(
    "name",
    [
        "proj.bias",
        "blocks.1.mlp.fc2.weight",
        AUDIO + "context_encoder.blocks.0.attn.qkv.bias",
        AUDIO + "context_encoder.norm.weight",
        AUDIO + "alibi_scale",
        AUDIO + "extra_tokens",
        AUDIO + "local_encoder.conv_layers.3.0.weight",
        AUDIO + "local_encoder.conv_layers.3.2.1.bias",
        AUDIO + "project_features.2.weight",
        AUDIO + "relative_positional_encoder.5.0.bias",
    ],
)
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=without(name))
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor {name!r} is missing; the file is incomplete or another model's"
    )


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blocks.0.attn.proj.weight", (96, 95), (96, 96)),
        ("blocks.0.attn.proj.weight", (96 * 96,), (96, 96)),
        (AUDIO + "extra_tokens", (1, 9, 96), (1, 10, 96)),
        (AUDIO + "alibi_scale", (1, 1, 3, 1, 1), (1, 1, 4, 1, 1)),
        (AUDIO + "alibi_scale", (4,), (1, 1, 4, 1, 1)),
        (AUDIO + "local_encoder.conv_layers.1.0.weight", (64, 3, 64), (64, 64, 3)),
    ],
)
def test_a_wrong_shape_is_named(name: str, shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=lambda state: {"model": {**state, name: torch.zeros(shape)}})
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor {name!r} is {shape}, but {folder / 'config.yaml'} needs {expected}"
    )


@pytest.mark.parametrize(
    "make", [torch.Tensor.to_sparse, torch.Tensor.int, lambda tensor: tensor.to("meta"), lambda tensor: tensor * 1j]
)
def test_tensor_without_plain_floats_is_named(make: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=lambda state: {**state, "proj.weight": make(state["proj.weight"])})
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor 'proj.weight' is not a plain tensor of floating-point numbers"
    )


@pytest.mark.parametrize("tokens", [("<unk>",), ("a", "b", "c", "d", "e", "f", "g", "h", "i", "<unk>")])
def test_wrong_number_of_tokens_is_named(tokens: tuple[str, ...], tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "tokens.txt").write_text("\n".join(tokens))
    number = len(tokens)
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor 'proj.weight' is (9, 96), but {folder / 'tokens.txt'} has {number} lines: "
        f"({number}, 96)"
    )


@pytest.mark.parametrize("prefix", ["", "module.", "d2v_model."])
def test_head_without_tokens_is_refused(prefix: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=prefixed(prefix))
    (folder / "tokens.txt").unlink()
    assert refusal(folder) == (
        f"{folder / 'tokens.txt'} is missing, but {folder / 'model.pt'} has a head: copy it there too"
    )


@pytest.mark.parametrize(("protocol", "thing"), [(2, "posix.mkdir"), (4, "more than tensors")])
def test_a_pickled_object_is_not_unpickled(protocol: int, thing: str, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    folder = make_model(tmp_path / "model")
    content = torch.load(folder / "model.pt", weights_only=True)
    torch.save({**content, "args": Boom(canary)}, folder / "model.pt", pickle_protocol=protocol)
    assert refusal(folder) == (
        f"{folder / 'model.pt'} holds {thing}, which could run code when read, so it was not: "
        "save the checkpoint again as torch.save({'model': state_dict}) where you trust it"
    )
    assert not canary.exists()


def test_a_cut_checkpoint_is_named(tmp_path: Path) -> None:
    path = make_model(tmp_path) / "model.pt"
    for length in (path.stat().st_size - 1, 1000, 4):
        os.truncate(path, length)
        assert refusal(tmp_path) == f"{path} is cut off, as its zip archive has no end: download or copy the file again"
    torch.save({"model": {}}, path, _use_new_zipfile_serialization=False)
    os.truncate(path, 20)
    assert refusal(tmp_path) == f"{path} can't be read as a checkpoint: it ends too early"


@pytest.mark.parametrize("content", [b"Not Found", bytes(100), b"\x08\0\0\0\0\0\0\0{}      "])
def test_file_of_another_format_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = make_model(tmp_path) / "model.pt"
    path.write_bytes(content)
    beginning = content[:16]
    assert refusal(tmp_path) == (
        f"{path} is not a PyTorch checkpoint, as it begins with {beginning!r}: download or copy the file again"
    )


def test_checkpoint_without_tensor_names_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=lambda state: list(state.values()))
    assert refusal(folder) == f"{folder / 'model.pt'} holds a list, not tensors by name"
