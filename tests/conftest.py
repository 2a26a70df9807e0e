"""Fixtures that several tests share."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Waiting threads slow down a busy machine, and short clips need only one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from support.checkpoints import make_config, make_model
from support.forkserver import ADDRESS, make_runner, shared_server, start_server
from support.processes import ROOT, E2v, Hold

# Tests that run inside a Slurm job must not see its variables.
for name in [name for name in os.environ if name.startswith("SLURM_")]:
    del os.environ[name]

# Tests neither read nor change the user's cache.
CACHE = tempfile.mkdtemp(prefix="e2v-cache-")
os.environ["E2V_CACHE"] = CACHE
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

LONG = ("slurm", "kill", "faults", "parity", "e2e")
"""Marks of tests that take long, the longest first."""


def pytest_configure(config: pytest.Config) -> None:
    """Start one server of commands for all test processes, where there are several."""
    if config.getoption("dist", "no") != "no":
        os.environ[ADDRESS] = start_server().address


def pytest_xdist_auto_num_workers() -> int:
    """Run two test processes more than there are cores: one waits for Slurm, and others for the commands they kill."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files first, so that parallel test processes end at about the same time."""
    ranks = {
        item.path: rank
        for rank, name in reversed(list(enumerate(LONG)))
        for item in items
        if item.get_closest_marker(name)
    }
    items.sort(key=lambda item: ranks.get(item.path, len(LONG)))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of tiny shape with a head of nine classes."""
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the shape of emotion2vec_plus_base."""
    config = make_config(embed_dim=768, num_heads=12, prenet_depth=4, depth=8, channels=512)
    return make_model(tmp_path_factory.mktemp("base"), config)


@pytest.fixture(scope="session")
def e2v() -> E2v:
    """Run a command in a fork of a warm process, from the root of the repository."""
    return make_runner(shared_server())


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    """A hold on the last clip of the sample corpus."""
    return Hold(tmp_path / "hold", "m2-0010")


@pytest.fixture
def real_e2v() -> E2v:
    """Run the real command in a process of its own, from the root of the repository."""

    def run(
        *args: str | Path, cwd: Path = ROOT, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "e2v_cli", *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
