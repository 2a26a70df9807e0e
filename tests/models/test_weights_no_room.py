"""Where the prepared copy of weights can't be written, the checkpoint itself is used."""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
from pathlib import Path

import pytest
from support.checkpoints import equal
from support.prepared import EVERY_TIME, other_weights, overwrite, prepare

from e2v_cli.errors import ModelError
from e2v_cli.models import weights as prepared
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import hash_weights, load_network, prepare_weights

pytestmark = pytest.mark.usefixtures("cache")


def assert_runs_without_a_copy(model: Model, caplog: pytest.LogCaptureFixture, message: str) -> None:
    caplog.set_level(logging.INFO)
    weights = prepare_weights(model)

    assert (weights.copy, weights.was_damaged) == (None, False)
    assert caplog.messages == [message]
    assert weights.sha256 == hash_weights(model)
    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())


def test_cache_that_is_a_file_gets_no_copy(model: Model, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("")
    folder = prepared._folder_of(model)

    assert_runs_without_a_copy(model, caplog, f"{folder}: Not a directory: {EVERY_TIME}")


def test_copy_folder_that_is_a_file_gets_no_copy(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    folder = prepared._folder_of(model)
    folder.parent.mkdir(parents=True)
    folder.write_text("")

    assert_runs_without_a_copy(model, caplog, f"{folder}: File exists: {EVERY_TIME}")


def test_copy_that_is_a_folder_is_not_used(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    _, copy = prepare(model)
    copy.unlink()
    copy.mkdir()

    assert_runs_without_a_copy(model, caplog, f"{copy}: Is a directory: {EVERY_TIME}")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded")]
)
def test_full_cache_gets_no_copy(
    error: OSError,
    model: Model,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    copy = prepared._copy_in(prepared._folder_of(model))
    monkeypatch.setattr(os, "fsync", fail)

    assert_runs_without_a_copy(model, caplog, f"{copy}: {error.strerror}: {EVERY_TIME}")
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit for files that fails a write")
def test_failed_write_leaves_no_copy(model: Model, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit for the size of a file stands in for a full disk."""
    copy = prepared._copy_in(prepared._folder_of(model))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        assert_runs_without_a_copy(model, caplog, f"{copy}: File too large: {EVERY_TIME}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]


def test_changed_checkpoint_without_a_copy_is_refused(model: Model, cache: Path, tmp_path: Path) -> None:
    cache.write_text("")
    weights = prepare_weights(model)
    overwrite(model.weights, other_weights(tmp_path / "other"))

    with pytest.raises(ModelError) as caught:
        load_network(model, weights)

    assert str(caught.value).startswith(f"{model.weights} has changed since the run began; ")


def test_user_without_a_home_runs_without_a_copy(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container with an arbitrary user id."""
    for name in ("HOME", "E2V_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    caplog.set_level(logging.INFO)

    weights = prepare_weights(model)

    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())
