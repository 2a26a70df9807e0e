"""Prepared copies of weights, and changes of them and of their sources."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from e2v_cli.models import weights as prepared
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import Weights, prepare_weights
from support.checkpoints import State, make_model

EVERY_TIME = "the weights are prepared again at every start; set E2V_CACHE to another folder"


def prepare(model: Model) -> tuple[Weights, Path]:
    """Prepare a model, and return its weights and their copy."""
    weights = prepare_weights(model)
    assert weights.copy is not None
    return weights, weights.copy


def read_copy(copy: Path) -> State:
    state: State = torch.load(copy, weights_only=True)["state_dict"]
    return state


def drafts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


def refuse_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if anything is hashed, or a checkpoint is read."""

    def fail(*_: object) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr(prepared, "hash_file", fail)
    monkeypatch.setattr(prepared, "make_network", fail)


def other_weights(path: Path) -> bytes:
    """Make the checkpoint of another model of the same shape."""
    return (make_model(path, seed=1) / "model.pt").read_bytes()


def overwrite(path: Path, content: bytes) -> None:
    """Replace the content of a file; its size and time of modification stay."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_byte(path: Path) -> None:
    """Change one byte in the middle; the time of modification stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    overwrite(path, bytes(content))
