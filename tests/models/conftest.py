"""A model that a test may change, a cache for each test, and a hub that has the model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.downloads import CLIP
from support.hubs import IMPATIENCE, PLUS_BASE, HubServer, Repository, publish
from support.processes import E2v

from e2v_cli.models import weights as prepared
from e2v_cli.models.folder import Model, read_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test, and a clock tick of 0, so that every change of a file is noticed."""
    monkeypatch.setenv("E2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "CLOCK_TICK", 0)
    return tmp_path / "cache"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of a model, which the test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def model(folder: Path) -> Model:
    time.sleep(0.02)  # the kernel's clock for files ticks at most every 10 ms
    return read_model("model", folder)


@pytest.fixture(params=["ms", "hf"])
def hub(request: pytest.FixtureRequest, tiny: Path) -> Iterator[HubServer]:
    """A hub that has emotion2vec_plus_base, in a tiny shape."""
    repository = Repository(publish(tiny))
    with HubServer(request.param, {PLUS_BASE[request.param]: repository}, token="sesame") as server:  # noqa: S106
        yield server


@pytest.fixture
def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """A machine with empty caches, whose only hub is the stand-in."""
    return {**hub.environment(tmp_path), **IMPATIENCE, "E2V_CACHE": f"{tmp_path / 'e2v'}", "E2V_HUB": hub.protocol}


@pytest.fixture
def run(environment: dict[str, str], e2v: E2v) -> E2v:
    """Run e2v on that machine."""
    return partial(e2v, **environment)


@pytest.fixture(scope="session")
def rows(tiny: Path, e2v: E2v) -> str:
    """The printed rows of a clip."""
    done = e2v("predict", CLIP, "-m", tiny)
    assert done.returncode == 0
    return done.stdout
