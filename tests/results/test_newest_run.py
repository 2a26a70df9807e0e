"""The note of the newest run, and the speed that is read from its ``run.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.run_facts import make_run_facts

from e2v_cli._version import __version__
from e2v_cli.options import ComputeOptions
from e2v_cli.results.newest_run import MeasuredSpeed, find_newest_run, find_newest_speed, note_run, read_speed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("E2V_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_newest_run_is_the_one_noted_last(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_newest_run() is None
    note_run(tmp_path / "first/run.json")
    monkeypatch.chdir(tmp_path)
    note_run(Path("second", "run.json"))

    assert find_newest_run() == tmp_path / "second/run.json"
    assert (cache / "newest-run").read_text() == f"{tmp_path}/second/run.json\n"
    assert os.listdir(cache) == ["newest-run"]


def test_path_may_be_any_bytes(cache: Path) -> None:
    path = Path(os.fsdecode(b"/caf\xe9/it's mine/run.json"))
    note_run(path)
    assert find_newest_run() == path
    assert (cache / "newest-run").read_bytes() == b"/caf\xe9/it's mine/run.json\n"


@pytest.mark.parametrize("content", [b"", b"\n", b"out/run.json\n"])
def test_damaged_note_is_none(content: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "newest-run").write_bytes(content)
    assert find_newest_run() is None


def test_cache_that_cannot_be_written_is_no_error(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file")
    note_run(tmp_path / "run.json")
    assert find_newest_run() is None


DAMAGED: tuple[object, ...] = (None, [], {}, "sample")

RUN = make_run_facts()


def write_run(path: Path, facts: object) -> Path:
    path.write_text(json.dumps(facts))
    return path


def test_speed_is_read_from_run_json(tmp_path: Path) -> None:
    """That of a shard: all of a run are computed at the same time."""
    path = write_run(tmp_path / "run.json", make_run_facts(speed=800, num_shards=4, gpus=["H200", "A100"]))

    options = {"model": "sample", "engine": "e2v", "precision": "fp32", "device": "cuda"}
    assert read_speed(path) == MeasuredSpeed(path, 200.0, 600.0, __version__, options, "H200, A100")


def test_machines_of_a_run_are_named_once(tmp_path: Path) -> None:
    machines = [{"gpus": [], "cpu": "x"}, {"gpus": ["H200"], "cpu": "y"}, {"gpus": [], "cpu": "x"}]
    facts = {**RUN, "machines": machines, "options": {**RUN["options"], "device": ["cpu", "cuda"]}}

    speed = read_speed(write_run(tmp_path / "run.json", facts))

    assert speed is not None
    assert (speed.machines, speed.options["device"]) == ("x, H200", "cpu and cuda")


@pytest.mark.parametrize(
    "content",
    [
        *(json.dumps({**RUN, "speed": speed}) for speed in (0, -1, 1e-9, 10**400, float("nan"), float("inf"), None)),
        *(json.dumps({**RUN, name: value}) for name in ("model", "options", "versions") for value in DAMAGED),
        *(json.dumps({**RUN, name: value}) for name in ("commands", "machines") for value in (*DAMAGED, [5])),
        json.dumps({**RUN, "commands": [{"num_shards": 0}]}),
        *("", "{", "[]", "5", "null", '"run"', "[" * 100_000),
    ],
)
def test_damaged_run_json_has_no_speed(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    assert read_speed(tmp_path / "run.json") is None


@pytest.mark.parametrize("path", ["/gone/run.json", "/", "/a\0b"])
def test_missing_run_json_gives_no_speed(path: str) -> None:
    assert read_speed(Path(path)) is None


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("model", "compute", "difference"),
    [
        ("sample", ComputeOptions(), None),
        ("sample", ComputeOptions(device="cpu", window=30), None),
        ("emotion2vec_base", ComputeOptions(), "its model is sample, not emotion2vec_base"),
        ("sample", ComputeOptions(engine="funasr"), "its engine is e2v, not funasr"),
        ("sample", ComputeOptions(precision="bf16"), "its precision is fp32, not bf16"),
        ("sample", ComputeOptions(device="cuda:0,2"), "its device is cpu, not cuda"),
    ],
)
def test_speed_of_the_newest_run_is_that_of_the_same_options(
    model: str, compute: ComputeOptions, difference: str | None, tmp_path: Path
) -> None:
    assert find_newest_speed(model, compute) is None
    note_run(write_run(tmp_path / "run.json", RUN))

    speed = read_speed(tmp_path / "run.json")
    assert speed is not None
    assert speed.describe_difference(model, compute) == difference
    assert find_newest_speed(model, compute) == (speed if difference is None else None)

    write_run(tmp_path / "run.json", {**RUN, "versions": {"e2v": "0.0.1"}})
    assert find_newest_speed(model, compute) is None
