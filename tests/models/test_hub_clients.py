"""The caches of the hubs' packages, and downloads that are stopped and killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from support.checkpoints import TOKENS, make_model
from support.downloads import CLIP, NAME, NEEDED, assert_not_here, assert_refused, assert_same, forget, pull
from support.forkserver import ForkedCommand, fork_e2v
from support.hubs import PLUS_BASE, HubServer, publish
from support.processes import E2v, find_children, has_ended, kill, start_e2v, wait_until

pytestmark = pytest.mark.e2e


# -- the cache of the hub's package ------------------------------------------------------------------------------------


def test_model_in_the_package_cache_needs_no_request(hub: HubServer, run: E2v, rows: str, tmp_path: Path) -> None:
    pull(run)
    forget(tmp_path)
    hub.stop()
    done = run("predict", CLIP, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (0, rows), done.stderr


def test_incomplete_model_in_the_package_cache_is_not_used(
    hub: HubServer, run: E2v, tiny: Path, tmp_path: Path
) -> None:
    folder = pull(run)
    forget(tmp_path)
    asked = len(hub.requests)
    (folder / "tokens.txt").unlink()
    assert_not_here(run("predict", CLIP, "--offline"), hub)
    (folder / "tokens.txt").write_bytes((tiny / "tokens.txt").read_bytes())
    (folder / "model.pt").unlink()
    assert_not_here(run("predict", CLIP, "--offline"), hub)
    assert len(hub.requests) == asked
    assert_same(pull(run), tiny)


@pytest.mark.parametrize("hub", ["ms"], indirect=True)
def test_cache_of_an_older_modelscope_is_used_except_for_revisions(
    hub: HubServer, run: E2v, rows: str, tiny: Path, tmp_path: Path
) -> None:
    """Until 1.37 its package kept one revision of each model."""
    old = make_model(tmp_path / "old", seed=1)
    hub.repositories[PLUS_BASE["ms"]].revisions["v1.0"] = publish(old)
    folder = shutil.copytree(tiny, tmp_path / "modelscope" / "models" / "iic" / NAME)
    assert run("predict", CLIP, "--offline").stdout == rows
    refused = run("predict", CLIP, "--offline", "--revision", "v1.0")
    assert (refused.returncode, refused.stdout) == (1, "")
    problem = f"{folder}, of an older modelscope, would be overwritten: move it away"
    assert_refused(run("models", "pull", NAME, "--revision", "v1.0"), hub, problem, revision="v1.0")
    assert_same(folder, tiny)
    folder.rename(tmp_path / "away")
    assert_same(pull(run, "--revision", "v1.0"), old)


@pytest.mark.parametrize("hub", ["ms"], indirect=True)
def test_partial_update_is_not_mixed_with_the_old_files(hub: HubServer, run: E2v, rows: str, tmp_path: Path) -> None:
    """ModelScope's package replaces files one by one; Hugging Face's has a folder for each commit."""
    pull(run)
    new = make_model(tmp_path / "new", tokens=TOKENS[::-1], seed=1)
    hub.repositories[PLUS_BASE["ms"]].files = publish(new)
    hub.cut_after = 500_000
    assert run("models", "pull", NAME, MODELSCOPE_DOWNLOAD_MAX_RETRIES="0").returncode == 1
    assert run("predict", CLIP, "--offline").stdout in ("", rows)
    assert_same(pull(run), new)


# -- stopped and killed ------------------------------------------------------------------------------------------------


def is_downloading(hub: HubServer) -> bool:
    return any(request.path.startswith("/lfs/") for request in hub.requests)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_stopped_download_ends_at_once_and_resumes(
    hub: HubServer, environment: dict[str, str], run: E2v, tiny: Path
) -> None:
    """Forked for ModelScope, whose package is slow to start."""
    hub.delay = 1e6
    patient = environment | {"MODELSCOPE_DOWNLOAD_TIMEOUT": "600", "HF_HUB_DOWNLOAD_TIMEOUT": "600"}

    start_command = fork_e2v if hub.protocol == "ms" else start_e2v

    def start(*command: str) -> tuple[subprocess.Popen[str] | ForkedCommand, int]:
        hub.requests.clear()
        process: subprocess.Popen[str] | ForkedCommand = start_command(*command, **patient)
        wait_until(lambda: is_downloading(hub) and find_children(process.pid))
        *_, download = find_children(process.pid)
        return process, download

    predict, pull_ = ("predict", CLIP), ("models", "pull", NAME)
    for command, signum in ((pull_, signal.SIGINT), (predict, signal.SIGTERM), (pull_, signal.SIGKILL)):
        process, download = start(*command)
        os.kill(process.pid, signum)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (-signum if signum == signal.SIGKILL else 75), errors
        assert "Traceback" not in errors
        wait_until(partial(has_ended, download))
    process, download = start(*pull_)
    kill(download)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(
        "^e2v: .* can't be downloaded from .*: its package ended with exit code -9; see above$", errors, re.M
    )

    hub.delay = 0
    assert_same(pull(run), tiny)


def test_simultaneous_pulls_of_a_model_both_succeed(
    hub: HubServer, environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    hub.delay = 0.5  # seconds per MB, so that the two overlap
    command = ("models", "pull", NAME, "--to", tmp_path / "carried")
    pair = [fork_e2v(*command, **environment | {"MODELSCOPE_DOWNLOAD_TIMEOUT": "60"}) for _ in range(2)]
    for process in pair:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    for name in NEEDED:
        assert (tmp_path / "carried" / name).read_bytes() == (tiny / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "carried").iterdir()) == ["SHA256SUMS", *NEEDED]
