"""Runs of the sample model, a browser, and axe."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import CHROMIUM, Browser
from support.processes import ROOT, E2v

AXE = "axe-core@4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> Path:
    """OUT of the sample corpus and its segments, with vectors and a timeline."""
    output_dir = tmp_path_factory.mktemp("spoken") / "spoken"
    done = e2v(
        *("predict", "sample_data/wav.scp", "sample_data/long", "-m", "sample", "-o", output_dir),
        *("--embeddings", "npy", "--timeline", "0.5", "-q"),
    )
    assert done.returncode == 0, done.stderr
    return output_dir


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, which finds faults of accessibility; from npm, as it is not a package of Python."""
    here = ROOT / "node_modules" / "axe-core" / "axe.min.js"
    if here.exists():
        return here.read_text()
    folder = tmp_path_factory.mktemp("axe")
    try:
        npm = shutil.which("npm") or "npm"
        command = [npm, "pack", AXE, "--silent", "--fetch-retries=0", "--fetch-timeout=20000"]
        name = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"there is no axe-core: npm install --no-save {AXE} ({error})")
    package = folder / name.strip()
    assert hashlib.sha256(package.read_bytes()).hexdigest() == AXE_SHA256
    with tarfile.open(package) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()
