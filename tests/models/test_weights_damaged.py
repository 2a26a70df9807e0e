"""Damage to the prepared copy or to its record is noticed, and the copy is renewed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoints import equal, make_model
from support.prepared import flip_byte, prepare, refuse_to_read

from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.models.weights import load_network, prepare_weights

pytestmark = pytest.mark.usefixtures("cache")


def cut_in_half(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)


def overwrite_with_text(copy: Path) -> None:
    copy.write_bytes(b"no weights")


def replace_by_another_model(copy: Path) -> None:
    """Replace the copy by a valid copy of another model."""
    other = prepare_weights(read_model("other", make_model(copy.parents[3] / "other", seed=1)))
    assert other.copy is not None
    shutil.copyfile(other.copy, copy)


@pytest.mark.parametrize("damage", [flip_byte, cut_in_half, overwrite_with_text, replace_by_another_model])
def test_damaged_copy_is_noticed_and_renewed(
    damage: Callable[[Path], None], model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, copy = prepare(model)
    damage(copy)

    after = prepare_weights(model)

    assert caplog.messages == [f"{copy} was changed since e2v wrote it, and is replaced"]
    assert after == replace(before, was_damaged=True)
    assert equal(load_network(model, after).state_dict(), make_network(model).state_dict())
    refuse_to_read(monkeypatch)
    assert prepare_weights(model) == before  # damage is logged once


def test_missing_copy_is_renewed_silently(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    before, copy = prepare(model)
    copy.unlink()

    assert prepare_weights(model) == before
    assert copy.exists()
    assert caplog.messages == []


@pytest.mark.parametrize("damage", [cut_in_half, overwrite_with_text, replace_by_another_model, Path.unlink])
def test_copy_damaged_during_the_run_is_not_used(damage: Callable[[Path], None], model: Model) -> None:
    """If its header shows the damage; the checkpoint is read instead."""
    weights, copy = prepare(model)
    damage(copy)

    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"source": 3}', '{"source": {}, "copy": {}}', "\0", "[" * 100_000]
)
def test_invalid_record_is_renewed(content: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before, copy = prepare(model)
    copy.with_name("record.json").write_text(content)

    assert prepare_weights(model) == before
    refuse_to_read(monkeypatch)
    assert prepare_weights(model) == before


@pytest.mark.parametrize("key", ["source", "shape", "copy"])
def test_record_of_other_files_is_not_used(key: str, model: Model) -> None:
    before, copy = prepare(model)
    path = copy.with_name("record.json")
    record = json.loads(path.read_text())
    record[key] = {**record[key], "size": 1} if isinstance(record[key], dict) else "0" * 64
    path.write_text(json.dumps(record))

    after = prepare_weights(model)

    assert after == before
    assert equal(load_network(model, after).state_dict(), make_network(model).state_dict())
