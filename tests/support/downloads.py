"""A model that is pulled from a stand-in for a hub, and the messages if that fails."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from support.hubs import PLUS_BASE, HubServer
from support.processes import E2v

CLIP = "sample_data/wav/f1-0001.wav"

NAME = "emotion2vec_plus_base"

NEEDED = ["config.yaml", "configuration.json", "model.pt", "tokens.txt"]

TITLES = {"ms": "ModelScope", "hf": "Hugging Face"}


def forget(folder: Path) -> None:
    """Delete e2v's own notes; the cache of the hub's package stays."""
    shutil.rmtree(folder / "e2v")


def pull(run: E2v, *options: str, name: str = NAME, **environment: str) -> Path:
    """Pull an available model, and return its folder."""
    done = run("models", "pull", name, *options, **environment)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.removesuffix("\n"))


def remedy(hub: HubServer, model: str, revision: str = "") -> str:
    option = " --hub hf" if hub.protocol == "hf" else ""
    option += f" --revision {revision}" if revision else ""
    return (
        f"On a machine with a network, 'e2v models pull {model}{option} --to DIR' makes a folder to copy here; "
        "name that, or another model's folder, as --model DIR\n"
    )


def assert_refused(
    done: subprocess.CompletedProcess[str], hub: HubServer, problem: str, model: str = "", revision: str = ""
) -> None:
    """Check the message: the model, the hub, the problem and the remedies."""
    model = model or PLUS_BASE[hub.protocol]
    full = f"{model}@{revision}" if revision else model
    hub_name = f"{TITLES[hub.protocol]} ({hub.url})"
    subject = f"{full}: no such folder, and it" if model == "my/own" else full
    said = f"e2v: looking for {full} on {hub_name}\ne2v: {subject} can't be downloaded from {hub_name}: {problem}\n"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == said + remedy(hub, model, revision)


def assert_not_here(done: subprocess.CompletedProcess[str], hub: HubServer) -> None:
    model = PLUS_BASE[hub.protocol]
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"e2v: {model} is not on this machine, and no download is allowed\n{remedy(hub, model)}"


def assert_same(folder: Path, model: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == NEEDED
    for name in NEEDED:
        assert (folder / name).read_bytes() == (model / name).read_bytes(), name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
