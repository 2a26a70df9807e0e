"""What a run records of itself: commands, machines, versions and kinds of device, without secrets."""

from __future__ import annotations

import json
import platform
import re
import socket
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import soundfile
from support.journal_lines import edit_header, read_json_header
from support.processes import ROOT, E2v

from e2v_cli import __version__
from e2v_cli.inference.products import find_fastest

pytestmark = pytest.mark.e2e

CLIPS = [f"sample_data/wav/f1-000{number}.wav" for number in (1, 3)]
E2V = [sys.executable, "-m", "e2v_cli"]
VERSIONS = {
    "e2v": __version__,
    "python": platform.python_version(),
    **{package: version(package) for package in ("torch", "numpy", "soundfile", "av", "soxr", "kaldiio")},
    "libsndfile": soundfile.__libsndfile_version__,
}
SINCE = datetime.now().astimezone()


def cpu_model() -> str:
    (name,) = set(re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    return str(name)


def read_run(out: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((out / "run.json").read_text())
    return run


def test_header_and_run_json_record_model_options_and_machine(tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    assert e2v("predict", *CLIPS, "-o", out, "-j", "1", E2V_MODEL="sample", E2V_SHARD="", NAME="x").returncode == 0

    header, run = read_json_header(out / "journal.1-of-1.1"), read_run(out)
    command = {
        "command": [*E2V, "predict", *CLIPS, "-o", str(out), "-j", "1"],
        "variables": {"E2V_MODEL": "sample"},
        "folder": str(ROOT),
        "inputs": CLIPS,
        "hidden": False,
        "segments_rttm": None,
    }
    machine = {"device": "cpu", "gpus": [], "cpu": cpu_model(), "versions": VERSIONS, "products": find_fastest()}
    assert header["invocation"] == command
    assert header["machine"] == machine
    assert (header["host"], header["fingerprint"]["precision"]) == (socket.gethostname(), "fp32")
    assert (header["fingerprint"]["device"], header["fingerprint"]["batch-seconds"]) == ("cpu", 10.0)
    times = {"first_started": run["commands"][0]["first_started"], "last_started": run["commands"][0]["last_started"]}
    assert times["first_started"] == times["last_started"]
    assert SINCE <= datetime.fromisoformat(times["first_started"]) <= datetime.now().astimezone()
    assert run["commands"] == [{**command, "num_shards": 1, "shards": "1", **times, "attempts": 1}]
    assert run["machines"] == [{**machine, "hosts": [socket.gethostname()], "attempts": 1}]
    assert (run["attempts"], run["versions"]) == (1, VERSIONS)
    assert (run["options"]["device"], run["options"]["mix-devices"]) == ("cpu", "no")


def test_merge_publishes_the_versions_that_computed(tmp_path: Path, e2v: E2v) -> None:
    """The shards ran on other machines than the merge."""
    out = tmp_path / "out"
    for shard in (1, 2):
        assert e2v("predict", *CLIPS, "-m", "sample", "-o", out, "--shard", f"{shard}/2", "-j", "1").returncode == 0
    theirs = {**VERSIONS, "torch": "2.0.1", "libsndfile": "1.0.31"}
    for shard, host in ((1, "node7"), (2, "node12")):
        edit_header(out / f"journal.{shard}-of-2.1", {"cpu": "Old CPU", "versions": theirs}, host=host)
    (out / "run.json").unlink()

    assert e2v("merge", out).returncode == 0

    run = read_run(out)
    assert run["versions"] == theirs
    assert run["machines"] == [
        {
            "device": "cpu",
            "gpus": [],
            "cpu": "Old CPU",
            "versions": theirs,
            "products": find_fastest(),
            "hosts": ["node12", "node7"],
            "attempts": 2,
        }
    ]
    (command,) = run["commands"]
    assert command["command"] == [*E2V, "predict", *CLIPS, "-m", "sample", "-o", str(out), "-j", "1"]
    assert (command["num_shards"], command["shards"], command["attempts"]) == (2, "1-2", 2)


def test_products_can_be_chosen_and_mixed(tmp_path: Path, e2v: E2v) -> None:
    """They are recorded, and a resume on another kind of CPU is not refused."""
    out = tmp_path / "out"
    command = ("predict", *CLIPS, "-m", "sample", "-o", out, "-j", "1")
    assert e2v("predict", CLIPS[0], *command[3:], E2V_PRODUCTS="torch").returncode == 0
    resumed = e2v(*command, "--products", "onednn")
    assert resumed.returncode == 0
    assert resumed.stderr.startswith(f"e2v: continuing {out}: 1 of 2 are done\n")

    assert read_json_header(out / "journal.1-of-1.1")["machine"]["products"] == "torch"
    assert [machine["products"] for machine in read_run(out)["machines"]] == ["torch", "onednn"]


def test_unknown_products_are_a_usage_error(tmp_path: Path, e2v: E2v) -> None:
    done = e2v("predict", CLIPS[0], "-m", "sample", "-o", tmp_path / "out", E2V_PRODUCTS="blis")

    assert done.returncode == 2
    assert done.stderr == (
        "e2v: --products (E2V_PRODUCTS): 'blis' is not one of 'mkl', 'onednn', 'torch' (see: e2v predict --help)\n"
    )
    assert not (tmp_path / "out").exists()


def begin_on_a_gpu(out: Path, e2v: E2v) -> None:
    """Compute the first clip, and change the journal as if a GPU had done that."""
    assert e2v("predict", CLIPS[0], "-m", "sample", "-o", out, "-j", "1").returncode == 0
    journal = out / "journal.1-of-1.1"
    fingerprint = {**read_json_header(journal)["fingerprint"], "device": "cuda", "batch-seconds": 300.0}
    edit_header(journal, {"device": "cuda", "gpus": ["NVIDIA H200"]}, fingerprint=fingerprint)


def test_run_begun_on_a_gpu_goes_on_on_cpus_only_if_allowed(tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    begin_on_a_gpu(out, e2v)
    command = ("predict", *CLIPS, "-m", "sample", "-o", out, "-j", "1")

    refused = e2v(*command)
    assert refused.returncode == 4
    assert refused.stderr == (
        f"e2v: {out} holds a different run: device was cuda, is cpu; batch-seconds was 300.0, is 10.0. "
        "Go on with --mix-devices, choose another -o, or delete that run with --overwrite\n"
    )
    other = e2v(*command, "--mix-devices", "--window", "30")
    assert other.returncode == 4
    assert "window was 60.0, is 30.0. Choose another -o, " in other.stderr

    mixed = e2v(*command, E2V_MIX_DEVICES="1")
    assert mixed.returncode == 0
    run = read_run(out)
    assert run["options"]["device"] == ["cpu", "cuda"]
    assert run["options"]["batch-seconds"] == [10.0, 300.0]
    assert run["options"]["mix-devices"] == "yes"
    assert [(machine["device"], machine["gpus"]) for machine in run["machines"]] == [
        ("cuda", ["NVIDIA H200"]),
        ("cpu", []),
    ]
    for again in (command, ("merge", out)):  # whoever allowed it, allowed it for the run
        done = e2v(*again)
        assert done.returncode == 0
        assert done.stderr.startswith(f"e2v: {out} is complete: nothing to do\n")


def test_shards_on_several_kinds_of_device_are_refused_unless_allowed(tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    command = ("predict", *CLIPS, "-m", "sample", "-o", out, "-j", "1", "--shard")
    assert e2v(*command, "1/2").returncode == 0
    journal = out / "journal.1-of-2.1"
    edit_header(
        journal,
        {"device": "cuda", "gpus": ["NVIDIA H200"]},
        fingerprint={**read_json_header(journal)["fingerprint"], "device": "cuda", "batch-seconds": 300.0},
    )
    assert e2v(*command, "2/2").returncode == 4
    assert e2v(*command, "2/2", "--mix-devices").returncode == 0
    assert read_run(out)["options"]["device"] == ["cpu", "cuda"]


def test_automatic_batch_seconds_are_the_same_as_their_number(tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    command = ("predict", CLIPS[0], "-m", "sample", "-o", out, "-j", "1")
    assert e2v(*command).returncode == 0
    assert e2v(*command, "--batch-seconds", "10").returncode == 0
    refused = e2v(*command, "--batch-seconds", "20", "--mix-devices")
    assert refused.returncode == 4
    assert f"e2v: {out} holds a different run: batch-seconds was 10.0, is 20.0. Choose another -o" in refused.stderr


def test_secrets_of_urls_are_not_recorded(tmp_path: Path, e2v: E2v) -> None:
    """Not the password, nor a token in the query; also where the download fails."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://me:pass-word@127.0.0.1:{port}/x.wav?token=to-ken#to-ken"
    out = tmp_path / "out"
    done = e2v("predict", url, "-m", "sample", "-o", out, "-v")
    assert done.returncode == 3

    files = [path for path in out.rglob("*") if path.is_file()]
    assert [path for path in files if re.search(b"pass-word|to-ken", path.read_bytes())] == []
    shown = f"http://***@127.0.0.1:{port}/x.wav?***"
    header = read_json_header(out / "journal.1-of-1.1")
    assert header["invocation"]["inputs"] == [shown]
    assert f"x\taudio\tdownload failed\t{shown}: Connection refused\n" in (out / "failures.tsv").read_text()


def test_commands_of_thousands_of_words_are_cut(tmp_path: Path, e2v: E2v) -> None:
    clips = [str(tmp_path / f"{number}.wav") for number in range(1500)]
    for clip in clips:
        Path(clip).touch()
    out = tmp_path / "out"
    assert e2v("predict", "-m", "sample", "-o", out, *clips).returncode == 3
    (command,) = read_run(out)["commands"]
    assert command["inputs"] == [*clips[:1000], "… 500 more"]
    assert len(command["command"]) == 1001
